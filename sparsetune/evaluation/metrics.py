"""Official metrics as fractions; scikit-learn, scipy and sacrebleu are imported when needed.

What is undefined is told as None, never as NaN; only the span metrics are computed here, after
SQuAD v1.1's own normalisation.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsetune.errors import ConfigError, DataError

_CONSTANT = 1e-6
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(
    metric_names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]
) -> dict[str, float | None]:
    """Score predictions against references.

    Args:
        metric_names: keys of :data:`METRICS`.
        predictions: ``(N,)``: label numbers, real scores (correlations), or texts (span, BLEU).
        references: ``(N,)`` likewise; for span metrics and BLEU, the accepted texts of each
            example.

    Returns:
        Metric -> value; fractions in [0, 1], correlations in [-1, 1]. None where the metric is
        undefined (see :func:`explain`).

    Raises:
        ConfigError: an unknown metric.
        DataError: no examples, unequal lengths, a value that is not finite, or a row that the
            metric cannot take.
    """
    unknown = [name for name in metric_names if name not in METRICS]
    if unknown:
        raise ConfigError(f"metrics: got {unknown[0]!r}; allowed: {', '.join(METRICS)}")
    if len(predictions) != len(references) or len(references) == 0:
        raise DataError(
            f"predictions: got {len(predictions)} for {len(references)} references, "
            "need one for each and at least one"
        )
    return {name: METRICS[name](predictions, references) for name in metric_names}


def explain(scores: Mapping[str, float | None], references: Sequence[Any]) -> dict[str, str]:
    """Say what a reader of the scores must know beside the numbers.

    Args:
        scores: from :func:`score`.
        references: as given to :func:`score`.

    Returns:
        Metric -> note: why a value is undefined; for BLEU, sacrebleu's signature.
    """
    notes = {}
    for name, value in scores.items():
        if value is None:
            notes[name] = "undefined: " + _UNDEFINED[name]
        elif name == "bleu_fraction":
            notes[name] = _bleu(references).get_signature().format()
    return notes


def collapsed(predictions: Sequence[Any]) -> bool:
    """Whether the model gives every example the same answer.

    Args:
        predictions: ``(N,)``: label numbers, real scores or texts. Real scores count as the
            same when they spread by no more than 1e-6 of the largest one (of 1, if that is
            larger).

    Returns:
        True if all are the same; False for fewer than two examples, which cannot tell.
    """
    if len(predictions) < 2:
        return False
    if isinstance(predictions[0], str):
        return len(set(predictions)) == 1
    values = np.asarray(predictions, dtype=np.float64)
    return bool(np.ptp(values) <= _CONSTANT * max(1.0, float(np.abs(values).max())))


def normalise_answer(text: str) -> str:
    """Lower-case a text, drop ASCII punctuation, then English articles, then spare blanks.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1 (SQuAD v1.1's evaluation).
    Differs:
        Nothing.

    Example:
        >>> normalise_answer("The  Blue-Heron, a pub!")
        'blueheron pub'
    """
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def span_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words of two normalised texts.

    Args:
        prediction: one predicted text.
        answer: one accepted text.

    Returns:
        F1 in [0, 1]; words count as often as they occur; 0 when no word is shared.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
    Differs:
        Nothing: two texts without any word share none, so they score 0.

    Example:
        >>> round(span_f1("the red house", "a red barn"), 3)
        0.5
    """
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(answer).split()
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if shared == 0:
        return 0.0
    return 2 * shared / (len(predicted) + len(expected))


def _accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    from sklearn.metrics import accuracy_score

    labels = _labels(references, "references"), _labels(predictions, "predictions")
    return float(accuracy_score(*labels))


def _f1(predictions: Sequence[Any], references: Sequence[Any]) -> float | None:
    from sklearn.metrics import f1_score

    expected, predicted = _labels(references, "references"), _labels(predictions, "predictions")
    for name, labels in (("references", expected), ("predictions", predicted)):
        wrong = np.flatnonzero((labels != 0) & (labels != 1))
        if wrong.size:
            raise DataError(f"{name}: row {wrong[0] + 1}: got {labels[wrong[0]]}, need 0 or 1")
    if not expected.any() and not predicted.any():
        return None
    return float(f1_score(expected, predicted, pos_label=1, average="binary"))


def _matthews(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    from sklearn.metrics import matthews_corrcoef

    labels = _labels(references, "references"), _labels(predictions, "predictions")
    # Constant labels give 0/0, which scikit-learn and GLUE call 0; said here, it warns of nothing.
    constant = any(np.ptp(values) == 0 for values in labels)
    return 0.0 if constant else float(matthews_corrcoef(*labels))


def _pearson(predictions: Sequence[Any], references: Sequence[Any]) -> float | None:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, references)


def _spearman(predictions: Sequence[Any], references: Sequence[Any]) -> float | None:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, references)


def _correlation(
    function: Callable[..., Any], predictions: Sequence[Any], references: Sequence[Any]
) -> float | None:
    predicted, expected = _reals(predictions, "predictions"), _reals(references, "references")
    if len(expected) < 2 or collapsed(predicted) or collapsed(expected):
        return None
    return float(function(predicted, expected).statistic)


def _exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    def hit(prediction: str, answer: str) -> float:
        return float(normalise_answer(prediction) == normalise_answer(answer))

    return _best_over_answers(hit, predictions, references)


def _span_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return _best_over_answers(span_f1, predictions, references)


def _best_over_answers(
    measure: Callable[[str, str], float],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
) -> float:
    _check_texts(references)
    best = [
        max(measure(prediction, answer) for answer in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return sum(best) / len(best)


def _bleu_fraction(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return _bleu(references).corpus_score(list(predictions), None).score / 100


def _bleu(references: Sequence[Sequence[str]]) -> Any:
    from sacrebleu.metrics import BLEU

    _check_texts(references)
    # sacrebleu takes the first references of all examples, then the second ones, ...; an
    # example that has fewer is padded with None.
    most = max(len(texts) for texts in references)
    streams = [[t[i] if i < len(t) else None for t in references] for i in range(most)]
    return BLEU(references=streams)


def _check_texts(references: Sequence[Sequence[str]]) -> None:
    for row, texts in enumerate(references, start=1):
        if isinstance(texts, str) or not texts:
            raise DataError(
                f"references: row {row}: got {texts!r}, need a list of at least one text"
            )


def _labels(values: Sequence[Any], name: str) -> np.ndarray:
    reals = _reals(values, name)
    wrong = np.flatnonzero(reals != np.round(reals))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(f"{name}: row {row + 1}: got {values[row]!r}, need a label number")
    return reals.astype(np.int64)


def _reals(values: Sequence[Any], name: str) -> np.ndarray:
    try:
        reals = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: got {type(values[0]).__name__} values, need numbers") from None
    if reals.ndim != 1:
        raise DataError(f"{name}: got shape {reals.shape}, need one number per example")
    wrong = np.flatnonzero(~np.isfinite(reals))
    if wrong.size:
        raise DataError(f"{name}: row {wrong[0] + 1}: got {reals[wrong[0]]}, need a finite number")
    return reals


METRICS: dict[str, Callable[[Sequence[Any], Sequence[Any]], float | None]] = {
    "accuracy_fraction": _accuracy,
    "f1_fraction": _f1,
    "matthews_correlation": _matthews,
    "pearson_correlation": _pearson,
    "spearman_correlation": _spearman,
    "exact_match_fraction": _exact_match,
    "span_f1_fraction": _span_f1,
    "bleu_fraction": _bleu_fraction,
}
"""Metric name -> function of predictions and references."""

_UNDEFINED = {
    "f1_fraction": "no example is positive, predicted or expected",
    "pearson_correlation": "predictions or references do not vary",
    "spearman_correlation": "predictions or references do not vary",
}

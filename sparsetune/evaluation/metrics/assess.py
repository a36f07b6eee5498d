"""Official metrics by name; scikit-learn, scipy and sacrebleu are imported when needed.

What is undefined or absent is told as None with a reason, never as NaN. Metrics of generated
texts are in ``generation_metrics.py``; which way is better is in ``scales.py``.
"""

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.metrics.generation import GENERATION_METRICS, Outcome, check_texts

_CONSTANT = 1e-6
_TEXTS_KEPT = 1 << 16  # all runs of a task meet the same accepted texts
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def assess(
    metric_names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Score predictions against references, and say what a reader must know of each score.

    Args:
        metric_names: keys of :data:`METRICS`.
        predictions: ``(N,)``: label numbers, real scores (correlations), or texts.
        references: ``(N,)`` likewise; for texts, the accepted ones of each example.

    Returns:
        Metric -> value: fractions (of TER, above 1 too), correlations in [-1, 1], scores on
        their own scale; None where the metric is undefined or absent. And metric -> note: the
        variant or signature, or why there is no value.

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
    outcomes = {name: METRICS[name](predictions, references) for name in metric_names}
    values = {name: value for name, (value, _) in outcomes.items()}
    return values, {name: note for name, (_, note) in outcomes.items() if note}


def score(
    metric_names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]
) -> dict[str, float | None]:
    """Score predictions against references: the values of :func:`assess` alone.

    Args:
        metric_names: as for :func:`assess`.
        predictions: as for :func:`assess`.
        references: as for :func:`assess`.

    Returns:
        Metric -> value, or None.

    Raises:
        ConfigError, DataError: as :func:`assess`.
    """
    return assess(metric_names, predictions, references)[0]


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


@functools.lru_cache(maxsize=_TEXTS_KEPT)
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


@functools.lru_cache(maxsize=_TEXTS_KEPT)
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
    check_texts(predictions, references)
    best = [
        max(measure(prediction, answer) for answer in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return sum(best) / len(best)


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


def _plain(
    function: Callable[[Sequence[Any], Sequence[Any]], float | None], undefined_if: str = ""
) -> Callable[[Sequence[Any], Sequence[Any]], Outcome]:
    def measure(predictions: Sequence[Any], references: Sequence[Any]) -> Outcome:
        value = function(predictions, references)
        return value, f"undefined: {undefined_if}" if value is None else ""

    return measure


_NO_POSITIVES = "no example is positive, predicted or expected"
_CONSTANT_SIDE = "predictions or references do not vary"

METRICS: dict[str, Callable[[Sequence[Any], Sequence[Any]], Outcome]] = {
    "accuracy_fraction": _plain(_accuracy),
    "f1_fraction": _plain(_f1, _NO_POSITIVES),
    "matthews_correlation": _plain(_matthews),
    "pearson_correlation": _plain(_pearson, _CONSTANT_SIDE),
    "spearman_correlation": _plain(_spearman, _CONSTANT_SIDE),
    "exact_match_fraction": _plain(_exact_match),
    "span_f1_fraction": _plain(_span_f1),
    **GENERATION_METRICS,
}
"""Metric -> function of predictions and references that gives a value and a note."""

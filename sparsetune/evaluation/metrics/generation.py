"""Metrics of generated texts, each with the variant it is, in words or as a signature.

Sacrebleu's own (BLEU, TER, chrF), the E2E challenge's (BLEU, NIST), COCO's (ROUGE-L, CIDEr) and
METEOR 1.5. Two variants of a metric have two names, and none stands in for another.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sparsetune.errors import DataError
from sparsetune.evaluation.metrics.coco import cider, rouge_l
from sparsetune.evaluation.metrics.meteor import meteor_1_5
from sparsetune.evaluation.metrics.mteval import e2e_bleu, e2e_nist
from sparsetune.evaluation.metrics.ter import corpus_ter

Texts = Sequence[str]
Accepted = Sequence[Sequence[str]]
Outcome = tuple[float | None, str]
"""A value, or None where there is none, and what a reader must know: variant, or reason."""

_E2E_NOTE = "as E2E's measure_scores.py -p: any case, mteval-v13a words"
_COCO_NOTE = "as COCO's and E2E's scripts; PTB words by own rules, lower case, no punctuation"


def check_texts(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Refuse rows that no metric of texts can take.

    Args:
        predictions: ``(N,)``.
        references: ``(N,)``.

    Raises:
        DataError: a prediction that is no text, or references that are not a list of at least
            one text.
    """
    for row, text in enumerate(predictions, start=1):
        if not isinstance(text, str):
            raise DataError(f"predictions: row {row}: got {text!r}, need a text")
    for row, texts in enumerate(references, start=1):
        alone = isinstance(texts, str) or not isinstance(texts, Sequence)
        if alone or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"references: row {row}: got {texts!r}, need a list of at least one text"
            )


def _sacrebleu(name: str) -> Callable[[Texts, Accepted], Outcome]:
    def measure(predictions: Texts, references: Accepted) -> Outcome:
        metric = _prepared(name, predictions, references)
        value = metric.corpus_score(list(predictions), None).score / 100
        return value, _signature(metric)

    return measure


def _ter(predictions: Texts, references: Accepted) -> Outcome:
    from sacrebleu.tokenizers.tokenizer_ter import TercomTokenizer

    metric = _prepared("TER", predictions, references)
    tokenizer = TercomTokenizer()

    def words(text: str) -> list[str]:
        return tokenizer(text.rstrip()).split()

    accepted = [[words(text) for text in texts] for texts in references]
    return corpus_ter([words(text) for text in predictions], accepted), _signature(metric)


def _prepared(name: str, predictions: Texts, references: Accepted) -> Any:
    from sacrebleu import metrics

    check_texts(predictions, references)
    # Sacrebleu takes the first references of all examples, then the second ones, ...; an
    # example that has fewer is padded with None.
    most = max(len(texts) for texts in references)
    streams = [[t[i] if i < len(t) else None for t in references] for i in range(most)]
    return getattr(metrics, name)(references=streams)


def _signature(metric: Any) -> str:
    return f"sacrebleu {metric.get_signature().format()}"


def _own(
    function: Callable[[Texts, Accepted], float], note: str
) -> Callable[[Texts, Accepted], Outcome]:
    def measure(predictions: Texts, references: Accepted) -> Outcome:
        check_texts(predictions, references)
        return function(predictions, references), note

    return measure


def _cider(predictions: Texts, references: Accepted) -> Outcome:
    check_texts(predictions, references)
    if len(predictions) < 2:
        return None, "undefined: over one example every n-gram is in all of them"
    return cider(predictions, references), _COCO_NOTE


def _meteor(predictions: Texts, references: Accepted) -> Outcome:
    check_texts(predictions, references)
    return meteor_1_5(predictions, references)


GENERATION_METRICS: dict[str, Callable[[Texts, Accepted], Outcome]] = {
    "bleu_fraction": _sacrebleu("BLEU"),
    "ter_fraction": _ter,
    "chrf_fraction": _sacrebleu("CHRF"),
    "e2e_bleu_fraction": _own(e2e_bleu, _E2E_NOTE),
    "e2e_nist_score": _own(e2e_nist, _E2E_NOTE),
    "coco_rouge_l_fraction": _own(rouge_l, _COCO_NOTE),
    "coco_cider_score": _cider,
    "meteor_1_5_fraction": _meteor,
}
"""Metric -> function of predictions and references."""

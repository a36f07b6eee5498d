"""Each metric as a function of how often every example is drawn, for many resamples at once.

A metric that is no such function, or of which nobody has written it, is not in ``FORMS``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsetune.evaluation.metrics.assess import normalise_answer, span_f1
from sparsetune.evaluation.metrics.coco import rouge_l
from sparsetune.evaluation.metrics.mteval import bleu_counts, bleu_of_counts

Form = Callable[[np.ndarray], np.ndarray]
"""Counts, float64 ``(B, N)``, rows sum to N -> values, float64 ``(B,)``, NaN where undefined."""

_CONSTANT = 1e-6
_BLOCK = 100


def _accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    return _mean(np.equal(predictions, references))


def _exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    return _mean(exact_matches(predictions, references))


def _span_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    best = [
        max(span_f1(prediction, answer) for answer in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return _mean(best)


def exact_matches(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each text equals one of its accepted texts after SQuAD's normalisation.

    Args:
        predictions: ``(N,)`` texts.
        references: ``(N,)`` accepted texts of each example.
    """
    return [
        normalise_answer(prediction) in {normalise_answer(answer) for answer in answers}
        for prediction, answers in zip(predictions, references, strict=True)
    ]


def _mean(values: Sequence[Any]) -> Form:
    column = np.asarray(values, dtype=np.float64)
    return lambda counts: counts @ column / len(column)


def _f1(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    predicted, expected = np.asarray(predictions), np.asarray(references)
    cells = np.stack([predicted * expected, predicted + expected], axis=1).astype(np.float64)

    def form(counts: np.ndarray) -> np.ndarray:
        both, either = (counts @ cells).T
        return _ratio(2 * both, either)

    return form


def _matthews(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    classes, numbers = np.unique([predictions, references], return_inverse=True)
    predicted, expected = numbers.reshape(2, -1)
    size = len(classes)
    cells = np.eye(size * size)[predicted * size + expected]

    def form(counts: np.ndarray) -> np.ndarray:
        table = (counts @ cells).reshape(-1, size, size)
        rows, columns, total = table.sum(axis=2), table.sum(axis=1), table.sum(axis=(1, 2))
        right = np.trace(table, axis1=1, axis2=2)
        covariance = right * total - (rows * columns).sum(axis=1)
        spreads = [total**2 - (sides**2).sum(axis=1) for sides in (rows, columns)]
        # Constant labels give 0/0, which GLUE calls 0, as in metrics.
        return np.nan_to_num(_ratio(covariance, np.sqrt(spreads[0] * spreads[1])), nan=0.0)

    return form


def _pearson(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    # Centred first: sums of squares of large, close values would cancel.
    x, y = (np.asarray(values, dtype=np.float64) for values in (predictions, references))
    floors = [_floor(x), _floor(y)]
    x, y = x - x.mean(), y - y.mean()
    moments = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def form(counts: np.ndarray) -> np.ndarray:
        mean_x, mean_y, xx, yy, xy = (counts @ moments / len(x)).T
        spreads = [xx - mean_x**2, yy - mean_y**2]
        defined = (spreads[0] > floors[0]) & (spreads[1] > floors[1])
        product = np.where(defined, spreads[0] * spreads[1], 0.0)
        return _ratio(xy - mean_x * mean_y, np.sqrt(product))

    return form


def _spearman(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    sides = [np.unique(values, return_inverse=True)[1] for values in (predictions, references)]

    def block(drawn: np.ndarray) -> np.ndarray:
        # Sums of quarters far below 2^53 are exact, so their order does not matter.
        x, y = (_centred_ranks(drawn, numbers) for numbers in sides)
        weighted = drawn * x
        covariance, spread_x = (np.einsum("nb,nb->b", weighted, side) for side in (x, y)[::-1])
        spread_y = np.einsum("nb,nb,nb->b", drawn, y, y)
        return _ratio(covariance, np.sqrt(spread_x * spread_y))

    def form(counts: np.ndarray) -> np.ndarray:
        # Examples by resamples, a few resamples at a time: whole rows move, and stay in the cache.
        starts = range(0, len(counts), _BLOCK)
        return np.concatenate(
            [block(np.ascontiguousarray(counts[start : start + _BLOCK].T)) for start in starts]
        )

    return form


def _centred_ranks(drawn: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean rank of each example in each resample, minus the mean of all ranks.

    Args:
        drawn: counts, ``(N, B)``.
        numbers: int64, ``(N,)``: the example's place among the distinct values.
    """
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    group = np.add.reduceat(drawn[order], starts, axis=0)
    ranks = group.cumsum(axis=0) - (group - 1) / 2 - (len(drawn) + 1) / 2
    return ranks[numbers]


def _bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    from sacrebleu.metrics import BLEU

    scorer = BLEU()
    # Of each example alone sacrebleu tells the counts that it would add up over the corpus.
    alone = [
        scorer.corpus_score([prediction], [[text] for text in texts])
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    cells = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in alone])

    def form(counts: np.ndarray) -> np.ndarray:
        sums = np.rint(counts @ cells).astype(int).tolist()
        return np.array([_bleu_of(row, scorer) for row in sums])

    return form


def _e2e_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    cells = np.array(bleu_counts(predictions, references), dtype=np.float64)
    return lambda counts: np.array([bleu_of_counts(row) for row in (counts @ cells).tolist()])


def _rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    pairs = zip(predictions, references, strict=True)
    return _mean([rouge_l([prediction], [texts]) for prediction, texts in pairs])


def _bleu_of(row: Sequence[int], scorer: Any) -> float:
    """BLEU from n-grams found, n-grams there, and the two lengths."""
    orders = scorer.max_ngram_order
    found, there = row[:orders], row[orders:-2]
    made = scorer.compute_bleu(found, there, row[-2], row[-1], smooth_method=scorer.smooth_method)
    return made.score / 100


def _floor(values: np.ndarray) -> float:
    """Variance at or below which values count as the same; see ``metrics.collapsed``."""
    return float(_CONSTANT * max(1.0, np.abs(values).max()) / 2) ** 2


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


FORMS: dict[str, Callable[[Sequence[Any], Sequence[Any]], Form]] = {
    "accuracy_fraction": _accuracy,
    "f1_fraction": _f1,
    "matthews_correlation": _matthews,
    "pearson_correlation": _pearson,
    "spearman_correlation": _spearman,
    "exact_match_fraction": _exact_match,
    "span_f1_fraction": _span_f1,
    "bleu_fraction": _bleu,
    "e2e_bleu_fraction": _e2e_bleu,
    "coco_rouge_l_fraction": _rouge_l,
}
"""Metric name -> function that prepares predictions and references, ``(N,)`` each, as a Form."""

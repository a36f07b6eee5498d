"""Metrics of labels and of real scores, by scikit-learn and scipy, and logits turned into both.

The libraries are imported when they are needed: they take longer to load than most scores take.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.metrics.registry import Form, Outcome, mean_form, metric

_CONSTANT = 1e-6
_NO_POSITIVES = "undefined: no example is positive, predicted or expected"
_CONSTANT_SIDE = "undefined: predictions or references do not vary"
_COLUMNS = {"classification": "two columns or more", "regression": "one column"}


def predictions_of(logits: Sequence[Sequence[float]], kind: str) -> list[int] | list[float]:
    """Label numbers of a classification task, scores of a regression task.

    Args:
        logits: real, ``(N, C)``; for regression C = 1.
        kind: ``classification``: the label with the largest logit, the lowest label on ties; or
            ``regression``: the score as the model gives it, neither clipped nor rounded.

    Returns:
        ``(N,)`` plain numbers, ready for a file.

    Raises:
        ConfigError: another kind.
        DataError: a shape that does not fit, or a logit that is not finite.
    """
    if kind not in _COLUMNS:
        raise ConfigError(f"kind: received {kind!r}; allowed: {', '.join(_COLUMNS)}")
    values = np.asarray(logits)
    fits = values.ndim == 2 and len(values) and (values.shape[1] > 1) == (kind == "classification")
    if not fits or values.size == 0:
        raise DataError(f"logits: received shape {values.shape}; allowed: {_COLUMNS[kind]}")
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        row, column = wrong[0]
        received = values[row, column]
        raise DataError(f"logits: row {row + 1}: received {received}; allowed: finite numbers")
    if kind == "classification":
        return values.argmax(axis=1).tolist()
    return values[:, 0].astype(np.float64).tolist()


def collapsed(predictions: Sequence[Any] | np.ndarray) -> bool:
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
    return bool(np.ptp(values) <= _tolerance(values))


def _accuracy_form(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    return mean_form(np.equal(predictions, references).tolist())


@metric("accuracy_fraction", form=_accuracy_form)
def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> Outcome:
    """Share of examples whose label is right."""
    from sklearn.metrics import accuracy_score

    labels = _labels(references, "references"), _labels(predictions, "predictions")
    return Outcome(float(accuracy_score(*labels)))


def _f1_form(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    predicted, expected = np.asarray(predictions), np.asarray(references)
    cells = np.stack([predicted * expected, predicted + expected], axis=1).astype(np.float64)

    def form(counts: np.ndarray) -> np.ndarray:
        both, either = (counts @ cells).T
        return _ratio(2 * both, either)

    return form


@metric("f1_fraction", form=_f1_form)
def f1(predictions: Sequence[Any], references: Sequence[Any]) -> Outcome:
    """F1 of label 1; undefined where no example is positive."""
    from sklearn.metrics import f1_score

    expected, predicted = _labels(references, "references"), _labels(predictions, "predictions")
    for name, labels in (("references", expected), ("predictions", predicted)):
        wrong = np.flatnonzero((labels != 0) & (labels != 1))
        if wrong.size:
            row = wrong[0]
            raise DataError(f"{name}: row {row + 1}: received {labels[row]}; allowed: 0 or 1")
    if not expected.any() and not predicted.any():
        return Outcome(None, _NO_POSITIVES)
    return Outcome(float(f1_score(expected, predicted, pos_label=1, average="binary")))


def _matthews_form(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
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
        return np.nan_to_num(_ratio(covariance, np.sqrt(spreads[0] * spreads[1])), nan=0.0)

    return form


@metric("matthews_correlation", form=_matthews_form)
def matthews(predictions: Sequence[Any], references: Sequence[Any]) -> Outcome:
    """Matthews correlation of any number of classes; 0 where a side is constant, as in GLUE."""
    from sklearn.metrics import matthews_corrcoef

    labels = _labels(references, "references"), _labels(predictions, "predictions")
    # Constant labels give 0/0, which scikit-learn calls 0 too; said here, it warns of nothing.
    constant = any(np.ptp(values) == 0 for values in labels)
    return Outcome(0.0 if constant else float(matthews_corrcoef(*labels)))


def _pearson_form(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    # Centred first: sums of squares of large, close values would cancel.
    x, y = (np.asarray(values, dtype=np.float64) for values in (predictions, references))
    floors = [(_tolerance(values) / 2) ** 2 for values in (x, y)]
    x, y = x - x.mean(), y - y.mean()
    moments = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def form(counts: np.ndarray) -> np.ndarray:
        mean_x, mean_y, xx, yy, xy = (counts @ moments / len(x)).T
        spreads = [xx - mean_x**2, yy - mean_y**2]
        defined = (spreads[0] > floors[0]) & (spreads[1] > floors[1])
        product = np.where(defined, spreads[0] * spreads[1], 0.0)
        return _ratio(xy - mean_x * mean_y, np.sqrt(product))

    return form


@metric("pearson_correlation", form=_pearson_form)
def pearson(predictions: Sequence[Any], references: Sequence[Any]) -> Outcome:
    """Pearson correlation; undefined where a side does not vary."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, references)


def _spearman_form(predictions: Sequence[Any], references: Sequence[Any]) -> Form:
    sides = [np.unique(values, return_inverse=True)[1] for values in (predictions, references)]

    def form(counts: np.ndarray) -> np.ndarray:
        drawn = np.ascontiguousarray(counts.T)
        # Sums of quarters far below 2^53 are exact, so their order does not matter.
        x, y = (_centred_ranks(drawn, numbers) for numbers in sides)
        spreads = (drawn * x * x).sum(axis=0) * (drawn * y * y).sum(axis=0)
        return _ratio((drawn * x * y).sum(axis=0), np.sqrt(spreads))

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
    return (group.cumsum(axis=0) - (group - 1) / 2 - (len(drawn) + 1) / 2)[numbers]


@metric("spearman_correlation", form=_spearman_form)
def spearman(predictions: Sequence[Any], references: Sequence[Any]) -> Outcome:
    """Spearman rank correlation; undefined where a side does not vary."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, references)


def _correlation(
    function: Callable[..., Any], predictions: Sequence[Any], references: Sequence[Any]
) -> Outcome:
    predicted, expected = _reals(predictions, "predictions"), _reals(references, "references")
    if len(expected) < 2 or collapsed(predicted) or collapsed(expected):
        return Outcome(None, _CONSTANT_SIDE)
    return Outcome(float(function(predicted, expected).statistic))


def _tolerance(values: np.ndarray) -> float:
    """Spread up to which real values count as the same."""
    return _CONSTANT * max(1.0, float(np.abs(values).max()))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _labels(values: Sequence[Any], name: str) -> np.ndarray:
    reals = _reals(values, name)
    wrong = np.flatnonzero(reals != np.round(reals))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(f"{name}: row {row + 1}: received {values[row]!r}; allowed: label numbers")
    return reals.astype(np.int64)


def _reals(values: Sequence[Any], name: str) -> np.ndarray:
    try:
        reals = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        kind = type(values[0]).__name__
        raise DataError(f"{name}: received {kind} values; allowed: numbers") from None
    if reals.ndim != 1:
        raise DataError(f"{name}: received shape {reals.shape}; allowed: one number per example")
    wrong = np.flatnonzero(~np.isfinite(reals))
    if wrong.size:
        row = wrong[0]
        raise DataError(f"{name}: row {row + 1}: received {reals[row]}; allowed: finite numbers")
    return reals

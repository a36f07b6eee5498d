"""Logits to labels or scores, and the trivial predictor that a result must beat."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsetune.errors import ConfigError, DataError


def predictions_of(logits: Sequence[Sequence[float]], kind: str) -> list[int] | list[float]:
    """Label numbers of a classification task, scores of a regression task.

    Args:
        logits: real, ``(N, C)``.
        kind: ``classification`` or ``regression``.

    Returns:
        ``(N,)`` plain numbers, ready for a file.

    Raises:
        ConfigError: another kind.
        DataError: a shape that does not fit, or a logit that is not finite.
    """
    if kind == "classification":
        return predicted_labels(np.asarray(logits)).tolist()
    if kind == "regression":
        return predicted_scores(np.asarray(logits)).tolist()
    raise ConfigError(f"kind: got {kind!r}; allowed: classification, regression")


def predicted_labels(logits: np.ndarray) -> np.ndarray:
    """Label with the largest logit; the lowest label number wins a tie.

    Args:
        logits: real, ``(N, C)``, C >= 2.

    Returns:
        int64, ``(N,)``, in ``[0, C)``.

    Raises:
        DataError: another shape, or a logit that is not finite.
    """
    values = _checked(logits)
    if values.shape[1] < 2:
        raise DataError(f"logits: got shape {values.shape}, need at least two columns")
    return values.argmax(axis=1).astype(np.int64)


def predicted_scores(logits: np.ndarray) -> np.ndarray:
    """Score of each example, as the model gives it: neither clipped nor rounded.

    Args:
        logits: real, ``(N, 1)``.

    Returns:
        float64, ``(N,)``.

    Raises:
        DataError: another shape, or a logit that is not finite.
    """
    values = _checked(logits)
    if values.shape[1] != 1:
        raise DataError(f"logits: got shape {values.shape}, need one column")
    return values[:, 0].astype(np.float64)


def majority_predictions(references: Sequence[Any]) -> list[Any]:
    """The most frequent reference for every example: what any trained model must beat.

    Args:
        references: ``(N,)`` labels, N >= 1; the lowest label wins a tie.

    Raises:
        DataError: no references.
    """
    if len(references) == 0:
        raise DataError("references: got none, need at least one")
    counts = Counter(references)
    most = max(counts.values())
    return [min(label for label, count in counts.items() if count == most)] * len(references)


def _checked(logits: np.ndarray) -> np.ndarray:
    values = np.asarray(logits)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"logits: got shape {values.shape}, need (examples, columns)")
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        row, column = wrong[0]
        raise DataError(f"logits: row {row + 1}: got {values[row, column]}, need finite numbers")
    return values

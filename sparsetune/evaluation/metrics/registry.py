"""Every metric bound once to its function, and scoring by name.

Names, headings, directions and kinds of tasks are data in ``sparsetune.config.metric``. What is
undefined or absent is told as None with a reason, never as NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sparsetune.config.metric import scale_of
from sparsetune.errors import ConfigError, DataError

_TEXT_KINDS = ("span", "generation")


class Outcome(NamedTuple):
    """What a metric says of a run.

    Attributes:
        value: fractions (of TER, above 1 too), correlations in [-1, 1], scores on their own
            scale; None where the metric is undefined or absent.
        note: what a reader must know: the variant or signature, or why there is no value.
    """

    value: float | None
    note: str = ""


Measure = Callable[[Sequence[Any], Sequence[Any]], Outcome]
"""Predictions and references, ``(N,)`` each, N >= 1 -> outcome. For texts a reference is a list of
at least one accepted text."""
Form = Callable[[np.ndarray], np.ndarray]
"""How often each example is drawn, float64 ``(B, N)``, rows sum to N -> values, float64 ``(B,)``,
NaN where undefined."""
Formed = Callable[[Sequence[Any], Sequence[Any]], Form]


class Metric(NamedTuple):
    """A bound metric.

    Attributes:
        measure: computes it.
        form: prepares predictions and references, ``(N,)`` each, for computing it on many
            resamples at once; None = it has no interval.
    """

    measure: Measure
    form: Formed | None


METRICS: dict[str, Metric] = {}
"""Metric name -> what is bound to it; whole once ``sparsetune.evaluation.metrics`` is imported."""

_Bound = TypeVar("_Bound", bound=Measure)


def metric(name: str, *, form: Formed | None = None) -> Callable[[_Bound], _Bound]:
    """Bind the decorated function to a metric's name.

    Args:
        name: key of ``sparsetune.config.metric.SCALES``.
        form: see :class:`Metric`.

    Raises:
        ConfigError: a name that is unknown, or bound before.
    """
    scale_of(name)
    if name in METRICS:
        raise ConfigError(f"metrics: {name}: bound twice; allowed: one function a name")

    def bind(measure: _Bound) -> _Bound:
        METRICS[name] = Metric(measure, form)
        return measure

    return bind


def assess(
    names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Score predictions against references, and say what a reader must know of each score.

    Args:
        names: keys of :data:`METRICS`.
        predictions: ``(N,)``: label numbers, real scores (correlations), or texts.
        references: ``(N,)`` likewise; for texts, the accepted ones of each example.

    Returns:
        Metric -> value, and metric -> note where there is one; see :class:`Outcome`.

    Raises:
        ConfigError: an unknown metric.
        DataError: no examples, unequal lengths, a value that is not finite, or a row that the
            metric cannot take.
    """
    of_texts = [scale_of(name).kind in _TEXT_KINDS for name in names]
    if len(predictions) != len(references) or len(references) == 0:
        raise DataError(
            f"predictions: received {len(predictions)} for {len(references)} references; "
            "allowed: one for each, at least one"
        )
    if any(of_texts):
        _check_texts(predictions, references)
    outcomes = {name: METRICS[name].measure(predictions, references) for name in names}
    values = {name: outcome.value for name, outcome in outcomes.items()}
    notes = {name: outcome.note for name, outcome in outcomes.items() if outcome.note}
    for name, value in values.items():
        if scale_of(name).is_above(value):
            told = f"{value:.4g} is above its scale, which ends at 1: not a score to compare"
            notes[name] = "; ".join(filter(None, (notes.get(name), told)))
    return values, notes


def score(
    names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]
) -> dict[str, float | None]:
    """Score predictions against references: the values of :func:`assess` alone."""
    return assess(names, predictions, references)[0]


def mean_form(values: Sequence[Any]) -> Form:
    """Form of a metric that is the mean of one value per example.

    Args:
        values: real, ``(N,)``.
    """
    column = np.asarray(values, dtype=np.float64)
    return lambda counts: counts @ column / len(column)


def _check_texts(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    for row, text in enumerate(predictions, start=1):
        if not isinstance(text, str):
            raise DataError(f"predictions: row {row}: received {text!r}; allowed: a text")
    for row, texts in enumerate(references, start=1):
        alone = isinstance(texts, str) or not isinstance(texts, Sequence)
        if alone or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"references: row {row}: received {texts!r}; allowed: a list of at least one text"
            )

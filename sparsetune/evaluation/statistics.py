"""How far a score could be off: bootstrap intervals, and paired tests on the same examples.

Examples are drawn again with replacement; models and seeds are not. A metric's form, bound beside
its function, computes it from how often each example is drawn, so that a thousand resamples of a
corpus score cost a matrix product. ``scipy.stats.bootstrap`` would draw anew for each run; here
all runs of a task share the draws, as paired tests need them.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsetune.errors import DataError
from sparsetune.evaluation.metrics import METRICS, score
from sparsetune.evaluation.metrics.registry import Form
from sparsetune.records.parts import ResamplingAsked

_CHUNK_CELLS = 2_000_000
_UNDEFINED_ALLOWED = 0.05


DEFAULT = ResamplingAsked(resamples=1000, level=0.95, seed=0)
"""Of all intervals. Equal example counts give equal draws, whatever is scored on them."""


@dataclass(frozen=True)
class Resampled:
    """One run's metric, ready to be paired with others on the same examples.

    Attributes:
        score: on the examples themselves; None where :func:`intervals` would give None for it.
        values: float64, ``(resamples,)``, NaN where undefined; empty without a score.
    """

    score: float | None
    values: np.ndarray


@dataclass
class Difference:
    """A paired difference, second minus first, in the metric's own unit.

    Attributes:
        value: on the examples themselves, mean over the cells of the mean over their pairs.
        low: lower end of the percentile interval.
        high: upper end.
        p_value: two-sided, in (0, 1], of "no difference".
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass
class McNemar:
    """On how many examples only one of two methods is right, and how likely that is by chance.

    Attributes:
        only_first: examples that only the first method gets right.
        only_second: likewise for the second.
        p_value: exact, two-sided, in (0, 1], of "either is as likely".
    """

    only_first: int
    only_second: int
    p_value: float


def intervals(
    scores: Mapping[str, float | None],
    predictions: Sequence[Any],
    references: Sequence[Any],
    *,
    plan: ResamplingAsked = DEFAULT,
) -> dict[str, tuple[float, float] | None]:
    """Percentile bootstrap interval of each metric over the examples.

    Args:
        scores: what :func:`sparsetune.evaluation.metrics.score` gave for the same predictions
            and references, which it has checked.
        predictions: ``(N,)``.
        references: ``(N,)``.
        plan: resamples, level and seed.

    Returns:
        Metric -> (low, high) in the metric's unit. None where the metric has no form, or is
        undefined on the examples or on more than 5 % of the resamples.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    Differs:
        Resamples on which a metric is undefined are left out.
    """
    known = {name: METRICS[name].form for name, value in scores.items() if value is not None}
    forms = {name: form(predictions, references) for name, form in known.items() if form}
    values = _on_resamples(list(forms.values()), len(references), plan)
    found = {name: _interval(row, plan.level) for name, row in zip(forms, values, strict=True)}
    return {name: found.get(name) for name in scores}


def resampled(
    metric: str,
    predictions: Sequence[Any],
    references: Sequence[Any],
    *,
    plan: ResamplingAsked = DEFAULT,
) -> Resampled:
    """Score a run on the examples and on the resamples: the same draws for as many examples.

    Args:
        metric: one metric's name.
        predictions: ``(N,)``.
        references: ``(N,)``.
        plan: resamples, level and seed.

    Raises:
        DataError: as :func:`sparsetune.evaluation.metrics.assess`.
    """
    form = METRICS[metric].form
    value = score([metric], predictions, references)[metric] if form else None
    if form is None or value is None:
        return Resampled(None, np.empty(0))
    forms = [form(predictions, references)]
    return Resampled(value, _on_resamples(forms, len(references), plan)[0])


def paired_difference(
    cells: Sequence[Sequence[tuple[Resampled, Resampled]]], *, plan: ResamplingAsked = DEFAULT
) -> Difference | None:
    """Paired bootstrap of what the second run of each pair scores above the first.

    Every draw of examples is applied to both runs of all pairs, and the difference is averaged
    over the pairs of a cell, then over the cells. With one pair per seed the interval thus tells
    what other examples would do to these trained models; what other seeds would do is the standard
    deviation's part. Cells with as many examples share their draws, as two backbones on one task
    must; tasks with other examples are drawn as if independent, which they are.

    Args:
        cells: of each, (first, second) of :func:`resampled`, by one metric on the same examples
            with this plan; at least one cell, and one pair in each.
        plan: resamples, level and seed.

    Returns:
        The difference; None where a score is, or where the interval would be undefined.

    Raises:
        DataError: no cells, or a cell without pairs.

    Source:
        Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation (paired
        bootstrap); Davison and Hinkley 1997, section 4.2 (one added to both counts).
    Differs:
        p is two-sided, twice the smaller share of resamples on either side of zero, zero
        counted on both: equal predictions give 1.
    """
    if not cells or not all(cells):
        raise DataError("pairs: received none; allowed: at least one")
    gains, drawn = [], []
    for pairs in cells:
        scores = [(first.score, second.score) for first, second in pairs]
        differences = [b - a for a, b in scores if a is not None and b is not None]
        if len(differences) < len(scores):
            return None
        gains.append(np.mean(differences))
        drawn.append(np.mean([second.values - first.values for first, second in pairs], axis=0))
    means = np.mean(drawn, axis=0)
    interval = _interval(means, plan.level)
    if interval is None:
        return None
    defined = means[np.isfinite(means)]
    # What is equal in exact arithmetic may differ in the last place.
    below, above = (defined <= 1e-12).sum(), (defined >= -1e-12).sum()
    p_value = float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(defined))))
    return Difference(float(np.mean(gains)), *interval, p_value)


def mcnemar(first_right: Sequence[bool], second_right: Sequence[bool]) -> McNemar:
    """Exact McNemar test of two methods' right answers on the same examples.

    Args:
        first_right: bool, ``(N,)``.
        second_right: bool, ``(N,)``.

    Raises:
        DataError: unequal lengths.

    Source:
        McNemar 1947; exact binomial form, Dietterich 1998 (Approximate Statistical Tests).
    Differs:
        The binomial tails replace the chi-square approximation.

    Example:
        >>> mcnemar([True, True, True, False], [False, False, False, False]).p_value
        0.25
    """
    if len(first_right) != len(second_right):
        raise DataError(
            f"answers: received {len(first_right)} and {len(second_right)}; allowed: as many"
        )
    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(only_first, only_second, _p_of_a_fair_coin(only_first, only_second))


@functools.lru_cache(maxsize=4096)
def _p_of_a_fair_coin(heads: int, tails: int) -> float:
    """Exact and two-sided; kept, since the same few counts come again and again in a suite."""
    # scipy.stats takes longer to import than most evaluations take to score.
    from scipy.stats import binomtest

    return float(binomtest(heads, heads + tails).pvalue) if heads + tails else 1.0


def _on_resamples(forms: Sequence[Form], examples: int, plan: ResamplingAsked) -> np.ndarray:
    """Every form on every resample, ``(forms, resamples)``; NaN where undefined."""
    if not forms:
        return np.empty((0, plan.resamples))
    parts = [np.stack([form(counts) for form in forms]) for counts in _counts(examples, plan)]
    return np.concatenate(parts, axis=1)


def _counts(examples: int, plan: ResamplingAsked) -> Iterator[np.ndarray]:
    """How often each resample draws each example: float64, ``(B, N)``, rows sum to N."""
    generator = np.random.default_rng(plan.seed)
    most = max(1, _CHUNK_CELLS // examples)
    for first in range(0, plan.resamples, most):
        rows = min(most, plan.resamples - first)
        drawn = generator.integers(0, examples, (rows, examples))
        drawn += examples * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * examples)
        yield counts.reshape(rows, examples).astype(np.float64)


def _interval(values: np.ndarray, level: float) -> tuple[float, float] | None:
    defined = values[np.isfinite(values)]
    if len(values) - len(defined) > _UNDEFINED_ALLOWED * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

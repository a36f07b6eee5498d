"""Paired tests between methods of finished runs, from records and predictions alone.

No stage of its own: ``tables`` writes the methods of a suite against the reference, ``claims``
asks how noisy the examples are, the command ``compare`` tells one pair.
"""

import statistics
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsetune.config.settings import ID
from sparsetune.errors import ConfigError
from sparsetune.evaluation.metrics.qa import exact_matches
from sparsetune.evaluation.predictions import NAME, read_predictions, require_same_examples
from sparsetune.evaluation.statistics import (
    DEFAULT,
    Resampled,
    mcnemar,
    paired_difference,
    resampled,
)
from sparsetune.records import digest_of
from sparsetune.reporting.intervals import Interval
from sparsetune.reporting.load import Finished, collect
from sparsetune.reporting.paired import Comparison, comparison_text


def compare_methods(results: Path, group: str, *, methods: tuple[str, str]) -> str:
    """Compare two methods on one task by every metric, over the seeds that both have.

    Args:
        results: a suite's results folder.
        group: ``BACKBONE/TASK``.
        methods: the one that is compared with, and the one that is compared.

    Returns:
        A Markdown table with footnotes.

    Raises:
        ConfigError: a name that is no id, no such runs, or no seed in common.
        DataError: a record or predictions are missing, damaged, or of other examples.
    """
    backbone, slash, task = group.partition("/")
    if not slash or not all(ID.fullmatch(one) for one in (backbone, task)):
        raise ConfigError(f"--group: received {group!r}; allowed: BACKBONE/TASK")
    if methods[0] == methods[1]:
        raise ConfigError(f"--method: received {methods[1]!r}; allowed: another than --against")
    place = results / "runs" / group
    folders = [folder for method in methods for folder in _seed_folders(place, method)]
    groups = collect(folders).groups
    sides = [groups[backbone, task, method] for method in methods]
    if not (seeds := set(sides[0]["seed"]) & set(sides[1]["seed"])):
        told = ", ".join(
            f"{method}: {list(side['seed'])}" for method, side in zip(methods, sides, strict=True)
        )
        raise ConfigError(f"{place}: no seed in common; {told}")
    first, second = (
        [_Run(row) for row in side.itertuples() if row.seed in seeds] for side in sides
    )
    metrics = [name for name in first[0].row.metrics if name in second[0].row.metrics]
    made = _compared(first, second, metrics)
    return comparison_text(made, level=DEFAULT.level, resamples=DEFAULT.resamples)


def headline_comparisons(suite: Finished, *, against: str) -> tuple[list[Comparison], list[str]]:
    """Compare every method of a suite with one of them, by each task's primary metric.

    Args:
        suite: finished runs.
        against: the method that the others are compared with.

    Returns:
        The comparisons, and a line that names those that cannot be made, if there are any.

    Raises:
        DataError: predictions are missing or damaged, or two methods have other examples.
    """
    made: list[Comparison] = []
    alone: list[str] = []
    dense: dict[Path, _Run] = {}
    for key, runs in suite.groups.items():
        if key[2] == against:
            continue
        reference = suite.groups.get((*key[:2], against), runs.iloc[:0])
        chosen = reference[reference["seed"].isin(runs["seed"])]
        if chosen.empty:
            alone.append("/".join(key))
            continue
        # The reference's answers are kept for the other methods of their task, no longer.
        kept = {row.folder: dense.get(row.folder) or _Run(row) for row in chosen.itertuples()}
        dense = {
            f: run for f, run in dense.items() if (run.row.backbone, run.row.task) == key[:2]
        } | kept
        second = [_Run(row) for row in runs[runs["seed"].isin(chosen["seed"])].itertuples()]
        made += _compared(list(kept.values()), second, [runs["metric"].iloc[0]])
    told = f"No run of {against} with the same seed: {', '.join(alone)}."
    return made, [told] if alone else []


class ExampleNoise:
    """What other examples would do to differences of primary scores; each run is read once."""

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[Resampled, str]] = {}

    def __call__(self, cells: Sequence[Sequence[tuple[Any, Any]]]) -> Interval | None:
        """Interval of the mean over the cells of left less right, in points.

        Args:
            cells: of each, pairs of rows of :attr:`Finished.groups`: left and right run of a seed.

        Returns:
            None where the metric cannot be resampled.

        Raises:
            DataError: predictions are missing or damaged, or the runs of a cell have other
                examples.
        """
        drawn = [[(self._of(right)[0], self._of(left)[0]) for left, right in c] for c in cells]
        for pairs in cells:
            first, *others = (row for pair in pairs for row in pair)
            for row in others:
                if self._of(row)[1] != self._of(first)[1]:
                    require_same_examples(_Run(first).answers, _Run(row).answers)
        if (found := paired_difference(drawn)) is None:
            return None
        return Interval(100 * found.value, 100 * found.low, 100 * found.high, "examples")

    def _of(self, row: Any) -> tuple[Resampled, str]:
        """A run's resampled score, and what tells its examples; the answers are not kept."""
        if row.folder not in self._kept:
            run = _Run(row)
            examples = digest_of([run.answers.ids, run.answers.references])
            self._kept[row.folder] = run.resampled(row.metric), examples
        return self._kept[row.folder]


class _Run:
    """A run with its answers, read once, and scored on the resamples once by each metric."""

    def __init__(self, row: Any) -> None:
        self.row = row  # of the frame
        self.answers = read_predictions(row.folder / NAME, count=row.n_examples)
        self._resampled: dict[str, Resampled] = {}

    def resampled(self, metric: str) -> Resampled:
        """Its scores by one metric."""
        if metric not in self._resampled:
            predictions, references = self.answers.predictions, self.answers.references
            self._resampled[metric] = resampled(metric, predictions, references)
        return self._resampled[metric]

    @cached_property
    def right(self) -> list[bool] | None:
        """Which answers are right, for labels and spans; scores and free texts have none."""
        predictions, references = self.answers.predictions, self.answers.references
        if "exact_match_fraction" in self.row.metrics:
            return exact_matches(predictions, references)
        if not all(isinstance(label, int) for label in references):
            return None
        return [one == other for one, other in zip(predictions, references, strict=True)]


def _seed_folders(place: Path, method: str) -> list[Path]:
    known = sorted({folder.parent.name for folder in place.glob("*/seed-*")})
    if method not in known:
        raise ConfigError(f"{place}: no runs of {method!r}; known: {', '.join(known) or 'none'}")
    return sorted((place / method).glob("seed-*"))


def _compared(
    first: Sequence[_Run], second: Sequence[_Run], metrics: Sequence[str]
) -> list[Comparison]:
    """One comparison per metric, over all pairs of runs."""
    examples, row = first[0].answers, second[0].row
    for run in (*first, *second):
        require_same_examples(examples, run.answers)
    pairs = list(zip(first, second, strict=True))
    right = [(one.right, other.right) for one, other in pairs]
    return [
        Comparison(
            key=(row.backbone, row.task, row.method),
            against=first[0].row.method,
            metric=metric,
            seeds=tuple(run.row.seed for run in second),
            examples=len(examples.references),
            scores=(_mean_score(first, metric), _mean_score(second, metric)),
            difference=paired_difference(
                [[(one.resampled(metric), other.resampled(metric)) for one, other in pairs]]
            ),
            right=tuple(mcnemar(one, other) for one, other in right if one and other),
        )
        for metric in metrics
    ]


def _mean_score(runs: Sequence[_Run], metric: str) -> float | None:
    values = [run.row.metrics[metric] for run in runs]
    return None if None in values else statistics.fmean(values)

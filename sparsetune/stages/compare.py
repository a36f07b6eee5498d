"""Paired tests between methods of finished runs, from records and predictions alone.

No stage of its own: ``tables`` writes the methods of a suite against the reference, the command
``compare`` tells one pair.
"""

import statistics
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from sparsetune.config.load import ID_PATTERN
from sparsetune.errors import ConfigError
from sparsetune.evaluation.metrics.qa import exact_matches
from sparsetune.evaluation.predictions import (
    NAME,
    Predictions,
    read_predictions,
    require_same_examples,
)
from sparsetune.evaluation.statistics import (
    DEFAULT,
    McNemar,
    Resampled,
    mcnemar,
    paired_difference,
    resampled,
)
from sparsetune.reporting.load import Key, RunGroup, RunRow, collect, group_runs
from sparsetune.reporting.paired import Comparison, comparison_text

_Pair = tuple[RunRow, RunRow]


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
    ids = group.split("/")
    if len(ids) != 2 or not all(ID_PATTERN.fullmatch(one) for one in ids):
        raise ConfigError(f"--group: got {group!r}, need BACKBONE/TASK")
    if methods[0] == methods[1]:
        raise ConfigError(f"--method: got {methods[1]!r}, need another than --against")
    place = results / "runs" / group
    folders = [folder for method in methods for folder in _seed_folders(place, method)]
    first, second = group_runs(collect(folders), [(*ids, method) for method in methods])
    pairs = _shared_seeds(first, second)
    if not pairs:
        told = f"{methods[0]}: {first.seeds}, {methods[1]}: {second.seeds}"
        raise ConfigError(f"{place}: no seed in common; {told}")
    metrics = [name for name in first.rows[0].metrics if name in second.rows[0].metrics]
    return comparison_text(
        _compared(pairs, metrics, _Answers()), level=DEFAULT.level, resamples=DEFAULT.resamples
    )


def headline_comparisons(
    rows: Sequence[RunRow], *, order: Sequence[Key], against: str
) -> tuple[list[Comparison], list[str]]:
    """Compare every method of a suite with one of them, by each task's headline metric.

    Args:
        rows: from :func:`sparsetune.reporting.load.collect`.
        order: (backbone, task, method) of the whole suite, in the order to print.
        against: the method that the others are compared with.

    Returns:
        The comparisons, and a line that names those that cannot be made, if there are any.

    Raises:
        DataError: predictions are missing or damaged, or two methods have other examples.
    """
    groups = group_runs(rows, order)
    references = {group.key[:2]: group for group in groups if group.key[2] == against}
    made, alone = [], []
    answers, current = _Answers(), None
    for group in groups:
        reference = references.get(group.key[:2])
        if group.key[2] == against:
            continue
        if current != group.key[:2]:
            # The dense runs' answers are kept for the other methods of their task, no longer.
            answers, current = _Answers(), group.key[:2]
        pairs = _shared_seeds(reference, group) if reference else []
        name = "/".join(group.key)
        if not pairs:
            alone.append(name)
        else:
            made += _compared(pairs, [group.rows[0].headline_metric], answers)
            answers.forget(group.rows)
    told = f"No run of {against} with the same seed: {', '.join(alone)}."
    return made, [told] if alone else []


class _Answers:
    """What the runs of one task answered: each run's read, and scored on the resamples, once."""

    def __init__(self) -> None:
        self._read: dict[Path, Predictions] = {}
        self._resampled: dict[tuple[Path, str], Resampled] = {}

    def of(self, row: RunRow) -> Predictions:
        """A run's predictions with their references."""
        if row.folder not in self._read:
            count = row.evaluate.measured.n_examples
            self._read[row.folder] = read_predictions(row.folder / NAME, count=count)
        return self._read[row.folder]

    def forget(self, rows: Iterable[RunRow]) -> None:
        """Drop what is not needed again: all runs of a task would fill the memory."""
        for row in rows:
            self._read.pop(row.folder, None)

    def resampled(self, rows: Sequence[RunRow], metric: str) -> list[Resampled]:
        """Runs on the same examples, by one metric."""
        missing = [row for row in rows if (row.folder, metric) not in self._resampled]
        if missing:
            sides = [self.of(row).predictions for row in missing]
            made = resampled(metric, sides, self.of(missing[0]).references)
            for row, one in zip(missing, made, strict=True):
                self._resampled[row.folder, metric] = one
        return [self._resampled[row.folder, metric] for row in rows]


def _seed_folders(place: Path, method: str) -> list[Path]:
    known = sorted({folder.parent.name for folder in place.glob("*/seed-*")})
    if method not in known:
        raise ConfigError(f"{place}: no runs of {method!r}; known: {', '.join(known) or 'none'}")
    return sorted((place / method).glob("seed-*"))


def _shared_seeds(first: RunGroup, second: RunGroup) -> list[_Pair]:
    others = {row.seed: row for row in first.rows}
    return [(others[row.seed], row) for row in second.rows if row.seed in others]


def _compared(
    pairs: Sequence[_Pair], metrics: Sequence[str], answers: _Answers
) -> list[Comparison]:
    """One comparison per metric, over all pairs."""
    read = [(answers.of(first), answers.of(second)) for first, second in pairs]
    examples = read[0][0]
    for side in (side for pair in read for side in pair):
        require_same_examples(examples, side)
    first, second = pairs[0]
    right = _right_tests(read, first.metrics)
    sides = list(zip(*pairs, strict=True))
    return [
        Comparison(
            key=second.key,
            against=first.method,
            metric=metric,
            seeds=tuple(row.seed for _, row in pairs),
            examples=len(examples.references),
            scores=tuple(_mean_score(side, metric) for side in sides),
            difference=paired_difference(
                list(zip(*(answers.resampled(side, metric) for side in sides), strict=True))
            ),
            right=right,
        )
        for metric in metrics
    ]


def _right_tests(
    read: Sequence[tuple[Predictions, Predictions]], metrics: Collection[str]
) -> tuple[McNemar, ...]:
    """McNemar's test of each pair, for labels and spans; scores and free texts have none."""
    if "exact_match_fraction" in metrics:
        return tuple(
            mcnemar(*(exact_matches(side.predictions, side.references) for side in pair))
            for pair in read
        )
    if not all(isinstance(label, int) for label in read[0][0].references):
        return ()
    return tuple(
        mcnemar(*(np.equal(side.predictions, side.references) for side in pair)) for pair in read
    )


def _mean_score(rows: Iterable[RunRow], metric: str) -> float | None:
    values = [row.metrics[metric] for row in rows]
    return None if None in values else statistics.fmean(values)

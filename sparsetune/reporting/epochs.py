"""The best epoch's score beside the last model's, and on what both are scored.

Choosing among epochs on the examples that are reported flatters; tables show both and say so.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsetune.config.metric import lower_is_better
from sparsetune.reporting.collect import RunGroup, RunRow
from sparsetune.reporting.layout import ABSENT, Column, percent

_NOTE = (
    "Best epoch: the best score after any epoch of the last training phase, with the epoch (one "
    "for each seed where they differ), chosen on the very examples that are scored, which "
    "flatters. All other scores are those of the last model."
)


class BestEpoch(NamedTuple):
    """The best of a run's epochs, and the metric's value after it."""

    epoch: float
    value: float


def best_epoch(row: RunRow, metric: str) -> BestEpoch | None:
    """The best epoch of one run; the earliest wins a tie.

    Args:
        row: from :func:`sparsetune.reporting.collect.collect`.
        metric: name of the metric to choose by.

    Returns:
        None if epochs were not scored, or the metric was undefined after all of them.
    """
    sign = -1 if lower_is_better(metric) else 1
    found = [
        BestEpoch(entry["epoch"], entry["metrics"][metric])
        for entry in _entries(row)
        if entry["metrics"].get(metric) is not None
    ]
    return max(found, key=lambda best: sign * best.value, default=None)


def best_epoch_columns(groups: Sequence[RunGroup], metric: str) -> list[Column]:
    """A column of the best epochs' scores; none if no run of the table scored its epochs.

    Args:
        groups: one line of the table each.
        metric: the headline metric.
    """
    if not any(_entries(row) for group in groups for row in group.rows):
        return []
    lines = [[best_epoch(row, metric) for row in group.rows] for group in groups]
    known = [line if None not in line else [] for line in lines]
    return [
        Column(
            "best epoch",
            [_text(line) for line in known],
            [
                (f"{metric}_best_epoch_mean", [_mean(line) for line in known]),
                (f"{metric}_best_epoch_sd", [_deviation(line) for line in known]),
                ("best_epochs", [";".join(_epochs(line)) for line in known]),
            ],
        )
    ]


def scored_notes(groups: Sequence[RunGroup]) -> list[str]:
    """Say which split is scored, and how far a best epoch can be trusted.

    Args:
        groups: of one backbone and task.
    """
    rows = [row for group in groups for row in group.rows]
    notes = []
    splits = sorted({split for row in rows if (split := _split(row))})
    if splits:
        counts = sorted({row.measured("evaluate", "n_examples") for row in rows})
        told = " or ".join(f"{count:,}" for count in counts)
        notes.append(f"Scored on {told} examples of the split {', '.join(splits)}.")
    if any(_entries(row) for row in rows):
        notes.append(_NOTE)
    reasons = {row.records["tune"]["measured"].get("epoch_scores_note") for row in rows} - {None}
    notes.extend(f"Epochs: {reason}." for reason in sorted(reasons))
    return notes


def _entries(row: RunRow) -> Sequence[Any]:
    return row.records["tune"]["measured"].get("epoch_scores", ())


def _split(row: RunRow) -> str | None:
    return row.records["evaluate"]["asked"]["settings"].get("scoring", {}).get("evaluation_split")


def _epochs(line: Sequence[BestEpoch]) -> list[str]:
    return [f"{best.epoch:g}" for best in line]


def _mean(line: Sequence[BestEpoch]) -> float | None:
    return statistics.fmean(best.value for best in line) if line else None


def _deviation(line: Sequence[BestEpoch]) -> float | None:
    return statistics.stdev(best.value for best in line) if len(line) > 1 else None


def _text(line: Sequence[BestEpoch]) -> str:
    if not line:
        return ABSENT
    spread = "" if len(line) < 2 else f" ± {percent(_deviation(line))}"
    epochs = _epochs(line)
    shown = epochs if len(set(epochs)) > 1 else epochs[:1]
    return f"{percent(_mean(line))}{spread} ({', '.join(shown)})"

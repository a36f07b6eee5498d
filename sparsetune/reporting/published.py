"""A paper's printed table with our numbers beside it, from its definition in ``config/tables``.

A cell that is not known stays unknown, and one that was not run stays empty.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune.config.metric import scale_of
from sparsetune.config.table import PublishedTable, TableColumn, TableRow
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.load import Finished, Key, deviation_of
from sparsetune.reporting.render import (
    ABSENT,
    Column,
    number_column,
    spread_text,
    text_column,
    write_table,
)
from sparsetune.reporting.savings import saved_inference, saved_shares, trained_shares

Groups = Mapping[Key, pd.DataFrame]
_Value = tuple[float, float | None, int]
"""Mean, in percent; sample standard deviation over seeds, None for one or for a mean of tasks; and
how many runs are behind it (behind each task, for a mean of tasks)."""


def write_published(table: PublishedTable, suite: Finished, stem: Path) -> list[Path]:
    """Write one table of a paper: published, ours and the difference for every cell.

    Args:
        table: from ``config/tables``.
        suite: finished runs.
        stem: path of the four files without suffix.
    """
    groups = suite.groups
    columns = [text_column("", "row", [row.label for row in table.rows])]
    for number, column in enumerate(table.columns):
        published = [row.published[number] for row in table.rows]
        columns += _columns(column, published, [_ours(groups, row, column) for row in table.rows])
    notes = [
        f"Published: {table.source}. Ours: mean ± sample standard deviation over seeds (how "
        f"many seeds), {ABSENT} = not run. Percent; differences in points.",
        *table.notes,
    ]
    # A row has several tasks.
    tasks = dict.fromkeys(task for column in table.columns for task in column.tasks)
    runs = [
        [
            replace(link, label=f"{task} {link.label}")
            for task in tasks
            if (row.backbone, task, row.method) in groups
            for link in groups[row.backbone, task, row.method]["link"]
        ]
        for row in table.rows
    ]
    return write_table(stem, table.title, columns, notes, runs=runs)


def _ours(groups: Groups, row: TableRow, column: TableColumn) -> _Value | None:
    tasks = [_values(groups, row, task, column.value) for task in column.tasks]
    if any(not found or None in found for found in tasks):
        return None
    deviation = deviation_of(tasks[0]) if len(tasks) == 1 else None
    return statistics.fmean(map(statistics.fmean, tasks)), deviation, min(map(len, tasks))


def _values(groups: Groups, row: TableRow, task: str, value: str) -> Sequence[Any]:
    """One value a seed (one in all for a change); none where it cannot be measured."""
    runs = groups.get((row.backbone, task, row.method))
    other = (
        (row.against or "", row.method) if value == "change" else (row.backbone, REFERENCE_METHOD)
    )
    reference = groups.get((other[0], task, other[1]))
    if runs is None or (reference is None and value not in ("score", "saved-inference-macs")):
        return []
    match value:
        case "score":
            return _scores(runs)
        case "change":
            return _change(_scores(runs), _scores(reference))
        case "saved-inference-macs":
            shares = saved_inference(runs)
        case "trained-share":
            shares = trained_shares(runs, reference)
        case _:
            own = row.method != REFERENCE_METHOD
            shares = saved_shares(runs, reference, "seconds") if own else []
    return [100 * share for share in shares]


def _change(scores: Sequence[Any], before: Sequence[Any]) -> list[float]:
    """Change of the mean relative to the mean before; undefined unless that is positive."""
    if None in scores or None in before or statistics.fmean(before) <= 0:
        return []
    return [100 * (statistics.fmean(scores) / statistics.fmean(before) - 1)]


def _scores(runs: pd.DataFrame) -> list[float | None]:
    factor = scale_of(runs["metric"].iloc[0]).factor
    return [None if score is None else factor * score for score in runs["score"]]


def _columns(
    column: TableColumn, published: Sequence[Any], ours: Sequence[_Value | None]
) -> tuple[Column, Column, Column]:
    # A share of a percent or less needs more digits than a score.
    heading, digits = column.heading, 2 if column.value == "trained-share" else 1
    name, show = heading.lower().replace(" ", "_"), f"{{:z.{digits}f}}".format
    texts = [f"{spread_text(*one[:2], show)} ({one[2]})" if one else ABSENT for one in ours]
    ends = ("mean_percent", "sd_points", "seeds_count")
    parts = zip(*(one or (None, None, None) for one in ours), strict=True)
    fields = {f"{name}_{end}": list(part) for end, part in zip(ends, parts, strict=True)}
    differences = [
        one[0] - value if one and isinstance(value, int | float) else None
        for one, value in zip(ours, published, strict=True)
    ]
    printed = ["not known" if value is None else f"{value}" for value in published]
    return (
        Column(f"{heading} published", printed, {f"{name}_published_percent": published}),
        Column("ours", texts, fields),
        number_column(
            "difference", f"{name}_difference_points", differences, f"{{:+z.{digits}f}}".format
        ),
    )

"""A paper's printed table with our numbers beside it, from its definition in ``config/tables``.

A cell that is not known stays unknown, and one that was not run stays empty.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune.config.metric import scale_of
from sparsetune.config.table import PublishedTable, TableColumn, TableRow
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.load import Finished, Key
from sparsetune.reporting.render import (
    ABSENT,
    Column,
    RunLink,
    number_column,
    text_column,
    write_table,
)
from sparsetune.reporting.savings import saved_inference, saved_shares, trained_shares

_UNKNOWN = "not known"


@dataclass(frozen=True)
class Cell:
    """Our value for one cell of a paper's table.

    Attributes:
        mean: in percent.
        deviation: sample standard deviation over seeds, None below two seeds or for a mean of
            tasks.
        seeds: how many runs are behind it (behind each task, for a mean of tasks).
    """

    mean: float
    deviation: float | None
    seeds: int


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
        ours = [_ours(groups, row, column) for row in table.rows]
        columns += _columns_of(column, published, ours)
    notes = [
        f"Published: {table.source}. Ours: mean ± sample standard deviation over seeds (how "
        f"many seeds), {ABSENT} = not run. Percent; differences in points.",
        *table.notes,
    ]
    runs = [_links(groups, row, table.columns) for row in table.rows]
    return write_table(stem, table.title, columns, notes, runs=runs)


def _links(
    groups: Mapping[Key, pd.DataFrame], row: TableRow, columns: Sequence[TableColumn]
) -> list[RunLink]:
    """The runs behind a row, which has several tasks."""
    tasks = dict.fromkeys(task for column in columns for task in column.tasks)
    keys = [(row.backbone, task, row.method) for task in tasks]
    return [
        replace(link, label=f"{key[1]} {link.label}")
        for key in keys
        if key in groups
        for link in groups[key]["link"]
    ]


def _ours(groups: Mapping[Key, pd.DataFrame], row: TableRow, column: TableColumn) -> Cell | None:
    cells = []
    for task in column.tasks:
        found = _values(groups, (row.backbone, task, row.method), row, column.value)
        values = [value for value in found or () if value is not None]
        if found is None or len(values) < len(found):
            return None
        cells.append(values)
    seeds = min(map(len, cells))
    deviation = statistics.stdev(cells[0]) if len(cells) == 1 and seeds > 1 else None
    mean = statistics.fmean(statistics.fmean(values) for values in cells)
    return Cell(mean, deviation, seeds)


def _values(
    groups: Mapping[Key, pd.DataFrame], key: Key, row: TableRow, value: str
) -> Sequence[float | None] | None:
    """One value a seed (one in all for a change), None where what it is measured from is not."""
    runs, reference = groups.get(key), groups.get((*key[:2], REFERENCE_METHOD))
    if value == "change":
        reference = groups.get((row.against or "", *key[1:]))
    if runs is None or (reference is None and value not in ("score", "saved-inference-macs")):
        return None
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
            if key[2] == REFERENCE_METHOD:
                return None
            shares = saved_shares(runs, reference, "seconds")
    return [100 * share for share in shares]


def _change(scores: Sequence[Any], before: Sequence[Any]) -> list[float] | None:
    """Change of the mean relative to the mean before; undefined unless that is positive."""
    if None in scores or None in before or statistics.fmean(before) <= 0:
        return None
    return [100 * (statistics.fmean(scores) / statistics.fmean(before) - 1)]


def _scores(runs: pd.DataFrame) -> list[float | None]:
    factor = scale_of(runs["metric"].iloc[0]).factor
    return [None if score is None else factor * score for score in runs["score"]]


def _columns_of(
    column: TableColumn, published: Sequence[Any], ours: Sequence[Cell | None]
) -> tuple[Column, Column, Column]:
    # A share of a percent or less needs more digits than a score.
    heading, digits = column.heading, 2 if column.value == "trained-share" else 1

    def text(cell: Cell) -> str:
        spread = "" if cell.deviation is None else f" ± {cell.deviation:.{digits}f}"
        return f"{cell.mean:z.{digits}f}{spread} ({cell.seeds})"

    differences = [
        cell.mean - value if cell and isinstance(value, int | float) else None
        for cell, value in zip(ours, published, strict=True)
    ]
    name = heading.lower().replace(" ", "_")
    own = {"mean_percent": "mean", "sd_points": "deviation", "seeds_count": "seeds"}
    fields = {
        f"{name}_{end}": [getattr(cell, of, None) for cell in ours] for end, of in own.items()
    }
    printed = [_UNKNOWN if value is None else f"{value}" for value in published]
    return (
        Column(f"{heading} published", printed, {f"{name}_published_percent": published}),
        Column("ours", [text(cell) if cell else ABSENT for cell in ours], fields),
        number_column(
            "difference", f"{name}_difference_points", differences, f"{{:+z.{digits}f}}".format
        ),
    )

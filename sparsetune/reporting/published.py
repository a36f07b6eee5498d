"""A paper's printed table with our numbers beside it, from its definition in ``config/tables``.

A cell that is not known stays unknown, and one that was not run stays empty.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsetune.config.metric import scale_of
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs
from sparsetune.reporting.columns import Column, RunLink
from sparsetune.reporting.layout import ABSENT, text_column, write_table
from sparsetune.reporting.savings import (
    mean_effort,
    saved_inference,
    saving,
    seconds_of,
    trained_shares,
)

_UNKNOWN = "not known"


@dataclass(frozen=True)
class Cell:
    """Our value for one cell of a paper's table.

    Attributes:
        mean: in percent.
        deviation: sample standard deviation over seeds, None below two seeds or for a mean of
            tasks.
        seeds: how many runs are behind it (behind each task, for a mean of tasks).
        digits: printed behind the point.
    """

    mean: float
    deviation: float | None
    seeds: int
    digits: int = 1

    @property
    def text(self) -> str:
        """As printed."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.{self.digits}f}"
        return f"{self.mean:z.{self.digits}f}{spread} ({self.seeds})"


def write_published(
    table: Mapping[str, Any],
    rows: Sequence[RunRow],
    stem: Path,
    *,
    order: Sequence[Key],
    reference_method: str,
) -> list[Path]:
    """Write one table of a paper: published, ours and the difference for every cell.

    Args:
        table: content of a file of ``config/tables``.
        rows: from :func:`sparsetune.reporting.collect.collect`.
        stem: path without suffix.
        order: (backbone, task, method) of the whole suite.
        reference_method: the dense run that savings are measured against.

    Returns:
        The Markdown, CSV, LaTeX and HTML files.

    Raises:
        DataError: a value is missing from a record.
    """
    groups = {group.key: group for group in group_runs(rows, order)}
    columns = [text_column("", "row", [row["label"] for row in table["rows"]])]
    for number, column in enumerate(table["columns"]):
        published = [row["published"][number] for row in table["rows"]]
        ours = [_ours(groups, row, column, reference_method) for row in table["rows"]]
        columns += _columns_of(column, published, ours)
    notes = [
        f"Published: {table['source']}. Ours: mean ± sample standard deviation over seeds (how "
        f"many seeds), {ABSENT} = not run. Percent; differences in points.",
        *table["notes"],
    ]
    runs = [_links(groups, row, table["columns"]) for row in table["rows"]]
    return write_table(stem, table["title"], columns, notes, runs=runs)


def _links(
    groups: Mapping[Key, RunGroup], row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]
) -> list[RunLink]:
    """The runs behind a row, which has several tasks."""
    tasks = dict.fromkeys(task for column in columns for task in column["tasks"])
    found = [groups.get((row["backbone"], task, row["method"])) for task in tasks]
    return [
        replace(run.link, label=f"{group.key[1]} {run.link.label}")
        for group in found
        if group
        for run in group.rows
    ]


def _ours(
    groups: Mapping[Key, RunGroup],
    row: Mapping[str, Any],
    column: Mapping[str, Any],
    reference_method: str,
) -> Cell | None:
    cells = []
    for task in column["tasks"]:
        group = groups.get((row["backbone"], task, row["method"]))
        values = None if group is None else _values(groups, group, row, column, reference_method)
        if values is None or None in values:
            return None
        cells.append(values)
    seeds = min(len(values) for values in cells)
    single = len(cells) == 1 and seeds > 1
    return Cell(
        statistics.fmean(statistics.fmean(values) for values in cells),
        statistics.stdev(cells[0]) if single else None,
        seeds,
        digits=_digits(column),
    )


def _values(
    groups: Mapping[Key, RunGroup],
    group: RunGroup,
    row: Mapping[str, Any],
    column: Mapping[str, Any],
    reference_method: str,
) -> list[float | None] | None:
    """One value a seed (one in all for a change), None where what it is measured from is not."""
    if column["value"] == "score":
        return _scores(group)
    if column["value"] == "saved-inference-macs":
        return [100 * saved_inference(row) for row in group.rows]
    backbone, task, method = group.key
    if column["value"] == "change":
        reference = groups.get((row["against"], task, method)) if "against" in row else None
        return None if reference is None else _change(_scores(group), _scores(reference))
    reference = groups.get((backbone, task, reference_method))
    if column["value"] == "trained-share":
        return None if reference is None else [100 * x for x in trained_shares(group, reference)]
    return None if reference in (None, group) else _saved(group, reference)


def _change(scores: list[float | None], before: list[float | None]) -> list[float] | None:
    """Change of the mean relative to the mean before; undefined unless that is positive."""
    if None in scores or None in before or statistics.fmean(before) <= 0:
        return None
    return [100 * (statistics.fmean(scores) / statistics.fmean(before) - 1)]


def _scores(group: RunGroup) -> list[float | None]:
    factor = scale_of(group.rows[0].headline_metric).factor
    scores = [row.metrics[row.headline_metric] for row in group.rows]
    return [None if score is None else factor * score for score in scores]


def _saved(group: RunGroup, reference: RunGroup) -> list[float]:
    dense = mean_effort([seconds_of(row) for row in reference.rows])
    return [100 * saving(seconds_of(row), dense).whole for row in group.rows]


def _digits(column: Mapping[str, Any]) -> int:
    """A share of a percent or less needs more digits than a score."""
    return 2 if column["value"] == "trained-share" else 1


def _columns_of(
    column: Mapping[str, Any], published: Sequence[Any], ours: Sequence[Cell | None]
) -> tuple[Column, Column, Column]:
    heading = column["heading"]
    printed = [_UNKNOWN if value is None else f"{value}" for value in published]
    texts = [ABSENT if cell is None else cell.text for cell in ours]
    means = [None if cell is None else cell.mean for cell in ours]
    differences = [
        mean - value if mean is not None and isinstance(value, int | float) else None
        for mean, value in zip(means, published, strict=True)
    ]
    signed = [
        ABSENT if value is None else f"{value:+z.{_digits(column)}f}" for value in differences
    ]
    field = heading.lower().replace(" ", "_")
    return (
        Column(f"{heading} published", printed, [(f"{field}_published_percent", published)]),
        Column("ours", texts, [
            (f"{field}_mean_percent", means),
            (f"{field}_sd_points", [None if cell is None else cell.deviation for cell in ours]),
            (f"{field}_seeds_count", [None if cell is None else cell.seeds for cell in ours]),
        ]),
        Column("difference", signed, [(f"{field}_difference_points", differences)]),
    )  # fmt: skip

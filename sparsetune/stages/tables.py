"""Stage ``tables``: a suite's tables, from records; the paired tests also from predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsetune.config.files import read_checked
from sparsetune.config.load import RunSpec, Suite
from sparsetune.errors import ConfigError
from sparsetune.reporting.collect import RUN_STAGES, collect
from sparsetune.reporting.costs import write_costs
from sparsetune.reporting.published import write_published
from sparsetune.reporting.savings import write_savings
from sparsetune.reporting.tables import REFERENCE_METHOD, write_headline, write_task_table
from sparsetune.reporting.timings import write_timings
from sparsetune.stages.garbage import seldom_collected


@seldom_collected()
def make_tables(
    suite: Suite, *, results: Path, group: str | None, output: Path, definitions: Path
) -> None:
    """Write one backbone-and-task table, or the tables of the whole suite.

    Args:
        suite: which runs, and in which order.
        results: the suite's results folder.
        group: ``BACKBONE/TASK``; None = headline, paired tests, savings, timings, costs, what
            tickets have in common, and the papers' tables with ours beside.
        output: folder for the tables.
        definitions: folder of the papers' tables.

    Raises:
        ConfigError: the suite has no such group.
        DataError: a record is missing or does not fit the others, by name.
    """
    # Here and not above: they need numpy, and the workflow imports this module for names only.
    from sparsetune.reporting.overlaps import write_overlaps
    from sparsetune.reporting.paired import write_paired
    from sparsetune.stages.compare import headline_comparisons

    if group is not None and tuple(group.split("/")) not in suite.groups():
        known = ", ".join("/".join(pair) for pair in suite.groups())
        raise ConfigError(f"--group: got {group!r}; the suite has: {known}")
    chosen = [run for run in suite.runs if group in (None, f"{run.backbone.id}/{run.task.id}")]
    rows = collect(path for run in chosen for path in record_paths(results, run))
    order = list(dict.fromkeys(run.key for run in chosen))
    refusals = {(one.backbone, one.task, one.method): one.reason for one in suite.refusals}
    if group is None:
        write_headline(rows, output, order=order, refusals=refusals)
        compared, left_out = headline_comparisons(rows, order=order, against=REFERENCE_METHOD)
        write_paired(compared, output, against=REFERENCE_METHOD, left_out=left_out)
        write_timings(rows, output, order=order, refusals=refusals)
        write_costs(rows, output, order=order, refusals=refusals)
        write_savings(rows, output, order=order, reference_method=REFERENCE_METHOD)
        write_overlaps(ticket_paths(results, suite), output)
        for name, table in published_tables(suite, definitions).items():
            write_published(
                table, rows, output / "published" / name,
                order=order, reference_method=REFERENCE_METHOD,
            )  # fmt: skip
        return
    backbone, task = group.split("/")
    write_task_table(
        rows, output / backbone, backbone=backbone, task=task, order=order, refusals=refusals
    )


def published_tables(suite: Suite, definitions: Path) -> dict[str, Mapping[str, Any]]:
    """The papers' tables of which the suite runs at least one cell.

    Args:
        suite: which runs.
        definitions: folder with one YAML file for each table.

    Returns:
        Content by file stem, in the order of the stems.

    Raises:
        ConfigError: a file breaks its schema.
    """
    asked = {run.key for run in suite.runs}
    tables = {path.stem: read_checked(path, "table") for path in sorted(definitions.glob("*.yaml"))}
    return {
        name: table
        for name, table in tables.items()
        if any(
            (row["backbone"], task, row["method"]) in asked
            for row in table["rows"]
            for column in table["columns"]
            for task in column["tasks"]
        )
    }


def record_paths(results: Path, run: RunSpec) -> list[Path]:
    """Where a run's records are."""
    return [results / "runs" / run.path / f"{stage}.json" for stage in RUN_STAGES]


def ticket_paths(results: Path, suite: Suite) -> list[Path]:
    """Where the tickets of a suite's runs are, each once, in suite order."""
    return [results / "tickets" / place / "ticket.json" for place in suite.tickets()]

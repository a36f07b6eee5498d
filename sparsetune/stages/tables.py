"""Stage ``tables``: a suite's tables, from records; the paired tests also from predictions."""

from pathlib import Path

from sparsetune.config.load import RunSpec, Suite
from sparsetune.config.table import PublishedTable, read_tables
from sparsetune.errors import ConfigError, refusal
from sparsetune.reporting.contents import REFERENCE_METHOD, RUN_STAGES


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
    # Here and not above: they need pandas, and the workflow imports this module for names only.
    from sparsetune.evaluation.statistics import DEFAULT
    from sparsetune.reporting import tables
    from sparsetune.reporting.load import collect
    from sparsetune.reporting.paired import write_paired
    from sparsetune.reporting.published import write_published
    from sparsetune.reporting.tickets import write_tickets
    from sparsetune.stages.compare import headline_comparisons

    known = ["/".join(pair) for pair in suite.groups()]
    if group not in (None, *known):
        raise ConfigError(refusal("--group", suite.id, group, known))
    chosen = [run for run in suite.runs if group in (None, f"{run.backbone.id}/{run.task.id}")]
    records = (path for run in chosen for path in record_paths(results, run))
    refusals = {(one.backbone, one.task, one.method): one.reason for one in suite.refusals}
    done = collect(records, [run.key for run in chosen], refusals)
    if group is not None:
        backbone, task = group.split("/")
        tables.write_task_table(done, output / backbone, backbone=backbone, task=task)
        return
    tables.write_headline(done, output)
    compared, left_out = headline_comparisons(done, against=REFERENCE_METHOD)
    write_paired(
        compared, output, against=REFERENCE_METHOD, left_out=left_out, level=DEFAULT.level,
        resamples=DEFAULT.resamples,
    )  # fmt: skip
    tables.write_timings(done, output)
    tables.write_costs(done, output)
    tables.write_savings(done, output)
    write_tickets(ticket_paths(results, suite), output)
    for name, table in published_tables(suite, definitions).items():
        write_published(table, done, output / "published" / name)


def published_tables(suite: Suite, definitions: Path) -> dict[str, PublishedTable]:
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
    return {
        name: table
        for name, table in read_tables(definitions).items()
        if any(
            (row.backbone, task, row.method) in asked
            for row in table.rows
            for column in table.columns
            for task in column.tasks
        )
    }


def record_paths(results: Path, run: RunSpec) -> list[Path]:
    """Where a run's records are."""
    return [results / "runs" / run.path / f"{stage}.json" for stage in RUN_STAGES]


def ticket_paths(results: Path, suite: Suite) -> list[Path]:
    """Where the tickets of a suite's runs are, each once, in suite order."""
    return [results / "tickets" / place / "ticket.json" for place in suite.tickets()]

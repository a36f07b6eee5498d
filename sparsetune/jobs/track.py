"""Stage ``track``: MLflow completed from records, so that every run is there exactly once."""

from pathlib import Path

from sparsetune.catalog import RunSpec, Suite
from sparsetune.jobs.tables import record_paths
from sparsetune.records import Clock, make_record, write_record
from sparsetune.tracking import Entry, PublishReport, RunKey, prepare, publish
from sparsetune.tracking.attempts import FIRST


def prepare_store(suite: Suite, *, results: Path) -> str | None:
    """Create store, experiment and parent runs before parallel jobs start.

    Returns:
        One line if the store could not be made, else None: training goes on without it.
    """
    try:
        prepare(results, suite.id, suite.groups())
    except Exception as error:  # whatever a tracker does, it must not stop training
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None


def track_suite(
    suite: Suite, *, results: Path, resources: Path, attempt: str = FIRST
) -> PublishReport:
    """Publish every run, ticket, support and backbone of a suite, and write ``track.json``.

    Args:
        suite: which runs.
        results: the folder of all results: the store is there, and the suite's folder.
        resources: the folder with the backbones.
        attempt: its name from ``next_attempt``, before this stage's last record was deleted.

    Returns:
        Counts and problems; a tracker that is down is a problem, never an exception.
    """
    clock = Clock()
    clock.ready()
    report = publish(results, suite.id, _entries(suite, results / suite.id, resources))
    record = make_record(
        "track",
        asked={"suite": suite.id},
        inputs={},
        measured={
            "published": report.published,
            "unchanged": report.unchanged,
            "problems": list(report.problems),
            "attempt": attempt,
        },
        where=clock.where(),
    )
    write_record(results / suite.id / "track.json", record)
    return report


def _entries(suite: Suite, folder: Path, resources: Path) -> list[Entry]:
    entries = {}
    for run in suite.runs:
        for entry in (
            _backbone_entry(suite, run, resources),
            _support_entry(suite, run, folder),
            _ticket_entry(suite, run, folder),
            _run_entry(suite, run, folder),
        ):
            if entry is not None:
                entries.setdefault(entry.key.text, entry)
    return list(entries.values())


def _run_entry(suite: Suite, run: RunSpec, folder: Path) -> Entry:
    records = tuple(record_paths(folder, run))
    place = folder / "runs" / run.path
    key = RunKey("tune", suite.id, run.backbone.id, run.task.id, run.method.id, run.seed)
    history = place / "history.csv"
    return Entry(key, records, history, (*records, place / "predictions.parquet", history))


def _backbone_entry(suite: Suite, run: RunSpec, resources: Path) -> Entry:
    record = resources / "backbones" / run.backbone.id / "record.json"
    return Entry(RunKey("backbone", suite.id, run.backbone.id), (record,), None, (record,))


def _support_entry(suite: Suite, run: RunSpec, folder: Path) -> Entry | None:
    if run.support is None:
        return None
    record = folder / "support" / run.backbone.id / run.support.id / "record.json"
    key = RunKey("support", suite.id, run.backbone.id, label=run.support.id)
    return Entry(key, (record,), None, (record,))


def _ticket_entry(suite: Suite, run: RunSpec, folder: Path) -> Entry | None:
    if run.ticket is None:
        return None
    place = folder / "tickets" / run.ticket_path
    key = RunKey(
        "ticket", suite.id, run.backbone.id, run.task.id, seed=run.seed, label=run.ticket.id
    )
    record = place / "record.json"
    return Entry(key, (record,), None, (record, place / "ticket.json", place / "gates.npz"))

"""Stage ``track``: MLflow completed from records, so that every run is there exactly once."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsetune.config.load import RunSpec, Suite
from sparsetune.config.metric import scale_of
from sparsetune.errors import SparsetuneError
from sparsetune.records import Clock, make_record, read_record, write_record
from sparsetune.reporting.collect import RunRow, collect
from sparsetune.reporting.headline import Headline, RunId, headlines
from sparsetune.reporting.tables import REFERENCE_METHOD
from sparsetune.stages.suite_pages import suite_pages
from sparsetune.stages.tables import record_paths
from sparsetune.stages.track_data import TaskData, task_data
from sparsetune.tracking import Entry, PublishReport, RunKey, descriptions, prepare, publish
from sparsetune.tracking.attempts import next_attempt
from sparsetune.tracking.inputs import DataInput
from sparsetune.tracking.suite_run import publish_experiment, publish_suite


def prepare_store(suite: Suite, *, results: Path) -> str | None:
    """Create store, experiment and parent runs before parallel jobs start.

    Returns:
        One line if the store could not be made, else None: training goes on without it.
    """
    try:
        prepare(results, suite.id, suite.groups())
        methods = list(dict.fromkeys(run.key for run in suite.runs))
        publish_experiment(results, suite.id, descriptions.suite_note(suite), methods)
    except Exception as error:  # whatever a tracker does, it must not stop training
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None


def track_suite(
    suite: Suite, *, results: Path, resources: Path, attempt: str | None = None
) -> PublishReport:
    """Publish every run, ticket, support and backbone of a suite, and write ``track.json``.

    Parent runs get means over seeds, and the suite's own run what is there of tables, claims,
    figures and report.

    Args:
        suite: which runs.
        results: the folder of all results: the store is there, and the suite's folder.
        resources: the folder with data sets and backbones.
        attempt: from :func:`next_attempt` before this stage's last record was deleted; None if
            it was not.

    Returns:
        Counts and problems; a tracker that is down is a problem, never an exception.
    """
    clock = Clock()
    clock.ready()
    folder = results / suite.id
    rows = _rows(suite, folder)
    numbers = headlines(rows, reference_method=REFERENCE_METHOD)
    tasks = {run.task.id: run.task for run in suite.runs}
    data = {name: task_data(task, resources / "datasets") for name, task in tasks.items()}
    report = publish(
        results, suite.id, _Entries(suite, folder, resources, rows, numbers, data).all()
    )
    problems = report.problems
    if report.published or report.unchanged:
        problems += publish_suite(results, suite.id, suite_pages(suite, folder, numbers))
    record = make_record(
        "track",
        asked={"suite": suite.id},
        inputs={},
        measured={
            "published": report.published,
            "unchanged": report.unchanged,
            "problems": list(problems),
            "attempt": attempt or next_attempt(folder / "track.json"),
        },
        where=clock.where(),
    )
    write_record(folder / "track.json", record)
    return PublishReport(report.published, report.unchanged, problems)


def _rows(suite: Suite, folder: Path) -> list[RunRow]:
    rows = []
    for run in suite.runs:
        # A run that does not fit together is published without headline; ``tables`` refuses it
        # by name.
        with suppress(SparsetuneError):
            (row,) = collect(record_paths(folder, run))
            headlines([row], reference_method=REFERENCE_METHOD)
            scale_of(row.headline_metric)
            rows.append(row)
    return rows


@dataclass(frozen=True)
class _Entries:
    """What of a suite is published: every run, and each thing that its runs share once."""

    suite: Suite
    folder: Path
    resources: Path
    rows: list[RunRow]
    numbers: dict[RunId, Headline]
    data: dict[str, TaskData | None]

    def all(self) -> list[Entry]:
        """Entries, in suite order."""
        known = {(*row.key, row.seed): row for row in self.rows}
        entries: dict[str, Entry] = {}
        for run in self.suite.runs:
            for entry in (
                self._backbone(run),
                self._support(run),
                self._ticket(run),
                self._run(run, known.get((*run.key, run.seed))),
            ):
                if entry is not None:
                    entries.setdefault(entry.key.text, entry)
        return list(entries.values())

    def _run(self, run: RunSpec, row: RunRow | None) -> Entry:
        records = tuple(record_paths(self.folder, run))
        place = self.folder / "runs" / run.path
        history = place / "history.csv"
        return Entry(
            RunKey("tune", self.suite.id, *run.key, run.seed),
            records,
            history,
            (*records, place / "predictions.parquet", history),
            headline=self.numbers.get((*run.key, run.seed), {}),
            tags={"metric": scale_of(row.headline_metric).heading} if row else {},
            note=descriptions.run_note(run, place),
            data=self._data(run, row.records["tune"]["inputs"] if row else {}),
        )

    def _backbone(self, run: RunSpec) -> Entry:
        folder = self.resources / "backbones" / run.backbone.id
        record = folder / "record.json"
        note = descriptions.backbone_note(run.backbone, folder)
        key = RunKey("backbone", self.suite.id, run.backbone.id)
        return Entry(key, (record,), None, (record,), note=note)

    def _support(self, run: RunSpec) -> Entry | None:
        if run.support is None:
            return None
        place = self.folder / "support" / run.backbone.id / run.support.id
        record = place / "record.json"
        key = RunKey("support", self.suite.id, run.backbone.id, label=run.support.id)
        note = descriptions.support_note(run, place)
        return Entry(key, (record,), None, (record,), note=note)

    def _ticket(self, run: RunSpec) -> Entry | None:
        if run.ticket is None:
            return None
        place = self.folder / "tickets" / run.ticket_path
        key = RunKey("ticket", self.suite.id, *run.key[:2], seed=run.seed, label=run.ticket.id)
        record = place / "record.json"
        files = (record, place / "ticket.json", place / "gates.npz")
        note = descriptions.ticket_note(run, place)
        entry = Entry(key, (record,), None, files, note=note)
        with suppress(SparsetuneError):  # publishing tells what is missing or damaged
            told = read_record(record, "ticket")
            data = self._data(run, told["inputs"])
            return replace(entry, headline=_kept(told["measured"]), data=data)
        return entry

    def _data(self, run: RunSpec, inputs: Mapping[str, str]) -> tuple[DataInput, ...]:
        data = self.data.get(run.task.id)
        return data.used_by(inputs) if data else ()


def _kept(measured: Mapping[str, Any]) -> dict[str, float]:
    """How much of the model a ticket keeps, all layers together."""
    names = {"heads_kept": "kept_heads", "neurons_kept": "kept_neurons"}
    return {name: float(sum(measured[of])) for name, of in names.items() if of in measured}

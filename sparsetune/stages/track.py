"""Stage ``track``: MLflow completed from records, so that every run is there exactly once."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune.config.metric import scale_of
from sparsetune.config.suite import RunSpec, Suite
from sparsetune.config.support import SupportSettings
from sparsetune.config.task import Task
from sparsetune.config.ticket import TicketSettings
from sparsetune.errors import SparsetuneError
from sparsetune.records import (
    ClaimsRecord,
    Clock,
    DatasetRecord,
    TicketRecord,
    TrackRecord,
    read_record,
    sha256_of,
    write_record,
)
from sparsetune.reporting.load import Finished, RunId, collect
from sparsetune.reporting.render import markdown, rendered
from sparsetune.reporting.tables import columns_of, headlines, spread
from sparsetune.stages.claims import FOREST
from sparsetune.stages.tables import record_paths
from sparsetune.tracking import views
from sparsetune.tracking.client import RunKey, one_line, prepare
from sparsetune.tracking.publish import (
    DataInput,
    Entry,
    PublishReport,
    Summary,
    next_attempt,
    publish,
    publish_experiment,
    publish_suite,
)

_CLAIMS = [*(f"claims.{form}" for form in ("html", "md", "csv", "json")), FOREST]
_ATTACHED = {
    "tables": (["tables"], "`tables`: the suite's and the papers', in four forms"),
    "figures": (["figures"], "`figures`: in `pareto.html`, pointing at a run tells its numbers"),
    "": ([*_CLAIMS, "report.html"], "`claims.html`: each claim of the papers with its verdict; "
         "`report.html`: all on one page, once `make report` has made it"),
}  # fmt: skip
"""Folder below the suite's artifacts -> the files or folders to put there, and what they hold."""


def prepare_store(suite: Suite, *, results: Path) -> str | None:
    """Create store, experiment and parent runs before parallel jobs start.

    Returns:
        One line if the store could not be made, else None: training goes on without it.
    """
    try:
        prepare(results, suite.id, suite.groups())
        publish_experiment(results, suite.id, views.suite_note(suite), _methods(suite))
    except Exception as error:  # whatever a tracker does, it must not stop training
        return one_line(error)
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
        attempt: from :func:`sparsetune.tracking.publish.next_attempt` before this stage's last
            record was deleted; None if it was not.

    Returns:
        Counts and problems; a tracker that is down is a problem, never an exception.
    """
    clock = Clock()
    clock.ready()
    folder = results / suite.id
    rows, numbers = _known(suite, folder)
    tasks = {run.task.id: run.task for run in suite.runs}
    data = {name: _task_data(task, resources / "datasets") for name, task in tasks.items()}
    entries = _Entries(suite, folder, resources, rows, numbers, data).all()
    report = publish(results, suite.id, entries)
    problems = report.problems
    if report.published or report.unchanged:
        verdicts = _verdicts(folder / "claims.json")
        problems += publish_suite(
            results,
            suite.id,
            views.suite_note(suite),
            _methods(suite),
            parents={group: _parent(suite, group, numbers) for group in suite.groups()},
            overview=Summary(
                {f"claims/{name.replace(' ', '_')}": count for name, count in verdicts.items()},
                views.overview_note(suite, verdicts, [told for _, told in _ATTACHED.values()]),
                files={
                    place: [folder / name for name in names]
                    for place, (names, _) in _ATTACHED.items()
                },
            ),
        )
    report = replace(report, problems=problems)
    told = {**asdict(report), "problems": list(problems)}
    told["attempt"] = attempt or next_attempt(folder / "track.json")
    record = TrackRecord.of({"suite": suite.id}, inputs={}, measured=told, where=clock.where())
    write_record(folder / "track.json", record)
    return report


def _methods(suite: Suite) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(run.key for run in suite.runs))


def _known(suite: Suite, folder: Path) -> tuple[dict[RunId, Any], pd.DataFrame]:
    """The finished runs, and their numbers as :func:`headlines` tells them."""
    found = []
    for run in suite.runs:
        # A run that does not fit together is published without headline; ``tables`` refuses it
        # by name.
        with suppress(SparsetuneError):
            one = collect(record_paths(folder, run))
            scale_of(one.runs["metric"].iloc[0])
            found.append(one.runs)
    if not found:
        return {}, pd.DataFrame()
    runs = pd.concat(found, ignore_index=True)
    rows = {(run.backbone, run.task, run.method, run.seed): run for run in runs.itertuples()}
    return rows, headlines(Finished(runs, _methods(suite), {}))


@dataclass(frozen=True)
class _TaskData:
    """A task's splits as they are here now, and the sum of the record that tells of them."""

    record_sha256: str
    splits: tuple[DataInput, ...]


def _task_data(task: Task, datasets: Path) -> _TaskData | None:
    """What the data set's record says of a task's splits; None if it is not here any more."""
    folder = datasets / task.id
    try:
        found = read_record(folder / "record.json", DatasetRecord).measured
    except SparsetuneError:
        return None
    source = {**task.source.resolved(), **({"revision": found.revision} if found.revision else {})}
    splits = []
    for split, context, count in (
        ("train", "training", found.train_examples),
        ("evaluation", "validation", found.evaluation_examples),
    ):
        total = found.files[f"{split}.parquet"]
        splits.append(DataInput(task.id, context, total, source, count))
    return _TaskData(sha256_of(folder / "record.json"), tuple(splits))


@dataclass(frozen=True)
class _Entries:
    """What of a suite is published: every run, and each thing that its runs share once."""

    suite: Suite
    folder: Path
    resources: Path
    rows: Mapping[RunId, Any]
    numbers: pd.DataFrame
    data: Mapping[str, _TaskData | None]

    def all(self) -> list[Entry]:
        """Entries, in suite order."""
        entries: dict[str, Entry] = {}
        for run in self.suite.runs:
            made = [self._backbone(run)]
            made += [self._support(run.backbone.id, run.support)] if run.support else []
            made += [self._ticket(run, run.ticket)] if run.ticket else []
            for entry in (*made, self._run(run)):
                entries.setdefault(entry.key.text, entry)
        return list(entries.values())

    def _run(self, run: RunSpec) -> Entry:
        row = self.rows.get((*run.key, run.seed))
        records = tuple(record_paths(self.folder, run))
        place = self.folder / "runs" / run.path
        history = place / "history.csv"
        return Entry(
            RunKey("tune", self.suite.id, *run.key, run.seed),
            records,
            history,
            (*records, place / "predictions.parquet", history),
            headline=dict(self.numbers.loc[(*run.key, run.seed)].dropna()) if row else {},
            tags={"metric": scale_of(row.metric).heading} if row else {},
            note=views.run_note(run, place),
            data=self._data(run, row.inputs if row else {}),
        )

    def _backbone(self, run: RunSpec) -> Entry:
        record = self.resources / "backbones" / run.backbone.id / "record.json"
        key = RunKey("backbone", self.suite.id, run.backbone.id)
        note = views.part_note(run.backbone, "", record.parent)
        return Entry(key, (record,), None, (record,), note=note)

    def _support(self, backbone: str, recipe: SupportSettings) -> Entry:
        record = self.folder / "support" / backbone / recipe.id / "record.json"
        key = RunKey("support", self.suite.id, backbone, label=recipe.id)
        told = f"Positions of the sparse residual S2 in the weights of `{backbone}`. "
        note = views.part_note(recipe, told, record.parent)
        return Entry(key, (record,), None, (record,), note=note)

    def _ticket(self, run: RunSpec, recipe: TicketSettings) -> Entry:
        place = self.folder / "tickets" / run.ticket_path
        record = place / "record.json"
        told = (
            f"Which heads and neurons of `{run.backbone.id}` to keep on `{run.task.id}`, seed "
            f"{run.seed}: `ticket.json`, and how the gates went: `gates.npz`. "
        )
        entry = Entry(
            RunKey("ticket", self.suite.id, *run.key[:2], seed=run.seed, label=recipe.id),
            (record,),
            artifacts=(record, place / "ticket.json", place / "gates.npz"),
            note=views.part_note(recipe, told, place),
        )
        with suppress(SparsetuneError):  # publishing tells what is missing or damaged
            found = read_record(record, TicketRecord)
            heads, neurons = sum(found.measured.kept_heads), sum(found.measured.kept_neurons)
            headline = {"heads_kept": float(heads), "neurons_kept": float(neurons)}
            return replace(entry, headline=headline, data=self._data(run, found.inputs))
        return entry

    def _data(self, run: RunSpec, inputs: Mapping[str, str]) -> tuple[DataInput, ...]:
        """The task's splits, if a record with these inputs was made from this very data set."""
        data = self.data.get(run.task.id)
        return data.splits if data and data.record_sha256 in inputs.values() else ()


def _parent(suite: Suite, group: tuple[str, str], numbers: pd.DataFrame) -> Summary:
    runs = [run for run in suite.runs if run.key[:2] == group]
    own = numbers[[run_id[:2] == group for run_id in numbers.index]]
    if own.empty:
        return Summary(note=views.group_note(runs, ""))
    spreads, title = spread(own), " on ".join(group)
    columns = columns_of(spreads)
    return Summary(
        metrics={
            f"{name}/{method}": value
            for name in spreads
            for method, value in spreads[name].items()
            if value is not None
        },
        note=views.group_note(runs, rendered(columns, "md")),
        texts={"methods.md": markdown(title, columns, []), "methods.csv": rendered(columns, "csv")},
    )


def _verdicts(record: Path) -> dict[str, int]:
    try:
        return dict(read_record(record, ClaimsRecord).measured.verdicts)
    except SparsetuneError:
        return {}

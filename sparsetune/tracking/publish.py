"""MLflow completed from records: one finished run for each entry, and the suite's own pages.

A live run that arrived whole is kept and gains what came after training, so that the id in its
record stays true. What is missing or differs is written anew.
"""

import csv
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetune.errors import DataError
from sparsetune.records import (
    STAGES,
    TrackRecord,
    digest_of,
    read_any_record,
    read_record,
    sha256_of,
)
from sparsetune.tracking.client import (
    COMMIT_TAG,
    NOTE_TAG,
    PARENT_LINK_TAG,
    RUN_KEY_TAG,
    RunKey,
    Store,
    as_finals,
    as_params,
    ensure_parents,
    flatten,
    one_line,
    open_store,
    source_tags,
    store_uri,
    without_password,
)
from sparsetune.tracking.views import VIEWS_HERE, view_links, view_tags

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run

Point = tuple[str, float, int]
"""Metric, value, step."""

FIRST_ATTEMPT = "first"
_RECORD_TAG = "sparsetune.record_sha256"  # of the run's first record
_DIGEST_TAG = "sparsetune.published_digest"  # of all that a run was published from; set last, so
# that an interrupted call is noticed and done again
_PATIENCE_SECONDS = 60.0
_TEXT_COLUMN = "phase"


@dataclass(frozen=True)
class DataInput:
    """One split of a task's data, as a run used it.

    Attributes:
        name: task id.
        context: ``training`` or ``validation``.
        sha256: of its file, from the data set's record.
        source: where the task says that the data come from.
        examples: how many the split has.
    """

    name: str
    context: str
    sha256: str
    source: Mapping[str, Any]
    examples: int

    def as_mlflow(self) -> "DatasetInput":
        """The entity that MLflow's client takes; its digests have at most 36 characters."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=self.name,
            digest=self.sha256[:36],
            source_type=str(self.source.get("kind", "local")),
            source=json.dumps(self.source, sort_keys=True),
            profile=json.dumps({"examples": self.examples, "sha256": self.sha256}),
        )
        return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", self.context)])


@dataclass(frozen=True)
class Entry:
    """One run to publish, and the files it is published from.

    Attributes:
        key: the run's identity.
        records: record files, the one of the training stage first.
        history: CSV with a column ``step``, then one for each metric, named as live logging names
            them; an empty cell = no point, and the text column ``phase`` is left out.
        artifacts: files to attach; their names must differ.
        headline: metrics to show first, under names without a slash. They may change with other
            runs' records: the last value counts.
        tags: beside those of the key.
        note: description, in Markdown.
        data: the data that the run used.
    """

    key: RunKey
    records: tuple[Path, ...]
    history: Path | None = None
    artifacts: tuple[Path, ...] = ()
    headline: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    data: tuple[DataInput, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What a run that stands for many shows: a parent's means, or the suite's verdicts.

    Attributes:
        metrics: name -> value.
        note: description, in Markdown.
        texts: artifact name -> content.
        files: artifact folder ("" = the top) -> files or folders to attach, if they are there.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishReport:
    """Runs made or completed, runs that were already as the records say, and a line a failure."""

    published: int
    unchanged: int
    problems: tuple[str, ...]


def next_attempt(record: Path) -> str:
    """Name the next attempt to publish: the last one's name unless that left something out.

    Snakemake compares it with the name it ran the stage with, and so repeats the stage until
    MLflow is complete, and no more.

    Args:
        record: the suite's ``track.json``; may be missing.
    """
    try:
        last = read_record(record, TrackRecord)
    except DataError:
        return FIRST_ATTEMPT
    return f"after {last.where.ended}" if last.measured.problems else last.measured.attempt


def publish(results: Path, suite: str, entries: Iterable[Entry]) -> PublishReport:
    """Leave exactly one finished MLflow run, as its records say, for each entry.

    Runs whose key is in no entry are left alone. A second call changes nothing and is quick.

    Args:
        results: the folder of all results.
        suite: name of the suite = name of the experiment.
        entries: what to publish.

    Returns:
        Counts and problems; trouble with one entry never stops the others, but a store that has
        failed for a minute in all is left alone: thousands of entries would wait for it in vain.
    """
    chosen, uri = list(entries), without_password(store_uri(results))
    present: dict[str, list[Run]] = {}
    try:
        store = open_store(results, suite)
        groups = [entry.key.group for entry in chosen if entry.key.group]
        parents = ensure_parents(store, results, suite, groups)
        for run in store.runs():
            present.setdefault(run.data.tags.get(RUN_KEY_TAG, ""), []).append(run)
    except Exception as error:
        return PublishReport(0, 0, (f"{uri}: {one_line(error)}",))
    changed, problems, lost_seconds = [], [], 0.0
    for number, entry in enumerate(chosen, start=1):
        parent = parents[entry.key.group].info.run_id if entry.key.group else None
        began = time.monotonic()
        try:
            changed.append(_publish_one(store, entry, present.get(entry.key.text, []), parent))
        except Exception as error:
            problems.append(f"{entry.key.text}: {one_line(error)}")
            lost_seconds += time.monotonic() - began
        if lost_seconds > _PATIENCE_SECONDS and number < len(chosen):
            left = len(chosen) - number
            problems.append(f"{uri}: failed for {lost_seconds:.0f} s, {left} entries not tried")
            break
    return PublishReport(sum(changed), len(changed) - sum(changed), tuple(problems))


def _publish_one(store: Store, entry: Entry, older: Sequence["Run"], parent: str | None) -> bool:
    """Return whether anything had to change."""
    digest, client = _digest(entry), store.client
    for run in older:
        if run.info.status == "FINISHED" and run.data.tags.get(_DIGEST_TAG) == digest:
            store.delete(older, but=run.info.run_id)
            return len(older) > 1
    wanted = _wanted(entry, parent)
    kept = next((run for run in older if wanted.suits(run)), None)
    points = list(_points(entry.history)) if entry.history and kept is None else []
    run = kept or client.create_run(
        store.experiment_id, wanted.started_ms, tags=entry.key.tags(), run_name=entry.key.text
    )
    run_id = run.info.run_id
    try:
        _fill(store, run, entry, wanted, points)
        client.set_terminated(run_id, "FINISHED", end_time=wanted.ended_ms)
        client.set_tag(run_id, _DIGEST_TAG, digest)
    except Exception:
        with suppress(Exception):  # of a store that is gone, the next attempt replaces the run
            client.set_terminated(run_id, "FAILED")
        raise
    store.delete(older, but=run_id)
    return True


@dataclass(frozen=True)
class _Wanted:
    """What an entry's MLflow run must hold, beside its curves."""

    tags: Mapping[str, str]
    params: Mapping[str, str]
    finals: Mapping[str, float]
    live_run_id: str | None
    started_ms: int
    ended_ms: int

    def suits(self, run: "Run") -> bool:
        """Whether a run has this very record's curves: from its job, or published before.

        MLflow refuses to change a param: one that differs cannot be mended.
        """
        published = run.data.tags.get(_RECORD_TAG) == self.tags[_RECORD_TAG]
        return (
            run.info.status == "FINISHED"
            and (run.info.run_id == self.live_run_id or published)
            and all(run.data.params.get(name, x) == x for name, x in self.params.items())
        )


def _wanted(entry: Entry, parent: str | None) -> _Wanted:
    records = [read_any_record(path) for path in entry.records]
    params: dict[str, str] = {}
    finals: dict[str, float] = {}
    for record in records:
        stage = record.asked.stage
        for name, value in as_params(record.asked.settings).items():
            if params.setdefault(name, value) != value:
                params[f"{stage}.{name}"] = value
        finals |= as_finals(stage, record.measured.model_dump(mode="json"))
    asked, where = records[0].asked, records[0].where
    tags = {
        **source_tags(entry.key.stage),
        **entry.tags,
        **entry.key.tags(),
        NOTE_TAG: entry.note or None,
        "digest": asked.digest,
        "device": where.device.name,
        "stage_version": asked.stage_version,
        COMMIT_TAG: where.commit,
        PARENT_LINK_TAG: parent,
        _RECORD_TAG: sha256_of(entry.records[0]),
    }
    started, ended = (datetime.fromisoformat(one) for one in (where.started, where.ended))
    return _Wanted(
        tags={name: str(value) for name, value in tags.items() if value is not None},
        params=params,
        finals=finals,
        live_run_id=where.tracking.mlflow_run_id if where.tracking else None,
        started_ms=int(started.timestamp() * 1000),
        ended_ms=int(ended.timestamp() * 1000),
    )


def _digest(entry: Entry) -> str:
    """A digest of all that the run is published from."""
    names = [path.name for path in entry.artifacts]
    if len(set(names)) < len(names):
        raise DataError(f"artifacts: received names {names}, they must differ")
    if not entry.records:
        raise DataError("records: received none, need at least one")
    sources = [*entry.records, *([entry.history] if entry.history else [])]
    for path in (*sources, *entry.artifacts):
        if not path.is_file():
            raise DataError(f"{path}: no such file; run the stage that writes it")
    data = [[one.name, one.context, one.sha256] for one in entry.data]
    shown = [dict(entry.headline), dict(entry.tags), entry.note, data]
    sums = [sha256_of(path) for path in sources]
    return digest_of([STAGES["track"], entry.key.tags(), sums, names, shown])


def _fill(store: Store, run: "Run", entry: Entry, wanted: _Wanted, points: Iterable[Point]) -> None:
    from mlflow.entities import Metric

    run_id, shown = run.info.run_id, run.data.metrics
    # MLflow lists metrics as they came: the headline first.
    metrics = _latest({**entry.headline, **wanted.finals}, shown)
    metrics += [Metric(name, x, wanted.ended_ms, step) for name, x, step in points]
    store.send(run_id, metrics=metrics, params=wanted.params, tags=wanted.tags)
    if entry.data:
        store.client.log_inputs(run_id, [one.as_mlflow() for one in entry.data])
    for path in entry.artifacts:
        store.client.log_artifact(run_id, str(path))


def _latest(wanted: Mapping[str, float], shown: Mapping[str, float]) -> list["Metric"]:
    """Points that make ``wanted`` the values that MLflow shows: of one step's, the latest."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(n, value, now, 0) for n, value in wanted.items() if shown.get(n) != value]


def _points(path: Path) -> Iterator[Point]:
    """The points of a history file, in its order; trouble is told with row and column."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if "step" not in (rows.fieldnames or ()):
            raise DataError(f"{path}: received columns {rows.fieldnames}, need 'step'")
        for number, row in enumerate(rows, start=2):
            step = row.pop("step")
            for name, cell in row.items():
                if not cell or name == _TEXT_COLUMN:
                    continue
                try:
                    ((told, value),) = flatten({name: float(cell)}).items()
                    yield told, value, int(step)
                except (TypeError, ValueError):
                    raise DataError(
                        f"{path}: row {number}: received {name} {cell!r} at step {step!r}; "
                        "need a number at a whole number"
                    ) from None


def publish_experiment(
    results: Path, suite: str, note: str, methods: Sequence[tuple[str, str, str]]
) -> None:
    """Give the suite's experiment its description and its saved views.

    Args:
        results: the folder of all results.
        suite: name of the experiment.
        note: in Markdown, with :data:`VIEWS_HERE` where the links to the views go.
        methods: (backbone, task, method) of the suite, each once.

    Raises:
        DataError: the store cannot be used.
        mlflow.exceptions.MlflowException: anything MLflow refuses.
    """
    store = open_store(results, suite)
    experiment = store.client.get_experiment(store.experiment_id)
    told = note.replace(VIEWS_HERE, view_links(store.experiment_id))
    for name, text in {**view_tags(experiment, methods), NOTE_TAG: told}.items():
        if experiment.tags.get(name) != text:
            store.client.set_experiment_tag(store.experiment_id, name, text)


def publish_suite(
    results: Path,
    suite: str,
    note: str,
    methods: Sequence[tuple[str, str, str]],
    *,
    parents: Mapping[tuple[str, str], Summary],
    overview: Summary,
) -> tuple[str, ...]:
    """Bring experiment, parent runs and the suite's own run up to date.

    These stay when something changes, because others point to them: the last values count.
    A second call with the same content writes nothing.

    Args:
        results: the folder of all results.
        suite: name of the experiment; its parent runs exist.
        note: see :func:`publish_experiment`.
        methods: likewise.
        parents: (backbone, task) -> what its parent run shows.
        overview: what the suite's own run shows.

    Returns:
        One line for each thing that failed; trouble with one never stops the others.
    """
    problems = []
    try:
        publish_experiment(results, suite, note, methods)
        store, tag, title = open_store(results, suite), "sparsetune.suite_run", f"suite {suite}"
        runs, found = store.parents(), store.runs(tag)
        own = found[0] if found else store.make_finished(title, {tag: "true", "suite": suite})
        store.delete(found, but=own.info.run_id)
    except Exception as error:
        return (f"suite {suite}: {one_line(error)}",)
    shown = [("/".join(group), runs[group], one) for group, one in parents.items()
             if group in runs]  # fmt: skip
    for name, run, summary in (*shown, (title, own, overview)):
        try:
            _show(store, run, summary)
        except Exception as error:
            problems.append(f"{name}: {one_line(error)}")
    return tuple(problems)


def _show(store: Store, run: "Run", summary: Summary) -> None:
    run_id, client = run.info.run_id, store.client
    there = [(folder, path) for folder, paths in summary.files.items() for path in paths
             if path.exists()]  # fmt: skip
    sums = {
        f"{folder}/{file.relative_to(path.parent)}": sha256_of(file)
        for folder, path in there
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    }
    digest = digest_of([dict(summary.metrics), summary.note, dict(summary.texts), sums])
    if run.data.tags.get(_DIGEST_TAG) == digest:
        return
    store.send(run_id, metrics=_latest(summary.metrics, run.data.metrics))
    for name, text in summary.texts.items():
        client.log_text(run_id, text, name)
    for folder, path in there:
        attach = client.log_artifacts if path.is_dir() else client.log_artifact
        attach(run_id, str(path), folder or None)
    store.send(run_id, tags={**source_tags("track"), NOTE_TAG: summary.note, _DIGEST_TAG: digest})

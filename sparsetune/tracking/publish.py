"""The ``track`` stage: MLflow completed from records, one finished run for each entry.

A live run that contradicts nothing is kept and gains what it lacks, be it half its curves; so
what names it, as HTML tables do, stays true. Otherwise the run is made anew.
"""

import calendar
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetune.errors import DataError
from sparsetune.records import STAGES, digest_of, read_record, sha256_of
from sparsetune.tracking.curves import CurveDigest, Point, lacking_points, read_points
from sparsetune.tracking.inputs import DataInput
from sparsetune.tracking.names import as_finals, as_params
from sparsetune.tracking.store import (
    COMMIT_TAG,
    CURVES_TAG,
    NOTE_TAG,
    PARENT_LINK_TAG,
    RUN_KEY_TAG,
    RunKey,
    Store,
    ensure_parents,
    one_line,
    open_store,
    source_tags,
    store_uri,
    without_password,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

RECORD_TAG = "sparsetune.record_sha256"
"""Sha256 of the run's first record."""
DIGEST_TAG = "sparsetune.published_digest"
"""Digest of everything the run was published from; set last."""

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Entry:
    """One run to publish, and the files it is published from.

    Attributes:
        key: the run's identity.
        records: record files, the one of the training stage first.
        history: CSV with a ``step`` column, then one column per metric; an empty cell = absent,
            and the text column ``phase`` is left out.
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
class PublishReport:
    """What :func:`publish` did.

    Attributes:
        published: runs made or completed.
        unchanged: runs that were already as the records say.
        problems: one line for each entry (or store) that failed.
    """

    published: int
    unchanged: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Wanted:
    """What an entry's MLflow run must hold; ``points`` are (name, value, step)."""

    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: Sequence[Point]
    finals: Mapping[str, float]
    curves: str
    live_run_id: str | None
    started_ms: int
    ended_ms: int


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
    chosen = list(entries)
    uri = without_password(store_uri(results))
    try:
        store = open_store(results, suite)
        groups = (entry.key.group for entry in chosen if entry.key.group)
        parents = ensure_parents(store, results, suite, groups)
        present: dict[str, list[Run]] = {}
        for run in store.runs():
            present.setdefault(run.data.tags.get(RUN_KEY_TAG, ""), []).append(run)
    except Exception as error:
        return PublishReport(0, 0, (f"{uri}: {one_line(error)}",))
    changed, problems, lost_seconds = [], [], 0.0
    for number, entry in enumerate(chosen, start=1):
        older = present.get(entry.key.text, [])
        began = time.monotonic()
        try:
            changed.append(_publish_one(store, entry, older, parents.get(entry.key.group)))
        except Exception as error:
            problems.append(f"{entry.key.text}: {one_line(error)}")
            lost_seconds += time.monotonic() - began
        if lost_seconds > _PATIENCE_SECONDS and number < len(chosen):
            left = len(chosen) - number
            problems.append(f"{uri}: failed for {lost_seconds:.0f} s, {left} entries not tried")
            break
    return PublishReport(sum(changed), len(changed) - sum(changed), tuple(problems))


def _publish_one(store: Store, entry: Entry, older: list["Run"], parent: str | None) -> bool:
    """Return whether anything had to change."""
    digest = _digest(entry)
    done = [r for r in older if _is_finished(r) and r.data.tags.get(DIGEST_TAG) == digest]
    if done:
        store.delete(older, but=done[0].info.run_id)
        return len(older) > 1
    wanted = _wanted(entry, parent)
    live = next((run for run in older if _agrees(run, wanted)), None)
    if live is not None and _complete(store, live, entry, wanted):
        run_id = live.info.run_id
    else:
        run_id = _make(store, entry, wanted)
    # Last, so that an interrupted call is noticed and done again.
    store.client.set_tag(run_id, DIGEST_TAG, digest)
    store.delete(older, but=run_id)
    return True


def _complete(store: Store, run: "Run", entry: Entry, wanted: _Wanted) -> bool:
    """Give a run what it lacks, unless it holds points of curves that cannot be taken away."""
    whole = _is_finished(run) and run.data.tags.get(CURVES_TAG) == wanted.curves
    lacking: list[Point] | None = []
    if not whole:
        names = dict.fromkeys(name for name, _, _ in wanted.points)
        lacking = lacking_points(store.curves(run, names), wanted.points)
    if lacking is None:
        return False
    _fill(store, run.info.run_id, entry, wanted, present=run.data.metrics)
    if not whole:
        _end(store, run.info.run_id, wanted, lacking)
    return True


def _make(store: Store, entry: Entry, wanted: _Wanted) -> str:
    run = store.client.create_run(
        store.experiment_id,
        start_time=wanted.started_ms,
        tags=entry.key.tags(),
        run_name=entry.key.text,
    )
    run_id = run.info.run_id
    try:
        # MLflow lists metrics as they came: the headline first.
        _fill(store, run_id, entry, wanted, present={})
        _end(store, run_id, wanted, wanted.points)
    except Exception:
        with suppress(Exception):
            store.client.delete_run(run_id)
        raise
    return run_id


def _fill(
    store: Store, run_id: str, entry: Entry, wanted: _Wanted, *, present: Mapping[str, float]
) -> None:
    from mlflow.entities import Metric

    finals = latest(entry.headline, present)
    finals += [
        Metric(name, value, wanted.ended_ms, 0)
        for name, value in wanted.finals.items()
        if name not in present
    ]
    store.send(run_id, metrics=finals, params=wanted.params, tags=wanted.tags)
    if entry.data:
        store.client.log_inputs(run_id, [one.as_mlflow() for one in entry.data])
    for path in entry.artifacts:
        store.client.log_artifact(run_id, str(path))


def _end(store: Store, run_id: str, wanted: _Wanted, points: Iterable[Point]) -> None:
    from mlflow.entities import Metric

    metrics = (Metric(name, value, wanted.ended_ms, step) for name, value, step in points)
    store.send(run_id, metrics=metrics, tags={CURVES_TAG: wanted.curves})
    store.client.set_terminated(run_id, "FINISHED", end_time=wanted.ended_ms)


def latest(wanted: Mapping[str, float], present: Mapping[str, float]) -> list["Metric"]:
    """Points that make ``wanted`` the values that MLflow shows.

    Args:
        wanted: metric name -> value.
        present: what the run shows now.
    """
    from mlflow.entities import Metric

    # Of two points at one step MLflow shows the later one.
    now = int(time.time() * 1000)
    return [Metric(n, value, now, 0) for n, value in wanted.items() if present.get(n) != value]


def _is_finished(run: "Run") -> bool:
    return run.info.status == "FINISHED"


def _agrees(run: "Run", wanted: _Wanted) -> bool:
    """Whether a run belongs to this very record and contradicts nothing but maybe its curves.

    MLflow refuses to change a param and appends to a metric, so a run that says something else
    cannot be mended.
    """
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    published = DIGEST_TAG in tags and tags.get(RECORD_TAG) == wanted.tags[RECORD_TAG]
    return (
        (run.info.run_id == wanted.live_run_id or published)
        and all(params.get(name, value) == value for name, value in wanted.params.items())
        and all(metrics.get(name, value) == value for name, value in wanted.finals.items())
    )


def _digest(entry: Entry) -> str:
    names = [path.name for path in entry.artifacts]
    if len(set(names)) < len(names):
        raise DataError(f"artifacts: names are {names}, they must differ")
    absent = [str(path) for path in entry.artifacts if not path.is_file()]
    if absent:
        raise DataError(f"{absent[0]}: no such artifact file")
    sources = [*entry.records, *([entry.history] if entry.history else [])]
    if not entry.records:
        raise DataError("no record given, need at least one")
    sums = [sha256_of(path) if path.is_file() else _missing(path) for path in sources]
    data = [[one.name, one.context, one.digest] for one in entry.data]
    shown = [dict(entry.headline), dict(entry.tags), entry.note, data]
    return digest_of([STAGES["track"], entry.key.tags(), sums, names, shown])


def _missing(path: Path) -> str:
    raise DataError(f"{path}: no such file; run the stage that writes it")


def _wanted(entry: Entry, parent: str | None) -> _Wanted:
    records = [read_record(path) for path in entry.records]
    points = read_points(entry.history) if entry.history else []
    params: dict[str, str] = {}
    finals: dict[str, float] = {}
    curves = CurveDigest()
    for point in points:
        curves.add(*point)
    for record in records:
        stage = record["asked"]["stage"]
        for name, value in as_params(record["asked"].get("settings", {})).items():
            if params.setdefault(name, value) != value:
                params[f"{stage}.{name}"] = value
        finals.update(as_finals(stage, record["measured"]))
    first = records[0]
    started, ended = (_milliseconds(first["where"][name]) for name in ("started", "ended"))
    return _Wanted(
        tags=_tags(entry, first, parent),
        params=params,
        points=points,
        finals=finals,
        curves=curves.text,
        live_run_id=first["where"].get("tracking", {}).get("mlflow_run_id"),
        started_ms=started,
        ended_ms=ended,
    )


def _tags(entry: Entry, record: Mapping[str, Any], parent: str | None) -> dict[str, str]:
    asked, where = record["asked"], record["where"]
    told = {
        **source_tags(entry.key.stage),
        **entry.tags,
        **entry.key.tags(),
        NOTE_TAG: entry.note or None,
        "digest": asked.get("digest"),
        "device": where["device"]["name"],
        "stage_version": asked["stage_version"],
        COMMIT_TAG: where["commit"],
        PARENT_LINK_TAG: parent,
        RECORD_TAG: sha256_of(entry.records[0]),
    }
    return {name: str(value) for name, value in told.items() if value is not None}


def _milliseconds(timestamp: str) -> int:
    try:
        return calendar.timegm(time.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ")) * 1000
    except ValueError:
        raise DataError(f"where: time is {timestamp!r}, need e.g. 2026-01-31T12:00:00Z") from None

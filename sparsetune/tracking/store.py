"""Where the MLflow runs live: address, database, experiment, parent runs and a run's identity.

Everything goes through an explicit client; MLflow's global "active run" is never touched.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetune.errors import ConfigError, DataError
from sparsetune.records import STAGES
from sparsetune.tracking.connection import SQLITE, client_of, is_ready, is_served, make_ready
from sparsetune.tracking.curves import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

RUN_KEY_TAG = "sparsetune.run_key"
PARENT_TAG = "sparsetune.parent"
CURVES_TAG = "sparsetune.curves"
"""Count and digest of a run's curves, set once all of them have arrived."""
EXPERIMENT_KIND_TAG = "mlflow.experimentKind"
"""Tells the UI that an experiment holds training runs, not traces of language models."""
COMMIT_TAG = "mlflow.source.git.commit"
PARENT_LINK_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
"""Description of a run or an experiment, in Markdown."""

_ID = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_PROBLEM_CHARACTERS = 300
_PAGE_RUNS = 1000


@dataclass(frozen=True)
class RunKey:
    """Identity of one MLflow run; a rerun with the same key replaces it.

    Attributes:
        stage: ``tune`` for a run, else ``ticket``, ``support``, ``backbone`` ...
        suite: the suite, which is also the experiment's name.
        backbone: backbone id.
        task: task id, or None where the stage has none.
        method: method id, or None.
        seed: seed, or None.
        label: what else tells runs of the stage apart, e.g. the ticket recipe; may be empty.
    """

    stage: str
    suite: str
    backbone: str
    task: str | None = None
    method: str | None = None
    seed: int | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"run key: stage is {self.stage!r}, allowed: {', '.join(STAGES)}")
        for name in ("suite", "backbone", "task", "method", "label"):
            value = getattr(self, name)
            if value not in (None, "") and not _ID.fullmatch(value):
                raise ConfigError(
                    f"run key: {name} is {value!r}, allowed: lower-case letters and digits, "
                    "joined by single dots or hyphens"
                )

    @property
    def text(self) -> str:
        """Run name and key: ``backbone/task/method/seed-n``; other stages begin with the stage."""
        seed = None if self.seed is None else f"seed-{self.seed}"
        stage = None if self.stage == "tune" else self.stage
        parts = (stage, self.backbone, self.task, self.method, self.label, seed)
        return "/".join(part for part in parts if part)

    @property
    def group(self) -> tuple[str, str] | None:
        """Backbone and task of the parent run, or None where there is no task."""
        return (self.backbone, self.task) if self.task else None

    def tags(self) -> dict[str, str]:
        """The MLflow tags that say what this run is."""
        names = ("stage", "suite", "backbone", "task", "method", "seed", "label")
        values = ((name, getattr(self, name)) for name in names)
        told = {name: str(value) for name, value in values if value not in (None, "")}
        return {**told, RUN_KEY_TAG: self.text}


@dataclass(frozen=True)
class Store:
    """One experiment of an open MLflow store."""

    client: "MlflowClient"
    experiment_id: str

    def runs(self, **tags: str) -> list["Run"]:
        """Active runs that carry all the given tags; ``_`` in a name matches a tag's ``.``."""
        wanted = (f"tags.`{name.replace('__', '.')}` = '{value}'" for name, value in tags.items())
        text, token, found = " AND ".join(wanted), None, []
        while True:
            page = self.client.search_runs(
                [self.experiment_id], text, max_results=_PAGE_RUNS, page_token=token
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def parent_tags(self, key: RunKey) -> dict[str, str]:
        """The tag that nests a run under its group's parent; empty if there is none."""
        if key.group is None:
            return {}
        parents = self.runs(sparsetune__parent="true", backbone=key.backbone, task=key.task)
        return {PARENT_LINK_TAG: parents[0].info.run_id} if parents else {}

    def curves(self, run: "Run", names: Iterable[str]) -> list[Point]:
        """All points of those of the named metrics that a run has."""
        client, run_id = self.client, run.info.run_id
        return [
            (name, point.value, point.step)
            for name in names
            if name in run.data.metrics
            for point in client.get_metric_history(run_id, name)
        ]

    def delete(self, runs: Iterable["Run"], *, but: str | None = None) -> None:
        """Delete runs (MLflow keeps them recoverable until its ``gc``) except one id."""
        for run in runs:
            if run.info.run_id != but:
                self.client.delete_run(run.info.run_id)

    def send(
        self,
        run_id: str,
        *,
        metrics: Iterable["Metric"] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write metrics, params and tags in as few requests as MLflow's limits allow."""
        from mlflow.entities import Param, RunTag

        named = [RunTag(name, value) for name, value in (tags or {}).items()]
        if named:
            self.client.log_batch(run_id, tags=named)
        pairs = [Param(name, value) for name, value in (params or {}).items()]
        for first in range(0, len(pairs), _PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=pairs[first : first + _PARAMS_PER_BATCH])
        points = list(metrics)
        for first in range(0, len(points), _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=points[first : first + _METRICS_PER_BATCH])


def source_tags(stage: str) -> dict[str, str]:
    """What made a run; without it, MLflow's list of runs opens on an empty column."""
    return {"mlflow.source.type": "LOCAL", "mlflow.source.name": f"sparsetune {stage}"}


def store_uri(results: Path) -> str:
    """Address of the tracking store.

    Args:
        results: the folder of all results.

    Returns:
        ``MLFLOW_TRACKING_URI`` if it is set, else the SQLite file ``mlflow.db`` in ``results``.
    """
    chosen = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return chosen or f"{SQLITE}{(results / 'mlflow.db').resolve()}"


def experiments(results: Path) -> list["Experiment"]:
    """The suites that the store holds, in the order in which they were made.

    Args:
        results: the folder of all results.

    Raises:
        DataError: there is no store yet, or it cannot be used; the message says why in one line.
    """
    uri = store_uri(results)
    try:
        if not is_ready(uri):
            raise DataError(
                f"{without_password(uri)}: not made yet; runs make it: `make reproduce`"
            )
        found = list(client_of(uri).search_experiments(order_by=["creation_time ASC"]))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{without_password(uri)}: {one_line(error)}") from error
    return [one for one in found if EXPERIMENT_KIND_TAG in one.tags]


def prepare(results: Path, suite: str, groups: Iterable[tuple[str, str]]) -> None:
    """Make the database, the experiment and its parent runs before parallel jobs start.

    Eight processes that start on a fresh SQLite store together mostly crash, so one must come
    first. May be called again, and by several processes at once.

    Args:
        results: the folder of all results.
        suite: name of the suite = name of the experiment.
        groups: backbone and task ids, one parent run for each.

    Raises:
        DataError: the store cannot be used; the message says why in one line.
    """
    try:
        ensure_parents(open_store(results, suite), results, suite, groups)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{without_password(store_uri(results))}: {one_line(error)}") from error


def open_store(results: Path, suite: str) -> Store:
    """Open the store and the suite's experiment; make what is missing, one process at a time.

    Raises:
        DataError: MLflow or the driver is not installed, or the SQLite file is something else.
        Exception: anything MLflow or the database refuses, in their own words.
    """
    uri = store_uri(results)
    if is_ready(uri):
        client = client_of(uri)
        experiment = client.get_experiment_by_name(suite)
        if experiment is not None:
            return Store(client, _usable(experiment))
    with _one_process(results):
        if not is_ready(uri):
            make_ready(uri)
        client = client_of(uri)
        experiment = client.get_experiment_by_name(suite)
        if experiment is not None:
            return Store(client, _usable(experiment))
        # Without a server MLflow would put artifacts below whatever folder the job runs in.
        folder = (results / "mlartifacts" / suite).resolve()
        location = None if is_served(uri) else folder.as_uri()
        tags = {EXPERIMENT_KIND_TAG: "custom_model_development"}
        return Store(client, client.create_experiment(suite, artifact_location=location, tags=tags))


def ensure_parents(
    store: Store, results: Path, suite: str, groups: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Make the parent runs that are missing and return the run id of each wanted group."""
    wanted = sorted(set(groups))
    ids = _parent_ids(store)
    if all(group in ids for group in wanted):
        return ids
    with _one_process(results):
        ids = _parent_ids(store)
        for backbone, task in wanted:
            if (backbone, task) in ids:
                continue
            tags = {PARENT_TAG: "true", "suite": suite, "backbone": backbone, "task": task}
            run = store.client.create_run(
                store.experiment_id, tags=tags, run_name=f"{backbone}/{task}"
            )
            store.client.set_terminated(run.info.run_id, "FINISHED")
            ids[backbone, task] = run.info.run_id
    return ids


def one_line(error: BaseException) -> str:
    """An exception as one short line, without passwords from addresses."""
    text = " ".join(str(error).split()) or "no message"
    if type(error).__module__ != "sparsetune.errors":
        text = f"{type(error).__name__}: {text}"
    return without_password(text)[:_PROBLEM_CHARACTERS]


def without_password(text: str) -> str:
    """Hide ``user:password@`` in addresses: problems end up in records."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _usable(experiment: Any) -> str:
    if experiment.lifecycle_stage != "active":
        raise DataError(
            f"MLflow experiment {experiment.name!r} was deleted; restore it with "
            f"`mlflow experiments restore -x {experiment.experiment_id}`"
        )
    return experiment.experiment_id


def _parent_ids(store: Store) -> dict[tuple[str, str], str]:
    parents = store.runs(sparsetune__parent="true")
    return {(p.data.tags["backbone"], p.data.tags["task"]): p.info.run_id for p in parents}


@contextmanager
def _one_process(results: Path) -> Iterator[None]:
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""How MLflow is reached: address, patience, database, experiment, parent runs, and names.

Everything goes through an explicit client; MLflow's global "active run" is never touched, and
MLflow is imported by what needs it, not by this module.
"""

import fcntl
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetune.config.settings import ID
from sparsetune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

RUN_KEY_TAG = "sparsetune.run_key"
COMMIT_TAG = "mlflow.source.git.commit"
PARENT_LINK_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
"""Description of a run or an experiment, in Markdown."""
_EXPERIMENT_KIND_TAG = "mlflow.experimentKind"  # or the UI expects traces of language models

_SQLITE = "sqlite:///"
_SERVED = ("http://", "https://", "databricks")
_LOCK_SECONDS = 10.0
_PROBLEM_CHARACTERS = 300
# MLflow's limits.
_METRICS_PER_BATCH, _PARAMS_PER_BATCH, _MOST_RUNS = 1000, 100, 50_000
_PARAM_CHARACTERS, _NAME_CHARACTERS = 6000, 250
# An unreachable server must cost seconds, not the quarter of an hour MLflow would retry for; its
# own log would put tracebacks on stderr for trouble that is reported in one line here.
_ENVIRONMENT_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "5",
}


@dataclass(frozen=True)
class RunKey:
    """Identity of one MLflow run; a rerun with the same key replaces it.

    ``stage`` is ``tune`` for a run, else ``ticket``, ``support`` or ``backbone``; the suite is the
    experiment's name; ``label`` tells apart what else differs, e.g. the ticket recipe.
    """

    stage: str
    suite: str
    backbone: str
    task: str | None = None
    method: str | None = None
    seed: int | None = None
    label: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "seed" and value and not ID.fullmatch(value):
                raise ConfigError(
                    f"run key: {name}: received {value!r}; allowed: lower-case letters and digits, "
                    "joined by single dots or hyphens"
                )

    @property
    def text(self) -> str:
        """Run name and key: ``backbone/task/method/seed-n``; other stages begin with the stage."""
        stage = "" if self.stage == "tune" else self.stage
        seed = "" if self.seed is None else f"seed-{self.seed}"
        parts = (stage, self.backbone, self.task, self.method, self.label, seed)
        return "/".join(filter(None, parts))

    @property
    def group(self) -> tuple[str, str] | None:
        """Backbone and task of the parent run, or None where there is no task."""
        return (self.backbone, self.task) if self.task else None

    def tags(self) -> dict[str, str]:
        """The MLflow tags that say what this run is."""
        told = {name: str(value) for name, value in vars(self).items() if value not in (None, "")}
        return {**told, RUN_KEY_TAG: self.text}


@dataclass(frozen=True)
class Store:
    """One experiment of an open MLflow store."""

    client: "MlflowClient"
    experiment_id: str

    def runs(self, tag: str = "", value: str = "true") -> list["Run"]:
        """Active runs, all or those that carry a tag."""
        chosen = f"tags.`{tag}` = '{value}'" if tag else ""
        return list(self.client.search_runs([self.experiment_id], chosen, max_results=_MOST_RUNS))

    def parents(self) -> dict[tuple[str, str], "Run"]:
        """The parent runs, by backbone and task."""
        found = self.runs("sparsetune.parent")
        return {(run.data.tags["backbone"], run.data.tags["task"]): run for run in found}

    def make_finished(self, name: str, tags: Mapping[str, str]) -> "Run":
        """Make a run that stands for others: nothing runs in it, so it is finished at once."""
        run = self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name)
        self.client.set_terminated(run.info.run_id, "FINISHED")
        return run

    def delete(self, runs: Iterable["Run"], *, but: str) -> None:
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

        if tags:
            self.client.log_batch(run_id, tags=[RunTag(*pair) for pair in tags.items()])
        pairs, points = [Param(*pair) for pair in (params or {}).items()], list(metrics)
        for first in range(0, len(pairs), _PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=pairs[first : first + _PARAMS_PER_BATCH])
        for first in range(0, len(points), _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=points[first : first + _METRICS_PER_BATCH])


def source_tags(stage: str) -> dict[str, str]:
    """What made a run; without it, MLflow's list of runs opens on an empty column."""
    return {"mlflow.source.type": "LOCAL", "mlflow.source.name": f"sparsetune {stage}"}


def store_uri(results: Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else the SQLite file ``mlflow.db`` in ``results``."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return chosen or f"{_SQLITE}{(results / 'mlflow.db').resolve()}"


def client_of(uri: str) -> "MlflowClient":
    """A client of the store at ``uri``; nothing is asked of the store yet.

    Raises:
        DataError: MLflow is not installed.
    """
    set_patience()
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise DataError(f"mlflow cannot be imported: {error}; is it installed?") from error
    return MlflowClient(tracking_uri=uri)


def set_patience() -> None:
    """Set what MLflow reads when it is imported, where the user has not: how long it tries."""
    for name, value in _ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)


def open_store(results: Path, suite: str) -> Store:
    """Open the store and the suite's experiment; make what is missing, one process at a time.

    Raises:
        DataError: MLflow or the driver is not installed, or the SQLite file is something else.
        Exception: anything MLflow or the database refuses, in their own words.
    """
    uri = store_uri(results)
    if is_ready(uri) and (found := _experiment(client_of(uri), suite)):
        return found
    with _one_process(results):
        if not is_ready(uri):
            make_ready(uri)
        client = client_of(uri)
        if found := _experiment(client, suite):
            return found
        # Without a server MLflow would put artifacts below whatever folder the job runs in.
        folder = (results / "mlartifacts" / suite).resolve()
        location = None if uri.startswith(_SERVED) else folder.as_uri()
        tags = {_EXPERIMENT_KIND_TAG: "custom_model_development"}
        return Store(client, client.create_experiment(suite, artifact_location=location, tags=tags))


def _experiment(client: "MlflowClient", suite: str) -> Store | None:
    found = client.get_experiment_by_name(suite)
    if found is not None and found.lifecycle_stage != "active":
        # Without the address the command would look into a store of its own.
        place = f"MLFLOW_TRACKING_URI={shlex.quote(client.tracking_uri)}"
        raise DataError(
            f"MLflow experiment {suite!r} was deleted; restore it with "
            f"`{place} mlflow experiments restore -x {found.experiment_id}`"
        )
    return Store(client, found.experiment_id) if found else None


@contextmanager
def _one_process(results: Path) -> Iterator[None]:
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_parents(
    store: Store, results: Path, suite: str, groups: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], "Run"]:
    """Make the parent runs that are missing and return all, by backbone and task."""
    wanted = dict.fromkeys(groups)
    if wanted.keys() <= (found := store.parents()).keys():
        return found
    with _one_process(results):
        for backbone, task in wanted.keys() - store.parents().keys():
            tags = {"sparsetune.parent": "true", "suite": suite, "backbone": backbone, "task": task}
            store.make_finished(f"{backbone}/{task}", tags)
    return store.parents()


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
    with _told_with_address(results):
        ensure_parents(open_store(results, suite), results, suite, groups)


def experiments(results: Path) -> list["Experiment"]:
    """The suites that the store holds, in the order in which they were made.

    Raises:
        DataError: there is no store yet, or it cannot be used; the message says why in one line.
    """
    uri = store_uri(results)
    with _told_with_address(results):
        if not is_ready(uri):
            raise DataError(
                f"{without_password(uri)}: not made yet; runs make it: `make reproduce`"
            )
        found = client_of(uri).search_experiments(order_by=["creation_time ASC"])
        return [one for one in found if _EXPERIMENT_KIND_TAG in one.tags]


@contextmanager
def _told_with_address(results: Path) -> Iterator[None]:
    """Turn what MLflow or a database raises into one line that names the store."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{without_password(store_uri(results))}: {one_line(error)}") from error


def is_ready(uri: str) -> bool:
    """Whether the store can be opened by many processes at once: its schema is there.

    The database is asked directly: MLflow tries one that cannot be opened for minutes, and
    processes that build its schema at the same time break each other. A server is always ready.

    Raises:
        DataError: the database's driver is not installed.
        Exception: it cannot be used now, in the driver's own words.
    """
    file = _sqlite_file(uri)
    if uri.startswith(_SERVED) or (file and not file.exists()):
        return file is None
    set_patience()
    try:
        from sqlalchemy import create_engine, exc, inspect, pool, text

        waiting = {"timeout": _LOCK_SECONDS} if file else {}
        engine = create_engine(uri, poolclass=pool.NullPool, connect_args=waiting)
    except ImportError as error:
        raise DataError(
            f"the database's driver cannot be imported: {error}; "
            "for PostgreSQL: pip install 'sparsetune[postgresql]'"
        ) from error
    except exc.ArgumentError:
        return True  # no database at all: MLflow knows what it is, or says so
    with engine.connect() as connection:
        # The first experiment is the last thing that MLflow does to a new database.
        there = inspect(connection).has_table("experiments")
        return there and connection.execute(text("SELECT 1 FROM experiments")).first() is not None


def make_ready(uri: str) -> None:
    """Make the schema of a database that is not ready; only one process may be here at a time."""
    database = _sqlite_file(uri)
    if database is None:
        client_of(uri).get_experiment_by_name("Default")
        return
    # Built aside and renamed: a job killed half-way would leave a schema MLflow cannot mend.
    database.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in database.parent.glob(f".{database.name}.*.partial*"):
        abandoned.unlink(missing_ok=True)
    partial = database.with_name(f".{database.name}.{os.getpid()}.partial")
    client_of(f"{_SQLITE}{partial.resolve()}").get_experiment_by_name("Default")
    partial.replace(database)


def _sqlite_file(uri: str) -> Path | None:
    path = uri.removeprefix(_SQLITE)
    return Path(path) if path not in (uri, "", ":memory:") else None


def one_line(error: BaseException) -> str:
    """An exception as one short line, without passwords from addresses."""
    text = " ".join(str(error).split()) or "no message"
    if type(error).__module__ != "sparsetune.errors":
        text = f"{type(error).__name__}: {text}"
    return without_password(text)[:_PROBLEM_CHARACTERS]


def without_password(text: str) -> str:
    """Hide ``user:password@`` in addresses: problems end up in records."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def flatten(tree: Mapping[str, Any], prefix: str = "", *, joint: str = ".") -> dict[str, Any]:
    """Nested mapping -> one level, names joined and made of characters MLflow takes."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = re.sub(r"[^\w\-. :/]", "_", f"{prefix}{name}")[:_NAME_CHARACTERS]
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}{joint}", joint=joint))
        else:
            flat[path] = value
    return flat


def as_params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as MLflow params: flat, text, cut to what MLflow stores; None is left out.

    What stands in a list under names, as phases do, is a param of its own, so that runs can be
    compared and searched by it. Other lists are JSON with sorted keys: a record, whose keys are
    sorted, gives the live run's text.

    Example:
        >>> as_params({"phases": [{"name": "train", "epochs": 3.0}], "labels": ["a", "b"]})
        {'phases.names': 'train', 'phases.train.epochs': '3.0', 'labels': '["a", "b"]'}
    """
    params = {}
    for name, value in flatten(_by_name(settings)).items():
        text = json.dumps(value, sort_keys=True) if isinstance(value, list | tuple) else str(value)
        if value is not None:
            params[name] = text[:_PARAM_CHARACTERS]
    return params


def _by_name(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with lists of named things as mappings."""
    told = dict(tree)
    for key, value in tree.items():
        if isinstance(value, Mapping):
            told[key] = _by_name(value)
        elif isinstance(value, list | tuple):
            names = [one.get("name") for one in value if isinstance(one, Mapping)]
            if None not in names and 0 < len(value) == len(set(names)):
                members = {one["name"]: {**one, "name": None} for one in value}
                told[key] = {"names": ", ".join(members), **_by_name(members)}
    return told


def as_finals(stage: str, measured: Mapping[str, Any]) -> dict[str, float]:
    """Numeric leaves of a record's ``measured`` as ``stage/name``.

    MLflow makes a section of what shares its text before the last slash, so that the curves and
    the headline, without a slash, come apart from them. Lists, text, booleans and how intervals
    were drawn, which is the same for all runs, are left to the record.
    """
    told = {name: value for name, value in measured.items() if name != "intervals_from"}
    return {
        f"{stage}/{name}": float(value)
        for name, value in flatten(told, joint="/").items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }

"""What belongs to a whole suite in MLflow: parents with means over seeds, and the suite's pages.

These runs stay when something changes, because others point to them: the last values count.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sparsetune.records import digest_of, sha256_of
from sparsetune.tracking.publish import DIGEST_TAG, latest
from sparsetune.tracking.store import NOTE_TAG, Store, one_line, open_store, source_tags
from sparsetune.tracking.views import view_links, view_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

VIEWS_HERE = "{views}"
"""In an experiment's description: where the links to its saved views go."""
SUITE_TAG = "sparsetune.suite_run"
_ATTACHED_TAG = "sparsetune.attached."


@dataclass(frozen=True)
class Standing:
    """What a run that stands for many shows.

    Attributes:
        metrics: name -> value.
        note: description, in Markdown.
        texts: artifact name -> content.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SuitePages:
    """What :func:`publish_suite` puts beside the runs.

    Attributes:
        note: description of the experiment, in Markdown, with :data:`VIEWS_HERE`.
        methods: (backbone, task, method) of the suite, each once.
        parents: (backbone, task) -> what its parent run shows.
        overview: what the suite's own run shows.
        rooms: artifact folder of the suite's run ("" = its top) -> files or folders to attach.
    """

    note: str
    methods: Sequence[tuple[str, str, str]]
    parents: Mapping[tuple[str, str], Standing]
    overview: Standing
    rooms: Mapping[str, Sequence[Path]]


def publish_experiment(
    results: Path, suite: str, note: str, methods: Sequence[tuple[str, str, str]]
) -> None:
    """Give the suite's experiment its description and its saved views.

    Args:
        results: the folder of all results.
        suite: name of the experiment.
        note: in Markdown, with :data:`VIEWS_HERE`.
        methods: (backbone, task, method) of the suite, each once.

    Raises:
        DataError: the store cannot be used.
        mlflow.exceptions.MlflowException: anything MLflow refuses.
    """
    _describe(open_store(results, suite), note, methods)


def publish_suite(results: Path, suite: str, pages: SuitePages) -> tuple[str, ...]:
    """Bring experiment, parent runs and the suite's run up to date.

    A second call with the same pages writes nothing.

    Args:
        results: the folder of all results.
        suite: name of the experiment; its parent runs exist.
        pages: what to show.

    Returns:
        One line for each thing that failed; trouble with one never stops the others.
    """
    problems = []
    try:
        store = open_store(results, suite)
        _describe(store, pages.note, pages.methods)
        parents = {_group(run): run for run in store.runs(sparsetune__parent="true")}
    except Exception as error:
        return (f"suite {suite}: {one_line(error)}",)
    for group, standing in pages.parents.items():
        try:
            if group in parents:
                _show(store, parents[group], standing)
        except Exception as error:
            problems.append(f"{'/'.join(group)}: {one_line(error)}")
    try:
        run = _suite_run(store, suite)
        _show(store, run, pages.overview)
        for room, paths in pages.rooms.items():
            _attach(store, run, room, [path for path in paths if path.exists()])
    except Exception as error:
        problems.append(f"suite {suite}: {one_line(error)}")
    return tuple(problems)


def _group(run: "Run") -> tuple[str, str]:
    return run.data.tags["backbone"], run.data.tags["task"]


def _describe(store: Store, note: str, methods: Sequence[tuple[str, str, str]]) -> None:
    experiment = store.client.get_experiment(store.experiment_id)
    tags = view_tags(experiment, methods)
    told = note.replace(VIEWS_HERE, view_links(store.experiment_id))
    if experiment.tags.get(NOTE_TAG) != told:
        tags[NOTE_TAG] = told
    for name, text in tags.items():
        store.client.set_experiment_tag(store.experiment_id, name, text)


def _suite_run(store: Store, suite: str) -> "Run":
    found = store.runs(sparsetune__suite_run="true")
    if found:
        store.delete(found, but=found[0].info.run_id)
        return found[0]
    tags = {SUITE_TAG: "true", "suite": suite}
    run = store.client.create_run(store.experiment_id, tags=tags, run_name=f"suite {suite}")
    store.client.set_terminated(run.info.run_id, "FINISHED")
    return run


def _show(store: Store, run: "Run", standing: Standing) -> None:
    digest = digest_of([dict(standing.metrics), standing.note, dict(standing.texts)])
    if run.data.tags.get(DIGEST_TAG) == digest:
        return
    run_id = run.info.run_id
    store.send(run_id, metrics=latest(standing.metrics, run.data.metrics))
    with tempfile.TemporaryDirectory() as folder:
        for name, text in standing.texts.items():
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            store.client.log_artifact(run_id, str(path))
    # Last, so that an interrupted call is noticed and done again.
    store.send(run_id, tags={**source_tags("track"), NOTE_TAG: standing.note, DIGEST_TAG: digest})


def _attach(store: Store, run: "Run", room: str, paths: Sequence[Path]) -> None:
    name = f"{_ATTACHED_TAG}{room or 'pages'}"
    digest = digest_of([_sums(path) for path in paths])
    if not paths or run.data.tags.get(name) == digest:
        return
    for path in paths:
        if path.is_dir():
            store.client.log_artifacts(run.info.run_id, str(path), room or None)
        else:
            store.client.log_artifact(run.info.run_id, str(path), room or None)
    store.client.set_tag(run.info.run_id, name, digest)


def _sums(path: Path) -> list[tuple[str, str]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [
        (file.relative_to(path.parent).as_posix(), sha256_of(file))
        for file in files
        if file.is_file()
    ]

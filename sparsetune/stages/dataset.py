"""Stage ``dataset``: a task's examples in parquet, checked row by row in their published layout."""

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.config.task import SyntheticTask
from sparsetune.data.examples import split_file, write_examples
from sparsetune.data.inputs import planned_files
from sparsetune.data.layouts import read_published
from sparsetune.data.layouts.glue import read_tests
from sparsetune.data.sources import inventory, published_files, replaced_directory
from sparsetune.data.synthetic.tasks import write_task
from sparsetune.errors import DataError
from sparsetune.records import DatasetRecord
from sparsetune.stages.context import Context, asked_of, hashes

_LOG = logging.getLogger(__name__)


def make_dataset(
    task: Task, directory: Path, context: Context, *, lock_file: Path, fetch: str | None = None
) -> None:
    """Read a task's files, or generate them, and leave its splits and ``record.json``.

    The folder then holds ``train.parquet``, ``evaluation.parquet`` and one file for each of GLUE's
    unlabelled test files that the source has. Later stages read nothing else.

    Args:
        task: from the catalogue.
        directory: the data set's folder; replaced only when everything was read without error.
        context: the job.
        lock_file: ``config/revisions.lock.yaml``.
        fetch: from :func:`sparsetune.data.inputs.next_fetch`, for the record.

    Raises:
        DataError: the source is not reachable, or a file is missing, damaged or bad; the folder
            is left as it was.
    """
    inputs = hashes(path for path in planned_files(task) if path.is_file())
    context.ready()
    with replaced_directory(directory) as partial:
        measured = make_splits(task, partial, lock_file=lock_file)
        context.leave(
            partial / "record.json",
            DatasetRecord,
            asked=asked_of("task", task),
            inputs=inputs,
            measured={**measured, "fetch": fetch},
        )


def make_splits(task: Task, directory: Path, *, lock_file: Path) -> dict[str, Any]:
    """Write the splits of a task.

    Args:
        task: from the catalogue.
        directory: an empty folder.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        ``train_examples`` and ``evaluation_examples``, with ``*_unlabelled_dropped`` where the task
        drops rows without a label; for classification also
        ``train_label_counts`` and ``evaluation_label_counts`` (label text -> examples), for
        regression ``*_score_mean``, for generation ``*_references`` of both splits, and for a table
        ``evaluation_examples_in_train``; ``files``
        (name -> sha256), ``stored_bytes`` and ``revision`` (commit of the hub, or of the hub's
        files in a mirror that was filled from it; None for other sources).

    Raises:
        DataError: as for :func:`make_dataset`.
    """
    generated = directory / "published"
    if isinstance(task.source, SyntheticTask):
        _generate(task.layout, task.source, generated)
        folder, origin, revision = generated, f"the generated {task.layout} task", None
    else:
        folder, origin, revision = published_files(task, task.source, lock_file=lock_file)
    counts: dict[str, Any] = {}
    read: dict[str, Sequence[Any]] = {}
    try:
        for split in ("train", "evaluation"):
            examples, dropped = _labelled(task, split, read_published(folder, task, split))
            counts |= {**_counts(task, split, examples), **dropped}
            read[split] = examples
            write_examples(split_file(directory, split), task.kind, examples)
        if task.layout == "table":  # published splits are what they are
            counts |= _seen_in_training(task, read["train"], read["evaluation"])
        for stem, tests in read_tests(folder, task).items():
            write_examples(split_file(directory, stem), task.kind, tests)
    except DataError as error:
        # The user knows the file by its source, not by its place in a cache.
        raise DataError(str(error).replace(str(folder), origin)) from None
    shutil.rmtree(generated, ignore_errors=True)
    return {**counts, **inventory(directory), "revision": revision}


def _generate(layout: str, source: SyntheticTask, directory: Path) -> None:
    sizes = {"train": source.sizes.train, "dev": source.sizes.evaluation}
    # The published SQuAD has no test questions with answers.
    if layout != "squad" and source.sizes.test:
        sizes["test"] = source.sizes.test
    write_task(layout, directory, seed=source.seed, sizes=sizes)


def _labelled(
    task: Task, split: str, examples: Sequence[Any]
) -> tuple[Sequence[Any], dict[str, int]]:
    """The examples that have a label, and how many have none where the task drops those."""
    if not task.drop_unlabelled:
        return examples, {}
    kept = [example for example in examples if example.label is not None]
    if not kept:
        raise DataError(f"task {task.id}: no row of the {split} split has a label")
    return kept, {f"{split}_unlabelled_dropped": len(examples) - len(kept)}


def _seen_in_training(
    task: Task, train: Sequence[Any], evaluation: Sequence[Any]
) -> dict[str, int]:
    """How many examples are scored whose input is trained on."""
    known = {_input_of(example) for example in train}
    count = sum(_input_of(example) in known for example in evaluation)
    if count:
        _LOG.warning(
            "task %s: %d of %d evaluation examples have an input of the train split",
            task.id, count, len(evaluation),
        )  # fmt: skip
    return {"evaluation_examples_in_train": count}


def _input_of(example: Any) -> tuple[Any, ...]:
    """What a model sees of an example, whatever its kind."""
    names = ("text", "second_text", "question", "context", "source")
    return tuple(getattr(example, name, None) for name in names)


def _counts(task: Task, split: str, examples: Sequence[Any]) -> dict[str, Any]:
    counts: dict[str, Any] = {f"{split}_examples": len(examples)}
    if task.kind == "classification":
        numbers = Counter(example.label for example in examples)
        counts[f"{split}_label_counts"] = {
            label: numbers[number] for number, label in enumerate(task.labels)
        }
    elif task.kind == "regression":
        mean = sum(example.label for example in examples) / len(examples)
        counts[f"{split}_score_mean"] = round(mean, 6)
    elif task.kind == "generation":
        counts[f"{split}_references"] = sum(len(example.references) for example in examples)
    return counts

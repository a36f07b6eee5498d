"""Predictions of a finished run for GLUE's server; no stage: nothing is computed from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsetune.architectures.loading import load_tokenizer
from sparsetune.config.load import RunSpec, Task
from sparsetune.data.examples import read_examples, split_file
from sparsetune.data.layouts.glue import HIGHEST_SCORE, LAYOUTS, LOWEST_SCORE, TestPart
from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.predict import EvaluationSplit
from sparsetune.methods.tuned import load_tuned
from sparsetune.records import write_text_atomically
from sparsetune.stages.context import Context


def submit(
    spec: RunSpec, context: Context, *, dataset: Path, backbone: Path, run: Path, output: Path
) -> list[str]:
    """Answer a task's unlabelled test files and write GLUE's submission files.

    Limits on examples do not apply: the server takes complete files only.

    Args:
        spec: the run.
        context: the job's device.
        dataset: the task's folder, with the test files.
        backbone: the backbone's folder.
        run: the run's folder, with ``model.safetensors`` from ``tune``.
        output: folder for ``<task>.tsv``.

    Returns:
        One line for each file: what was written, or that its test file is not there.

    Raises:
        ConfigError: the task is not GLUE's.
        DataError, ModelError: an input is missing or damaged; nothing is written then.
    """
    parts = parts_of(spec.task)
    there = [part for part in parts if split_file(dataset, part.stem).is_file()]
    if not there:
        raise DataError(f"{split_file(dataset, parts[0].stem)}: no such file: the source has none")
    tests = {part: read_examples(dataset, spec.task, part.stem) for part in there}
    chosen = context.device  # before anything touches CUDA
    tokenizer = load_tokenizer(backbone)
    model = load_tuned(run / "model.safetensors", backbone).model
    answers = {
        part: EvaluationSplit(spec.task, examples, tokenizer).predict(model, chosen).values
        for part, examples in tests.items()
    }
    for part, predictions in answers.items():
        path = output / f"{part.submission}.tsv"
        write_submission(path, spec.task, len(tests[part]), predictions)
    return [_told(part, output, len(tests.get(part, ()))) for part in parts]


def parts_of(task: Task) -> tuple[TestPart, ...]:
    """Name the test files of a task, in the order of GLUE's submission.

    Raises:
        ConfigError: the task is not GLUE's.
    """
    if task.layout not in LAYOUTS:
        raise ConfigError(
            f"task {task.id}: layout {task.layout!r} has no GLUE submission; "
            f"allowed: {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[task.layout].tests


def write_submission(path: Path, task: Task, count: int, predictions: Sequence[Any]) -> None:
    """Write predictions as GLUE's server takes them: ``index`` and ``prediction``, tab-separated.

    Args:
        path: ``<submission>.tsv``; written atomically.
        task: catalogue entry; ``kind`` and ``labels`` are read.
        count: rows of the test file.
        predictions: ``(count,)`` in the order of the test file: label numbers, or scores, which
            are clipped to [0, 5] and printed with three decimals.

    Raises:
        DataError: another number of predictions, or one that is no label of the task.
    """
    if len(predictions) != count:
        raise DataError(f"{path}: received {len(predictions)} predictions for {count} examples")
    lines = ["index\tprediction"]
    for index, prediction in enumerate(predictions):
        try:
            lines.append(f"{index}\t{_shown(task, prediction)}")
        except ValueError as error:
            raise DataError(f"{path}: prediction {index}: {error}") from None
    write_text_atomically(path, "\n".join(lines) + "\n")


def _shown(task: Task, prediction: Any) -> str:
    if task.kind == "regression":
        if prediction != prediction:
            raise ValueError("received nan, need a number")
        return f"{min(max(prediction, LOWEST_SCORE), HIGHEST_SCORE):.3f}"
    if prediction not in range(len(task.labels)):
        raise ValueError(f"received {prediction!r}, need 0 to {len(task.labels) - 1}")
    return task.labels[prediction]


def _told(part: TestPart, output: Path, count: int) -> str:
    name = output / f"{part.submission}.tsv"
    if not count:
        return f"{name}: not written: the data set has no {part.stem}.tsv"
    other = (
        f"; GLUE's test file has {part.published_examples}: its server takes no other"
        if count != part.published_examples
        else ""
    )
    return f"{name}: {count} predictions{other}"

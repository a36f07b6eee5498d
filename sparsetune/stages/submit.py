"""Predictions of a finished run for GLUE's server; no stage: nothing is computed from them."""

from pathlib import Path

from sparsetune.architectures.loading import load_tokenizer
from sparsetune.config.load import RunSpec
from sparsetune.data.submissions import PARTS, Part, read_unlabelled, write_submission
from sparsetune.evaluation.predict import EvaluationSplit
from sparsetune.methods.tuned import load_tuned
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
    tests = read_unlabelled(dataset, spec.task)
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
    return [_told(part, output, len(tests.get(part, ()))) for part in PARTS[spec.task.layout]]


def _told(part: Part, output: Path, count: int) -> str:
    name = output / f"{part.submission}.tsv"
    if not count:
        return f"{name}: not written: the data set has no {part.stem}.tsv"
    other = (
        f"; GLUE's test file has {part.published_examples}: its server takes no other"
        if count != part.published_examples
        else ""
    )
    return f"{name}: {count} predictions{other}"

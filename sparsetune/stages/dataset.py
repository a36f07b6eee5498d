"""Stage ``dataset``: a checked local copy of a task's files in their published layout."""

from pathlib import Path

from sparsetune.config.load import Task
from sparsetune.data.sources import fetch_dataset
from sparsetune.records import DatasetRecord
from sparsetune.stages.context import Context, asked_of


def make_dataset(task: Task, directory: Path, context: Context, *, lock_file: Path) -> None:
    """Fetch, mirror or generate a task's files and write ``record.json`` beside them.

    Args:
        task: from the catalogue.
        directory: the data set's folder; replaced only when everything was read without error.
        context: the job.
        lock_file: ``config/revisions.lock.yaml``.

    Raises:
        DataError: a file is missing or damaged; the folder is left as it was.
    """
    context.ready()
    measured = fetch_dataset(task, directory, lock_file=lock_file)
    context.leave(
        directory / "record.json",
        DatasetRecord,
        asked=asked_of("task", task),
        inputs={},
        measured=measured,
    )

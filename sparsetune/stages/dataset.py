"""Stage ``dataset``: a checked local copy of a task's files in their published layout."""

from pathlib import Path

from sparsetune.config.load import Task
from sparsetune.data.sources import fetch_dataset
from sparsetune.records import Clock, digest_of, make_record, write_record


def make_dataset(task: Task, directory: Path, *, lock_file: Path) -> None:
    """Fetch, mirror or generate a task's files and write ``record.json`` beside them.

    Args:
        task: from the catalogue.
        directory: the data set's folder; replaced only when everything was read without error.
        lock_file: ``config/revisions.lock.yaml``.

    Raises:
        DataError: a file is missing or damaged; the folder is left as it was.
    """
    clock = Clock()
    clock.ready()
    measured = fetch_dataset(task, directory, lock_file=lock_file)
    record = make_record(
        "dataset",
        asked={
            "task": task.id,
            "settings": task.settings(),
            "digest": digest_of(task.settings()),
        },
        inputs={},
        measured=measured,
        where=clock.where(),
    )
    write_record(directory / "record.json", record)

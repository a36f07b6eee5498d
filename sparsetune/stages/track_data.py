"""Which files a task's runs learnt from, by the sums in the data set's record."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparsetune.config.load import Task
from sparsetune.errors import SparsetuneError
from sparsetune.records import read_record, sha256_of
from sparsetune.tracking.inputs import DataInput

_CONTEXTS = {"train": "training", "evaluation": "validation"}


@dataclass(frozen=True)
class TaskData:
    """A task's data as it is here now.

    Attributes:
        record_sha256: of the data set's record; a run names the one that it was trained with.
        splits: training and validation.
    """

    record_sha256: str
    splits: tuple[DataInput, ...]

    def used_by(self, inputs: Mapping[str, str]) -> tuple[DataInput, ...]:
        """The splits, if a record was made from this very data set; else nothing.

        Args:
            inputs: of a run's or a ticket's record, path -> sha256.
        """
        return self.splits if self.record_sha256 in inputs.values() else ()


def task_data(task: Task, datasets: Path) -> TaskData | None:
    """Read what the data set's record says of a task's splits.

    Args:
        task: from the catalogue.
        datasets: folder with one folder per task.

    Returns:
        None if the data set is not here any more: runs do without it.
    """
    # Here and not above: readers of layouts are not needed for anything else in tracking.
    from sparsetune.data.examples import split_files

    folder = datasets / task.id
    try:
        measured = read_record(folder / "record.json", "dataset")["measured"]
        names = {split: split_files(folder, task, split) for split in _CONTEXTS}
    except SparsetuneError:
        return None
    source = {**task.source, "revision": measured.get("revision") or task.source.get("revision")}
    splits = tuple(
        DataInput(
            name=task.id,
            context=context,
            sums={path.name: _sum(folder, path, measured["files"]) for path in names[split]},
            source={name: value for name, value in source.items() if value is not None},
            examples=measured[f"{split}_examples"],
        )
        for split, context in _CONTEXTS.items()
    )
    return TaskData(sha256_of(folder / "record.json"), splits)


def _sum(folder: Path, path: Path, sums: Mapping[str, str]) -> str:
    told = sums.get(path.relative_to(folder).as_posix()) or sums.get(path.name)
    return told or sha256_of(path)

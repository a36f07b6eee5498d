"""Where files come from: the hub at a pinned commit, a mirror folder, or the generated world.

A fetch is checked in a temporary sibling folder and moved into place only when everything was
read; an older good copy survives a failed fetch.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetune.data.examples import check, files_of
from sparsetune.data.hub import hub_snapshot
from sparsetune.data.layouts import glue
from sparsetune.data.manifests import checked_commit
from sparsetune.data.published import stored_name
from sparsetune.data.submissions import unlabelled_files
from sparsetune.errors import DataError
from sparsetune.records import sha256_of

# Folders of the layouts' hub repositories, where the catalogue names none.
_HUB_SUBSETS = {**{layout: layout for layout in glue.LAYOUTS}, "squad": "plain_text"}
_HUB_ENDINGS = ("parquet", "tsv", "csv", "json", "jsonl", "gz")


def fetch_dataset(task: Any, directory: Path, *, lock_file: Path) -> dict[str, Any]:
    """Make a checked local copy of a task's files in its published layout.

    Args:
        task: catalogue entry; ``source`` says where the files come from.
        directory: the copy; replaced as a whole, and only on success.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        The counts of :func:`sparsetune.data.examples.check`, ``files`` (name -> sha256),
        ``stored_bytes`` and ``revision`` (commit of the hub, or of the hub's files in a mirror
        that was filled from it; None for other sources).

    Raises:
        DataError: the source is not reachable, or a file is missing, damaged or bad.
    """
    source = task.source
    with replaced_directory(directory) as partial:
        revision = None
        if source["kind"] == "hub":
            revision, folder = _dataset_snapshot(task, lock_file)
            origin = f"{source['repository']}@{revision[:12]}"
            copy_files(_files_in(folder, task, origin), partial)
        elif source["kind"] == "mirror":
            origin = source["path"]
            copy_files(_wanted(Path(origin), task), partial)
            revision = checked_commit(Path(origin), inventory(partial)["files"])
        else:
            origin = f"the generated {task.layout} task"
            _generate(task, partial)
        try:
            counts = check(partial, task)
        except DataError as error:
            # The user knows the file where it came from, not our temporary copy of it.
            raise DataError(str(error).replace(str(partial), origin)) from None
        return {**counts, **inventory(partial), "revision": revision}


@contextlib.contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Give a temporary sibling folder that takes ``directory``'s place if the block succeeds.

    Args:
        directory: what is to be replaced; kept as it is if the block raises.

    Yields:
        An empty folder on the same file system.

    Raises:
        OSError: the folder cannot be moved into place; the old one is put back.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        partial = work / "new"
        partial.mkdir()
        yield partial
        exchange(partial, directory, aside=work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def exchange(new: Path, directory: Path, *, aside: Path) -> None:
    """Move a folder into another's place.

    Args:
        new: the folder that takes the place.
        directory: the place; may be empty.
        aside: where the old folder goes; for the caller to delete.

    Raises:
        OSError: it cannot be moved; the old one is put back.
    """
    if directory.exists():
        directory.rename(aside)
    try:
        new.rename(directory)
    except OSError:
        if aside.exists():
            aside.rename(directory)
        raise


def copy_files(files: Sequence[Path], directory: Path) -> None:
    """Copy files byte for byte into a folder, under names that differ between splits.

    Args:
        files: what to copy; links are followed.
        directory: an existing folder.

    Raises:
        DataError: a file cannot be read or written.
    """
    for path in files:
        try:
            shutil.copyfile(path, directory / stored_name(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be copied: {error.strerror or error}") from None


def inventory(directory: Path) -> dict[str, Any]:
    """Checksums and size of the files directly in a folder.

    Args:
        directory: an existing folder.

    Returns:
        ``files`` (name -> sha256) and ``stored_bytes``.
    """
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return {
        "files": {path.name: sha256_of(path) for path in files},
        "stored_bytes": sum(path.stat().st_size for path in files),
    }


def hub_place(task: Any) -> tuple[str, list[str]]:
    """Say where a task's files are in its hub repository.

    Args:
        task: catalogue entry; ``source`` and ``layout`` are read.

    Returns:
        The folder with its ``/`` (empty for the top), and patterns of the files' paths.
    """
    subset = task.source.get("subset") or _HUB_SUBSETS.get(task.layout)
    prefix = f"{subset}/" if subset else ""
    return prefix, [f"{prefix}*.{ending}" for ending in _HUB_ENDINGS]


def _generate(task: Any, directory: Path) -> None:
    # The generator is only needed by suites that use it.
    from sparsetune.data.synthetic.world import write_task

    sizes = {"train": task.source["sizes"]["train"], "dev": task.source["sizes"]["evaluation"]}
    # The published SQuAD has no test questions with answers.
    if task.layout != "squad" and task.source["sizes"].get("test"):
        sizes["test"] = task.source["sizes"]["test"]
    write_task(task.layout, directory, seed=task.source["seed"], sizes=sizes)


def _dataset_snapshot(task: Any, lock_file: Path) -> tuple[str, Path]:
    prefix, patterns = hub_place(task)
    commit, folder = hub_snapshot(
        task.source,
        kind="dataset",
        patterns=patterns,
        lock_file=lock_file,
        advice=f"use a mirror: --config mirror=PATH with the published files in "
        f"PATH/datasets/{task.id}/",
    )
    return commit, folder / prefix


def _files_in(folder: Path, task: Any, origin: str) -> list[Path]:
    try:
        return _wanted(folder, task)
    except DataError as error:
        raise DataError(str(error).replace(str(folder), origin)) from None


def _wanted(folder: Path, task: Any) -> list[Path]:
    """What a task is read from, and the unlabelled test files where the source has them."""
    return [*files_of(folder, task), *unlabelled_files(folder, task)]

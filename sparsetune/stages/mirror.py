"""Command ``mirror``: everything that a suite takes from the hub, in a folder that replaces it."""

import contextlib
import fcntl
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from sparsetune.architectures.loading import check_folder
from sparsetune.config.backbone import HubSource, HubText
from sparsetune.config.load import Catalogue, Suite, Task
from sparsetune.config.suite import suite_files
from sparsetune.data.hub import HubFiles, NothingArrivesError
from sparsetune.data.layouts import split_files
from sparsetune.data.sources import (
    ORIGIN,
    backbone_files,
    corpus_files,
    matching_files,
    mirrored_commit,
    read_origin,
    replaced_directory,
    task_files,
)
from sparsetune.errors import ConfigError, DataError, ModelError, refusal
from sparsetune.records import sha256_of, write_json

Only = Literal["datasets", "backbones"]


@dataclass(frozen=True)
class MirrorPart:
    """One folder of a mirror.

    Attributes:
        files: what it is filled with.
        check: raises an error of ours if a folder cannot be used.
    """

    files: HubFiles
    check: Callable[[Path], object]


def suite_file(folder: Path, suite: str) -> Path:
    """Find the file of a suite.

    Args:
        folder: the catalogue's.
        suite: what the file says in ``suite``.

    Raises:
        ConfigError: there is none; the known ones are named.
    """
    known = suite_files(folder)
    if suite not in known:
        raise ConfigError(refusal("mirror", "--suite", suite, known))
    return known[suite]


def mirror_suite(
    parts: Sequence[MirrorPart], root: Path, *, lock_file: Path, use: str, dry_run: bool
) -> Iterator[str]:
    """Fill a mirror, folder by folder.

    Args:
        parts: of :func:`parts_of`.
        root: of the mirror; made if missing.
        lock_file: YAML file that keeps the commits of hub branches.
        use: the command that a mirror's option is added to.
        dry_run: only say what would be fetched.

    Yields:
        What to print, as soon as it is known.

    Raises:
        ConfigError: the folder cannot be used.
        DataError: there is no network or no room; or, after everything else was filled, some
            folders could not be.
    """
    if not parts:
        yield "nothing to fetch: the suite takes nothing from the hub"
    elif dry_run:
        yield from _planned(parts, root, lock_file)
    else:
        yield from _filled(parts, root, lock_file)
        yield f"Use it: {use} --config mirror={shlex.quote(str(root.resolve()))}"


def parts_of(catalogue: Catalogue, suite: Suite, *, only: Only | None = None) -> list[MirrorPart]:
    """Say which folders a mirror needs for a suite.

    Args:
        catalogue: without a mirror.
        suite: resolved by that catalogue.
        only: leave the other kind out.

    Returns:
        Data sets first, in suite order; what is generated or read from local files needs none.

    Raises:
        DataError: two repositories want the same folder.
    """
    tasks = {run.task.id: run.task for run in suite.runs}
    backbones = {run.backbone.id: run.backbone for run in suite.runs}
    for backbone in list(backbones.values()):
        lender = backbone.published_tokenizer
        if lender is not None:
            backbones.setdefault(lender, catalogue.backbone(lender))
    parts = [
        MirrorPart(task_files(task, source), partial(_find_splits, task=task))
        for task in tasks.values()
        if isinstance(source := task.source, HubSource)
    ]
    for one in backbones.values():
        if isinstance(one.source, HubText):
            check = partial(_find_texts, source=one.source)
            parts.append(MirrorPart(corpus_files(one.source), check))
    for one in backbones.values():
        if isinstance(one.source, HubSource):
            usable = partial(check_folder, architecture=one.architecture)
            parts.append(MirrorPart(backbone_files(one.id, one.source), usable))
    return [part for part in _merged(parts) if only is None or part.files.place.startswith(only)]


def _find_splits(folder: Path, task: Task) -> None:
    for split in ("train", "evaluation"):
        split_files(folder, task, split)


def _find_texts(folder: Path, source: HubText) -> None:
    matching_files(source.files, folder, f"{folder}/")


def _filled(parts: Sequence[MirrorPart], root: Path, lock_file: Path) -> Iterator[str]:
    failed = []
    with _alone(root):
        for part in parts:
            try:
                yield f"{part.files.place}: {_fill(part, root / part.files.place, lock_file)}"
            except NothingArrivesError:
                raise
            except OSError as error:
                told = error.strerror or error
                raise ConfigError(
                    f"--to: {root / part.files.place}: cannot be used: {told}"
                ) from None
            except DataError as error:
                failed.append(part.files.place)
                yield f"{part.files.place}: NOT MIRRORED: {' '.join(str(error).split())}"
    if failed:
        raise DataError(f"{root}: {len(failed)} of {len(parts)} folders lack: {', '.join(failed)}")


def _fill(part: MirrorPart, folder: Path, lock_file: Path) -> str:
    """Fill one folder, or fill it again if it is not whole; what is whole needs no network."""
    told = read_origin(folder)
    if told is None and folder.exists():
        _require_usable(part, folder, str(folder))
        return f"there without {ORIGIN}: left as it is"
    files = part.files
    commit = files.commit(lock_file)
    origin = f"{files.repository}@{commit}"
    if told is not None:
        if told["commit"] == commit and set(files.patterns) <= set(told["patterns"]):
            with contextlib.suppress(DataError):
                mirrored_commit(folder)
                return f"{len(told['files'])} files, {origin}: verified"
        found = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
        known = {folder / ORIGIN, *(folder / name for name in told["files"])}
        for path in sorted(set(found) - known):
            raise DataError(f"{path}: not from the hub, and its folder is to be replaced; move it")
    source = files.snapshot(commit)
    _require_usable(part, source / files.prefix, f"{files.repository}@{commit[:12]}")
    with replaced_directory(folder) as new:
        for name in files.below(source):  # the cache may hold more of the commit
            target = new / name.removeprefix(files.prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
        _write_origin(new, files, commit)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    size = sum(sizes) - (folder / ORIGIN).stat().st_size
    return f"{len(sizes) - 1} files, {size:,} bytes, {origin}: fetched"


def _write_origin(folder: Path, files: HubFiles, commit: str) -> None:
    """Note in a folder what it was filled with; see ``read_origin``."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in found}
    told = {"repository": files.repository, "commit": commit, "patterns": list(files.patterns)}
    write_json(folder / ORIGIN, {**told, "files": sums})


def _planned(parts: Sequence[MirrorPart], root: Path, lock_file: Path) -> Iterator[str]:
    """What would be fetched; nothing is downloaded and no commit is kept."""
    total = 0
    for part in parts:
        files = part.files
        if (root / files.place).exists():
            yield f"{files.place}: there"
            continue
        commit = files.commit(lock_file, keep=False)
        yield f"{files.place}: {files.repository}@{commit[:12]}"
        for path, size_bytes, missing in files.planned(commit):
            told = "to fetch" if missing else "in the library's cache"
            yield f"  {path.removeprefix(files.prefix)}: {size_bytes:,} bytes, {told}"
            total += size_bytes if missing else 0
    yield f"{total:,} bytes to fetch"


def _require_usable(part: MirrorPart, folder: Path, origin: str) -> None:
    try:
        part.check(folder)
    except (DataError, ModelError) as error:
        raise DataError(str(error).replace(str(folder), origin)) from None


def _merged(parts: Sequence[MirrorPart]) -> list[MirrorPart]:
    """Each folder once, with the patterns of all parts that name it."""
    merged: dict[str, MirrorPart] = {}
    for part in parts:
        new = part.files
        old = merged.setdefault(new.place, part).files
        if (old.repository, old.revision) != (new.repository, new.revision):
            raise DataError(
                f"{new.place}: wanted from {old.repository}@{old.revision} and from "
                f"{new.repository}@{new.revision}; a mirror has room for one"
            )
        patterns = tuple(dict.fromkeys((*old.patterns, *new.patterns)))
        merged[new.place] = replace(merged[new.place], files=replace(old, patterns=patterns))
    return list(merged.values())


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep a second command out of the folder."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"--to: {root}: cannot be used: {error.strerror or error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(f"--to: {root}: another sparsetune mirror is at work there") from None
    finally:
        os.close(handle)

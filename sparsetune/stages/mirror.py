"""Command ``mirror``: everything that a suite takes from the hub, in a folder that replaces it."""

import contextlib
import fcntl
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sparsetune.architectures.loading import check_folder
from sparsetune.config.backbone import HubSource, HubText
from sparsetune.config.load import Backbone, Catalogue, Suite, Task
from sparsetune.config.reading import read_yaml
from sparsetune.data.hub import HubRepository, NothingArrivesError, matching
from sparsetune.data.layouts import split_files
from sparsetune.data.sources import (
    BACKBONE_PATTERNS,
    ORIGIN,
    hub_place,
    matching_files,
    mirrored_commit,
    read_origin,
    replaced_directory,
    write_origin,
)
from sparsetune.errors import ConfigError, DataError, ModelError, refusal

Only = Literal["datasets", "backbones"]
_ADVICE = "run this where there is a network"


@dataclass(frozen=True)
class MirrorPart:
    """One folder of a mirror.

    Attributes:
        place: ``datasets/<task>`` or ``backbones/<id>``.
        repository: where the files come from.
        revision: branch or commit.
        prefix: folder in the repository that is left out of the paths; ends in ``/``, or empty.
        patterns: of the files' paths in the repository.
        check: raises an error of ours if a folder cannot be used.
    """

    place: str
    repository: HubRepository
    revision: str
    prefix: str
    patterns: tuple[str, ...]
    check: Callable[[Path], object]


def suite_file(folder: Path, suite: str) -> Path:
    """Find the file of a suite.

    Args:
        folder: the catalogue's.
        suite: what the file says in ``suite``.

    Raises:
        ConfigError: there is none; the known ones are named.
    """
    known = {}
    for path in sorted(folder.glob("*.yaml")):
        content = read_yaml(path)
        if isinstance(content, Mapping) and isinstance(content.get("suite"), str):
            known[content["suite"]] = path
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
        _task_part(task, source)
        for task in tasks.values()
        if isinstance(source := task.source, HubSource)
    ]
    sources = [(one, one.source) for one in backbones.values()]
    parts += [_text_part(source) for _, source in sources if isinstance(source, HubText)]
    parts += [
        _backbone_part(one, source) for one, source in sources if isinstance(source, HubSource)
    ]
    return [part for part in _merged(parts) if only is None or part.place.startswith(only)]


def _filled(parts: Sequence[MirrorPart], root: Path, lock_file: Path) -> Iterator[str]:
    failed = []
    with _alone(root):
        for part in parts:
            try:
                yield f"{part.place}: {_fill(part, root / part.place, lock_file)}"
            except NothingArrivesError:
                raise
            except OSError as error:
                told = error.strerror or error
                raise ConfigError(f"--to: {root / part.place}: cannot be used: {told}") from None
            except DataError as error:
                failed.append(part.place)
                yield f"{part.place}: NOT MIRRORED: {' '.join(str(error).split())}"
    if failed:
        raise DataError(f"{root}: {len(failed)} of {len(parts)} folders lack: {', '.join(failed)}")


def _fill(part: MirrorPart, folder: Path, lock_file: Path) -> str:
    """Fill one folder, or fill it again if it is not whole; what is whole needs no network."""
    told = read_origin(folder)
    if told is None and folder.exists():
        _require_usable(part, folder, str(folder))
        return f"there without {ORIGIN}: left as it is"
    commit = part.repository.commit_of(part.revision, lock_file)
    origin = f"{part.repository.name}@{commit}"
    if told is not None:
        if told["commit"] == commit and set(part.patterns) <= set(told["patterns"]):
            with contextlib.suppress(DataError):
                mirrored_commit(folder)
                return f"{len(told['files'])} files, {origin}: verified"
        found = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
        known = {folder / ORIGIN, *(folder / name for name in told["files"])}
        for path in sorted(set(found) - known):
            raise DataError(f"{path}: not from the hub, and its folder is to be replaced; move it")
    source = part.repository.snapshot(commit, part.patterns)
    short = f"{part.repository.name}@{commit[:12]}"
    _require_usable(part, source / part.prefix, short)
    with replaced_directory(folder) as partial:
        for name in matching(source, part.patterns):  # the cache may hold more of the commit
            target = partial / name.removeprefix(part.prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
        write_origin(partial, part.repository.name, commit, part.patterns)
    filled = read_origin(folder) or {"files": ()}
    size = sum((folder / name).stat().st_size for name in filled["files"])
    return f"{len(filled['files'])} files, {size:,} bytes, {origin}: fetched"


def _planned(parts: Sequence[MirrorPart], root: Path, lock_file: Path) -> Iterator[str]:
    """What would be fetched; nothing is downloaded and no commit is kept."""
    total = 0
    for part in parts:
        if (root / part.place).exists():
            yield f"{part.place}: there"
            continue
        commit = part.repository.commit_of(part.revision, lock_file, keep=False)
        yield f"{part.place}: {part.repository.name}@{commit[:12]}"
        for path, size_bytes, missing in part.repository.planned(commit, part.patterns):
            told = "to fetch" if missing else "in the library's cache"
            yield f"  {path.removeprefix(part.prefix)}: {size_bytes:,} bytes, {told}"
            total += size_bytes if missing else 0
    yield f"{total:,} bytes to fetch"


def _require_usable(part: MirrorPart, folder: Path, origin: str) -> None:
    try:
        part.check(folder)
    except (DataError, ModelError) as error:
        raise DataError(str(error).replace(str(folder), origin)) from None


def _task_part(task: Task, source: HubSource) -> MirrorPart:
    prefix, patterns = hub_place(source, task.layout)
    return MirrorPart(
        f"datasets/{task.id}",
        HubRepository(source.repository, "dataset", _ADVICE),
        source.revision,
        prefix,
        tuple(patterns),
        lambda folder: [split_files(folder, task, split) for split in ("train", "evaluation")],
    )


def _text_part(source: HubText) -> MirrorPart:
    return MirrorPart(
        f"datasets/{source.repository.rpartition('/')[2]}",
        HubRepository(source.repository, "dataset", _ADVICE),
        source.revision,
        "",
        tuple(source.files),
        lambda folder: matching_files(source.files, folder, f"{folder}/"),
    )


def _backbone_part(backbone: Backbone, source: HubSource) -> MirrorPart:
    return MirrorPart(
        f"backbones/{backbone.id}",
        HubRepository(source.repository, "model", _ADVICE),
        source.revision,
        "",
        BACKBONE_PATTERNS,
        lambda folder: check_folder(folder, backbone.architecture),
    )


def _merged(parts: Sequence[MirrorPart]) -> list[MirrorPart]:
    """Each folder once, with the patterns of all parts that name it."""
    merged: dict[str, MirrorPart] = {}
    for part in parts:
        first = merged.setdefault(part.place, part)
        if (first.repository.name, first.revision) != (part.repository.name, part.revision):
            raise DataError(
                f"{part.place}: wanted from {first.repository.name}@{first.revision} and from "
                f"{part.repository.name}@{part.revision}; a mirror has room for one"
            )
        patterns = tuple(dict.fromkeys((*first.patterns, *part.patterns)))
        merged[part.place] = replace(first, patterns=patterns)
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

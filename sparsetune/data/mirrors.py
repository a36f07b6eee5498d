"""Folders of a mirror, each filled from one hub repository at one commit.

A folder gets its name only when every file in it is checked and it can be used: half of one is
hidden beside it, under the commit's name, where the next call finds it.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsetune.data.downloads import HubFile
from sparsetune.data.hub import HubRepository, NothingArrivesError
from sparsetune.data.manifests import (
    MANIFEST,
    damaged_files,
    foreign_files,
    read_manifest,
    write_manifest,
)
from sparsetune.data.sources import exchange
from sparsetune.errors import DataError, ModelError

State = Literal["fetched", "repaired", "whole", "by hand"]


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


@dataclass(frozen=True)
class Filled:
    """What is known of a folder afterwards.

    Attributes:
        state: ``whole`` = was there and is what the manifest says; ``by hand`` = without manifest.
        manifest: empty if it was filled by hand.
        downloaded_bytes: of the files that had to come from the hub.
    """

    state: State
    manifest: Mapping[str, Any]
    downloaded_bytes: int = 0


def fill(part: MirrorPart, root: Path, *, lock_file: Path) -> Filled:
    """Fill one folder, or check and mend it if it is there; what is whole needs no network.

    Args:
        part: the folder.
        root: of the mirror.
        lock_file: YAML file that keeps the commits of hub branches.

    Raises:
        DataError: no network, no room, refused, wrong bytes, files that cannot be used, or files in
            the folder that the hub does not have.
    """
    folder = root / part.place
    manifest = read_manifest(folder)
    if manifest is None and folder.exists():
        _require_usable(part, folder, str(folder))
        return Filled("by hand", {})
    commit = part.repository.commit_of(part.revision, lock_file)
    if manifest is None or not _covers(manifest, part, commit):
        return _fill_anew(part, folder, commit, manifest)
    damaged = damaged_files(folder, manifest)
    if not damaged:
        return Filled("whole", manifest)
    files = {path: file for path, file in _files(part, commit).items() if path in damaged}
    return Filled("repaired", manifest, _obtain(part, files, commit, into=folder, older=folder))


def planned(
    part: MirrorPart, root: Path, *, lock_file: Path
) -> tuple[str, list[tuple[str, int, bool]]]:
    """Say what :func:`fill` would fetch; nothing is downloaded and no commit is kept.

    Args:
        part: the folder.
        root: of the mirror; may be absent.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        The commit, and for each file its path, its length in bytes and whether it is there already.

    Raises:
        DataError: as :func:`fill`.
    """
    folder = root / part.place
    commit = part.repository.commit_of(part.revision, lock_file, keep=False)
    manifest = read_manifest(folder)
    known = manifest["files"] if manifest else ()
    listed = {entry["path"]: entry["sha256"] for entry in known}
    damaged = damaged_files(folder, manifest) if manifest else ()
    by_hand = manifest is None and folder.exists()  # and to be left as it is
    at_commit = manifest is not None and manifest["commit"] == commit

    def is_there(path: str, file: HubFile) -> bool:
        same = at_commit or listed.get(path) == file.sha256 is not None
        return by_hand or (path in listed and path not in damaged and same)

    files = _files(part, commit)
    return commit, [(path, file.size_bytes, is_there(path, file)) for path, file in files.items()]


def _covers(manifest: Mapping[str, Any], part: MirrorPart, commit: str) -> bool:
    return (
        manifest["repository"] == part.repository.name
        and manifest["commit"] == commit
        and set(part.patterns) <= set(manifest["patterns"])
    )


def _fill_anew(
    part: MirrorPart, folder: Path, commit: str, manifest: Mapping[str, Any] | None
) -> Filled:
    foreign = foreign_files(folder, manifest) if manifest else ()
    if foreign:
        raise DataError(
            f"{folder / foreign[0]}: not from the hub, and the folder is to be replaced by commit "
            f"{commit[:12]}; move the file away"
        )
    work = folder.with_name(f".{folder.name}.{commit[:12]}.partial")
    files = _files(part, commit)
    downloaded = _obtain(part, files, commit, into=work, older=folder)
    _require_usable(part, work, f"{part.repository.name}@{commit[:12]}")
    told = {
        "repository": part.repository.name,
        "kind": part.repository.kind,
        "commit": commit,
        "patterns": list(part.patterns),
    }
    manifest = write_manifest(work, files, told=told)
    _take_place(work, folder, manifest)
    return Filled("fetched", manifest, downloaded)


def _files(part: MirrorPart, commit: str) -> dict[str, HubFile]:
    """Files of the folder: path below it -> what the hub lists."""
    files = part.repository.files(commit, part.patterns)
    if not files:
        raise DataError(
            f"hub source {part.repository.name}@{commit[:12]}: has no file "
            f"{' or '.join(part.patterns)}"
        )
    return {file.path.removeprefix(part.prefix): file for file in files}


def _obtain(
    part: MirrorPart, files: Mapping[str, HubFile], commit: str, *, into: Path, older: Path
) -> int:
    into.mkdir(parents=True, exist_ok=True)
    missing = sum(f.size_bytes for path, f in files.items() if not (into / path).is_file())
    free = shutil.disk_usage(into).free
    if free < missing:
        raise NothingArrivesError(
            f"{into.parent / older.name}: needs {missing:,} bytes, {free:,} are free on this disk"
        )
    downloaded = 0
    for path, file in files.items():
        if part.repository.obtain(file, commit, into / path, older=older / path):
            downloaded += file.size_bytes
    return downloaded


def _require_usable(part: MirrorPart, folder: Path, origin: str) -> None:
    try:
        part.check(folder)
    except (DataError, ModelError) as error:
        raise DataError(str(error).replace(str(folder), origin)) from None


def _take_place(work: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    known = {work / MANIFEST, *(work / entry["path"] for entry in manifest["files"])}
    for path in list(work.rglob("*")):  # halves, and what an older call wanted
        if path.is_file() and path not in known:
            path.unlink()
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        exchange(work, folder, aside=aside)
    except OSError as error:
        raise NothingArrivesError(f"{folder}: cannot be written: {error.strerror}") from None
    for rest in (aside, *folder.parent.glob(f".{folder.name}.*.partial")):
        shutil.rmtree(rest, ignore_errors=True)


def merged_parts(parts: Sequence[MirrorPart]) -> list[MirrorPart]:
    """Make one part of those that name the same folder.

    Args:
        parts: in any order.

    Returns:
        Each folder once, with the patterns of all of them.

    Raises:
        DataError: two repositories or revisions want one folder.
    """
    merged: dict[str, MirrorPart] = {}
    for part in parts:
        first = merged.setdefault(part.place, part)
        if (first.repository.name, first.revision) != (part.repository.name, part.revision):
            raise DataError(
                f"{part.place}: wanted from {first.repository.name}@{first.revision} and from "
                f"{part.repository.name}@{part.revision}; a mirror has room for one"
            )
        patterns = tuple(dict.fromkeys((*first.patterns, *part.patterns)))
        merged[part.place] = MirrorPart(
            part.place, part.repository, part.revision, part.prefix, patterns, first.check
        )
    return list(merged.values())

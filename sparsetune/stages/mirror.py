"""Command ``mirror``: everything that a suite takes from the hub, in a folder that replaces it."""

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sparsetune.architectures.loading import check_folder
from sparsetune.config.load import Backbone, Catalogue, Suite, Task
from sparsetune.config.reading import read_yaml
from sparsetune.data.backbones import HUB_PATTERNS
from sparsetune.data.examples import files_of
from sparsetune.data.hub import HubRepository, NothingArrivesError
from sparsetune.data.mirrors import Filled, MirrorPart, fill, merged_parts, planned
from sparsetune.data.sources import hub_place
from sparsetune.data.text_files import matching_files
from sparsetune.errors import ConfigError, DataError, nearest

Only = Literal["datasets", "backbones"]
_ADVICE = "run this where there is a network"


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
        told = nearest(suite, list(known))
        raise ConfigError(f"--suite: got {suite!r}; known: {', '.join(known) or 'none'}{told}")
    return known[suite]


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
        tokenizer = (backbone.pretraining or {}).get("tokenizer", {})
        if tokenizer.get("kind") == "published":
            lender = tokenizer["backbone"]
            backbones.setdefault(lender, catalogue.backbone(lender))
    parts = [_task_part(task) for task in tasks.values() if task.source["kind"] == "hub"]
    parts += [_text_part(one) for one in backbones.values() if one.source["kind"] == "hub-text"]
    parts += [_backbone_part(one) for one in backbones.values() if one.source["kind"] == "hub"]
    return [part for part in merged_parts(parts) if only is None or part.place.startswith(only)]


def mirror_suite(
    parts: list[MirrorPart], root: Path, *, lock_file: Path, use: str
) -> Iterator[str]:
    """Fill a mirror, folder by folder.

    Args:
        parts: of :func:`parts_of`.
        root: of the mirror; made if missing.
        lock_file: YAML file that keeps the commits of hub branches.
        use: the command that a mirror's option is added to.

    Yields:
        A line for each folder as soon as it is done, and the command that uses the mirror.

    Raises:
        DataError: there is no network or no room; or, after everything else was filled, some
            folders could not be.
    """
    if not parts:
        yield "nothing to fetch: the suite takes nothing from the hub"
        return
    failed = []
    with _alone(root):
        for part in parts:
            try:
                yield _line(part, fill(part, root, lock_file=lock_file))
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
    yield f"Use it: {use} --config mirror={shlex.quote(str(root.resolve()))}"


def plan_mirror(parts: list[MirrorPart], root: Path, *, lock_file: Path) -> Iterator[str]:
    """Say what :func:`mirror_suite` would fetch; nothing is downloaded.

    Args:
        parts: of :func:`parts_of`.
        root: of the mirror; may be absent.
        lock_file: YAML file that keeps the commits of hub branches.

    Yields:
        A line for each folder, one for each of its files, and the sum.

    Raises:
        DataError: the hub cannot be asked.
    """
    total = 0
    for part in parts:
        try:
            commit, files = planned(part, root, lock_file=lock_file)
        except NothingArrivesError:
            raise
        except DataError as error:
            yield f"{part.place}: {' '.join(str(error).split())}"
            continue
        yield f"{part.place}: {part.repository.name}@{commit[:12]}"
        for path, size_bytes, is_there in files:
            yield f"  {path}: {size_bytes:,} bytes, {'there' if is_there else 'to fetch'}"
            total += 0 if is_there else size_bytes
    yield f"{total:,} bytes to fetch"


def _task_part(task: Task) -> MirrorPart:
    prefix, patterns = hub_place(task)
    return MirrorPart(
        f"datasets/{task.id}",
        HubRepository(task.source["repository"], "dataset", _ADVICE),
        task.source["revision"],
        prefix,
        tuple(patterns),
        lambda folder: files_of(folder, task),
    )


def _text_part(backbone: Backbone) -> MirrorPart:
    repository, patterns = backbone.source["repository"], tuple(backbone.source["files"])
    return MirrorPart(
        f"datasets/{repository.rpartition('/')[2]}",
        HubRepository(repository, "dataset", _ADVICE),
        backbone.source["revision"],
        "",
        patterns,
        lambda folder: matching_files(patterns, folder, f"{folder}/"),
    )


def _backbone_part(backbone: Backbone) -> MirrorPart:
    return MirrorPart(
        f"backbones/{backbone.id}",
        HubRepository(backbone.source["repository"], "model", _ADVICE),
        backbone.source["revision"],
        "",
        HUB_PATTERNS,
        lambda folder: check_folder(folder, backbone.architecture),
    )


def _line(part: MirrorPart, filled: Filled) -> str:
    if filled.state == "by hand":
        return f"{part.place}: there without a manifest: left as it is"
    files: list[dict[str, Any]] = filled.manifest["files"]
    size = sum(entry["bytes"] for entry in files)
    origin = f"{part.repository.name}@{filled.manifest['commit']}"
    told = {"whole": "verified"}.get(filled.state, filled.state)
    if filled.state != "whole":
        told += f", {filled.downloaded_bytes:,} bytes downloaded"
    return f"{part.place}: {len(files)} files, {size:,} bytes, {origin}: {told}"


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
    except BlockingIOError:
        os.close(handle)
        raise ConfigError(f"--to: {root}: another sparsetune mirror is at work there") from None
    try:
        yield
    finally:
        os.close(handle)

"""Where files come from: the hub at a pinned commit, a mirror, or this machine; and where they go.

A folder of ours is filled in a temporary sibling and moved into place only when everything in it is
whole; an older good copy survives a failure. Nothing heavy is imported: the Snakefile needs this.
"""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.backbone import (
    BackboneSource,
    HubSource,
    HubText,
    MirrorSource,
    TextFiles,
)
from sparsetune.config.load import Backbone, Task
from sparsetune.data.hub import HubFiles
from sparsetune.errors import DataError, ModelError
from sparsetune.records import read_json, sha256_of

ORIGIN = "mirror.json"
"""What a mirror's folder was filled with; folders that somebody filled by hand have none."""
DATA_ENDINGS = ("parquet", "tsv", "csv", "json", "jsonl", "gz")
TOKENIZER_PATTERNS = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "spm.model"
)  # fmt: skip
BACKBONE_PATTERNS = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER_PATTERNS,
)
"""Files of a backbone, on the hub and in a mirror."""


def local_path(path: str) -> Path:
    """Path of this machine as a file of the catalogue writes it; ``~`` is the user's home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path's own raises without a home


def task_files(task: Task, source: HubSource) -> HubFiles:
    """Say where a task's files are on the hub and in a mirror.

    Args:
        task: catalogue entry; ``id`` and ``layout`` are read.
        source: of the task.
    """
    usual = {"squad": "plain_text", "table": ""}
    subset = source.subset or usual.get(task.layout, task.layout)
    prefix = f"{subset}/" if subset else ""
    patterns = tuple(f"{prefix}*.{ending}" for ending in DATA_ENDINGS)
    place = f"datasets/{task.id}"
    return HubFiles(place, "dataset", source.repository, source.revision, patterns, prefix)


def corpus_files(source: HubText) -> HubFiles:
    """Say where the files of a corpus are on the hub and in a mirror."""
    place = f"datasets/{source.repository.rpartition('/')[2]}"
    return HubFiles(place, "dataset", source.repository, source.revision, tuple(source.files))


def backbone_files(
    name: str, source: HubSource, patterns: tuple[str, ...] = BACKBONE_PATTERNS
) -> HubFiles:
    """Say where a backbone's files are on the hub and in a mirror.

    Args:
        name: the backbone's id.
        source: of the backbone.
        patterns: of the files wanted.
    """
    return HubFiles(f"backbones/{name}", "model", source.repository, source.revision, patterns)


def published_files(
    task: Task, source: HubSource | MirrorSource, *, lock_file: Path
) -> tuple[Path, str, str | None]:
    """Bring a task's files to this machine, unless a mirror has them.

    Args:
        task: catalogue entry; ``id`` and ``layout`` are read.
        source: of the task.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        The folder in the published layout, how messages call it, and the commit of the hub (None
        for a mirror that somebody filled by hand).

    Raises:
        DataError: the hub is not reachable, or a file of the mirror is damaged.
    """
    if isinstance(source, MirrorSource):
        folder = local_path(source.path)
        return folder, source.path, mirrored_commit(folder)
    return task_files(task, source).bring(lock_file)


def fetch_backbone(backbone: Backbone, directory: Path, *, lock_file: Path) -> dict[str, Any]:
    """Make a checked local copy of a backbone's folder.

    Args:
        backbone: catalogue entry; ``id``, ``architecture``, ``head`` and ``source`` (hub or mirror)
            are read.
        directory: the copy; replaced as a whole, and only on success.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        ``files`` (name -> sha256), ``stored_bytes``, ``parameters_stored`` (weights in the
        safetensors files) and ``revision`` (commit of the hub, or of the hub's files in a mirror
        that was filled from it; None for other mirrors).

    Raises:
        ModelError: no safetensors, no tokenizer, damaged, or of another architecture.
        DataError: not reachable.
    """
    from sparsetune.architectures.loading import check_folder, check_tokens
    from sparsetune.architectures.weight_files import drop_tensors, stored_parameters, weight_files
    from sparsetune.data.folder_checks import check_token_numbers, task_head

    folder, origin, revision = _backbone_folder(
        backbone.source, BACKBONE_PATTERNS, name=backbone.id, lock_file=lock_file
    )
    try:
        check_folder(folder, backbone.architecture)
        head = task_head(folder, backbone)
        check_token_numbers(folder)
        check_tokens(folder)
        if isinstance(backbone.source, MirrorSource):
            revision = mirrored_commit(folder)
        found = {
            path
            for pattern in BACKBONE_PATTERNS
            for path in folder.glob(pattern)
            if path.is_file() and path.suffix != ".safetensors"
        }
        with replaced_directory(directory) as partial:
            copy_files([*sorted(found), *weight_files(folder)], partial)
            if head and backbone.head == "fresh":
                drop_tensors(partial, head)
            parameters = sum(stored_parameters(path) for path in weight_files(partial))
            inside = inventory(partial)
    except (ModelError, DataError) as error:
        raise ModelError(str(error).replace(str(folder), origin)) from None
    return {**inside, "parameters_stored": parameters, "revision": revision}


def fetch_tokenizer(source: BackboneSource, directory: Path, *, name: str, lock_file: Path) -> None:
    """Copy the tokenizer of a published backbone, and nothing else of it.

    Args:
        source: of the backbone: hub or mirror.
        directory: where the tokenizer is loaded from and saved to; made if missing.
        name: the backbone's id, for the message.
        lock_file: YAML file that keeps the commits of hub branches.

    Raises:
        ModelError: without a readable fast tokenizer.
        DataError: not reachable.
    """
    from sparsetune.architectures.loading import load_tokenizer

    patterns = ("config.json", *TOKENIZER_PATTERNS)
    folder, _, _ = _backbone_folder(source, patterns, name=name, lock_file=lock_file)
    load_tokenizer(folder).save_pretrained(directory)


def _backbone_folder(
    source: BackboneSource, patterns: tuple[str, ...], *, name: str, lock_file: Path
) -> tuple[Path, str, str | None]:
    if isinstance(source, MirrorSource):
        return local_path(source.path), source.path, None
    if not isinstance(source, HubSource):
        raise ModelError(f"backbone {name}: source {source.kind} is not fetched")
    return backbone_files(name, source, patterns).bring(lock_file)


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
        partial, aside = work / "new", work / "old"
        partial.mkdir()
        yield partial
        if directory.exists():
            directory.rename(aside)
        try:
            partial.rename(directory)
        except OSError:
            if aside.exists():
                aside.rename(directory)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def copy_files(files: Sequence[Path], directory: Path) -> None:
    """Copy files byte for byte into a folder; links are followed.

    Args:
        files: what to copy, all of different names.
        directory: an existing folder.

    Raises:
        DataError: a file cannot be read or written.
    """
    for path in files:
        try:
            shutil.copyfile(path, directory / path.name)
        except OSError as error:
            raise DataError(f"{path}: cannot be copied: {error.strerror or error}") from None


def inventory(directory: Path) -> dict[str, Any]:
    """Measure the files directly in a folder.

    Returns:
        ``files`` (name -> sha256) and ``stored_bytes``.
    """
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return {
        "files": {path.name: sha256_of(path) for path in files},
        "stored_bytes": sum(path.stat().st_size for path in files),
    }


def read_origin(folder: Path) -> dict[str, Any] | None:
    """Read what a mirror's folder was filled with; None if nothing was noted.

    Raises:
        DataError: the note is damaged.
    """
    path = folder / ORIGIN
    if not path.is_file():
        return None
    told = read_json(path, what="note of a mirror")
    if not isinstance(told, dict) or told.keys() != {"repository", "commit", "patterns", "files"}:
        raise DataError(f"{path}: damaged; delete the folder and run sparsetune mirror again")
    return told


def mirrored_commit(folder: Path) -> str | None:
    """Check the files of a mirror's folder against its note.

    Args:
        folder: of a mirror.

    Returns:
        The commit of the hub that they come from; None for a folder that was filled by hand.

    Raises:
        DataError: naming the first file that is missing or differs.
    """
    told = read_origin(folder)
    if told is None:
        return None
    for name, sum_noted in told["files"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sum_noted:
            raise DataError(
                f"{path}: damaged: its sha256 is not {sum_noted[:12]}…, which {ORIGIN} has; run "
                "sparsetune mirror again"
            )
    return str(told["commit"])


def text_files(source: BackboneSource) -> list[Path]:
    """Find the local files of a corpus.

    Args:
        source: of a backbone; ``paths`` of kind ``text`` are files or patterns.

    Returns:
        Files in the order of the patterns, each pattern's sorted; none for other kinds.

    Raises:
        DataError: a path or pattern matches no file.
    """
    return matching_files(source.paths, Path(), "") if isinstance(source, TextFiles) else []


def matching_files(patterns: Sequence[str], folder: Path, origin: str) -> list[Path]:
    """Find the files that patterns name.

    Args:
        patterns: relative ones are those below ``folder``; absolute ones stand for themselves.
        folder: where to look.
        origin: what a message writes before a pattern.

    Returns:
        Files in the order of the patterns, each pattern's sorted, each once.

    Raises:
        DataError: a pattern without a file.
    """
    found: list[Path] = []
    for pattern in patterns:
        whole = Path(glob.escape(str(folder))) / local_path(pattern)
        root = Path(whole.anchor)
        files = sorted(one for one in root.glob(str(whole.relative_to(root))) if one.is_file())
        if not files:
            raise DataError(f"{origin}{pattern}: no such text; need text, text.gz or parquet")
        found.extend(files)
    return list(dict.fromkeys(found))

"""Which files of this machine a stage reads from outside, and one digest of what is in them.

The Snakefile plans with both: the files are inputs of a rule, the digest is a param of it. So a
label, a vocabulary or a weight that changes is seen whatever the file's time says, and a file that
was only touched reruns nothing. Nothing heavy is imported.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from sparsetune.config.backbone import HubSource, HubText, MirrorSource, TextFiles
from sparsetune.config.load import Backbone, Task
from sparsetune.data.sources import (
    BACKBONE_PATTERNS,
    DATA_ENDINGS,
    ORIGIN,
    TOKENIZER_PATTERNS,
    backbone_files,
    corpus_files,
    local_path,
    task_files,
    text_files,
)
from sparsetune.errors import DataError
from sparsetune.records import (
    BackboneRecord,
    DatasetRecord,
    digest_of,
    read_record,
    sha256_of,
    write_text_atomically,
)

_SETTLED_SECONDS = 2.0
# File systems tell times in steps; a file that is younger may change once more within its step.


def planned_files(thing: Task | Backbone) -> list[Path]:
    """Name the local files that ``dataset`` or ``backbone`` reads of a thing.

    Args:
        thing: with a source of kind ``mirror`` or ``text``, or with a lent tokenizer in a mirror.

    Returns:
        The files, none for what comes from the hub or is generated. What is missing stands for
        itself (a folder, or a pattern without a file), so that whoever plans can name it; where a
        folder lacks a split, whatever data it has, and the stage tells what is missing.
    """
    if isinstance(thing, Task):
        return _task_files(thing)
    files: list[Path] = []
    if isinstance(thing.source, MirrorSource):
        files += _matching(local_path(thing.source.path), (*BACKBONE_PATTERNS, ORIGIN))
    elif isinstance(thing.source, TextFiles):
        try:
            files += text_files(thing.source)
        except DataError:
            files += [local_path(path) for path in thing.source.paths]
    if isinstance(thing.tokenizer_source, MirrorSource):
        lent = local_path(thing.tokenizer_source.path)
        files += _matching(lent, ("config.json", *TOKENIZER_PATTERNS))
    return files


def _task_files(task: Task) -> list[Path]:
    if not isinstance(task.source, MirrorSource):
        return []
    # Brings pyarrow, which only a planner with a mirror needs.
    from sparsetune.data.layouts import files_read

    folder = local_path(task.source.path)
    note = [folder / ORIGIN] if (folder / ORIGIN).is_file() else []
    try:
        return [*files_read(folder, task), *note]
    except DataError:
        return _matching(folder, (*(f"*.{ending}" for ending in DATA_ENDINGS), ORIGIN))


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(found) or [folder]


def next_fetch(thing: Task | Backbone, record: Path, lock_file: Path) -> str | None:
    """Name the next fetch from the hub: the last one's name unless it took another commit.

    Snakemake compares it with the name it ran the stage with, and so fetches again when a line of
    the lock file was edited or deleted, and only then.

    Args:
        thing: whose source may be the hub.
        record: of its stage; may be missing.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        None for the first fetch, and for what does not come from the hub.
    """
    source = thing.source
    try:
        if isinstance(thing, Task) and isinstance(source, HubSource):
            task = read_record(record, DatasetRecord)
            taken, before, ended = task.measured.revision, task.measured.fetch, task.where.ended
            wanted = task_files(thing, source).kept_commit(lock_file)
        elif isinstance(thing, Backbone) and isinstance(source, HubSource | HubText):
            made = read_record(record, BackboneRecord)
            corpus = made.measured.corpus
            taken, before, ended = made.measured.revision, made.measured.fetch, made.where.ended
            if isinstance(source, HubText):
                taken = corpus.revision if corpus else None
                wanted = corpus_files(source).kept_commit(lock_file)
            else:
                wanted = backbone_files(thing.id, source).kept_commit(lock_file)
        else:
            return None
    except DataError:  # no record yet; of a damaged lock file the stage tells
        return None
    return before if wanted == taken else f"after {ended}"


def contents_digest(paths: Iterable[Path], known: Path) -> str | None:
    """Digest of the contents of files, each read only once for as long as it stays as it is.

    Args:
        paths: files; one that is not there counts as missing.
        known: JSON file with the sha256 of files that were read before, by size, time of change,
            time of the entry (which no copy can set back) and number; it may be deleted.

    Returns:
        16 hex digits, which name and content of every file decide; None without files.
    """
    listed = list(dict.fromkeys(paths))
    if not listed:
        return None
    before = _read_known(known)
    now = {key: value for key, value in before.items() if Path(key).is_file()}
    sums = {}
    for path in listed:
        name = str(path.absolute())
        try:
            state, settled = _state(path)
            if now.get(name, ["", ""])[0] != state:
                now[name] = [state, sha256_of(path)]
            sums[str(path)] = now[name][1]
            if not settled:
                del now[name]
        except OSError:
            sums[str(path)] = "missing"
    if now != before:
        with contextlib.suppress(OSError):  # a folder that cannot be written to: read each time
            write_text_atomically(known, json.dumps(now, sort_keys=True))
    return digest_of(sums)


def _state(path: Path) -> tuple[str, bool]:
    """What tells that a file is still the same, and whether that can be relied on by now."""
    found = path.stat()
    times = (found.st_mtime_ns, found.st_ctime_ns)
    settled = time.time() - max(times) / 1e9 > _SETTLED_SECONDS
    return "-".join(map(str, (found.st_size, *times, found.st_ino))), settled


def _read_known(path: Path) -> dict[str, list[str]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    good = isinstance(known, dict) and all(
        isinstance(one, list) and len(one) == 2 for one in known.values()
    )
    return known if good else {}

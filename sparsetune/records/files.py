"""Files that are whole or not there at all, and the hashes that tell them apart."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsetune.errors import ConfigError, DataError, DiskError, is_full_disk, shown

_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex sha256 of one file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def checked_path(where: str, value: object) -> Path:
    """Take a path as a caller gives it.

    Args:
        where: what it is for, for the message.
        value: as received.

    Raises:
        ConfigError: it is no text and no path.
    """
    if not isinstance(value, str | Path) or "\0" in str(value) or not str(value):
        raise ConfigError(f"{where}: received {shown(value)}; allowed: a path")
    return Path(value)


def digest_of(settings: Any) -> str:
    """First 16 hex digits of the sha256 of ``settings`` as canonical JSON."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that a reader sees the old one or the new one, never half.

    Args:
        path: the file; its folder is made.

    Yields:
        A path beside it to write to: it becomes ``path`` at the end, or is deleted if the
        writing failed.

    Raises:
        DiskError: the disk is full; the message names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if is_full_disk(error):
            raise DiskError(f"{path}: no room to write it; make some and run again") from error
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; see :func:`replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as sorted, indented JSON, atomically."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + "\n")


def read_json(path: Path, *, what: str = "record") -> Any:
    """Read a JSON file, or raise a one-line DataError that names it.

    Args:
        path: the file.
        what: the word the message uses for it.

    Raises:
        DataError: the file is missing, not UTF-8, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what}; run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable {what}: {error}") from None

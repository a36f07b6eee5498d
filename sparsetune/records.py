"""The JSON record that every stage leaves: written atomically, read with validation.

A record has four parts: what was ``asked``, from which ``inputs`` (path -> sha256), what was
``measured`` (units in the names) and ``where``. Nothing heavy is imported.
"""

import functools
import hashlib
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from sparsetune.errors import DataError, DiskError, is_full_disk
from sparsetune.validation import first_violation

STAGES: dict[str, int] = {
    "dataset": 1,
    "backbone": 2,
    "support": 3,
    "ticket": 3,
    "tune": 4,
    "evaluate": 3,
    "cost": 4,
    "tables": 6,
    "claims": 2,
    "figures": 3,
    "track": 2,
}
"""Stage name -> version, in the order in which data flows."""

RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "datasets", "mlflow", "numpy")
_CHUNK_BYTES = 1 << 20
_IMPORTED = time.time()


def sha256_of(path: Path) -> str:
    """Hex sha256 of one file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


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


class Clock:
    """Start and end of one job, and how long it took to get ready.

    ``start_up_seconds`` runs from the start of the process to :meth:`ready`, so that the
    cost of imports is visible in every record.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self.start_up_seconds: float | None = None

    def ready(self) -> None:
        """Mark the end of imports and loading: work starts now."""
        # The kernel counts in hundredths of a second: a process may seem to begin later than now.
        self.start_up_seconds = round(max(0.0, time.time() - _process_start()), 3)

    def where(self, device: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The record's ``where`` part: code, packages, machine and times."""
        ended = time.time()
        return {
            **git_state(),
            "device": dict(device or {"name": "cpu", "kind": "cpu"}),
            "ended": _timestamp(ended),
            "packages": _package_versions(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "seconds": round(ended - self.started, 3),
            "start_up_seconds": self.start_up_seconds,
            "started": _timestamp(self.started),
        }


def make_record(
    stage: str,
    *,
    asked: Mapping[str, Any],
    inputs: Mapping[str, str],
    measured: Mapping[str, Any],
    where: Mapping[str, Any],
) -> dict[str, Any]:
    """Assemble a record; ``asked`` gains the stage and its version.

    Args:
        stage: one of :data:`sparsetune.records.STAGES`.
        asked: ids, seed and resolved settings.
        inputs: path -> sha256 of every file the stage read.
        measured: scores, counts, seconds, bytes; finite numbers only.
        where: from :meth:`Clock.where`.
    """
    return {
        "asked": {"stage": stage, "stage_version": STAGES[stage], **asked},
        "inputs": dict(inputs),
        "measured": dict(measured),
        "where": dict(where),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Validate a record against its schema and write it atomically.

    Raises:
        DataError: the record does not satisfy ``workflow/schemas/record.schema.json``.
    """
    _check(path, record)
    write_json(path, record)


def read_record(path: Path, stage: str | None = None) -> dict[str, Any]:
    """Read and validate a record.

    Args:
        path: the record file.
        stage: the stage that must have written it; None = any.

    Raises:
        DataError: missing, damaged, not a record, or of another stage.
    """
    record = read_json(path)
    _check(path, record)
    found = record["asked"]["stage"]
    if stage is not None and found != stage:
        raise DataError(f"{path}: asked.stage is {found!r}, expected {stage!r}")
    return record


def _check(path: Path, record: Any) -> None:
    violation = first_violation("record", record)
    if violation:
        raise DataError(f"{path}: {violation}")


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _process_start() -> float:
    # On Linux the kernel knows when the process began; elsewhere the first import stands in.
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        up_seconds = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - up_seconds + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return _IMPORTED


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of the code, and whether tracked files differ from it; None outside a checkout."""

    def ask(*arguments: str) -> str | None:
        root = Path(__file__).resolve().parent
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes) if changes is not None else None}


@functools.cache
def _package_versions() -> dict[str, str]:
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

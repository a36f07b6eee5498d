"""One file of the hub: what it must be, whether it is that, and a download that resumes.

The library's own downloads begin anew after a kill and trust what arrives; these do neither.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from sparsetune.errors import DataError
from sparsetune.records import sha256_of

WAITS_SECONDS = (1.0, 2.0, 4.0)
"""Pauses between tries when the hub answers that it cannot serve just now."""
_CHUNK_BYTES = 1 << 20
_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it at one commit.

    Attributes:
        path: place in the repository, with ``/``.
        size_bytes: length.
        sha256: 64 hex digits, of files in large-file storage; None for those kept by git itself.
        git_sha1: git's id of the file: 40 hex digits, of the content where ``sha256`` is None.
    """

    path: str
    size_bytes: int
    sha256: str | None
    git_sha1: str

    @property
    def digest(self) -> str:
        """What the content is checked against."""
        return self.sha256 or self.git_sha1


def is_whole(path: Path, file: HubFile) -> bool:
    """Tell whether a local file has the length and the checksum that the hub lists.

    Args:
        path: may be absent.
        file: what it must be.

    Raises:
        OSError: it is there and cannot be read.
    """
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    found = sha256_of(path) if file.sha256 else _git_sha1(path, file.size_bytes)
    return found == file.digest


def download(file: HubFile, destination: Path, *, url: str, headers: Mapping[str, str]) -> None:
    """Download one file, going on where an earlier call was stopped.

    Bytes gather in a hidden file beside the destination, one process at a time; it takes the
    destination's place when its checksum is right. Wrong bytes are thrown away and fetched anew,
    once.

    Args:
        file: what must arrive.
        destination: replaced only by a whole file; its folder is made.
        url: where the hub serves it.
        headers: of the requests.

    Raises:
        DataError: what arrives has another checksum, twice.
        OSError: no network, a refusal of the hub, or no room; what has arrived stays for the next
            call.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.{file.digest[:12]}.partial")
    with _alone(partial) as handle:
        if is_whole(destination, file):  # another process was faster
            partial.unlink()
            return
        for _ in range(2):
            arrived = patiently(lambda: _fill(file, handle, url=url, headers=headers))
            if arrived and is_whole(partial, file):
                partial.replace(destination)
                return
            _log.warning("%s: what arrived is not what the hub lists; fetched anew", file.path)
            handle.truncate(0)
    partial.unlink(missing_ok=True)
    raise DataError(
        f"{file.path}: what arrives is not what the hub lists ({file.size_bytes} bytes, "
        f"{'sha256' if file.sha256 else 'git sha1'} {file.digest[:12]}…)"
    )


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask again when the hub answers that it cannot serve just now.

    Args:
        ask: one request or several.

    Returns:
        What it returns.

    Raises:
        HfHubHTTPError: another refusal, or the same one after the last pause.
    """
    from huggingface_hub.errors import HfHubHTTPError

    waits = iter(WAITS_SECONDS)
    while True:
        try:
            return ask()
        except HfHubHTTPError as problem:
            wait = next(waits, None)
            if wait is None or problem.response.status_code < 500:
                raise
            time.sleep(wait)


def _fill(file: HubFile, handle: BinaryIO, *, url: str, headers: Mapping[str, str]) -> bool:
    from huggingface_hub.file_download import http_get

    there = handle.seek(0, 2)
    if there > file.size_bytes:
        there = handle.truncate(0)
        handle.seek(0)
    try:
        http_get(
            url,
            handle,
            resume_size=there,
            # A compressed answer cannot be continued in the middle.
            headers={**headers, "Accept-Encoding": "identity"},
            expected_size=file.size_bytes,
            displayed_filename=file.path,
        )
    except OSError as problem:
        # The library tells a wrong length by a bare OSError; all others have a number or a class.
        if type(problem) is not OSError or problem.errno is not None:
            raise
        return False
    finally:
        handle.flush()
    return True


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[BinaryIO]:
    """Open a partial file for reading and writing, with no other process doing so."""
    while True:
        handle = partial.open("a+b")
        fcntl.flock(handle, fcntl.LOCK_EX)
        # The file may have been moved into place while this process waited for it.
        with contextlib.suppress(FileNotFoundError):
            if partial.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                break
        handle.close()
    try:
        yield handle
    finally:
        handle.close()


def _git_sha1(path: Path, size_bytes: int) -> str:
    digest = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

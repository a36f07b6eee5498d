"""One job at a time in a folder of checkpoints, among all machines that see the folder.

A lock is a file beside the folder that only one job can create, and that its owner touches again
and again. Exclusive creation holds on NFS since version 3. Not ``fcntl``: where a file system is
set up so (BeeGFS unless told otherwise, NFS with ``local_lock``), its locks hold on one machine
only, and nothing says it.
"""

import contextlib
import json
import logging
import os
import platform
import re
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from sparsetune.errors import DiskError, TrainingError
from sparsetune.records.clock import SCHEDULER_JOBS

_LOG = logging.getLogger(__name__)
BEAT_SECONDS = 10.0
"""How often an owner touches its lock."""
SILENT_SECONDS = 120.0
"""After this without a touch, as the one who waits counts, an owner elsewhere is taken for dead:
NFS may show another machine what is a minute old."""
WAIT_SECONDS = 24 * 3600.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Owner:
    """A job that holds a lock.

    Attributes:
        host: its machine's name.
        machine: this boot of it and its processes' numbering; None where the system tells neither.
        pid: process number there.
        process: when that process began, as the kernel counts; numbers are used again.
        job: number that a cluster's scheduler knows it by.
        since: UTC.
        token: unlike that of every other lock.
    """

    host: str
    machine: str | None
    pid: int
    process: str | None
    job: str | None
    since: str
    token: str

    @classmethod
    def this(cls) -> "Owner":
        """The process that asks."""
        return cls(
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            process=_process(os.getpid()),
            job=next(filter(None, map(os.environ.get, SCHEDULER_JOBS)), None),
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            token=uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"

    def is_dead(self) -> bool | None:
        """Whether the process is gone; None where this machine cannot know."""
        if self.machine is None or self.machine != _machine():
            return None
        return _process(self.pid) != self.process


class FolderLock:
    """The right to work in a folder, held until it is released or the process ends in any way.

    Args:
        folder: of checkpoints; need not exist. Locks are its siblings.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = Owner.this()
        self._number = 0
        self._over = threading.Event()
        self._beats: threading.Thread | None = None

    def take(self, wait_seconds: float = WAIT_SECONDS) -> bool:
        """Take the lock, waiting for the job that holds it.

        A job of this machine that ended without releasing its lock is noticed at once, one of
        another machine after some silence.

        Args:
            wait_seconds: at most.

        Returns:
            Whether another job held it at first.

        Raises:
            TrainingError: that job still holds it; the message names it.
            DiskError: no lock can be written: the disk is full, or may only be read.
        """
        started, waited = time.monotonic(), False
        silences: dict[tuple[int, int], float] = {}
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            where = self._folder.parent
            raise DiskError(f"{where}: cannot be written: {error.strerror}") from error
        while not self._taken(silences):
            now = time.monotonic()
            if not waited:
                _LOG.info("waiting: %s is held by %s", self._folder, self._holder()[1])
            waited = True
            if now - started >= wait_seconds:
                raise TrainingError(
                    f"{self._folder}: held by {self._holder()[1] or 'another job'}; allowed: one "
                    "job of a run at a time; wait for that one, or end it"
                )
            time.sleep(min(_LOOK_SECONDS, max(0.0, wait_seconds - (now - started))))
        self._beats = threading.Thread(target=self._beat, name="folder lock", daemon=True)
        self._beats.start()
        return waited

    def release(self) -> None:
        """Let the next job in."""
        self._over.set()
        if self._beats is not None:
            self._beats.join()
            if self.is_held():
                self._path(self._number).unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Whether the lock is still this job's."""
        number, owner = self._holder()
        return number == self._number and owner == self._owner

    def _taken(self, silences: dict[tuple[int, int], float]) -> bool:
        """Try once; ``silences`` remembers since when each touch has been the last one."""
        number, owner = self._holder()
        if number:
            why = self._dead(number, owner, silences)
            if why is None:
                return False
            _LOG.warning("%s: was held by %s, %s: taken over", self._folder, owner, why)
        # The next number, and not the same file again: of two that find a lock dead, one succeeds,
        # and neither can remove the other's.
        self._number = number + 1
        if not self._written(self._path(self._number)):
            return False
        if not self.is_held():  # another was faster, with a higher number
            self._path(self._number).unlink(missing_ok=True)
            return False
        for older in self._numbers():
            if older < self._number:
                self._path(older).unlink(missing_ok=True)
        return True

    def _written(self, path: Path) -> bool:
        """Create a lock, unless another job was faster; what cannot be written whole goes."""
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(asdict(self._owner), file)
        except FileExistsError:
            return False
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from error
        return True

    def _dead(
        self, number: int, owner: Owner | None, silences: dict[tuple[int, int], float]
    ) -> str | None:
        """Why the lock's owner is dead; None if it may live."""
        gone = owner.is_dead() if owner else None
        if gone is not None:
            return "which has ended" if gone else None
        try:
            # Opened, and not asked for by name: NFS then looks at the server.
            with self._path(number).open("rb") as file:
                touched = os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        now = time.monotonic()
        silent = now - silences.setdefault((number, touched), now)
        return f"silent for {silent:.0f} s" if silent >= SILENT_SECONDS else None

    def _beat(self) -> None:
        """Touch the lock until it is released; end the process if another has taken it over."""
        while not self._over.wait(BEAT_SECONDS):
            try:
                held = self.is_held()
                if held:
                    os.utime(self._path(self._number))
            except OSError as error:
                _LOG.warning("%s: lock not touched: %s", self._folder, error)
                continue
            if not held and not self._over.is_set():
                told = f"{self._folder}: taken over by {self._holder()[1]}; this job ends"
                sys.stderr.write(f"sparsetune: {told}\n")
                sys.stderr.flush()
                os._exit(TrainingError.exit_code)

    def _holder(self) -> tuple[int, Owner | None]:
        """The highest number, which holds, and its owner; 0 = nobody; None = not yet written."""
        for number in sorted(self._numbers(), reverse=True):
            try:
                told = json.loads(self._path(number).read_text(encoding="utf-8"))
                return number, Owner(**told)
            except FileNotFoundError:
                continue  # released just now
            except (ValueError, TypeError):
                return number, None
        return 0, None

    def _numbers(self) -> list[int]:
        form = re.compile(re.escape(self._folder.name) + r"\.(\d+)\.lock")
        found = (form.fullmatch(path.name) for path in self._folder.parent.iterdir())
        return [int(match[1]) for match in found if match]

    def _path(self, number: int) -> Path:
        return self._folder.with_name(f"{self._folder.name}.{number}.lock")


def _machine() -> str | None:
    """This boot of this machine, and the name space in which its processes are counted."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _process(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None if there is none, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]

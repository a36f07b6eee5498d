"""The warm process: imports once, then forks a child for each job that hands itself over.

It ends when its standard input does, which only the workflow holds, and takes all its children with
it; however it ends, the kernel ends them.
"""

import atexit
import ctypes
import gc
import importlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from sparsetune.architectures.families import FAMILIES, IMPORTED_EARLY
from sparsetune.tracking.client import set_patience
from sparsetune.warm import WARM_STAGES
from sparsetune.warm.client import MOST_BYTES, peer_of
from sparsetune.warm.situation import situation

IMPORTED = (
    *(f"sparsetune.stages.{stage}" for stage in WARM_STAGES),
    *IMPORTED_EARLY,
    "sklearn.metrics",
    "scipy.stats",
    "mlflow.store.tracking.sqlalchemy_store",
)
"""What jobs import: their stages, and what those import when they come to it."""

_FILES = 4  # standard streams and folder
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class Job:
    """What a fork takes over.

    Attributes:
        argv: the program's name and its arguments.
        umask: of the files that it makes.
        environment: variables that may differ from this process's; None = not set.
        files: descriptors of standard input, output, error, and the folder.
    """

    argv: list[str]
    umask: int
    environment: dict[str, str | None]
    files: list[int]

    def take_over(self) -> None:
        """Make this process, a fresh fork, the one that the job's own would have been."""
        for target, file in enumerate(self.files[:3]):
            os.dup2(file, target)
        os.fchdir(self.files[3])
        for file in self.files:
            os.close(file)
        os.umask(self.umask)
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        sys.argv[:] = self.argv
        if isinstance(sys.stdout, TextIOWrapper):
            # As Python sets it up at its start, when it sees where it leads.
            sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())


@dataclass(eq=False)
class _Fork:
    process: int
    ended: int  # readable when it has
    client: socket.socket | None


class Server:
    """Greets clients, forks, passes signals on, and tells how a fork ended.

    Args:
        listener: bound and listening; its file and folder go when the server ends.
        owner: a descriptor whose other end only the workflow holds.
        greeting: what a client compares itself with.
    """

    def __init__(self, listener: socket.socket, owner: int, greeting: bytes) -> None:
        self._listener, self._owner, self._greeting = listener, owner, greeting
        self._forks: list[_Fork] = []
        self._waiting: list[socket.socket] = []
        self._prctl = ctypes.CDLL(None).prctl

    def next_job(self) -> Job | None:
        """Serve until the workflow ends: None. In a fork it returns at once, with the job."""
        process = os.getpid()
        try:
            return self._serve()
        finally:
            if os.getpid() == process:
                shutil.rmtree(Path(self._listener.getsockname()).parent, ignore_errors=True)

    def _serve(self) -> Job | None:
        while True:
            answers: dict[int, Callable[[], Job | None]] = {self._listener.fileno(): self._greet}
            answers |= {client.fileno(): partial(self._take, client) for client in self._waiting}
            for fork in self._forks:
                answers[fork.ended] = partial(self._reap, fork)
                if fork.client:
                    answers[fork.client.fileno()] = partial(self._hear, fork)
            poll = select.poll()  # and not epoll, which forks would share
            for descriptor in (self._owner, *answers):
                poll.register(descriptor, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._owner in ready:
                self._end_all()
                return None
            for descriptor in ready:
                if job := answers[descriptor]():
                    return job

    def _greet(self) -> None:
        client, _ = self._listener.accept()
        if peer_of(client)[1] == os.getuid():
            with suppress(OSError):
                client.send(self._greeting)
                self._waiting.append(client)
                return
        client.close()

    def _take(self, client: socket.socket) -> Job | None:
        """Fork for a job; returns it in the fork, and None here."""
        self._waiting.remove(client)
        message, files = _received(client)
        parent, process = os.getpid(), None
        try:
            if message and len(files) == _FILES:
                job = Job(**json.loads(message), files=files)
                if (process := os.fork()) == 0:
                    self._leave(parent, client)
                    return job
                self._forks.append(_Fork(process, os.pidfd_open(process), client))
                _tell(f"{process} is {' '.join(job.argv[1:4])}")
        except (OSError, ValueError, TypeError) as error:  # no memory left, say: it runs cold
            _tell(f"a job could not be forked: {error}")
        for file in files:
            os.close(file)
        if process is None:
            client.close()
        return None

    def _leave(self, parent: int, client: socket.socket) -> None:
        """Let a fresh fork go its own way, with its parent's death as the only tie."""
        os.setsid()
        self._prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before the kernel was asked to tell
        # Held to the end: a client that sees it closed knows that the fork is gone, too.
        client.detach()
        self._listener.close()
        for other in self._waiting:
            other.close()
        for fork in self._forks:
            os.close(fork.ended)
            if fork.client:
                fork.client.close()

    def _hear(self, fork: _Fork) -> None:
        """Pass a signal on, or end a fork whose client is gone."""
        if fork.client is None or fork not in self._forks:
            return
        numbers, _ = _received(fork.client)
        for number in numbers:
            _signal(fork, number)
        if not numbers:
            fork.client.close()
            fork.client = None
            _signal(fork, signal.SIGKILL)

    def _reap(self, fork: _Fork) -> None:
        """Tell how a fork ended; what it had started ends with it."""
        with suppress(ProcessLookupError):  # before it is reaped, while the number is its own
            os.killpg(fork.process, signal.SIGKILL)
        _, status = os.waitpid(fork.process, 0)
        _tell(f"{fork.process} ended with {os.waitstatus_to_exitcode(status)}")
        os.close(fork.ended)
        self._forks.remove(fork)
        if fork.client:
            with suppress(OSError):
                fork.client.send(str(status).encode())
            fork.client.close()

    def _end_all(self) -> None:
        for fork in self._forks:
            _signal(fork, signal.SIGKILL)
        for fork in list(self._forks):
            self._reap(fork)


def _received(client: socket.socket) -> tuple[bytes, list[int]]:
    """A message and the descriptors with it; an empty one from a client that is gone."""
    try:
        flags = socket.MSG_CMSG_CLOEXEC
        message, files, _, _ = socket.recv_fds(client, MOST_BYTES, _FILES, flags)
    except OSError:
        return b"", []
    return message, files


def _tell(text: str) -> None:
    with suppress(OSError):  # a full disk, which is the jobs' to tell
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def _signal(fork: _Fork, number: int) -> None:
    """Send a signal to a fork, and to what it has started if no process can keep it off."""
    os.kill(fork.process, number)
    if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
        with suppress(ProcessLookupError):  # not yet the head of its group
            os.killpg(fork.process, number)


def import_all() -> None:
    """Import what jobs import, and let transformers make what it makes for the first model."""
    set_patience()
    for name in IMPORTED:
        importlib.import_module(name)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # A thousand regular expressions, made for all models at once, whichever is asked for.
    get_checkpoint_conversion_mapping(next(iter(FAMILIES)))


def serve(
    run: Callable[[Sequence[str]], int],
    descriptor: int,
    *,
    prepare: Callable[[], None] = import_all,
) -> int:
    """Import, then fork a child for every job until the workflow ends.

    Args:
        run: what a fork calls with its arguments; returns its exit code.
        descriptor: of the listening socket.
        prepare: imports what jobs need.

    Returns:
        Exit code of the warm process itself; forks never return.
    """
    greeting = json.dumps(situation()).encode()  # now, since imports alter the environment
    prepare()
    if opened := _devices():
        _tell(f"imports have opened {opened[0]}, which no fork can use: jobs run cold")
        return 1
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    _tell(f"{os.getpid()} has imported everything")
    with socket.socket(fileno=descriptor) as listener:
        job = Server(listener, sys.stdin.fileno(), greeting).next_job()
    if job is not None:
        _run(run, job)
    return 0


def _devices() -> list[str]:
    """Files of GPUs that this process has open: a driver that was asked does not survive a fork."""
    links = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    kinds = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
    return [str(link) for link in links if str(link).startswith(kinds)]


def _run(run: Callable[[Sequence[str]], int], job: Job) -> NoReturn:
    """Run a job and end as Python ends, but without taking a million objects apart."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # each process its own, as where each imports it; ``random`` does so
    code, interrupted = 1, False
    _forget_exits()
    try:
        job.take_over()
        code = run(job.argv[1:])
    except SystemExit as error:
        code = _code_of(error)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        interrupted = isinstance(error, KeyboardInterrupt)
    # As multiprocessing ends a fork, since Python 3.13.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def _forget_exits() -> None:
    """Leave to the warm process what its imports have asked to be done at its end.

    A fork that took apart what others still use would do harm, and torch's 180 requests take 0.1 s.
    """
    atexit._clear()
    atexit.register(logging.shutdown)
    for request in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        request.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined] # again, if used


def _code_of(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    sys.stderr.write(f"{error.code}\n")
    return 1

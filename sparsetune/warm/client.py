"""A job's side of a warm start: it hands itself over, waits, and ends as its fork ended."""

import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sparsetune.warm.situation import FREE_VARIABLES, VARIABLE, difference, situation

PATIENCE_SECONDS = 120.0
"""For the process to have imported everything; then the job does so itself."""
MOST_BYTES = 1 << 20
"""Of one message; a larger one does not arrive, and the job runs cold."""
PAUSES = {signal.SIGTSTP: signal.SIGSTOP, signal.SIGCONT: signal.SIGCONT}
ENDS = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def hand_over(argv: Sequence[str]) -> int | None:
    """Let the workflow's warm process run this job, if it is there and fits.

    The fork gets this process's arguments, folder, umask and standard streams; signals are passed
    on to it. If it ends by a signal, so does this process.

    Args:
        argv: the program's name and its arguments.

    Returns:
        The exit code of the job; None = the job has to run here, cold: there is no such process,
        it is another one's, its :func:`situation` differs, or it ended before the job did.
    """
    path = os.environ.get(VARIABLE)
    if not path or sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        workflow = None
        try:
            connection.connect(path)
            process, user = peer_of(connection)
            workflow = _Workflow(process)
            reason = "it is another user's" if user != os.getuid() else _unfit(connection)
        except OSError as error:
            reason = str(error) or type(error).__name__
        if workflow and reason is None:
            connection.settimeout(None)
            return _follow(connection, workflow, argv)
    if workflow and workflow.has_ended():
        return _end_by(signal.SIGTERM)
    _tell(f"cold start, since the warm process cannot be used: {reason}")
    return None


class _Workflow:
    """The process that a job was started for, and that it must not outlive.

    A job that its warm process has forked ends with that one; this is for what is left.
    """

    def __init__(self, process: int) -> None:
        self._watched: int | None = None  # readable when the process has ended
        self._gone = False
        try:
            self._watched = os.pidfd_open(process)
        except ProcessLookupError:
            self._gone = True
        except OSError:
            pass  # an old kernel, or another name space: it cannot be watched

    def has_ended(self) -> bool:
        """Whether it has; no, if it cannot be told."""
        if self._watched is None:
            return self._gone
        return bool(select.select([self._watched], [], [], 0)[0])

    def end_with(self) -> None:
        """End this process, too, as soon as it ends."""
        if self._watched is not None:
            threading.Thread(target=_end_after, args=(self._watched,), daemon=True).start()


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process and user on the other side, as the kernel noted them.

    For a client these are of the process that called ``listen``: Snakemake, which passes the
    socket on. For the warm process they are the client's.
    """
    size = struct.calcsize("3i")
    noted = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    process, user, _group = struct.unpack("3i", noted)
    return process, user


def _end_after(watched: int) -> None:
    select.select([watched], [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def _unfit(connection: socket.socket) -> str | None:
    told = connection.recv(MOST_BYTES)
    if not told:
        return "it has ended"
    unlike = difference(situation(), json.loads(told))
    return unlike and f"other {unlike}"


def _follow(connection: socket.socket, workflow: _Workflow, argv: Sequence[str]) -> int | None:
    """Hand over, wait, and return the exit code; None if the warm process ended first."""
    with _signals_to(connection) as received:
        status = b""
        with suppress(OSError):
            _send_job(connection, argv)
            status = connection.recv(MOST_BYTES)
    if status:
        code = os.waitstatus_to_exitcode(int(status))
        return code if code >= 0 else _end_by(-code)
    # The fork holds the connection's other end as well, so that it has ended, too.
    if received:
        return _end_by(received[-1])
    if workflow.has_ended():
        return _end_by(signal.SIGTERM)
    workflow.end_with()
    _tell("the warm process ended before this job did, which starts again, cold")
    return None


def _send_job(connection: socket.socket, argv: Sequence[str]) -> None:
    os.umask(umask := os.umask(0))
    free = {name: os.environ.get(name) for name in FREE_VARIABLES if name != VARIABLE}
    job = {"argv": list(argv), "umask": umask, "environment": free}
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        socket.send_fds(connection, [json.dumps(job).encode()], [0, 1, 2, folder])
    finally:
        os.close(folder)


@contextmanager
def _signals_to(connection: socket.socket) -> Iterator[list[int]]:
    """Pass signals on; yields those so far that would have ended this process."""
    received: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if number not in PAUSES:
            received.append(number)
        with suppress(OSError):
            connection.send(bytes([PAUSES.get(signal.Signals(number), number)]))
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)

    numbers = [n for n in (*ENDS, *PAUSES) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_by(number: int) -> int:
    """End as a process ends that this signal killed; returns only if it kills nobody."""
    with suppress(OSError):  # SIGKILL has no other meaning
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _tell(text: str) -> None:
    sys.stderr.write(f"sparsetune: {text}\n")
    sys.stderr.flush()

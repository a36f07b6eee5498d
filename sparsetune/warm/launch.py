"""Start the warm process of a workflow; called by Snakemake, before the first job."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsetune.errors import ConfigError
from sparsetune.warm.situation import VARIABLE

SWITCH = "SPARSETUNE_WARM"
"""``on`` (default) or ``off``."""
FEWEST_JOBS = 3
"""With fewer, their own imports take no longer than the warm process's."""
_THREADS = (
    "OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
_TEMPORARY = ("TMPDIR", "TMP", "TEMPDIR", "TEMP")
_UNBORN = "unborn"  # no shorter than its later name, or a path that fits now would not fit then
_END_SECONDS = 10.0


def wanted() -> bool:
    """Whether warm starts are possible here and not switched off.

    Raises:
        ConfigError: ``SPARSETUNE_WARM`` is neither ``on`` nor ``off``.
    """
    given = os.environ.get(SWITCH, "on")
    if given not in ("on", "off"):
        raise ConfigError(f"{SWITCH}: received {given!r}; allowed: on, off")
    return given == "on" and sys.platform == "linux"


def launch(threads: Sequence[int], *, log: Path) -> bool:
    """Start the warm process of this workflow, and let the jobs know where it is.

    It ends with this process, however this one ends: its standard input is a pipe that only this
    process holds.

    Args:
        threads: of each waiting job that would ask it. Libraries read the number when they are
            imported, so that it serves those with the most frequent one.
        log: where it tells what goes wrong.

    Returns:
        Whether it was started: not for so few jobs, nor without the ``sparsetune`` command, nor
        where it cannot be, which is told.
    """
    command = shutil.which("sparsetune")
    if len(threads) < FEWEST_JOBS or command is None:
        return False
    ((count, _),) = Counter(threads).most_common(1)
    folder = None
    try:
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=_prefix()))  # only this user may enter
        process = _started(command, folder, log, as_of_jobs(count))
    except OSError as error:  # a full disk, or a folder whose name is too long for a socket
        sys.stderr.write(f"sparsetune: no warm starts: {error}\n")
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return False
    os.environ[VARIABLE] = str(folder / "socket")
    atexit.register(_end, process, folder)
    return True


def _started(
    command: str, folder: Path, log: Path, changes: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, log.open("w") as told:
        listener.bind(str(folder / _UNBORN))
        listener.listen(socket.SOMAXCONN)
        # There under its name only once it listens, or somebody might sweep it away.
        (folder / _UNBORN).rename(folder / "socket")
        return subprocess.Popen(
            [command, "warm", "--listener", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=told,
            pass_fds=[listener.fileno()],
            env={**os.environ, **changes},
            start_new_session=True,  # a terminal's Ctrl-C is for the jobs
        )


def as_of_jobs(threads: int) -> dict[str, str]:
    """What Snakemake sets for a job with that many threads and no folder of its own."""
    temporary = dict.fromkeys(_TEMPORARY, tempfile.gettempdir())
    return dict.fromkeys(_THREADS, str(threads)) | temporary


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _prefix() -> str:
    return f"sparsetune-warm-{os.getuid()}-"


def _sweep() -> None:
    """Remove what workflows have left whose both processes were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_prefix()}*/socket"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt:
            attempt.setblocking(False)
            try:
                attempt.connect(str(path))
            except ConnectionRefusedError:
                shutil.rmtree(path.parent, ignore_errors=True)
            except OSError:
                continue  # busy, or somebody else removes it

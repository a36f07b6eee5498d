"""Which device a job computes on, and its place on a GPU that several jobs share.

Snakemake counts jobs that hold a GPU but hands out no ids. Here every job takes a slot of one
device and sees no other device. Torch is imported only by the functions that ask it.
"""

import fcntl
import importlib.util
import logging
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sparsetune.errors import ConfigError, TrainingError
from sparsetune.records.clock import SCHEDULER_JOBS
from sparsetune.records.parts import Device

_LOG = logging.getLogger(__name__)
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = Path("/proc/driver/nvidia/gpus")
_NODES = Path("/dev")
_ID = re.compile(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+")
_CONTEXT_BYTES = 640 * 2**20
"""What each process takes of a GPU's memory before its first tensor: CUDA's context and kernels,
which torch's own limit does not count."""
WAIT_SECONDS = 24 * 3600.0
"""How long a job waits for a slot: as long as the longest run of the default suites may take."""
_LOOK_SECONDS = 0.5


@dataclass
class Slot:
    """A job's place on one device, held until it is released or the process ends in any way.

    Attributes:
        device: as ``CUDA_VISIBLE_DEVICES`` names it: a number or a UUID.
        slots: jobs that may be on the device at once.
    """

    device: str
    slots: int
    _lock: IO[str] = field(repr=False)

    def release(self) -> None:
        """Give the place to the next job; the process keeps seeing the device."""
        self._lock.close()


def visible_devices() -> list[str]:
    """Name the GPUs that this process may use, without touching them.

    Returns:
        Numbers or UUIDs, in order: what ``CUDA_VISIBLE_DEVICES`` says, else all of the machine.
        Empty where there are none, where that variable hides them, or where torch was built
        without CUDA.

    Raises:
        ConfigError: the variable names what is no device, or a device twice.
    """
    if not _torch_has_cuda():
        return []
    given = os.environ.get(_VISIBLE)
    if given is None:
        return [str(number) for number in range(_gpu_count())]
    found: list[str] = []
    for word in given.split(",") if given.strip() else ():
        name = word.strip()
        # As CUDA has it: a negative number hides what comes after it; SLURM says it in words.
        if re.fullmatch(r"-\d+", name) or name == "NoDevFiles":
            break
        if not _ID.fullmatch(name) or name in found:
            raise ConfigError(
                f"{_VISIBLE}: received {given!r}; allowed: numbers or UUIDs (GPU-…, MIG-…), "
                "separated by commas, each only once"
            )
        found.append(name)
    return found


def claim_slot(
    jobs: int = 1, *, wait_seconds: float = WAIT_SECONDS, devices: Sequence[str] | None = None
) -> Slot | None:
    """Take a slot of the GPU with the fewest jobs on it, and see no other GPU from then on.

    So many jobs at once are spread over the devices: each has ``jobs / devices`` slots, rounded
    up. A slot is a lock file, which the kernel frees when the process ends, killed or not. Jobs of
    one user on one machine, outside a cluster's allotment or inside the same, share the slots.
    Call before anything touches CUDA.

    Args:
        jobs: at once on all devices, >= 1; up to their number, each job has one of its own.
        wait_seconds: how long to wait where all slots are taken; looks twice a second.
        devices: see :func:`visible_devices`; None = those.

    Returns:
        The slot, to be kept as long as the device is used; None where there is no device.

    Raises:
        ConfigError: see :func:`visible_devices`, or the folder of locks is another user's.
        TrainingError: other jobs hold all slots for longer than that.
    """
    names = visible_devices() if devices is None else list(devices)
    if not names:
        return None
    slots = math.ceil(jobs / len(names))
    folder = _lock_folder()
    started = time.monotonic()
    while (slot := _free_slot(folder, names, slots)) is None:
        waited = time.monotonic() - started
        if waited >= wait_seconds:
            raise TrainingError(
                f"GPU {', '.join(names)}: all {slots} slots of each were taken for "
                f"{wait_seconds:.0f} s; wait for the jobs that hold them, or let more share a "
                "device: --gpu-jobs (Snakemake: --resources gpu=N)"
            )
        if waited < _LOOK_SECONDS:
            _LOG.info("waiting: other jobs hold all %d slots of GPU %s", slots, ", ".join(names))
        time.sleep(min(_LOOK_SECONDS, max(0.0, wait_seconds - waited)))
    os.environ[_VISIBLE] = slot.device
    return slot


def memory_share(slots: int, total_bytes: int) -> float:
    """The fraction of a GPU's memory that torch may hold in each of several jobs.

    Equal shares, less what CUDA itself takes for each process. With a bound, the job that wants
    too much fails and says so; without, it takes the memory of its neighbours, and one of them
    fails.

    Args:
        slots: jobs at once, >= 1.
        total_bytes: the device's memory.

    Returns:
        In (0, 1]; 1 for a job that is alone.

    Raises:
        ConfigError: nothing would be left for any of them.

    Example:
        >>> memory_share(4, 80 * 2**30)
        0.2421875
    """
    if slots == 1:
        return 1.0
    share = 1 / slots - _CONTEXT_BYTES / total_bytes
    if share <= 0:
        most = total_bytes // _CONTEXT_BYTES
        raise ConfigError(
            f"--gpu-jobs: received {slots} jobs on one GPU of {total_bytes / 2**30:.0f} GiB; "
            f"allowed: fewer than {most}, since CUDA takes {_CONTEXT_BYTES / 2**30:.1f} GiB for "
            "each"
        )
    return share


def take_device(wish: str, jobs: int = 1) -> tuple[str, Slot | None]:
    """Turn ``auto``, ``cpu`` or ``cuda`` into ``cpu`` or ``cuda``, with a slot of the latter.

    Args:
        wish: the device that was asked for.
        jobs: see :func:`claim_slot`.

    Raises:
        ConfigError, TrainingError: see :func:`claim_slot` and :func:`memory_share`; or ``cuda``
            was asked for and there is none.
    """
    if wish == "cpu":
        return "cpu", None
    slot = claim_slot(jobs)
    import torch

    if not torch.cuda.is_available():
        if slot is not None:
            slot.release()
        if wish == "cuda":
            raise TrainingError("device: cuda was asked for, but torch sees no CUDA device")
        if slot is not None:
            _LOG.warning("GPU %s is there, but torch cannot use it: on the CPU", slot.device)
        return "cpu", None
    if slot is not None and slot.slots > 1:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(slot.slots, total))
    return "cuda", slot


def describe_device(device: str, slot: Slot | None = None) -> Device:
    """Name, kind and driver of a device, and the slot held on it, for the record's ``where``."""
    if device == "cpu":
        return Device(kind="cpu", name=_processor_name())
    import torch

    return Device(
        kind="cuda",
        name=torch.cuda.get_device_name(0),
        cuda=str(torch.version.cuda),
        tf32=bool(torch.backends.cuda.matmul.allow_tf32),
        id=slot.device if slot else None,
        slots=slot.slots if slot else None,
    )


def _free_slot(folder: Path, devices: Sequence[str], slots: int) -> Slot | None:
    """The first free slot of the device with the fewest jobs; of equals, the first device."""
    with _one_at_a_time(folder):
        loads = {name: _taken(folder, name) for name in devices}
        name = min(loads, key=lambda one: len(loads[one]))
        if len(loads[name]) >= slots:
            return None
        number = next(place for place in range(slots) if place not in loads[name])
        lock = _locked(folder / f"{_file_name(name)}.{number}.lock")
        return Slot(name, slots, lock) if lock else None


def _taken(folder: Path, device: str) -> set[int]:
    """Numbers of the device's slots that a process holds, whoever set them up."""
    numbers = set()
    for path in folder.glob(f"{_file_name(device)}.*.lock"):
        if (lock := _locked(path)) is None:
            numbers.add(int(path.suffixes[-2].removeprefix(".")))
        else:
            lock.close()
    return numbers


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock under which slots are looked at and taken, for some milliseconds."""
    with (folder / "choosing").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _locked(path: Path) -> IO[str] | None:
    """The file, open and locked; None if another process has it."""
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _lock_folder() -> Path:
    # Number 0 in one job of a cluster may be another device than in the next.
    given = "-".join(filter(None, map(os.environ.get, SCHEDULER_JOBS)))
    tail = "-" + _file_name(given) if given else ""
    folder = Path(tempfile.gettempdir()) / f"sparsetune-gpus-{os.getuid()}{tail}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    return folder


def _file_name(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z-]", "_", name)


def _torch_has_cuda() -> bool:
    """Whether torch was built with CUDA, read from its files: importing it takes seconds."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    written = Path(found.origin).with_name("version.py")
    told = written.read_text(encoding="utf-8") if written.is_file() else ""
    return re.search(r"^cuda\b.*= None$", told, re.MULTILINE) is None


def _gpu_count() -> int:
    """GPUs of the machine; the driver may tell of more than a container was given nodes of."""
    told = sum(1 for _ in _DRIVER.iterdir()) if _DRIVER.is_dir() else 0
    nodes = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in _NODES.glob("nvidia*"))
    return min(filter(None, (told, nodes)), default=0)


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

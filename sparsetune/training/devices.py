"""Which device a job computes on: chosen before torch starts, recorded, never a silent fallback."""

import fcntl
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from sparsetune.errors import TrainingError

_GPU_LIST = Path("/proc/driver/nvidia/gpus")


def claim_gpu() -> Any:
    """Give this process one GPU of its own on a machine with several.

    Snakemake counts GPUs but does not hand out ids. Each job locks the first free id (a lock
    file that the kernel releases when the process ends) and sets ``CUDA_VISIBLE_DEVICES``.
    A value that is already set, by a user or a cluster, is left alone. Call before torch
    touches CUDA.

    Returns:
        The open lock file, to be kept until the process ends; None if nothing was claimed.
    """
    count = len(list(_GPU_LIST.iterdir())) if _GPU_LIST.is_dir() else 0
    if count < 2 or "CUDA_VISIBLE_DEVICES" in os.environ:
        return None
    folder = Path(tempfile.gettempdir()) / f"sparsetune-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for gpu in range(count):
        lock = (folder / f"{gpu}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
        return lock
    raise TrainingError(
        f"all {count} GPUs are taken by other jobs; give Snakemake --resources gpu={count}"
    )


def resolve_device(wish: str) -> str:
    """Turn ``auto``, ``cpu`` or ``cuda`` into ``cpu`` or ``cuda``.

    Raises:
        TrainingError: ``cuda`` was asked for and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if wish == "cuda" and not there:
        raise TrainingError("device: cuda was asked for, but torch sees no CUDA device")
    return "cuda" if there and wish != "cpu" else "cpu"


def describe_device(device: str) -> dict[str, Any]:
    """Name, kind and driver of a device, for the record's ``where``."""
    if device == "cpu":
        return {"kind": "cpu", "name": _processor_name()}
    import torch

    return {
        "kind": "cuda",
        "name": torch.cuda.get_device_name(0),
        "cuda": str(torch.version.cuda),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
    }


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

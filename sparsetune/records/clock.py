"""Where and when a job ran: code, packages, machine, times."""

import functools
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from sparsetune.records.parts import Device, Tracking, Where

RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "datasets", "mlflow", "numpy")
SCHEDULER_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
"""Variables in which clusters name their jobs."""
_IMPORTED = time.time()


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

    def where(self, device: Device | None = None, *, tracking: Tracking | None = None) -> Where:
        """The record's ``where`` part.

        Args:
            device: what computed; None = a CPU whose name nobody asked for.
            tracking: where MLflow has the run, if it was asked to.
        """
        ended = time.time()
        return Where(
            **git_state(),
            device=device or Device(kind="cpu", name="cpu"),
            ended=_timestamp(ended),
            packages=_package_versions(),
            platform=platform.platform(),
            python=platform.python_version(),
            seconds=round(ended - self.started, 3),
            start_up_seconds=self.start_up_seconds,
            started=_timestamp(self.started),
            host=platform.node() or None,
            threads=_threads(),
            job=next(filter(None, map(os.environ.get, SCHEDULER_JOBS)), None),
            tracking=tracking,
        )


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _threads() -> int | None:
    """Threads that torch computes with; None where nothing was computed with torch."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


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

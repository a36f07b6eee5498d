"""What every job of a stage has: clock, device, folder for resuming, and a record to leave."""

import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from sparsetune.config.suite import RunSpec
from sparsetune.errors import ConfigError, TrainingError
from sparsetune.records import (
    STAGES,
    BackboneRecord,
    Clock,
    DatasetRecord,
    Record,
    digest_of,
    read_record,
    sha256_of,
    write_record,
)
from sparsetune.records.parts import Device, Part, Tracking

_GPU_LIST = Path("/proc/driver/nvidia/gpus")


class Context:
    """One job, from its first moment to its record.

    Attributes:
        checkpoint_seconds: time between checkpoints.
    """

    def __init__(
        self,
        device: str = "cpu",
        *,
        checkpoints: Path | None = None,
        checkpoint_seconds: float = 60,
    ) -> None:
        self._checkpoints = checkpoints
        self.checkpoint_seconds = checkpoint_seconds
        self._clock = Clock()
        self._wish = device
        self._gpu: IO[str] | None = None

    @cached_property
    def device(self) -> str:
        """``cpu`` or ``cuda``: chosen, and a GPU claimed, when it is first asked for.

        Raises:
            TrainingError: ``cuda`` was asked for and there is none, or none is free.
        """
        self._gpu = claim_gpu()
        return resolve_device(self._wish)

    @property
    def checkpoints(self) -> Path:
        """The job's own folder for resuming, outside declared outputs.

        Raises:
            ConfigError: the job was given none.
        """
        if self._checkpoints is None:
            raise ConfigError("--checkpoints: missing; a job that can be resumed needs it")
        return self._checkpoints

    def ready(self) -> None:
        """Mark the end of imports and loading: work starts now."""
        self._clock.ready()

    def work_folder(self, digest: str, *, folders: Sequence[Path], files: Sequence[Path]) -> Path:
        """The folder for resuming, keyed by everything the job depends on.

        Folders of other settings, inputs or stage versions are deleted: their checkpoints must not
        be taken up.

        Args:
            digest: of the resolved settings.
            folders: data set and backbone; what their records tell of their files counts.
            files: support and ticket, if any.
        """
        dataset, backbone = (folder / "record.json" for folder in folders)
        measured = [
            read_record(dataset, DatasetRecord).measured.files,
            read_record(backbone, BackboneRecord).measured.files,
        ]
        versions = [STAGES["ticket"], STAGES["tune"]]
        key = digest_of([digest, versions, measured, sorted(hashes(files).values())])
        for old in self.checkpoints.glob("*"):
            if old.name != key:
                shutil.rmtree(old, ignore_errors=True)
        return self.checkpoints / key

    def leave(
        self,
        path: Path,
        kind: type[Record[Any, Any]],
        *,
        asked: Mapping[str, Any],
        inputs: Mapping[str, str],
        measured: Part | Mapping[str, Any],
        tracking: Tracking | None = None,
    ) -> None:
        """Write the job's record; after it, nothing is needed to resume.

        Args:
            path: the record file.
            kind: class of the record.
            asked: ids, seed and resolved settings.
            inputs: path -> sha256 of every file that was read; see :func:`hashes`.
            measured: scores, counts, seconds, bytes.
            tracking: where MLflow has the run, if it was asked to.
        """
        # Only a job that computed on a device names it: of others nobody looked.
        device = describe_device(self.device) if "device" in vars(self) else None
        where = self._clock.where(device, tracking=tracking)
        write_record(path, kind.of(asked, inputs=inputs, measured=measured, where=where))
        if self._checkpoints is not None:
            shutil.rmtree(self._checkpoints, ignore_errors=True)
        if self._gpu is not None:
            self._gpu.close()


def asked_of_run(spec: RunSpec) -> dict[str, Any]:
    """The ``asked`` part of a run's records."""
    asked = {
        "suite": spec.suite,
        "backbone": spec.backbone.id,
        "task": spec.task.id,
        "method": spec.method.id,
        "seed": spec.seed,
        "digest": spec.digest,
        "settings": spec.settings(),
    }
    recipes = {"support": spec.support, "ticket": spec.ticket}
    return asked | {name: recipe.id for name, recipe in recipes.items() if recipe}


def asked_of(kind: str, thing: Any) -> dict[str, Any]:
    """The ``asked`` part about one thing of the catalogue.

    Args:
        kind: ``task``, ``backbone`` or ``support``.
        thing: with an ``id`` and ``settings()``.
    """
    settings = thing.settings()
    return {kind: thing.id, "digest": digest_of(settings), "settings": settings}


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Path -> sha256 of every input file, for the record."""
    return {str(path): sha256_of(path) for path in paths}


def claim_gpu() -> IO[str] | None:
    """Give this process one GPU of its own on a machine with several.

    Snakemake counts GPUs but does not hand out ids. Each job locks the first free id (a lock
    file that the kernel releases when the process ends) and sets ``CUDA_VISIBLE_DEVICES``.
    A value that is already set, by a user or a cluster, is left alone. Call before torch
    touches CUDA.

    Returns:
        The open lock file, to be kept as long as the GPU is; None if nothing was claimed.

    Raises:
        TrainingError: other jobs have all of them.
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


def describe_device(device: str) -> Device:
    """Name, kind and driver of a device, for the record's ``where``."""
    if device == "cpu":
        return Device(kind="cpu", name=_processor_name())
    import torch

    return Device(
        kind="cuda",
        name=torch.cuda.get_device_name(0),
        cuda=str(torch.version.cuda),
        tf32=bool(torch.backends.cuda.matmul.allow_tf32),
    )


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""What every job of a stage has: clock, device, folder for resuming, and a record to leave."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sparsetune.config.suite import RunSpec
from sparsetune.errors import ConfigError, DataError
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
from sparsetune.records.parts import Part, Tracking

if TYPE_CHECKING:
    from sparsetune.training.loop import Engine

from sparsetune.stages.devices import Slot, describe_device, take_device
from sparsetune.stages.folder_lock import FolderLock


class Context:
    """One job, from its first moment to its record; entered, alone in its folder for resuming."""

    def __init__(
        self,
        device: str = "cpu",
        *,
        checkpoints: Path | None = None,
        checkpoint_seconds: float = 60,
        gpu_jobs: int = 1,
        steps: str = "captured",
    ) -> None:
        self._checkpoints = checkpoints
        self._checkpoint_seconds, self._steps = checkpoint_seconds, steps
        self._clock = Clock()
        self._wish = device
        self._gpu_jobs = gpu_jobs
        self._slot: Slot | None = None
        self._lock = FolderLock(checkpoints) if checkpoints else None
        self._waited = False

    def __enter__(self) -> Self:
        """Wait until no other job of this run, here or on another machine, is at work.

        Raises:
            TrainingError: one still is, after a day.
        """
        if self._lock is not None:
            self._waited = self._lock.take()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the next job in."""
        if self._lock is not None:
            self._lock.release()

    def done_meanwhile(
        self, path: Path, kind: type[Record[Any, Any]], *, digest: str, inputs: Iterable[Path]
    ) -> bool:
        """Tell whether the job that this one waited for has left what this one would.

        Args:
            path: the record file.
            kind: class of the record.
            digest: of the settings that this job was asked for.
            inputs: every file that it would read.
        """
        if not self._waited:
            return False
        try:
            left = read_record(path, kind)
        except DataError:
            return False
        wanted = (digest, kind.version(), hashes(inputs))
        return (left.asked.digest, left.asked.stage_version, left.inputs) == wanted

    @cached_property
    def device(self) -> str:
        """``cpu`` or ``cuda``: chosen, and a slot of a GPU taken, when it is first asked for.

        Raises:
            ConfigError: ``CUDA_VISIBLE_DEVICES`` cannot be read, or too many jobs for one GPU.
            TrainingError: ``cuda`` was asked for and there is none, or none becomes free.
        """
        kind, self._slot = take_device(self._wish, self._gpu_jobs)
        return kind

    @property
    def engine(self) -> "Engine":
        """How the job trains: on its device, and there in captured steps unless that is not wished.

        Raises:
            ConfigError, TrainingError: see :attr:`device`.
        """
        from sparsetune.training.loop import Engine

        captured = self.device == "cuda" and self._steps == "captured"
        return Engine(self.device, captured, self._checkpoint_seconds)

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
        device = describe_device(self.device, self._slot) if "device" in vars(self) else None
        where = self._clock.where(device, tracking=tracking)
        write_record(path, kind.of(asked, inputs=inputs, measured=measured, where=where))
        if self._checkpoints is not None:
            shutil.rmtree(self._checkpoints, ignore_errors=True)
        if self._slot is not None:
            self._slot.release()


def asked_of_run(spec: RunSpec, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The ``asked`` part of a run's records.

    Args:
        spec: the run.
        settings: what the stage depends on, where that is more than the run.
    """
    asked = {
        "suite": spec.suite,
        "backbone": spec.backbone.id,
        "task": spec.task.id,
        "method": spec.method.id,
        "seed": spec.seed,
        "digest": spec.digest,
        "settings": settings or spec.settings(),
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

"""What several stages share: what was asked, hashes of inputs, and the folder for resuming."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.load import RunSpec
from sparsetune.errors import ConfigError
from sparsetune.records import STAGES, digest_of, read_record, sha256_of


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
    if spec.support:
        asked["support"] = spec.support.id
    if spec.ticket:
        asked["ticket"] = spec.ticket.id
    return asked


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Path -> sha256 of every input file, for the record."""
    return {str(path): sha256_of(path) for path in paths}


def require_digest(found: str, expected: str | None, *, what: str) -> None:
    """Refuse to work on settings that are not the ones the caller planned.

    Raises:
        ConfigError: the catalogue changed after the caller resolved it.
    """
    if expected is not None and found != expected:
        raise ConfigError(
            f"{what}: settings have digest {found}, the caller planned {expected}; "
            "the catalogue was edited in between: run the command again"
        )


def work_folder(
    checkpoints: Path, digest: str, *, folders: Sequence[Path], files: Sequence[Path]
) -> Path:
    """The folder for resuming a job, keyed by everything the job depends on.

    Folders of other settings, inputs or stage versions are deleted: their checkpoints must not be
    taken up.

    Args:
        checkpoints: the job's own folder.
        digest: of the resolved settings.
        folders: data set and backbone; what their records measured counts.
        files: support and ticket, if any.
    """
    measured = [read_record(folder / "record.json")["measured"].get("files") for folder in folders]
    versions = [STAGES["ticket"], STAGES["tune"]]
    key = digest_of([digest, versions, measured, sorted(hashes(files).values())])
    for old in checkpoints.glob("*"):
        if old.name != key:
            shutil.rmtree(old, ignore_errors=True)
    return checkpoints / key

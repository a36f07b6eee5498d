"""The JSON record that every stage leaves: a typed class a stage, written atomically.

A record has four parts: what was ``asked``, from which ``inputs`` (path -> sha256), what was
``measured`` (units in the names) and ``where``. Nothing heavy is imported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import ValidationError

from sparsetune.errors import DataError, refusal, violation
from sparsetune.records import parts
from sparsetune.records.clock import Clock, git_state
from sparsetune.records.files import (
    checked_path,
    digest_of,
    read_json,
    replacing,
    sha256_of,
    write_json,
    write_text_atomically,
)
from sparsetune.records.parts import Part, Where

STAGES: dict[str, int] = {
    "dataset": 2,
    "backbone": 3,
    "support": 3,
    "ticket": 4,
    "tune": 5,
    "evaluate": 5,
    "cost": 4,
    "tables": 7,
    "claims": 5,
    "figures": 4,
    "track": 2,
}
"""Stage name -> version, in the order in which data flows."""

AskedT = TypeVar("AskedT", bound=parts.Asked)
MeasuredT = TypeVar("MeasuredT", bound=Part)
RecordT = TypeVar("RecordT", bound="Record[Any, Any]")


class Record(Part, Generic[AskedT, MeasuredT]):
    """What one job was asked, from which files, what it measured, and where.

    Attributes:
        asked: stage, stage version, ids, seed and resolved settings.
        inputs: path -> sha256 of every file that the stage read.
        measured: scores, counts, seconds, bytes; finite numbers only.
        where: code, packages, machine and times.
    """

    stage: ClassVar[str]

    asked: AskedT
    inputs: parts.Files
    measured: MeasuredT
    where: Where

    @classmethod
    def version(cls) -> int:
        """The stage's version, as the code stands."""
        return STAGES[cls.stage]

    @classmethod
    def of(
        cls,
        asked: Mapping[str, Any],
        *,
        inputs: Mapping[str, str],
        measured: MeasuredT | Mapping[str, Any],
        where: Where,
    ) -> Self:
        """Assemble a record; ``asked`` gains the stage and its version.

        Args:
            asked: ids, seed and resolved settings.
            inputs: path -> sha256.
            measured: typed, or its fields by name.
            where: from :meth:`Clock.where`.

        Raises:
            ValidationError: a key that the stage's records do not have, or a value out of range.
        """
        content = {
            "asked": {"stage": cls.stage, "stage_version": cls.version(), **asked},
            "inputs": dict(inputs),
            "measured": measured,
            "where": where,
        }
        return cls.model_validate(content)


class DatasetRecord(Record[parts.DatasetAsked, parts.DatasetMeasured]):
    """``resources/datasets/TASK/record.json``."""

    stage: ClassVar = "dataset"


class BackboneRecord(Record[parts.BackboneAsked, parts.BackboneMeasured]):
    """``resources/backbones/BACKBONE/record.json``."""

    stage: ClassVar = "backbone"


class SupportRecord(Record[parts.SupportAsked, parts.SupportMeasured]):
    """``results/SUITE/support/BACKBONE/SUPPORT/record.json``."""

    stage: ClassVar = "support"


class TicketRecord(Record[parts.TicketAsked, parts.TicketMeasured]):
    """``results/SUITE/tickets/BACKBONE/TASK/TICKET/seed-N/record.json``."""

    stage: ClassVar = "ticket"


class TuneRecord(Record[parts.RunAsked, parts.TuneMeasured]):
    """``results/SUITE/runs/BACKBONE/TASK/METHOD/seed-N/tune.json``."""

    stage: ClassVar = "tune"


class EvaluateRecord(Record[parts.RunAsked, parts.EvaluateMeasured]):
    """``evaluate.json`` beside ``tune.json``."""

    stage: ClassVar = "evaluate"


class CostRecord(Record[parts.RunAsked, parts.CostMeasured]):
    """``cost.json`` beside ``tune.json``."""

    stage: ClassVar = "cost"


class ClaimsRecord(Record[parts.SuiteAsked, parts.ClaimsMeasured]):
    """``results/SUITE/claims.json``."""

    stage: ClassVar = "claims"


class TrackRecord(Record[parts.SuiteAsked, parts.TrackMeasured]):
    """``results/SUITE/track.json``."""

    stage: ClassVar = "track"


__all__ = [
    "RECORDS", "STAGES", "BackboneRecord", "ClaimsRecord", "Clock", "CostRecord",
    "DatasetRecord", "EvaluateRecord", "Record", "SupportRecord", "TicketRecord", "TrackRecord",
    "TuneRecord", "checked_path", "digest_of", "git_state", "read_any_record", "read_json",
    "read_record", "replacing", "sha256_of", "write_json", "write_record", "write_text_atomically",
]  # fmt: skip

RECORDS: dict[str, type[Record[Any, Any]]] = {
    one.stage: one
    for one in (
        DatasetRecord, BackboneRecord, SupportRecord, TicketRecord, TuneRecord, EvaluateRecord,
        CostRecord, ClaimsRecord, TrackRecord,
    )
}  # fmt: skip
"""Stage -> class of its records; ``tables`` and ``figures`` leave none."""


def write_record(path: Path, record: Record[Any, Any]) -> None:
    """Write a record atomically."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read and validate a record.

    Args:
        path: the record file.
        kind: class of the record that must be there.

    Raises:
        DataError: missing, damaged, of another stage, or with a key or value that such records
            do not have; the message says so where another version of the stage wrote it.

    Example:
        >>> read_record(Path("none.json"), TuneRecord)
        Traceback (most recent call last):
        sparsetune.errors.DataError: none.json: no such record; run the stage that writes it
    """
    try:
        found = kind.model_validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such record; run the stage that writes it") from None
    except ValidationError as error:
        raise DataError(f"{path}: {_told(path, kind, error)}") from None
    if found.asked.stage != kind.stage:
        raise DataError(refusal(path, "asked.stage", found.asked.stage, [kind.stage]))
    return found


def read_any_record(path: Path) -> Record[Any, Any]:
    """Read a record of whichever stage wrote it; see :func:`read_record`."""
    stage = _asked(read_json(path)).get("stage")
    if stage not in RECORDS:
        raise DataError(refusal(path, "asked.stage", stage, RECORDS))
    return read_record(path, RECORDS[stage])


def _told(path: Path, kind: type[Record[Any, Any]], error: ValidationError) -> str:
    """What is wrong with a file: damaged, of another stage, or not as this version writes it."""
    asked = _asked(read_json(path))
    stage, version = asked.get("stage"), asked.get("stage_version")
    if stage is not None and stage != kind.stage:
        return refusal("asked", "stage", stage, [kind.stage]).replace(": ", ".", 1)
    told = violation(kind, error)
    if stage == kind.stage and isinstance(version, int) and version != kind.version():
        told += f"; version {version} of stage {stage!r} wrote it, this is {kind.version()}: rerun"
    return told


def _asked(content: Any) -> dict[str, Any]:
    found = content.get("asked") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}

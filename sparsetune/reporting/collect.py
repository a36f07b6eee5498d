"""Reading the records of finished runs and refusing, by name, what does not fit together.

A run's folder is ``<backbone>/<task>/<method>/seed-<n>`` and holds the records of its stages.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sparsetune.errors import DataError
from sparsetune.records import read_record
from sparsetune.reporting.columns import RunLink

RUN_STAGES = ("tune", "evaluate", "cost")
Key = tuple[str, str, str]
"""(backbone, task, method): what runs that differ only in their seed share."""

_IDENTITY = ("suite", "backbone", "task", "method", "seed", "digest")
_SEED = re.compile(r"seed-(0|[1-9][0-9]*)")
_MODEL = "model.safetensors"


@dataclass(frozen=True)
class RunRow:
    """One run: who it is, and its three records."""

    backbone: str
    task: str
    method: str
    seed: int
    folder: Path
    records: Mapping[str, Mapping[str, Any]]

    @property
    def key(self) -> Key:
        """(backbone, task, method)."""
        return self.backbone, self.task, self.method

    def measured(self, stage: str, name: str) -> Any:
        """One measured value of a stage's record.

        Args:
            stage: ``tune``, ``evaluate`` or ``cost``.
            name: key in the record's ``measured`` part.

        Raises:
            DataError: the record has no such value.
        """
        values = self.records[stage]["measured"]
        if name not in values:
            raise DataError(
                f"{self.folder / stage}.json: measured.{name}: missing; rerun stage {stage!r}"
            )
        return values[name]

    @property
    def headline_metric(self) -> str:
        """Name of the task's first metric."""
        return self.measured("evaluate", "headline_metric")

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Metric -> value on the evaluation split; None where undefined."""
        values = self.measured("evaluate", "metrics")
        if self.headline_metric not in values:
            raise DataError(
                f"{self.folder / 'evaluate.json'}: measured.metrics.{self.headline_metric}: "
                "missing; it is the headline metric"
            )
        return values

    @property
    def link(self) -> RunLink:
        """The way to the run: its scores, and its MLflow run if it has one."""
        tracking = self.records["tune"]["where"].get("tracking") or {}
        run_id = tracking.get("mlflow_run_id")
        return RunLink(f"seed {self.seed}", self.folder / "evaluate.json", run_id)

    @property
    def collapsed(self) -> bool:
        """Whether all predictions are the same."""
        return bool(self.measured("evaluate", "collapsed"))


@dataclass(frozen=True)
class RunGroup:
    """The runs of one method on one task, one per seed, in the order of their seeds."""

    key: Key
    rows: tuple[RunRow, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds that were run."""
        return [row.seed for row in self.rows]

    def values(self, stage: str, name: str) -> list[Any]:
        """One measured value for each seed."""
        return [row.measured(stage, name) for row in self.rows]


def collect(records: Iterable[Path]) -> list[RunRow]:
    """Join the records of each run.

    Args:
        records: any of the runs' record files, or their folders; naming one file of a run is
            enough, and all three are read.

    Returns:
        One row per run, sorted by backbone, task, method and seed.

    Raises:
        DataError: no records; a run without its evaluate or cost record; a folder that is not
            named like a run; records of one run that tell other ids, another digest or another
            model; one run in two folders; stage versions that differ.
    """
    folders = {path if path.is_dir() else path.parent for path in records}
    if not folders:
        raise DataError("records: got none, need the records of at least one run")
    rows = [_read_run(folder) for folder in sorted(folders)]
    rows.sort(key=lambda row: (*row.key, row.seed))
    for before, after in pairwise(rows):
        if (before.key, before.seed) == (after.key, after.seed):
            raise DataError(f"{before.folder} and {after.folder} hold the same run; pass one")
    for stage in RUN_STAGES:
        _check_one_version(rows, stage)
    return rows


def group_runs(rows: Sequence[RunRow], order: Sequence[Key]) -> list[RunGroup]:
    """Group runs that differ only in their seed.

    Args:
        rows: from :func:`collect`.
        order: keys of the whole suite, in the order to return.

    Raises:
        DataError: a run whose key is not in ``order``.
    """
    by_key: dict[Key, list[RunRow]] = {key: [] for key in order}
    for row in sorted(rows, key=lambda row: row.seed):
        if row.key not in by_key:
            raise DataError(f"{row.folder}: run {'/'.join(row.key)} is not in the suite")
        by_key[row.key].append(row)
    return [RunGroup(key, tuple(found)) for key, found in by_key.items() if found]


def links_of(groups: Iterable[RunGroup]) -> list[list[RunLink]]:
    """The way to each run, group by group."""
    return [[row.link for row in group.rows] for group in groups]


def _read_run(folder: Path) -> RunRow:
    seed = _SEED.fullmatch(folder.name)
    parts = folder.absolute().parts[-4:]
    if seed is None or len(parts) < 4:
        raise DataError(
            f"{folder}: not the folder of a run, need <backbone>/<task>/<method>/seed-<n>"
        )
    row = RunRow(
        backbone=parts[0],
        task=parts[1],
        method=parts[2],
        seed=int(seed[1]),
        folder=folder,
        records={stage: read_record(folder / f"{stage}.json", stage) for stage in RUN_STAGES},
    )
    _check_identity(row)
    for stage in ("evaluate", "cost"):
        _check_inputs(row, stage)
    return row


def _check_identity(row: RunRow) -> None:
    first = row.records["tune"]["asked"]
    for stage in RUN_STAGES:
        asked = row.records[stage]["asked"]
        file = row.folder / f"{stage}.json"
        for name in ("backbone", "task", "method", "seed"):
            if asked.get(name) != getattr(row, name):
                raise DataError(
                    f"{file}: asked.{name} is {asked.get(name)!r}, its folder says "
                    f"{getattr(row, name)!r}"
                )
        for name in _IDENTITY:
            if asked.get(name) != first.get(name):
                raise DataError(
                    f"{file}: asked.{name} is {asked.get(name)!r}, tune.json beside it has "
                    f"{first.get(name)!r}; rerun stage {stage!r}"
                )


def _check_inputs(row: RunRow, stage: str) -> None:
    """Refuse a record that was made from another model than this run's."""
    own = (row.backbone, row.task, row.method, f"seed-{row.seed}", _MODEL)
    for path, digest in row.records[stage]["inputs"].items():
        if Path(path).parts[-5:] != own:
            continue
        expected = row.records["tune"]["measured"]["model_sha256"]
        if digest != expected:
            raise DataError(
                f"{row.folder / stage}.json: inputs: sha256 of {_MODEL} is {digest[:16]}..., "
                f"tune wrote {expected[:16]}...; rerun stage {stage!r}"
            )


def _check_one_version(rows: list[RunRow], stage: str) -> None:
    first = rows[0]
    version = first.records[stage]["asked"]["stage_version"]
    for row in rows:
        other = row.records[stage]["asked"]["stage_version"]
        if other != version:
            raise DataError(
                f"{row.folder / stage}.json: stage_version is {other}, "
                f"{first.folder / stage}.json has {version}; rerun the older one"
            )

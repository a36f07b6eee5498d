"""The records of finished runs as a pandas frame; what does not fit together is refused by name.

A run's folder is ``<backbone>/<task>/<method>/seed-<n>`` and holds the records of its stages.
"""

import functools
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune.config.task import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.records import CostRecord, EvaluateRecord, TuneRecord, read_record
from sparsetune.records.parts import Macs
from sparsetune.reporting.contents import RUN_STAGES
from sparsetune.reporting.render import RunLink

Key = tuple[str, str, str]
"""(backbone, task, method): what runs that differ only in their seed share."""
KEY = ("backbone", "task", "method")
RunId = tuple[str, str, str, int]
"""(backbone, task, method, seed)."""

_NOT_TRAINING = ("search", "inference", "total")
_SEED = re.compile(r"seed-(0|[1-9][0-9]*)")
_MODEL = "model.safetensors"


@dataclass(frozen=True)
class Finished:
    """What a suite asked for, and the runs of it that are finished.

    Attributes:
        runs: a line a run in the suite's order: who it is, what it reached, what it took. All
            measured values have the records' names, beside what :func:`collect` tells of;
            ``score`` is the primary metric's value, and what is undefined is None.
        order: (backbone, task, method) of everything that the suite can run, in its order.
        refusals: (backbone, task, method) that the suite asks for and that cannot run -> why.
    """

    runs: pd.DataFrame
    order: Sequence[Key]
    refusals: Mapping[Key, str]

    @functools.cached_property
    def groups(self) -> dict[Key, pd.DataFrame]:
        """The runs that differ only in their seed, in the suite's order."""
        return dict(iter(self.runs.groupby(list(KEY), sort=False)))

    def only(self, *pair: str) -> "Finished":
        """What there is of one backbone, or of one backbone and task."""
        chosen = (self.runs[list(KEY[: len(pair)])] == pair).all(axis=1)
        refusals = {key: why for key, why in self.refusals.items() if key[: len(pair)] == pair}
        order = [key for key in self.order if key[: len(pair)] == pair]
        return Finished(self.runs[chosen], order, refusals)


def collect(
    records: Iterable[Path],
    order: Iterable[Key] | None = None,
    refusals: Mapping[Key, str] | None = None,
) -> Finished:
    """Join the records of each run, and put the runs beside what was asked for.

    Args:
        records: any of the runs' record files, or their folders; naming one file of a run is
            enough, and all three are read.
        order: (backbone, task, method) of the whole suite, in the order to print; doubles do not
            matter. None = what there is, sorted.
        refusals: (backbone, task, method) that cannot run -> why.

    Returns:
        The runs in that order, those of one key by increasing seed.

    Raises:
        DataError: no records; a run without its evaluate or cost record; a folder that is not
            named like a run; records of one run that tell other ids, another digest or another
            model; one run in two folders; stage versions that differ; a run not in ``order``.
    """
    folders = {path if path.is_dir() else path.parent for path in records}
    if not folders:
        raise DataError("records: received none; allowed: the records of at least one run")
    runs: dict[RunId, _Run] = {}
    for run in map(_read_run, sorted(folders)):
        if other := runs.get((*run.key, run.seed)):
            raise DataError(f"{other.folder} and {run.folder} hold the same run; pass one")
        runs[*run.key, run.seed] = run
    found = [runs[run_id] for run_id in sorted(runs)]
    _check_versions(found)
    order = list(dict.fromkeys(run.key for run in found) if order is None else dict.fromkeys(order))
    places = {key: place for place, key in enumerate(order)}
    for run in found:
        if run.key not in places:
            raise DataError(f"{run.folder}: run {'/'.join(run.key)} is not in the suite")
    found.sort(key=lambda run: places[run.key])
    # Objects, so that counts stay whole and None stays None.
    frame = pd.DataFrame([_line(run) for run in found], dtype=object)
    return Finished(frame, order, refusals or {})


def mean_of(values: Iterable[Any]) -> Any:
    """Mean, exact where all values agree; None if any is undefined, or without values."""
    found = list(values)
    if not found or any(value is None for value in found):
        return None
    return found[0] if len(set(found)) == 1 else statistics.fmean(found)


def deviation_of(values: Iterable[Any]) -> float | None:
    """Sample standard deviation; None below two values or if any is undefined."""
    found = list(values)
    if len(found) < 2 or any(value is None for value in found):
        return None
    return statistics.stdev(found)


def is_generated(names: Iterable[str]) -> bool:
    """Whether one of these backbones or tasks is generated and small."""
    return any(name.startswith(GENERATED_PREFIX) for name in names)


@dataclass(frozen=True)
class _Run:
    """One run: who it is, and its three records."""

    key: Key
    seed: int
    folder: Path
    tune: TuneRecord
    evaluate: EvaluateRecord
    cost: CostRecord


def _line(run: _Run) -> dict[str, Any]:
    """Everything that is reported of a run."""
    asked, where = run.tune.asked, run.tune.where
    tune, evaluate, cost = run.tune.measured, run.evaluate.measured, run.cost.measured
    run_id = where.tracking.mlflow_run_id if where.tracking else None
    life, layers, at_128 = (
        cost.breakdown.whole_life,
        cost.sparsity_by_layer,
        cost.macs_at_128_tokens,
    )
    # Over the lengths of the evaluation split, or of one whole generated text.
    over = {one.padding: one for one in cost.macs_over_lengths if one.split == "evaluation"}
    parts: Sequence[Macs] = cost.macs_per_text or [over["none"]]
    places = (where, run.evaluate.where, run.cost.where)
    dense, executed, effective = (
        sum(getattr(part, kind) for part in parts) for kind in ("dense", "executed", "effective")
    )
    padded = None if cost.macs_per_text else over["batches"].executed
    whole = cost.macs_dense_per_example
    return {
        **dict(tune), **dict(evaluate), **dict(cost),
        **dict(zip(KEY, run.key, strict=True)),
        "seed": run.seed,
        "folder": run.folder,
        "inputs": run.tune.inputs,
        "link": RunLink(f"seed {run.seed}", run.folder / "evaluate.json", run_id),
        "settings": asked.settings,
        "ticket": asked.ticket,
        "devices": (where.device.timed_on, run.evaluate.where.device.timed_on),
        "computed_with_threads": {where.threads, run.evaluate.where.threads} - {None},
        "dirty": any(place.dirty for place in places),
        "commits": {place.commit for place in places} - {None},
        "started": min(place.started for place in places),
        "ended": max(place.ended for place in places),
        "start_up_seconds": where.start_up_seconds,
        "metric": evaluate.headline_metric,
        "score": evaluate.metrics[evaluate.headline_metric],
        "interval_level": evaluate.intervals_from.level,
        "evaluation_split": asked.settings["scoring"]["evaluation_split"],
        "epoch_scores": tuple(tune.epoch_scores or ()),
        "training_seconds": tune.train_seconds - tune.loading_seconds,
        "threads": evaluate.speed[0].threads,
        "sparsity_by_layer": (layers.attention, layers.feed_forward),
        "macs_dense": dense,
        "macs_executed_share": executed / dense,
        "macs_effective_share": effective / dense,
        "macs_executed_padding_share": padded and padded / executed - 1,
        "macs_executed_share_of_dense": cost.macs_executed_per_example / whole,
        "macs_effective_share_of_dense": cost.macs_effective_per_example / whole,
        "macs_dense_at_128_tokens": at_128.dense,
        "macs_executed_share_at_128_tokens": at_128.executed / at_128.dense,
        "macs_effective_share_at_128_tokens": at_128.effective / at_128.dense,
        "macs_by_module": cost.breakdown.effective,
        "macs_by_operator": {one.operator: one.effective for one in cost.macs_by_operator},
        "search_macs": life.get("search", 0),
        "training_macs": sum(macs for name, macs in life.items() if name not in _NOT_TRAINING),
    }  # fmt: skip


def _read_run(folder: Path) -> _Run:
    seed = _SEED.fullmatch(folder.name)
    parts = folder.absolute().parts[-4:]
    if seed is None or len(parts) < 4:
        raise DataError(
            f"{folder}: not the folder of a run; allowed: <backbone>/<task>/<method>/seed-<n>"
        )
    run = _Run(
        (parts[0], parts[1], parts[2]), int(seed[1]), folder,
        read_record(folder / "tune.json", TuneRecord),
        read_record(folder / "evaluate.json", EvaluateRecord),
        read_record(folder / "cost.json", CostRecord),
    )  # fmt: skip
    for stage in RUN_STAGES:
        _check_record(run, stage)
    scores = run.evaluate.measured
    if scores.headline_metric not in scores.metrics:
        raise DataError(
            f"{folder / 'evaluate.json'}: measured.metrics.{scores.headline_metric}: missing; it "
            "is the primary metric"
        )
    return run


def _check_record(run: _Run, stage: str) -> None:
    """Refuse a record of another run than its folder says, or from another model or settings."""
    record, file = getattr(run, stage), run.folder / f"{stage}.json"
    for name, own in zip((*KEY, "seed"), (*run.key, run.seed), strict=True):
        told = getattr(record.asked, name)
        if told != own:
            raise DataError(f"{file}: asked.{name} is {told!r}, its folder says {own!r}")
    for name in ("suite", "digest"):
        told, expected = getattr(record.asked, name), getattr(run.tune.asked, name)
        if told != expected:
            raise DataError(
                f"{file}: asked.{name} is {told!r}, tune.json beside it has {expected!r}; rerun "
                f"stage {stage!r}"
            )
    model, expected = (*run.key, f"seed-{run.seed}", _MODEL), run.tune.measured.model_sha256
    for path, digest in record.inputs.items():
        if Path(path).parts[-5:] == model and digest != expected:
            raise DataError(
                f"{file}: inputs: sha256 of {_MODEL} is {digest[:16]}..., tune wrote "
                f"{expected[:16]}...; rerun stage {stage!r}"
            )


def _check_versions(runs: Sequence[_Run]) -> None:
    for run, stage in ((run, stage) for stage in RUN_STAGES for run in runs):
        version, other = (getattr(one, stage).asked.stage_version for one in (runs[0], run))
        if other != version:
            raise DataError(
                f"{run.folder / stage}.json: stage_version is {other}, "
                f"{runs[0].folder / stage}.json has {version}; rerun the older one"
            )

"""The records of finished runs as a pandas frame; what does not fit together is refused by name.

A run's folder is ``<backbone>/<task>/<method>/seed-<n>`` and holds the records of its stages.
"""

import functools
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
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

_NOT_TRAINING = ("search", "inference", "total")
_SEED = re.compile(r"seed-(0|[1-9][0-9]*)")
_MODEL = "model.safetensors"
_AS_RECORDED = {
    "tune": ("train_seconds", "peak_memory_bytes", "examples_seen", "epoch_scores_note"),
    "evaluate": (
        "metrics", "metric_notes", "intervals", "collapsed", "n_examples", "evaluate_seconds",
        "examples_per_second", "latency_seconds_batch_1", "sequences_per_second_batch_64",
        "inference_peak_memory_bytes",
    ),
    "cost": (
        "search_seconds", "parameters_total", "parameters_trained", "parameters_trained_with_head",
        "stored_bytes", "sparsity", "macs_dense_per_example", "macs_executed_per_example",
        "macs_effective_per_example", "macs_whole_life", "whole_life_inference_examples",
    ),
}  # fmt: skip
"""Stage -> measured values that the frame has under the record's names."""


@dataclass(frozen=True)
class RunRow:
    """One run: who it is, and its three records."""

    backbone: str
    task: str
    method: str
    seed: int
    folder: Path
    tune: TuneRecord
    evaluate: EvaluateRecord
    cost: CostRecord

    @property
    def key(self) -> Key:
        """(backbone, task, method)."""
        return self.backbone, self.task, self.method

    @property
    def headline_metric(self) -> str:
        """Name of the task's primary metric."""
        return self.evaluate.measured.headline_metric

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Metric -> value on the evaluation split; None where undefined."""
        return self.evaluate.measured.metrics


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
        raise DataError("records: received none; allowed: the records of at least one run")
    rows = [_read_run(folder) for folder in sorted(folders)]
    rows.sort(key=lambda row: (*row.key, row.seed))
    for before, after in pairwise(rows):
        if (before.key, before.seed) == (after.key, after.seed):
            raise DataError(f"{before.folder} and {after.folder} hold the same run; pass one")
    _check_versions(rows)
    return rows


def group_runs(rows: Sequence[RunRow], order: Iterable[Key]) -> dict[Key, list[RunRow]]:
    """Group runs that differ only in their seed, by increasing seed.

    Args:
        rows: from :func:`collect`.
        order: keys of the whole suite, in the order to return; those without runs are left out.

    Raises:
        DataError: a run whose key is not in ``order``.
    """
    groups: dict[Key, list[RunRow]] = {key: [] for key in order}
    for row in sorted(rows, key=lambda row: row.seed):
        if row.key not in groups:
            raise DataError(f"{row.folder}: run {'/'.join(row.key)} is not in the suite")
        groups[row.key].append(row)
    return {key: found for key, found in groups.items() if found}


@dataclass(frozen=True)
class Finished:
    """What a suite asked for, and the runs of it that are finished.

    Attributes:
        runs: a line a run in the suite's order: who it is, what it reached, what it took.
            ``score`` is the primary metric's value; seconds, bytes and counts are named as in the
            records, and what is undefined is None.
        order: (backbone, task, method) of everything that the suite can run, in its order.
        refusals: (backbone, task, method) that the suite asks for and that cannot run -> why.
    """

    runs: pd.DataFrame
    order: Sequence[Key]
    refusals: Mapping[Key, str] = field(default_factory=dict)

    @functools.cached_property
    def groups(self) -> dict[Key, pd.DataFrame]:
        """The runs that differ only in their seed, in the suite's order."""
        return dict(iter(self.runs.groupby(list(KEY), sort=False)))

    def only(self, *pair: str) -> "Finished":
        """What there is of one backbone, or of one backbone and task."""
        chosen = [
            row[: len(pair)] == pair for row in zip(*(self.runs[n] for n in KEY), strict=True)
        ]
        refusals = {key: why for key, why in self.refusals.items() if key[: len(pair)] == pair}
        order = [key for key in self.order if key[: len(pair)] == pair]
        return Finished(self.runs.loc[chosen], order, refusals)


def finished(
    rows: Sequence[RunRow], order: Iterable[Key], refusals: Mapping[Key, str] | None = None
) -> Finished:
    """Put the finished runs of a suite beside what it asked for.

    Args:
        rows: from :func:`collect`.
        order: (backbone, task, method) of the whole suite, in the order to print; doubles do not
            matter.
        refusals: (backbone, task, method) that cannot run -> why.

    Raises:
        DataError: a run that is not in ``order``.
    """
    order = list(dict.fromkeys(order))
    lines = [_line(row) for group in group_runs(rows, order).values() for row in group]
    # Objects, so that counts stay whole and None stays None.
    runs = pd.DataFrame(lines, columns=None if lines else [*KEY, "seed", "score"], dtype=object)
    return Finished(runs, order, refusals or {})


def mean_of(values: Iterable[Any]) -> Any:
    """Mean, exact where all values agree; None if any is undefined."""
    found = list(values)
    if any(value is None for value in found):
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


def devices_of(runs: pd.DataFrame) -> list[str]:
    """Names of the devices that runs were trained and evaluated on, sorted."""
    # The cost stage only counts, so where it ran does not matter.
    return sorted({name for names in runs["devices"] for name in names})


def common_notes(suite: Finished) -> list[str]:
    """Footnotes about what is absent, unlike the rest, or not to be compared with others."""
    groups, notes = suite.groups, []
    names = {key: "/".join(key) for key in [*suite.order, *groups]}
    if is_generated(key[1] for key in groups):
        notes.append(
            f"Tasks called {GENERATED_PREFIX}... are generated and small: they are not the "
            "published benchmarks, and their scores compare with nobody else's."
        )
    if absent := [names[key] for key in suite.order if key not in groups]:
        notes.append(f"Not run: {', '.join(absent)}.")
    told = [f"{key[2]} on {key[0]}: not run: {why}." for key, why in suite.refusals.items()]
    notes.extend(dict.fromkeys(told))
    seeds = set(suite.runs["seed"])
    gaps = {key: sorted(seeds - set(group["seed"])) for key, group in groups.items()}
    missing = [f"{names[key]} ({', '.join(map(str, gap))})" for key, gap in gaps.items() if gap]
    if missing:
        notes.append(f"Missing seeds: {', '.join(missing)}.")
    if dirty := [names[key] for key, group in groups.items() if any(group["dirty"])]:
        which = "all of them" if len(dirty) == len(groups) else ", ".join(dirty)
        notes.append(f"Run from a work tree with uncommitted changes: {which}.")
    devices = devices_of(suite.runs)
    if len(devices) > 1:
        notes.append(f"Run on different devices: {', '.join(devices)}.")
    return notes


def _line(row: RunRow) -> dict[str, Any]:
    """Everything that is reported of a run."""
    tune, evaluate, cost = row.tune.measured, row.evaluate.measured, row.cost.measured
    tracking = row.tune.where.tracking
    run_id = tracking.mlflow_run_id if tracking else None
    life, layers = cost.breakdown.whole_life, cost.sparsity_by_layer
    # Over the lengths of the evaluation split, or of one whole generated text.
    over = {one.padding: one for one in cost.macs_over_lengths if one.split == "evaluation"}
    parts: Sequence[Macs] = cost.macs_per_text or [over["none"]]
    dense = sum(part.dense for part in parts)
    executed = sum(part.executed for part in parts)
    padded = None if cost.macs_per_text else over["batches"].executed
    line = {
        **dict(zip(KEY, row.key, strict=True)),
        "seed": row.seed,
        "folder": row.folder,
        "link": RunLink(f"seed {row.seed}", row.folder / "evaluate.json", run_id),
        "settings": row.tune.asked.settings,
        "ticket": row.tune.asked.ticket,
        "devices": (row.tune.where.device.name, row.evaluate.where.device.name),
        "dirty": any(record.where.dirty for record in (row.tune, row.evaluate, row.cost)),
        "start_up_seconds": row.tune.where.start_up_seconds,
        "metric": row.headline_metric,
        "score": row.metrics[row.headline_metric],
        "interval_level": evaluate.intervals_from.level,
        "evaluation_split": row.tune.asked.settings["scoring"]["evaluation_split"],
        "epoch_scores": tuple(tune.epoch_scores or ()),
        "training_seconds": tune.train_seconds - tune.loading_seconds,
        "threads": evaluate.speed[0].threads,
        "sparsity_by_layer": (layers.attention, layers.feed_forward),
        "macs_dense": dense,
        "macs_executed_share": executed / dense,
        "macs_effective_share": sum(part.effective for part in parts) / dense,
        "macs_executed_padding_share": padded and padded / executed - 1,
        "macs_dense_at_128_tokens": cost.macs_at_128_tokens.dense,
        "macs_by_module": cost.breakdown.effective,
        "macs_by_operator": {one.operator: one.effective for one in cost.macs_by_operator},
        "search_macs": life.get("search", 0),
        "training_macs": sum(macs for name, macs in life.items() if name not in _NOT_TRAINING),
    }
    for kind in ("executed", "effective"):
        own = getattr(cost, f"macs_{kind}_per_example")
        line[f"macs_{kind}_share_of_dense"] = own / cost.macs_dense_per_example
        at_128 = getattr(cost.macs_at_128_tokens, kind) / cost.macs_at_128_tokens.dense
        line[f"macs_{kind}_share_at_128_tokens"] = at_128
    for stage, names in _AS_RECORDED.items():
        line |= {name: getattr(getattr(row, stage).measured, name) for name in names}
    return line


def _read_run(folder: Path) -> RunRow:
    seed = _SEED.fullmatch(folder.name)
    parts = folder.absolute().parts[-4:]
    if seed is None or len(parts) < 4:
        raise DataError(
            f"{folder}: not the folder of a run; allowed: <backbone>/<task>/<method>/seed-<n>"
        )
    backbone, task, method, _ = parts
    row = RunRow(
        backbone, task, method, int(seed[1]), folder,
        read_record(folder / "tune.json", TuneRecord),
        read_record(folder / "evaluate.json", EvaluateRecord),
        read_record(folder / "cost.json", CostRecord),
    )  # fmt: skip
    _check_identity(row)
    for stage in ("evaluate", "cost"):
        _check_inputs(row, stage)
    if row.headline_metric not in row.metrics:
        raise DataError(
            f"{folder / 'evaluate.json'}: measured.metrics.{row.headline_metric}: missing; it is "
            "the primary metric"
        )
    return row


def _check_identity(row: RunRow) -> None:
    for stage in RUN_STAGES:
        asked, file = getattr(row, stage).asked, row.folder / f"{stage}.json"
        for name in (*KEY, "seed"):
            if getattr(asked, name) != getattr(row, name):
                raise DataError(
                    f"{file}: asked.{name} is {getattr(asked, name)!r}, its folder says "
                    f"{getattr(row, name)!r}"
                )
        for name in ("suite", "digest"):
            expected = getattr(row.tune.asked, name)
            if getattr(asked, name) != expected:
                raise DataError(
                    f"{file}: asked.{name} is {getattr(asked, name)!r}, tune.json beside it has "
                    f"{expected!r}; rerun stage {stage!r}"
                )


def _check_inputs(row: RunRow, stage: str) -> None:
    """Refuse a record that was made from another model than this run's."""
    own, expected = (*row.key, f"seed-{row.seed}", _MODEL), row.tune.measured.model_sha256
    for path, digest in getattr(row, stage).inputs.items():
        if Path(path).parts[-5:] == own and digest != expected:
            raise DataError(
                f"{row.folder / stage}.json: inputs: sha256 of {_MODEL} is {digest[:16]}..., "
                f"tune wrote {expected[:16]}...; rerun stage {stage!r}"
            )


def _check_versions(rows: Sequence[RunRow]) -> None:
    first = rows[0]
    for row, stage in ((row, stage) for stage in RUN_STAGES for row in rows):
        version, other = (getattr(one, stage).asked.stage_version for one in (first, row))
        if other != version:
            raise DataError(
                f"{row.folder / stage}.json: stage_version is {other}, "
                f"{first.folder / stage}.json has {version}; rerun the older one"
            )

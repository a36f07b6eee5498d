"""What a suite will take, told before it runs, and how far off such predictions were.

A job's seconds = start-up of its stage + passes x a + multiply-adds x b, with a and b fitted to
finished jobs on the same device; assumptions stand in where nothing was measured, and are told.
"""

import heapq
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from sparsetune.config.load import Catalogue
from sparsetune.config.suite import Suite
from sparsetune.errors import ConfigError, refusal
from sparsetune.stages.workload import finished_jobs, frame_of, jobs_of

# Assumptions, used only where no record tells. Start-up: imports, loading, writing.
START_UP_SECONDS = {
    "dataset": 5.0, "backbone": 10.0, "support": 6.0, "ticket": 8.0, "tune": 8.0, "evaluate": 8.0,
    "cost": 1.0, "tables": 1.0, "claims": 3.0, "figures": 5.0, "track": 5.0,
}  # fmt: skip
PEAK_MACS_PER_SECOND = {  # dense products in 16 bits, as the makers state them: FLOPS / 2
    "t4": 32.5e12, "v100": 62.5e12, "l4": 60.5e12, "a10": 62.5e12, "a100": 156e12,
    "l40s": 181e12, "h100": 494.5e12, "h200": 494.5e12,
}  # fmt: skip
ASSUMED_FACTOR = 3.0
_CORE_RATE = (0.02, 1 / 20e9)
_GPU_PASS_SECONDS, _PEAK_SHARE = 0.04, 0.2  # short sequences in small batches: far from the peak
_FEWEST = 5  # jobs for a fit, and ratios for a spread
_ASSUMPTION_WEIGHT = 0.1  # of what is assumed, beside one measured job
_DEVICE_STAGES = ("backbone", "ticket", "tune", "evaluate")


@dataclass(frozen=True)
class Speed:
    """How long jobs take on one device.

    Attributes:
        rates: seconds of a pass and of a multiply-add, in training and in evaluation.
        fitted: finished jobs that each was fitted to; 0 = an assumption.
        kinds: kind of training -> how much longer it takes than the fit says.
        start_up: stage -> seconds.
    """

    rates: tuple[tuple[float, float], tuple[float, float]]
    fitted: tuple[int, int]
    kinds: Mapping[str, float]
    start_up: Mapping[str, float]

    def work(self, jobs: pd.DataFrame) -> pd.Series:
        """Seconds of each job's passes."""
        rates = [self.rates[stage == "evaluate"] for stage in jobs["stage"]]
        each = np.array(rates).reshape(-1, 2) * jobs[["passes", "macs"]].to_numpy(float)
        times = [self.kinds.get(kind, 1.0) for kind in jobs["kind"]]
        return pd.Series(each.sum(axis=1) * times, index=jobs.index)

    def seconds(self, jobs: pd.DataFrame) -> pd.Series:
        """Seconds of each job, from the start of its process to its end."""
        start_up = START_UP_SECONDS | dict(self.start_up)
        return self.work(jobs) + np.array([start_up[stage] for stage in jobs["stage"]], float)


def estimate(
    suite: Suite,
    catalogue: Catalogue,
    *,
    results: Sequence[Path] = (),
    cores: int | None = None,
    gpus: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Predict the jobs of a suite, their time and their disk.

    Args:
        suite: resolved.
        catalogue: that it was resolved from.
        results: folders with finished suites to learn from, ``resources`` beside each; none =
            ``results``, if it is there.
        cores: jobs at once, of those that hold a core; None = the machine's.
        gpus: jobs at once, of those that hold a GPU; None = one if the suite asks for a GPU.
        device: name of the device, or a part of it; None = as the records have it.

    Returns:
        Plain data, which :func:`as_text` prints. ``factor``: four in five finished jobs took
        between 1/factor and factor of what jobs of other tasks foretold.

    Raises:
        ConfigError: a folder that is not there, a device of which nothing is known, or a size
            that neither catalogue nor record tells.
        DataError: a record is damaged.
    """
    for folder in results:
        if not folder.is_dir():
            raise ConfigError(f"--results: received {folder}: no such folder; it holds suites")
    places = list(results) or [Path("results")]
    finished = frame_of(row for place in places for row in finished_jobs(place))
    if results and finished.empty:
        told = ", ".join(map(str, results))
        raise ConfigError(f"--results: received {told}: no finished job below <suite>/runs")
    device = device or _commonest("cuda" if gpus else suite.device, finished)
    used = finished[finished["stage"].isin(_DEVICE_STAGES) & _ran_on(finished, device)]
    is_gpu = device != "cpu" and set(used["device_kind"]) != {"cpu"}
    if gpus and not is_gpu:
        raise ConfigError(f"--gpus: received {gpus}, but --device {device!r} is no GPU")
    capacity = {"core": cores or os.cpu_count() or 1, "gpu": (gpus or 1) if is_gpu else 0}
    others = finished[~finished["stage"].isin(_DEVICE_STAGES)]
    finished = pd.concat([used, others]).drop_duplicates(["id", "digest"])
    jobs, guessed = jobs_of(suite, catalogue, places, finished)
    speed = learn(finished, device)
    jobs = jobs.assign(jobs=1, seconds=speed.seconds(jobs))
    factor, comparison = compare(jobs, finished, device)
    place = capacity["gpu"] or capacity["core"]
    return {
        "suite": suite.id,
        "place": f"{place} x {device}",
        "jobs": len(jobs),
        "stages": _sums(jobs, ["stage"]),
        "methods": _sums(jobs[jobs["method"] != ""], ["backbone", "method"]),
        "job_seconds": float(jobs["seconds"].sum()),
        "wall_seconds": wall_seconds(jobs, capacity),
        "disk_bytes": float(jobs["disk_bytes"].sum()),
        "factor": factor or ASSUMED_FACTOR,
        "fitted": list(speed.fitted),
        "comparison": comparison,
        "remarks": _remarks(speed, factor, guessed, device),
    }


def learn(finished: pd.DataFrame, device: str) -> Speed:
    """Fit a device's speed to finished jobs; what they do not tell is assumed.

    Squares of relative errors are least, so that short jobs count as much as long ones, with no
    part below 0. An assumption stands beside the jobs with a small weight: it decides what they
    cannot tell apart, as passes and MACs of a single backbone.

    Args:
        finished: jobs, those of stages that use a device on this one.
        device: as records name it, ``cpu``, or one of :data:`PEAK_MACS_PER_SECOND`.

    Raises:
        ConfigError: a device of which neither records nor the table know.
    """
    worked = finished[(finished["passes"] > 0) & (finished["work_seconds"] > 0)]
    answers = worked["stage"] == "evaluate"
    parts = [worked[~answers], worked[answers]]
    assumed = _assumed(device, set(worked["device_kind"]))
    fitted = [len(part) if len(part) >= _FEWEST else 0 for part in parts]
    training = _fit(parts[0], assumed) if fitted[0] else assumed
    inference = _fit(parts[1], training) if fitted[1] else training
    start_up = (finished["job_seconds"] - finished["work_seconds"]).clip(lower=0)
    stages = start_up.groupby(finished["stage"]).median().to_dict()
    speed = Speed((training, inference), (fitted[0], fitted[1]), {}, stages)
    if not fitted[0]:
        return speed
    ratios = (parts[0]["work_seconds"] / speed.work(parts[0])).groupby(parts[0]["kind"])
    kinds = ratios.median()[ratios.count() >= _FEWEST].to_dict()
    return Speed(speed.rates, speed.fitted, kinds, stages)


def _fit(jobs: pd.DataFrame, assumed: tuple[float, float]) -> tuple[float, float]:
    table = jobs[["passes", "macs"]].to_numpy(float) / jobs[["work_seconds"]].to_numpy(float)
    scaled = np.vstack([table * np.array(assumed), _ASSUMPTION_WEIGHT * np.eye(2)])
    target = np.append(np.ones(len(table)), np.full(2, _ASSUMPTION_WEIGHT))
    times, _ = nnls(scaled, target)
    return float(times[0] * assumed[0]), float(times[1] * assumed[1])


def _known(name: str) -> str | None:
    """The entry of the table that a device's name holds; "a10" is in the name of an A100."""
    held = [one for one in PEAK_MACS_PER_SECOND if one in name.lower()]
    return max(held, key=len, default=None)


def _assumed(device: str, kinds: Iterable[str]) -> tuple[float, float]:
    """A guess from the maker's peak; of a GPU that has records but no entry, as of an A100."""
    if device == "cpu" or "cpu" in kinds:
        return _CORE_RATE
    name = _known(device) or ("a100" if "cuda" in kinds else None)
    if name is None:
        raise ConfigError(refusal("--device", "name", device, ["cpu", *PEAK_MACS_PER_SECOND]))
    return _GPU_PASS_SECONDS, 1 / (_PEAK_SHARE * PEAK_MACS_PER_SECOND[name])


def _ran_on(jobs: pd.DataFrame, device: str) -> "pd.Series[bool]":
    name = device.lower()
    named = jobs["device"].str.lower().str.contains(name, regex=False)
    return (jobs["device_kind"] == name) | named


def _commonest(wish: str, finished: pd.DataFrame) -> str:
    kinds = ["cpu", "cuda"] if wish == "auto" else [wish]
    found = finished[(finished["stage"] == "tune") & finished["device_kind"].isin(kinds)]
    if found.empty:
        return "a100" if wish == "cuda" else "cpu"
    return str(found["device"].mode().iloc[0])


def compare(
    jobs: pd.DataFrame, finished: pd.DataFrame, device: str
) -> tuple[float | None, list[dict[str, Any]]]:
    """Set predictions beside what finished jobs took, each by a fit without its own task.

    Args:
        jobs: the suite's.
        finished: as :func:`learn` takes them.
        device: likewise.

    Returns:
        Factor within which four in five finished jobs lie (None: too few, or a single task), and
        for each stage the suite's finished jobs with seconds predicted and measured.
    """
    tasks = set(finished["task"]) - {""}
    worked = finished[(finished["passes"] > 0) & finished["task"].isin(tasks)]
    if len(tasks) < 2 or len(worked) < _FEWEST:
        return None, []
    done = finished[["id", "digest", "job_seconds"]].rename(columns={"job_seconds": "measured"})
    mine, parts, logs = jobs.merge(done, on=["id", "digest"]), [], []
    for task in sorted(tasks):
        speed = learn(finished[finished["task"] != task], device)
        held = worked[worked["task"] == task]
        logs += np.abs(np.log(held["job_seconds"] / speed.seconds(held))).tolist()
        part = mine[mine["task"] == task]
        parts.append(part.assign(predicted=speed.seconds(part)))
    factor = math.exp(sorted(logs)[math.ceil(0.8 * len(logs)) - 1])
    told = pd.concat(parts).groupby("stage", sort=False)[["jobs", "predicted", "measured"]].sum()
    return factor, told.reset_index().to_dict("records")


def wall_seconds(jobs: pd.DataFrame, capacity: Mapping[str, int]) -> float:
    """Length of a list schedule: whatever can start does, the longest job first.

    Args:
        jobs: with ``seconds``.
        capacity: jobs at once that hold a ``core``, and a ``gpu`` if there is any.

    Source:
        Graham 1969: at most the longest chain above total / cores.
    """
    rows = {row.id: row for row in jobs.itertuples()}
    waiting = {name: sum(need in rows for need in row.needs) for name, row in rows.items()}
    after: dict[str, list[str]] = {name: [] for name in rows}
    for name, row in rows.items():
        for need in row.needs:
            after.get(need, []).append(name)
    places = {name: "gpu" if capacity["gpu"] and row.stage in _DEVICE_STAGES else "core"
              for name, row in rows.items()}  # fmt: skip
    ready: dict[str, list[tuple[float, str]]] = {"core": [], "gpu": []}
    running: list[tuple[float, str]] = []
    free, now, begun = dict(capacity), 0.0, [name for name in rows if not waiting[name]]
    while begun or running or any(ready.values()):
        for name in begun:
            heapq.heappush(ready[places[name]], (-rows[name].seconds, name))
        for place, queue in ready.items():
            while queue and free[place]:
                _, name = heapq.heappop(queue)
                free[place] -= 1
                heapq.heappush(running, (now + rows[name].seconds, name))
        now, name = heapq.heappop(running)
        free[places[name]] += 1
        for other in after[name]:
            waiting[other] -= 1
        begun = [other for other in after[name] if not waiting[other]]
    return now


def as_text(told: Mapping[str, Any]) -> str:
    """Lay out an estimate for a terminal: tables, totals and remarks."""
    factor, seconds = told["factor"], told["job_seconds"]
    likely = f"{_duration(seconds / factor)} to {_duration(seconds * factor)}"
    lines = [
        f"suite {told['suite']}: {told['jobs']} jobs on {told['place']}",
        "",
        _table(told["stages"]),
        "",
        _table(told["methods"]),
        "",
        f"all jobs    {_duration(seconds)} ({likely}), one after the other",
        f"wall clock  {_duration(told['wall_seconds'])} on {told['place']}",
        f"disk        {_size(told['disk_bytes'])}",
        "",
        *(f"- {remark}" for remark in told["remarks"]),
    ]
    if told["comparison"]:
        lines += ["", "Finished jobs, beside predictions by jobs of other tasks",
                  _table(told["comparison"])]  # fmt: skip
    return "\n".join(lines)


def _sums(jobs: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    columns = ["jobs", "passes", "macs", "seconds", "disk_bytes"]
    return jobs.groupby(by, sort=len(by) > 1)[columns].sum().reset_index().to_dict("records")


def _remarks(speed: Speed, factor: float | None, guessed: Sequence[str], device: str) -> list[str]:
    (batch, mac), kinds = speed.rates[0], speed.kinds.items()
    off = f"four in five were within a factor of {factor or 0:.2f} with their task held out"
    lines = [
        f"speed: fitted to {speed.fitted[0]} training and {speed.fitted[1]} evaluation jobs on "
        f"{device}; " + (off if factor else f"a factor of {ASSUMED_FACTOR:g} is ASSUMED"),
        f"training: {1e3 * batch:.1f} ms a batch + {1e12 * mac:.1f} s for 10^12 MACs"
        + "".join(f"; {kind} takes {times:.2f} of it" for kind, times in kinds),
    ]
    if not speed.fitted[0]:
        few = f"speed: too few jobs have run on {device}, so it is ASSUMED"
        lines = [f"{few}; expect a factor of {ASSUMED_FACTOR:g}"]
    if guessed:
        lines.append(f"mean lengths of the catalogue, not measured: {', '.join(guessed)}")
    lines.append("time: downloads are not in it, and supports are as long as those that ran")
    lines.append("disk: data sets, backbones and runs that train every weight; memory: not known")
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = pd.DataFrame(rows)
    if "measured" in cells:
        cells["measured / predicted"] = cells["measured"] / cells["predicted"]
    formats = {"seconds": _duration, "predicted": _duration, "measured": _duration,
               "macs": "{:.1e}".format, "passes": "{:,.0f}".format, "disk_bytes": _size,
               "measured / predicted": "{:.2f}".format}  # fmt: skip
    text = cells.rename(columns={"disk_bytes": "disk", "seconds": "time"})
    formats = {{"disk_bytes": "disk", "seconds": "time"}.get(k, k): v for k, v in formats.items()}
    return text.to_string(index=False, formatters=formats)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _size(number: float) -> str:
    return f"{number / 1e9:,.3f} GB"

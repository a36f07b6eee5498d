"""A suite's jobs with their seconds, summed up; and predictions beside what was measured."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsetune.config.load import Suite
from sparsetune.estimating.observed import DEVICE_STAGES, Sample, busy_seconds
from sparsetune.estimating.schedule import TimedJob, makespan
from sparsetune.estimating.speed import (
    ASSUMED_FACTOR,
    LENGTH_FACTOR,
    Speed,
    on_device,
    speed_of,
    uncertainty,
)
from sparsetune.estimating.workload import Job, Work
from sparsetune.records import STAGES

DEFAULT_GPU = "a100"


@dataclass(frozen=True)
class Capacity:
    """What the jobs may use at once: ``gpus`` 0 = every job holds a core."""

    cores: int
    gpus: int = 0

    def makespan(self, jobs: Iterable[Job], seconds: Callable[[Job], float]) -> float:
        """Seconds of a list schedule, see :func:`sparsetune.estimating.schedule.makespan`."""
        tasks = {
            job.id: TimedJob(seconds(job), job.needs, self.place(job.stage)) for job in jobs
        }  # fmt: skip
        return makespan(tasks, {"core": self.cores, "gpu": self.gpus} if self.gpus
                        else {"core": self.cores})  # fmt: skip

    def place(self, stage: str) -> str:
        """What a job of the stage holds."""
        return "gpu" if self.gpus and stage in DEVICE_STAGES else "core"


def device_of(kind: str, samples: Sequence[Sample]) -> str:
    """The device to predict for when nobody names one.

    Args:
        kind: ``cpu``, ``cuda``, or ``auto`` for either.
        samples: finished jobs.

    Returns:
        The commonest device of that kind in the records; without any, ``cpu`` or a GPU from the
        table of assumptions.
    """
    trained = [s for s in samples if s.stage == "tune" and (
        kind in ("auto", s.device_kind))]  # fmt: skip
    if trained:
        return Counter(sample.device for sample in trained).most_common(1)[0][0]
    return DEFAULT_GPU if kind == "cuda" else "cpu"


@dataclass(frozen=True)
class Forecast:
    """What a suite will take.

    Attributes:
        suite: whose.
        jobs: all of them, shared ones once.
        speed: of the device.
        capacity: what they may use.
        factors: see :func:`sparsetune.estimating.speed.uncertainty`.
    """

    suite: Suite
    jobs: Sequence[Job]
    speed: Speed
    capacity: Capacity
    factors: tuple[float, float]

    def factor(self, job: Job) -> float:
        """By how much the job's seconds may be too small or too large, four times in five.

        The spread of the rate, and that of a mean length that was not measured, as if they had
        nothing to do with each other.
        """
        known, unknown = self.factors
        base = known if not job.backbone or job.backbone in self.speed.backbones else unknown
        if job.work != Work() and not self.speed.fitted[job.stage == "evaluate"]:
            base = max(base, ASSUMED_FACTOR)
        length = 0.0 if job.tokens_measured else math.log(LENGTH_FACTOR)
        return math.exp(math.hypot(math.log(base), length))

    def seconds(self, jobs: Iterable[Job]) -> dict[str, float]:
        """Sum over jobs, with its bounds: their errors are taken to go the same way."""
        totals = {"seconds": 0.0, "seconds_low": 0.0, "seconds_high": 0.0}
        for job in jobs:
            seconds, factor = self.speed.seconds(job), self.factor(job)
            totals["seconds"] += seconds
            totals["seconds_low"] += seconds / factor
            totals["seconds_high"] += seconds * factor
        return totals

    def wall(self) -> dict[str, float]:
        """From the first job's start to the last one's end, with its bounds."""

        def of(power: float) -> float:
            return self.capacity.makespan(
                self.jobs, lambda job: self.speed.seconds(job) * self.factor(job) ** power
            )

        return {"seconds": of(0), "seconds_low": of(-1), "seconds_high": of(1)}

    def by_stage(self) -> list[dict[str, Any]]:
        """Jobs and seconds of each stage."""
        found = {stage: [job for job in self.jobs if job.stage == stage] for stage in STAGES}
        return [
            {"stage": stage, "jobs": len(jobs), **self.seconds(jobs)}
            for stage, jobs in found.items()
            if jobs
        ]

    def by_method(self) -> list[dict[str, Any]]:
        """Runs, work, seconds and bytes of each backbone and method, searches included.

        A ticket that several methods share counts for the first of them.
        """
        by_id, taken = {job.id: job for job in self.jobs}, set()
        groups: dict[tuple[str, str], list[Job]] = {}
        for run in self.suite.runs:
            names = [f"ticket/{run.ticket_path}", *(
                f"{stage}/{run.path}" for stage in ("tune", "evaluate", "cost"))]  # fmt: skip
            group = groups.setdefault((run.backbone.id, run.method.id), [])
            for name in names:
                if name in by_id and name not in taken:
                    taken.add(name)
                    group.append(by_id[name])
        return [
            {
                "backbone": backbone,
                "method": method,
                "runs": sum(job.stage == "tune" for job in jobs),
                "steps": sum(job.steps for job in jobs),
                "tokens": sum(job.tokens for job in jobs),
                "macs": sum(job.work.macs for job in jobs),
                **self.seconds(jobs),
                "disk_bytes": sum(job.disk_bytes for job in jobs),
                "checkpoint_bytes": max(job.peak_bytes for job in jobs),
            }
            for (backbone, method), jobs in groups.items()
        ]

    def shared(self) -> list[dict[str, Any]]:
        """Data sets and backbones: seconds, disk and download."""
        return [
            {
                "stage": job.stage,
                "id": job.task or job.backbone,
                **self.seconds([job]),
                "disk_bytes": job.disk_bytes,
                "download_bytes": job.download_bytes,
            }
            for job in self.jobs
            if job.stage in ("dataset", "backbone")
        ]

    def totals(self) -> dict[str, Any]:
        """Of the whole suite."""
        at_once = self.capacity.gpus or self.capacity.cores
        peaks = sorted((job.peak_bytes for job in self.jobs), reverse=True)
        on_gpu = [job for job in self.jobs if self.capacity.place(job.stage) == "gpu"]
        return {
            "jobs": len(self.jobs),
            "job_seconds": self.seconds(self.jobs),
            "gpu_seconds": self.seconds(on_gpu),
            "wall": self.wall(),
            "macs": sum(job.work.macs for job in self.jobs),
            "disk_bytes": sum(job.disk_bytes for job in self.jobs),
            "checkpoint_bytes": sum(peaks[:at_once]),
            "download_bytes": sum(job.download_bytes for job in self.jobs),
        }


def forecast(
    suite: Suite, jobs: Sequence[Job], samples: Sequence[Sample], device: str, capacity: Capacity
) -> Forecast:
    """Predict a suite from all records there are.

    Args:
        suite: resolved.
        jobs: its jobs.
        samples: finished jobs of any suite.
        device: see :func:`sparsetune.estimating.speed.speed_of`.
        capacity: what the jobs may use at once.
    """
    return Forecast(suite, jobs, speed_of(samples, device), capacity, uncertainty(samples, device))


def compare(
    suite: Suite, jobs: Sequence[Job], samples: Sequence[Sample], device: str, capacity: Capacity
) -> dict[str, Any] | None:
    """Set predictions beside what the suite's finished jobs really took.

    Each job is predicted by a fit that has no record of its own task (pre-training and supports:
    of its own backbone; tables, figures and tracking: of their own stage).

    Args:
        suite: resolved.
        jobs: its jobs, sized by the catalogue alone.
        samples: finished jobs of any suite.
        device: see :func:`sparsetune.estimating.speed.speed_of`.
        capacity: what the jobs may use at once.

    Returns:
        ``held_out``: the comparison; ``other_suites``: the same with records of other suites
        alone, if there are any. None if no job of the suite is finished.
    """
    done = _finished(suite, jobs, samples, device)
    if not any(job.stage == "tune" for job in jobs if job.id in done):
        return None
    mine = [job for job in jobs if job.id in done]
    groups = {_group(job) for job in mine}
    speeds = {
        group: speed_of([s for s in samples if _group(s) != group], device) for group in groups
    }
    result = {"held_out": _beside(mine, done, lambda job: speeds[_group(job)], capacity)}
    others = [s for s in samples if s.id not in done and s.suite not in (suite.id, "")]
    if any(s.stage == "tune" and s.work and on_device(s, device) for s in others):
        other = speed_of(others, device)
        result["other_suites"] = _beside(mine, done, lambda _job: other, capacity)
    return result


def _finished(
    suite: Suite, jobs: Sequence[Job], samples: Sequence[Sample], device: str
) -> dict[str, Sample]:
    """Finished jobs of the suite by id: those with its present settings, on the device."""
    by_id = {job.id: job for job in jobs}
    return {
        s.id: s
        for s in samples
        if s.suite in (suite.id, "")
        and s.id in by_id
        and (not by_id[s.id].digest or by_id[s.id].digest == s.digest)
        and (s.stage not in DEVICE_STAGES or not s.device or on_device(s, device))
    }


def _group(one: Job | Sample) -> str:
    return one.task or one.backbone or one.stage


def _beside(
    jobs: Sequence[Job],
    done: Mapping[str, Sample],
    speed: Callable[[Job], Speed],
    capacity: Capacity,
) -> dict[str, Any]:
    stages = []
    for stage in STAGES:
        own = [job for job in jobs if job.stage == stage]
        if own:
            predicted = sum(speed(job).seconds(job) for job in own)
            measured = sum(done[job.id].job_seconds for job in own)
            stages.append({"stage": stage, "jobs": len(own), **_error(predicted, measured)})
    totals = [sum(row[name] for row in stages) for name in ("predicted", "measured")]
    # Stages that leave no record have no end to place them by; the wall is that of the others.
    placed = [job for job in jobs if done[job.id].ended is not None]
    wall = capacity.makespan(placed, lambda job: speed(job).seconds(job))
    busy = busy_seconds([done[job.id] for job in placed])
    return {"stages": stages, "job_seconds": _error(*totals), "wall": _error(wall, busy)}


def _error(predicted: float, measured: float) -> dict[str, float]:
    """Both, and measured over predicted."""
    return {
        "predicted": predicted,
        "measured": measured,
        "ratio": measured / predicted if predicted else math.inf,
    }

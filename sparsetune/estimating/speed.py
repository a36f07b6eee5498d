"""How fast a device works: fitted on finished jobs, or assumed, and how far off that may be.

A job's seconds = start-up of its stage + batches x a + multiply-adds x b + updates x c.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sparsetune.errors import ConfigError
from sparsetune.estimating.observed import DEVICE_STAGES, Sample
from sparsetune.estimating.workload import Job, Work

# Assumptions, used only where no record tells. Start-up: imports, loading, writing.
START_UP_SECONDS = {
    "dataset": 5.0, "backbone": 10.0, "support": 6.0, "ticket": 8.0, "tune": 8.0, "evaluate": 8.0,
    "cost": 1.0, "tables": 1.0, "claims": 3.0, "figures": 5.0, "track": 5.0,
}  # fmt: skip
DOWNLOAD_BYTES_PER_SECOND = 20e6
PEAK_MACS_PER_SECOND = {  # dense products in 16 bits, as the makers state them: FLOPS / 2
    "t4": 32.5e12, "v100": 62.5e12, "l4": 60.5e12, "a10": 62.5e12, "a100": 156e12,
    "l40s": 181e12, "h100": 494.5e12, "h200": 494.5e12,
}  # fmt: skip
_PEAK_SHARE = 0.2  # short sequences in small batches keep a GPU far from its peak
_GPU_BATCH_SECONDS = 0.04  # launching the kernels of one pass
_CORE_MACS_PER_SECOND = 20e9
_CORE_BATCH_SECONDS = 0.02
_CORE_UPDATE_SECONDS = 3e-9  # AdamW moves 28 bytes a parameter: at 10 GB/s, and on a GPU 2 TB/s
_GPU_UPDATE_SECONDS = 1.4e-11
ASSUMED_FACTOR = 3.0
LENGTH_FACTOR = 1.25  # of a mean length that nobody measured
_SHARE_INSIDE = 0.8
_FEWEST = 3  # samples for a fit
_ROUNDS = 20


@dataclass(frozen=True)
class Rate:
    """Seconds of each unit of work.

    Attributes:
        batch: seconds of a batch, whatever its size.
        mac: seconds of a multiply-add.
        update: seconds of one parameter's update.
    """

    batch: float
    mac: float
    update: float = 0.0

    def seconds(self, work: Work) -> float:
        """Seconds of some work."""
        return self.batch * work.batches + self.mac * work.macs + self.update * work.updates


def fit_rate(works: Sequence[Work], seconds: Sequence[float], *, prior: Rate | None = None) -> Rate:
    """Fit a rate to measured jobs, none of its three parts negative.

    Squares of the *relative* errors are minimised, so that short jobs count as much as long ones;
    jobs far off (a machine that was busy elsewhere) weigh less, as Huber's loss has it.

    Args:
        works: of each job.
        seconds: that it took, > 0.
        prior: what each part is without any job, with a standard deviation of its own size. So it
            decides what the jobs cannot tell apart: where a single backbone trains in full,
            updates go with batches.

    Returns:
        The rate: exactly that of the jobs, if they follow one.

    Raises:
        ValueError: no jobs, or a time that is not above 0.

    Source:
        Huber 1964 (threshold 1.345 standard deviations, by the median absolute residual).
    """
    if not works or min(seconds) <= 0:
        raise ValueError(f"need jobs that took time, got {len(works)}")
    table = np.array([[work.batches, work.macs, work.updates] for work in works], dtype=float)
    scale = np.where(table.max(axis=0) > 0, table.max(axis=0), 1.0)
    design = table / scale / np.asarray(seconds, dtype=float)[:, None]
    known = np.diag(1 / scale / [prior.batch, prior.mac, prior.update]) if prior else design[:0]
    weights, noise = np.ones(len(works)), 1.0
    for _ in range(_ROUNDS):
        solution = _not_negative(
            np.vstack([design * weights[:, None], noise * known]),
            np.append(weights, np.full(len(known), noise)),
        )
        off = np.abs(design @ solution - 1.0)
        noise = max(float(np.median(off)) / 0.6745, 1e-9)  # a standard deviation, if normal
        weights = np.sqrt(np.minimum(1.0, 1.345 * noise / np.maximum(off, 1e-12)))
    return Rate(*(solution / scale).tolist())


def _not_negative(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares with parts >= 0: the best of the few sets of parts that may be above 0."""
    best, least = np.zeros(design.shape[1]), float(np.sum(target**2))
    for size in range(1, design.shape[1] + 1):
        for chosen in itertools.combinations(range(design.shape[1]), size):
            part = np.linalg.lstsq(design[:, chosen], target, rcond=None)[0]
            error = float(np.sum((design[:, chosen] @ part - target) ** 2))
            if np.all(part >= 0) and error < least * (1 - 1e-9):
                best, least = np.zeros(design.shape[1]), error
                best[list(chosen)] = part
    return best


def spread(ratios: Iterable[float]) -> float:
    """Factor f such that four in five ratios lie within 1/f and f.

    Args:
        ratios: measured over predicted, > 0.

    Returns:
        At least 1; :data:`ASSUMED_FACTOR` if there are too few ratios to say.
    """
    logs = sorted(abs(math.log(ratio)) for ratio in ratios)
    if len(logs) < _FEWEST:
        return ASSUMED_FACTOR
    return math.exp(logs[math.ceil(_SHARE_INSIDE * len(logs)) - 1])


@dataclass(frozen=True)
class Speed:
    """How long jobs take on one device.

    Attributes:
        device: its name.
        training: rate of forward and backward passes.
        inference: rate of forward passes.
        host: rate of a CPU core, for stages that use no device.
        start_up: stage -> median seconds besides the work.
        fitted: jobs that ``training`` and ``inference`` were fitted on; 0 = an assumption.
        backbones: ids of those whose training was measured.
    """

    device: str
    training: Rate
    inference: Rate
    host: Rate
    start_up: dict[str, float] = field(default_factory=dict)
    fitted: tuple[int, int] = (0, 0)
    backbones: frozenset[str] = frozenset()

    def seconds(self, job: Job) -> float:
        """Seconds of one job, start-up included."""
        rate = self.inference if job.stage == "evaluate" else self.training
        if job.stage not in DEVICE_STAGES:
            rate = self.host
        start = self.start_up.get(job.stage, START_UP_SECONDS[job.stage])
        return start + rate.seconds(job.work) + job.download_bytes / DOWNLOAD_BYTES_PER_SECOND


def speed_of(samples: Sequence[Sample], device: str) -> Speed:
    """Fit a device's speed on finished jobs; what they do not tell is assumed.

    Args:
        samples: of all devices; those of other devices tell only about stages that use none.
        device: as records name it, ``cpu``, or one of :data:`PEAK_MACS_PER_SECOND`.

    Raises:
        ConfigError: a device of which neither records nor the table know.
    """
    own = [s for s in samples if s.stage not in DEVICE_STAGES or on_device(s, device)]
    training = [s for s in own if s.stage != "evaluate" and s.work and s.work_seconds > 0]
    inference = [s for s in own if s.stage == "evaluate" and s.work and s.work_seconds > 0]
    training_rate = _fitted(training)
    inference_rate = _fitted(inference)
    assumed = training_rate or assumed_rate(device)
    on_core = [s for s in samples if s.stage == "tune" and s.device_kind == "cpu" and s.work]
    start_up: dict[str, list[float]] = {}
    for sample in own:
        start_up.setdefault(sample.stage, []).append(sample.start_up_seconds)
    return Speed(
        device, assumed, inference_rate or assumed, _fitted(on_core) or assumed_rate("cpu"),
        {stage: statistics.median(values) for stage, values in start_up.items()},
        (len(training) if training_rate else 0, len(inference) if inference_rate else 0),
        frozenset(s.backbone for s in training),
    )  # fmt: skip


def _fitted(samples: Sequence[Sample]) -> Rate | None:
    if len(samples) < _FEWEST:
        return None
    device = "cpu" if samples[0].device_kind == "cpu" else samples[0].device.lower()
    table = ("cpu", *PEAK_MACS_PER_SECOND)
    # Longest first: "a10" is in the name of an A100.
    named = [name for name in sorted(table, key=len, reverse=True) if name in device]
    prior = assumed_rate(named[0]) if named else None
    return fit_rate([s.work for s in samples], [s.work_seconds for s in samples], prior=prior)


def on_device(sample: Sample, device: str) -> bool:
    """Whether a job ran on the device, by its kind or a part of its name."""
    return device.lower() == sample.device_kind or device.lower() in sample.device.lower()


def assumed_rate(device: str) -> Rate:
    """A guess from the maker's peak, for a device that no record tells about.

    Raises:
        ConfigError: not in the table.
    """
    name = device.lower()
    if name == "cpu":
        return Rate(_CORE_BATCH_SECONDS, 1 / _CORE_MACS_PER_SECOND, _CORE_UPDATE_SECONDS)
    if name not in PEAK_MACS_PER_SECOND:
        raise ConfigError(
            f"--device: got {device!r}; no record has such a device, and assumptions are there for "
            f"cpu, {', '.join(PEAK_MACS_PER_SECOND)}"
        )
    per_mac = 1 / (_PEAK_SHARE * PEAK_MACS_PER_SECOND[name])
    return Rate(_GPU_BATCH_SECONDS, per_mac, _GPU_UPDATE_SECONDS)


def uncertainty(samples: Sequence[Sample], device: str) -> tuple[float, float]:
    """How far off predictions were for jobs that had no part in the fit.

    Args:
        samples: finished jobs.
        device: see :func:`speed_of`.

    Returns:
        Two factors, see :func:`spread`: for another task on a backbone that was measured, and for
        a backbone that was not.
    """
    own = [s for s in samples if on_device(s, device) and s.work and s.work_seconds > 0]
    return tuple(spread(_held_out(own, device, name)) for name in ("task", "backbone"))


def _held_out(samples: Sequence[Sample], device: str, name: str) -> list[float]:
    groups = {getattr(sample, name) for sample in samples} - {""}
    if len(groups) < 2:
        return []
    ratios = []
    for group in groups:
        rest = [sample for sample in samples if getattr(sample, name) != group]
        speed = speed_of(rest, device)
        for sample in samples:
            if getattr(sample, name) == group:
                rate = speed.inference if sample.stage == "evaluate" else speed.training
                ratios.append(sample.work_seconds / rate.seconds(sample.work))
    return ratios

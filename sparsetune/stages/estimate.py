"""What a suite will take, told before it runs, and how such predictions compare with records."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsetune.config.load import Catalogue, Suite
from sparsetune.errors import ConfigError
from sparsetune.estimating.forecast import Capacity, Forecast, compare, device_of, forecast
from sparsetune.estimating.observed import Sample, read_samples
from sparsetune.estimating.sizes import backbone_shapes, task_size
from sparsetune.estimating.speed import (
    DOWNLOAD_BYTES_PER_SECOND,
    PEAK_MACS_PER_SECOND,
    Rate,
    on_device,
)
from sparsetune.estimating.workload import Sizes, jobs_of

DEFAULT_RESULTS = Path("results")


def estimate(
    suite: Suite,
    catalogue: Catalogue,
    *,
    results: Sequence[Path] = (),
    cores: int | None = None,
    gpus: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Predict jobs, time, disk and download of a suite.

    Args:
        suite: resolved.
        catalogue: that it was resolved from.
        results: folders with finished suites, ``resources`` and ``logs`` beside each; none =
            ``results``, if it is there.
        cores: jobs at once, of those that hold a core; None = the machine's.
        gpus: jobs at once, of those that hold a GPU; None = one if the suite asks for a GPU.
        device: name of the device, or a part of it; None = as the records have it.

    Returns:
        Plain data: ``speed``, ``stages``, ``shared``, ``methods``, ``totals``, ``remarks`` and
        ``comparison``.

    Raises:
        ConfigError: a folder that is not there, or a device of which nothing is known.
        DataError: a record is damaged.
    """
    places, samples = _observed(results)
    wish = "cuda" if gpus else suite.device
    chosen = device or device_of(wish, samples)
    is_gpu = _is_gpu(chosen, samples)
    if gpus and not is_gpu:
        raise ConfigError(f"--gpus: got {gpus}, but --device {chosen!r} is no GPU")
    capacity = Capacity(cores or os.cpu_count() or 1, (gpus or 1) if is_gpu else 0)
    sizes, remarks = _sizes(suite, catalogue, places, samples)
    told = forecast(suite, jobs_of(suite, sizes), samples, chosen, capacity)
    comparison = None
    if any(sample.suite == suite.id for sample in samples):
        # What is compared is foreseen from the catalogue alone, as before anything had run.
        expected, _ = _sizes(suite, catalogue, (), ())
        comparison = compare(suite, jobs_of(suite, expected), samples, chosen, capacity)
    return {
        "suite": suite.id,
        "device": chosen,
        "place": f"{capacity.gpus} x {chosen}" if is_gpu else f"{capacity.cores} x {chosen} core",
        "speed": _speed(told),
        "stages": told.by_stage(),
        "shared": told.shared(),
        "methods": told.by_method(),
        "totals": told.totals(),
        "remarks": [*remarks, *_remarks(told)],
        "comparison": comparison,
    }


def _observed(results: Sequence[Path]) -> tuple[list[Path], list[Sample]]:
    """The folders to learn from, and their finished jobs."""
    for folder in results:
        if not folder.is_dir():
            raise ConfigError(f"--results: {folder}: no such folder; need one that holds suites")
    places = list(results) or [place for place in (DEFAULT_RESULTS,) if place.is_dir()]
    samples = read_samples(places)
    if results and not samples:
        raise ConfigError(
            f"--results: {', '.join(map(str, results))}: no finished job; need folders that hold "
            "<suite>/runs"
        )
    return places, samples


def _speed(told: Forecast) -> dict[str, Any]:
    return {
        "training": asdict(told.speed.training),
        "inference": asdict(told.speed.inference),
        "training_jobs": told.speed.fitted[0],
        "inference_jobs": told.speed.fitted[1],
        "factor_another_task": told.factors[0],
        "factor_another_backbone": told.factors[1],
        "start_up_seconds": told.speed.start_up,
    }


def _is_gpu(device: str, samples: Sequence[Sample]) -> bool:
    kinds = {sample.device_kind for sample in samples if on_device(sample, device)}
    return device != "cpu" and kinds != {"cpu"}


def _sizes(
    suite: Suite, catalogue: Catalogue, places: Sequence[Path], samples: Sequence[Sample]
) -> tuple[Sizes, list[str]]:
    """Sizes of what the suite names; without places and samples, by the catalogue alone."""
    lengths: dict[tuple[str, str], float] = {}
    for sample in samples:
        if sample.tokens is not None and sample.task:
            lengths.setdefault((sample.backbone, sample.task), sample.tokens)
            lengths.setdefault(("", sample.task), sample.tokens)
    tasks, remarks = {}, {}
    for run in suite.runs:
        key = (run.backbone.id, run.task.id)
        if key not in tasks:
            folder = _there(places, "datasets", run.task.id)
            tokens = lengths.get(key, lengths.get(("", run.task.id)))
            tasks[key], remark = task_size(run.task, folder=folder, tokens=tokens)
            remarks[remark] = None
    backbones = {run.backbone.id: run.backbone for run in suite.runs}
    shapes = {
        name: backbone_shapes(backbone, catalogue, folder=_there(places, "backbones", name))
        for name, backbone in backbones.items()
    }
    return Sizes(tasks, shapes), [remark for remark in remarks if remark]


def _there(places: Sequence[Path], room: str, name: str) -> Path | None:
    folders = (place.parent / "resources" / room / name for place in places)
    return next((folder for folder in folders if (folder / "record.json").exists()), None)


def _remarks(told: Forecast) -> list[str]:
    speed, (known, unknown) = told.speed, told.factors
    training, inference = speed.fitted
    lines = []
    if training:
        lines.append(
            f"speed: fitted on {training} training and {inference} evaluation jobs on "
            f"{speed.device}; four in five jobs that had no part in the fit were within a factor "
            f"of {known:.2f} (another task), {unknown:.2f} (another backbone)"
        )
        lines.append(f"training seconds = start-up + {_formula(speed.training)}")
    else:
        peak = PEAK_MACS_PER_SECOND.get(speed.device.lower())
        what = f"a fifth of {2 * peak / 1e12:.0f} TFLOPS" if peak else "20 GMAC/s of one core"
        lines.append(
            f"speed: no record of {speed.device}, so {what} is ASSUMED; expect a factor of 3"
        )
    guessed = sorted({job.task for job in told.jobs if not job.tokens_measured})
    if guessed:
        lines.append(f"mean lengths of the catalogue, not measured: {', '.join(guessed)}")
    if any(job.download_bytes for job in told.jobs):
        lines.append(
            "download: 4 bytes a parameter, 4 a token of text; its time at "
            f"{DOWNLOAD_BYTES_PER_SECOND / 1e6:.0f} MB/s, an assumption"
        )
    lines.append("disk: what runs keep; predictions, curves and MLflow's files are not in it")
    return lines


def _formula(rate: Rate) -> str:
    parts = (
        (rate.batch, f"{1e3 * rate.batch:.1f} ms a batch"),
        (rate.mac, f"{1e12 * rate.mac:.1f} s for 10^12 MACs"),
        (rate.update, f"{1e9 * rate.update:.2f} ns for each trained parameter in a step"),
    )
    return " + ".join(text for value, text in parts if value)

"""How long runs took and how fast they answer, on which device: all that no two runs agree on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs, links_of
from sparsetune.reporting.footnotes import NO_REFUSALS, common_notes, devices_of, mean_of
from sparsetune.reporting.layout import (
    Column,
    name_columns,
    number_column,
    text_column,
    write_table,
)


def write_timings(
    rows: Sequence[RunRow],
    directory: Path,
    *,
    order: Sequence[Key],
    refusals: Mapping[Key, str] = NO_REFUSALS,
) -> list[Path]:
    """Write how long the runs took, on what; two runs of a suite differ here and only here.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`.
        directory: where ``timings.md``, ``.csv``, ``.tex`` and ``.html`` go.
        order: (backbone, task, method) of the whole suite, in the order to print.
        refusals: (backbone, task, method) that the suite asks for and that cannot run -> why.

    Returns:
        The four files.

    Raises:
        DataError: a run outside ``order``, or a value missing from a record.
    """
    groups = group_runs(rows, order)

    def timing(heading: str, stage: str, name: str, scale: float = 1.0) -> Column:
        means = [mean_of(group.values(stage, name)) for group in groups]
        return number_column(heading, name, means, lambda value: f"{value / scale:.1f}")

    start_up = [
        mean_of([row.records["tune"]["where"]["start_up_seconds"] for row in group.rows])
        for group in groups
    ]
    columns = [
        *name_columns([group.key for group in groups]),
        number_column("seeds", "seeds_count", [len(group.rows) for group in groups]),
        timing("train s", "tune", "train_seconds"),
        number_column("start-up s", "start_up_seconds", start_up, lambda value: f"{value:.1f}"),
        timing("evaluate s", "evaluate", "evaluate_seconds"),
        timing("examples/s", "evaluate", "examples_per_second"),
        timing("peak memory MB", "tune", "peak_memory_bytes", 1e6),
        *_inference_columns(groups),
        text_column("device", "device", [", ".join(devices_of([group])) for group in groups]),
    ]
    notes = [
        "Means over seeds; start-up is everything before training begins. Timings change from "
        "run to run: compare them only within one device.",
        "Latency is that of one sequence of middle length, for generation of one prompt's whole "
        "search; sequences/s are those of a batch of 64, padded. Both are medians after a warm-up, "
        "with as many threads as told. Memory is the GPU's, else the whole process's.",
        *common_notes(groups, order, refusals),
    ]
    return write_table(directory / "timings", "Timings", columns, notes, runs=links_of(groups))


def _inference_columns(groups: Sequence[RunGroup]) -> list[Column]:
    """How fast tuned models answer; nothing for records of earlier versions, which do not tell."""
    measured = [[row.records["evaluate"]["measured"] for row in group.rows] for group in groups]

    def column(heading: str, name: str, scale: float) -> Column:
        means = [mean_of([one.get(name) for one in seeds]) for seeds in measured]
        return number_column(heading, name, means, lambda value: f"{scale * value:.1f}")

    threads = [
        sorted({one["speed"][0]["threads"] for one in seeds if one.get("speed")})
        for seeds in measured
    ]
    return [
        column("latency ms", "latency_seconds_batch_1", 1e3),
        column("sequences/s", "sequences_per_second_batch_64", 1),
        column("inference memory MB", "inference_peak_memory_bytes", 1e-6),
        text_column("threads", "threads", [", ".join(map(str, counts)) for counts in threads]),
    ]

"""The tables of a suite: scores beside costs, the primary metric, timings, counts, savings.

All but CSV print percentages with one decimal; CSV keeps fractions at full precision. No seconds
are in them but in ``timings`` and ``savings-time``, and only HTML names MLflow runs, which a rerun
replaces. Every ``write_...`` returns the files it wrote, each table's in the order of
:data:`sparsetune.reporting.contents.TABLE_FORMS`.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sparsetune.config.metric import lower_is_better, scale_of
from sparsetune.config.task import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.records.parts import EpochScore
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.load import KEY, Finished, Key, deviation_of, is_generated, mean_of
from sparsetune.reporting.render import (
    Column,
    number_column,
    percent,
    spread_text,
    text_column,
    write_table,
)
from sparsetune.reporting.savings import Effort, Unit, saved_shares, savings_of

_NOT_RUN = "not run"
_SCORES_NOTE = "Scores are percentages, mean ± sample standard deviation over seeds"
_EPOCH_NOTE = (
    "Best epoch: the best score after any epoch of the last training phase, with the epoch (one "
    "for each seed where they differ), chosen on the very examples that are scored, which "
    "flatters. All other scores are those of the last model."
)
_UNIT_NOTE = (
    "One multiply-add is 1 MAC; FLOPs are twice as many. Dense is the model as published, without "
    "an update; executed counts zeros inside matrices, effective does not; both count the "
    "update's branches beside the weights."
)
_LENGTH_NOTE = (
    "Per example: the mean over the evaluation split's sequences at their own lengths (windows for "
    "spans), padding not counted; for generation one of the method's own texts: its prompt and "
    "every step of every hypothesis, which the dense model is priced for too. Padding is what "
    "batches of 64, longest first, add to the executed MACs."
)
_TIMING_NOTES = (
    "Means over seeds; start-up is everything before training begins. Timings change from "
    "run to run: compare them only within one device.",
    "Latency is that of one sequence of middle length, for generation of one prompt's whole "
    "search; sequences/s are those of a batch of 64, padded. Both are medians after a warm-up, "
    "with as many threads as told. Memory is the GPU's, else the whole process's.",
)
_SAVED_NOTE = (
    f"Saved is against {REFERENCE_METHOD}, in % of its total, means over seeds. It is the sum of "
    "three parts: seeing fewer examples, cheaper examples (a smaller model, fewer gradients), and "
    "the search (negative)."
)
_SAVINGS: Mapping[Unit, tuple[str, str, str, float, str]] = {
    "macs": (
        "savings", "Training cost in multiply-adds", "T MACs", 1e12,
        "MACs of search and training (docs: cost/macs.py); the same on every machine.",
    ),
    "seconds": (
        "savings-time", "Training cost in seconds", "s", 1.0,
        "Seconds of search and training, optimiser steps included, making batches and start-up "
        "not; they change from run to run and with what else the machine does.",
    ),
}  # fmt: skip
_MODULES = (
    "embeddings", "query", "key", "value", "scores", "context",
    "attention_output", "ffn_in", "ffn_out", "pooler", "head", "update",
)  # fmt: skip
"""In the order in which a sequence passes them; a record has them in no order."""
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COUNT = "{:,.0f}".format
_NUMBERS = {
    "score_percent": "score %",
    "macs_effective_percent": "effective MACs %",
    "parameters_trained": "trained parameters",
    "time_saved_percent": "time saved %",
}
"""What a reader wants first of a run -> how a table calls it, in the order to show."""

Groups = Mapping[Key, pd.DataFrame]


class _Mean(NamedTuple):
    """A column of means over seeds, of the frame's column with its name in the CSV or another."""

    heading: str
    name: str
    show: Callable[[Any], str]
    of: str = ""


def _macs_text(value: float) -> str:
    """A number of MACs with three digits and a unit."""
    rounded = float(f"{value:.3g}")
    for size, letter in _UNITS:
        if rounded >= size:
            return f"{rounded / size:.3g} {letter}"
    return f"{rounded:.3g}"


def _times(factor: float) -> Callable[[float], str]:
    return lambda value: f"{factor * value:.1f}"


_TIMINGS = (
    _Mean("train s", "train_seconds", _times(1)),
    _Mean("start-up s", "start_up_seconds", _times(1)),
    _Mean("evaluate s", "evaluate_seconds", _times(1)),
    _Mean("examples/s", "examples_per_second", _times(1)),
    _Mean("peak memory MB", "peak_memory_bytes", _times(1e-6)),
    _Mean("latency ms", "latency_seconds_batch_1", _times(1e3)),
    _Mean("sequences/s", "sequences_per_second_batch_64", _times(1)),
    _Mean("inference memory MB", "inference_peak_memory_bytes", _times(1e-6)),
)
_COSTS = (
    _Mean("trained", "parameters_trained", _COUNT),
    _Mean("with head", "parameters_trained_with_head", _COUNT),
    _Mean("stored bytes", "stored_bytes", _COUNT),
    _Mean("dense MACs", "macs_dense_per_example", _macs_text, "macs_dense"),
    _Mean("executed %", "macs_executed_share", percent),
    _Mean("effective %", "macs_effective_share", percent),
    _Mean("padding %", "macs_executed_padding_share", percent),
    _Mean("dense at 128", "macs_dense_at_128_tokens", _macs_text),
    _Mean("executed % at 128", "macs_executed_share_at_128_tokens", percent),
    _Mean("effective % at 128", "macs_effective_share_at_128_tokens", percent),
    _Mean("search MACs", "macs_search", _macs_text, "search_macs"),
    _Mean("training MACs", "macs_training", _macs_text, "training_macs"),
    _Mean("whole life MACs", "macs_whole_life", _macs_text),
)
_TASK_COSTS = (
    _Mean("trained parameters", "parameters_trained", _COUNT),
    _Mean("stored bytes", "stored_bytes", _COUNT),
    _Mean("effective MACs %", "macs_effective_share_of_dense", percent),
    _Mean("executed MACs %", "macs_executed_share_of_dense", percent),
    _Mean("sparsity %", "sparsity", percent),
)


def write_task_table(suite: Finished, directory: Path, *, backbone: str, task: str) -> list[Path]:
    """Write ``<task>``: a line per method of one backbone and task, quality beside cost.

    Runs of other tasks are left out. Each refusal has a line without numbers.

    Raises:
        DataError: no run of this task, or runs of it with different primary metrics.
    """
    suite = suite.only(backbone, task)
    if not suite.groups:
        raise DataError(f"{backbone}/{task}: no finished run")
    primary = _one_metric(suite.runs)
    others = sorted({name for metrics in suite.runs["metrics"] for name in metrics} - {primary})
    groups = {**suite.groups, **dict.fromkeys(suite.refusals, suite.runs.iloc[:0])}
    columns = [
        text_column("method", "method", [method for *_, method in groups]),
        _score_column(groups, primary),
        *_best_epoch_columns(groups, primary),
        _difference_column(groups, primary),
        *(_score_column(groups, metric) for metric in others),
        number_column("seeds", "seeds_count", [len(one) or None for one in groups.values()]),
        *_mean_columns(groups, _TASK_COSTS),
        _flag_column(groups),
    ]
    notes = [
        f"{_SCORES_NOTE}{_interval_note(suite.groups)}; Δ {REFERENCE_METHOD} is in points. MACs "
        "are % of the dense model's for one example: effective leaves zeros out, executed does "
        "not.",
        *_scale_notes([primary, *others]),
        *_scored_notes(suite.runs),
        *_undefined_notes(suite.runs, [primary, *others]),
        *_above_notes(suite.runs, [primary, *others]),
        *_common_notes(suite),
    ]
    return _written(suite, directory / task, f"{backbone} on {task}", columns, notes)


def write_headline(suite: Finished, directory: Path) -> list[Path]:
    """Write ``headline``: the primary metric of every method on every backbone and task.

    The CSV has one column of mean fractions per ``backbone/task``.

    Raises:
        DataError: runs of one task have different primary metrics.
    """
    groups, runs = suite.groups, suite.runs
    methods = list(dict.fromkeys(method for *_, method in (*suite.order, *suite.refusals)))
    columns = [text_column("method", "method", methods)]
    for pair in dict.fromkeys(key[:2] for key in groups):
        scale = scale_of(_one_metric(suite.only(*pair).runs))
        own = {method: groups.get((*pair, method), runs.iloc[:0]) for method in methods}
        means = [mean_of(group["score"]) for group in own.values()]
        texts = [
            _NOT_RUN
            if (*pair, method) in suite.refusals and group.empty
            else spread_text(mean, deviation_of(group["score"]), scale.text)
            + (" *" if any(group["collapsed"]) else "")
            for mean, (method, group) in zip(means, own.items(), strict=True)
        ]
        page = f"{pair[0]}/{pair[1]}.html"
        targets = [None if group.empty else page for group in own.values()]
        heading = f"{' '.join(pair)} ({scale.heading})"
        columns.append(Column(heading, texts, {"/".join(pair): means}, targets=targets))
    seeds = sorted(set(runs["seed"]))
    notes = [f"{_SCORES_NOTE} (n = {len(seeds)}: {', '.join(map(str, seeds))})."]
    if any(runs["collapsed"]):
        notes.append("A star marks a method with a run that gave every example the same answer.")
    for metric, part in runs.groupby("metric", sort=False):
        notes += _above_notes(part, [str(metric)])
    notes += _common_notes(suite)
    return write_table(directory / "headline", "Primary metric", columns, notes)


def write_timings(suite: Finished, directory: Path) -> list[Path]:
    """Write ``timings``: how long the runs took, on what; a repeated suite differs here."""
    groups = suite.groups
    threads = [sorted(set(group["threads"]) - {None}) for group in groups.values()]
    columns = [
        *_name_columns(groups),
        *_mean_columns(groups, _TIMINGS),
        text_column("threads", "threads", [", ".join(map(str, counts)) for counts in threads]),
        text_column("device", "device", [", ".join(_devices(one)) for one in groups.values()]),
    ]
    notes = [*_TIMING_NOTES, *_common_notes(suite)]
    return _written(suite, directory / "timings", "Timings", columns, notes)


def write_costs(suite: Finished, directory: Path) -> list[Path]:
    """Write what a tuned model costs, as counts: the same on every machine.

    ``costs`` has parameters and multiply-adds, ``costs-by-module`` where the multiply-adds are.
    """
    names, notes = _name_columns(suite.groups), _common_notes(suite)
    examples = suite.runs["whole_life_inference_examples"].max()
    life = (
        f"A whole life is search, training and {examples:,.0f} effective forward passes, at mean "
        "lengths; training runs dense kernels, padding not counted."
    )
    by_module = (
        f"{_UNIT_NOTE} Effective MACs of one sequence of the run's mean length, in % of the dense "
        "model's: by operator, then by module; either adds up to the effective MACs."
    )
    columns = [*names, *_mean_columns(suite.groups, _COSTS)]
    told = [_UNIT_NOTE, _LENGTH_NOTE, life, *notes]
    parts = [*names, *_share_columns(suite)]
    title = "Multiply-adds by operator and by module"
    return [
        *_written(suite, directory / "costs", "Costs", columns, told),
        *_written(suite, directory / "costs-by-module", title, parts, [by_module, *notes]),
    ]


def write_savings(suite: Finished, directory: Path) -> list[Path]:
    """Write what training saves, in MACs (``savings``) and in seconds (``savings-time``)."""
    groups, written = suite.groups, []
    for unit, (name, title, heading, scale, note) in _SAVINGS.items():
        means = [Effort.mean(group, unit) for group in groups.values()]
        saved = savings_of(groups, unit)
        columns = _name_columns(groups)[:-1]
        for part in ("search", "training"):
            values = [getattr(mean, part) for mean in means]
            texts = [f"{value / scale:.2f}" for value in values]
            columns.append(Column(f"{part} {heading}", texts, {f"{part}_{unit}": values}))
        for told, part in (
            ("saved %", "whole"), ("fewer examples", "fewer_examples"),
            ("cheaper examples", "cheaper_examples"), ("search", "search"),
        ):  # fmt: skip
            shares = [getattr(saved.get(key), part, None) for key in groups]
            columns.append(number_column(told, f"saved_{part}_fraction", shares, percent))
        written += _written(suite, directory / name, title, columns, [note, _SAVED_NOTE])
    return written


def headlines(suite: Finished) -> pd.DataFrame:
    """The numbers that a reader wants first of each run, for lists of runs.

    Returns:
        A line a run, its index backbone, task, method and seed: the primary metric, effective MACs
        of the dense model's for one example, trained parameters, and time saved (of the dense runs'
        mean seconds, search included, negative if it took longer; dense runs have none).
        Percentages have two decimals; NaN is undefined.
    """
    runs, saved = suite.runs, pd.Series(None, suite.runs.index, dtype=float)
    for key, group in suite.groups.items():
        dense = suite.groups.get((*key[:2], REFERENCE_METHOD))
        if dense is not None and key[2] != REFERENCE_METHOD:
            saved[group.index] = saved_shares(group, dense, "seconds")
    parts = (runs["score"], runs["macs_effective_share_of_dense"], saved)
    score, macs, time = ((100 * part.astype(float)).round(2) for part in parts)
    numbers = (score, macs, runs["parameters_trained"].astype(float), time)
    found = dict(zip(_NUMBERS, numbers, strict=True))
    return pd.DataFrame(found).set_index(pd.MultiIndex.from_frame(runs[[*KEY, "seed"]]))


def spread(numbers: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation and count of each method's numbers over its seeds.

    Args:
        numbers: lines of :func:`headlines`.

    Returns:
        A line a method, with two decimals: ``<name>_mean``, ``<name>_sd`` (None where fewer than
        two seeds have the number) and ``seeds_count``.
    """
    methods = numbers.groupby(level="method", sort=False)
    found = methods.agg(["mean", "std"]).round(2)
    found.columns = [f"{name}_{'mean' if end == 'mean' else 'sd'}" for name, end in found.columns]
    found["seeds_count"] = methods.size().astype(float)
    return found.astype(object).where(found.notna(), None)


def columns_of(spreads: pd.DataFrame) -> list[Column]:
    """A table of :func:`spread`, with one line per method."""
    columns = [text_column("method", "method", list(spreads.index))]
    for name, heading in _NUMBERS.items():
        own = spreads[[f"{name}_mean", f"{name}_sd"]]
        show = "{:z.1f}".format if name.endswith("percent") else _COUNT
        # A count that is the same for all seeds needs no spread.
        texts = [
            spread_text(mean, None if show is _COUNT and not deviation else deviation, show)
            for mean, deviation in own.itertuples(index=False)
        ]
        columns.append(Column(heading, texts, {end: list(own[end]) for end in own}))
    return [*columns, number_column("seeds", "seeds_count", map(int, spreads["seeds_count"]))]


def _best_epoch(epochs: Sequence[EpochScore], metric: str) -> tuple[float, float] | None:
    """The best epoch of one run, the earliest of a tie, and its score; None where undefined."""
    sign = -1 if lower_is_better(metric) else 1
    found = [(one.epoch, value) for one in epochs if (value := one.metrics.get(metric)) is not None]
    return max(found, key=lambda one: sign * one[1], default=None)


def _written(
    suite: Finished, stem: Path, title: str, columns: Sequence[Column], notes: Sequence[str]
) -> list[Path]:
    """Write a table with a line a method and task, each with the way to its runs."""
    links = [list(group["link"]) for group in suite.groups.values()]
    return write_table(stem, title, columns, notes, runs=links)


def _name_columns(groups: Groups) -> list[Column]:
    """Backbone, task and method, of which each row is, and how many seeds it has."""
    names = [text_column(name, name, [key[at] for key in groups]) for at, name in enumerate(KEY)]
    return [*names, number_column("seeds", "seeds_count", map(len, groups.values()))]


def _mean_columns(groups: Groups, wanted: Sequence[_Mean]) -> list[Column]:
    return [
        number_column(
            heading, name, [mean_of(group[of or name]) for group in groups.values()], show
        )
        for heading, name, show, of in wanted
    ]


def _one_metric(runs: pd.DataFrame) -> str:
    first = runs.iloc[0]
    for folder, metric in zip(runs["folder"], runs["metric"], strict=True):
        if metric != first["metric"]:
            raise DataError(
                f"{folder / 'evaluate.json'}: primary metric is {metric!r}, "
                f"{first['folder'] / 'evaluate.json'} has {first['metric']!r}"
            )
    return first["metric"]


def _scores(group: pd.DataFrame, metric: str) -> list[float | None]:
    return [metrics.get(metric) for metrics in group["metrics"]]


def _interval(group: pd.DataFrame, metric: str) -> Sequence[float | None] | None:
    """Bootstrap interval of a single run's score; several seeds have a deviation instead."""
    return group["intervals"].iloc[0].get(metric) if len(group) == 1 else None


def _interval_note(groups: Groups) -> str:
    for group in groups.values():
        if _interval(group, group["metric"].iloc[0]):
            level = f"{100 * group['interval_level'].iloc[0]:g} %"
            return f"; with one seed, its {level} bootstrap interval over examples in brackets"
    return ""


def _score_column(groups: Groups, metric: str) -> Column:
    scale, texts, lines = scale_of(metric), [], []
    for group in groups.values():
        values = _scores(group, metric)
        mean, deviation = mean_of(values), deviation_of(values)
        low, high = _interval(group, metric) or (None, None)
        told = "" if low is None or high is None else f" [{scale.text(low)}, {scale.text(high)}]"
        texts.append(spread_text(mean, deviation, scale.text) + told)
        lines.append((mean, deviation, low, high))
    return Column(scale.heading, texts, _fields(metric, ("mean", "sd", "low", "high"), lines))


def _fields(
    stem: str, ends: Sequence[str], lines: Sequence[Sequence[Any]]
) -> dict[str, Sequence[Any]]:
    """Fields for the CSV, from lines of their values."""
    return {f"{stem}_{end}": [line[place] for line in lines] for place, end in enumerate(ends)}


def _best_epoch_columns(groups: Groups, metric: str) -> list[Column]:
    """A column of the best epochs' scores; none if no run of the table scored its epochs."""
    if not any(any(group["epoch_scores"]) for group in groups.values()):
        return []
    texts, lines = [], []
    for group in groups.values():
        best = [_best_epoch(epochs, metric) for epochs in group["epoch_scores"]]
        found = [] if None in best else [one for one in best if one]
        epochs, values = [f"{one[0]:g}" for one in found], [one[1] for one in found]
        mean, deviation = mean_of(values), deviation_of(values)
        shown = ", ".join(epochs if len(set(epochs)) > 1 else epochs[:1])
        texts.append(spread_text(mean, deviation, percent) + (f" ({shown})" if found else ""))
        lines.append((mean, deviation, ";".join(epochs)))
    fields = _fields(f"{metric}_best_epoch", ("mean", "sd"), lines)
    return [Column("best epoch", texts, {**fields, "best_epochs": [line[2] for line in lines]})]


def _difference_column(groups: Groups, metric: str) -> Column:
    means = {key[2]: mean_of(_scores(group, metric)) for key, group in groups.items()}
    reference = means.get(REFERENCE_METHOD)
    values = [
        None if method == REFERENCE_METHOD or None in (reference, mean) else mean - reference
        for method, mean in means.items()
    ]
    return number_column(
        f"Δ {REFERENCE_METHOD}",
        f"{metric}_difference_to_{REFERENCE_METHOD}",
        values,
        lambda value: scale_of(metric).text(value, signed=True),
    )


def _flag_column(groups: Groups) -> Column:
    counts = [None if group.empty else sum(group["collapsed"]) for group in groups.values()]
    texts = [
        _NOT_RUN if n is None
        else "" if not n else "collapsed" if n == len(group) else f"collapsed {n}/{len(group)}"
        for n, group in zip(counts, groups.values(), strict=True)
    ]  # fmt: skip
    return Column("flag", texts, {"collapsed_count": counts}, left=True)


def _share_columns(suite: Finished) -> list[Column]:
    """Effective MACs by operator and by module, over the dense model's."""
    runs, columns = suite.runs, []
    there = {name for run in runs["macs_by_module"] for name, macs in run.items() if macs}
    operators = dict.fromkeys(name for run in runs["macs_by_operator"] for name in run)
    chosen = [("macs_by_operator", name) for name in operators]
    chosen += [("macs_by_module", name) for name in _MODULES if name in there]
    for kind, name in chosen:
        means = [
            mean_of(group[kind].map(itemgetter(name)) / group["macs_dense_per_example"])
            for group in suite.groups.values()
        ]
        heading = f"{name.replace('_', ' ')} %"
        columns.append(number_column(heading, f"{name}_share", means, percent))
    return columns


def _devices(runs: pd.DataFrame) -> list[str]:
    """Names of the devices that runs were trained and evaluated on, sorted."""
    # The cost stage only counts, so where it ran does not matter.
    return sorted({name for names in runs["devices"] for name in names})


def _common_notes(suite: Finished) -> list[str]:
    """Footnotes about what is absent, unlike the rest, or not to be compared with others."""
    groups, notes = suite.groups, []
    if is_generated(key[1] for key in groups):
        notes.append(
            f"Tasks called {GENERATED_PREFIX}... are generated and small: they are not the "
            "published benchmarks, and their scores compare with nobody else's."
        )
    if absent := ["/".join(key) for key in suite.order if key not in groups]:
        notes.append(f"Not run: {', '.join(absent)}.")
    told = [f"{key[2]} on {key[0]}: not run: {why}." for key, why in suite.refusals.items()]
    notes.extend(dict.fromkeys(told))
    seeds = set(suite.runs["seed"])
    gaps = {key: sorted(seeds - set(group["seed"])) for key, group in groups.items()}
    missing = [f"{'/'.join(key)} ({', '.join(map(str, gap))})" for key, gap in gaps.items() if gap]
    if missing:
        notes.append(f"Missing seeds: {', '.join(missing)}.")
    if dirty := ["/".join(key) for key, group in groups.items() if any(group["dirty"])]:
        which = "all of them" if len(dirty) == len(groups) else ", ".join(dirty)
        notes.append(f"Run from a work tree with uncommitted changes: {which}.")
    devices = _devices(suite.runs)
    if len(devices) > 1:
        notes.append(f"Run on different devices: {', '.join(devices)}.")
    threads = sorted(set().union(*suite.runs["computed_with_threads"]))
    if len(threads) > 1:
        notes.append(
            f"Computed with different numbers of threads: {', '.join(map(str, threads))}; sums are "
            "split by them, so that runs differ more than by method and seed."
        )
    return notes


def _scale_notes(metrics: Sequence[str]) -> list[str]:
    """Say which columns are no percentages, and where a smaller number is the better one."""
    plain = [scale_of(metric).heading for metric in metrics if scale_of(metric).factor == 1]
    lower = [scale_of(metric).heading for metric in metrics if lower_is_better(metric)]
    told = {"Not percentages": plain, "Lower is better": lower}
    return [f"{what}: {', '.join(headings)}." for what, headings in told.items() if headings]


def _scored_notes(runs: pd.DataFrame) -> list[str]:
    """Say which split is scored, and how far a best epoch can be trusted."""
    told = " or ".join(f"{count:,}" for count in sorted(set(runs["n_examples"])))
    splits = ", ".join(sorted(set(runs["evaluation_split"])))
    notes = [f"Scored on {told} examples of the split {splits}."]
    if any(runs["epoch_scores"]):
        notes.append(_EPOCH_NOTE)
    reasons = set(runs["epoch_scores_note"]) - {None, ""}
    return [*notes, *(f"Epochs: {reason}." for reason in sorted(reasons))]


def _above_notes(runs: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Say of each metric above its scale whose it is: such a score compares with no other."""
    notes = []
    for metric in metrics:
        scale = scale_of(metric)
        above = [scale.is_above(values.get(metric)) for values in runs["metrics"]]
        methods = ", ".join(dict.fromkeys(runs["method"][above]))
        if methods:
            notes.append(
                f"{scale.heading} of {methods} is above its scale, which ends at "
                f"{scale.text(1.0)}: outputs are too short for it, and it compares with no other."
            )
    return notes


def _undefined_notes(runs: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Say of each metric without a value whose it is, and why if the record tells."""
    lacking: dict[tuple[str, str], dict[str, None]] = {}
    for metric in metrics:
        for run in runs.itertuples():
            if run.metrics.get(metric) is None:
                why = run.metric_notes.get(metric, "")
                lacking.setdefault((scale_of(metric).heading, why), {})[run.method] = None
    explained, unexplained = [], []
    for (heading, why), methods in lacking.items():
        if why:
            explained.append(f"No {heading} for at least one seed of {', '.join(methods)}: {why}.")
        else:
            unexplained += [f"{heading} of {method}" for method in methods]
    first = [f"Undefined for at least one seed: {', '.join(unexplained)}."] if unexplained else []
    return first + explained

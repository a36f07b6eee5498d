"""The tables of a suite: scores beside costs, the primary metric, timings, counts, savings.

All but CSV print percentages with one decimal; CSV keeps fractions at full precision. No seconds
are in them but in ``timings`` and ``savings-time``, and only HTML names MLflow runs, which a rerun
replaces. Every ``write_...`` returns the files it wrote, each table's in the order of
:data:`sparsetune.reporting.contents.TABLE_FORMS`.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune.config.metric import lower_is_better, scale_of
from sparsetune.errors import DataError
from sparsetune.records.parts import EpochScore
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.load import (
    KEY,
    Finished,
    Key,
    RunRow,
    common_notes,
    deviation_of,
    devices_of,
    finished,
    mean_of,
)
from sparsetune.reporting.render import (
    ABSENT,
    Column,
    number_column,
    percent,
    text_column,
    write_table,
)
from sparsetune.reporting.savings import Unit, mean_effort, saved_shares, savings_of

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
RunId = tuple[str, str, str, int]
"""(backbone, task, method, seed)."""
Headline = Mapping[str, float]
"""``score_percent``, ``macs_effective_percent``, ``parameters_trained`` and ``time_saved_percent``
of a run, or those of them that it has; percentages have two decimals."""


def write_task_table(suite: Finished, directory: Path, *, backbone: str, task: str) -> list[Path]:
    """Write ``<task>``: a line per method of one backbone and task, quality beside cost.

    Runs of other tasks are left out. Each refusal has a line without numbers.

    Raises:
        DataError: no run of this task, or runs of it with different primary metrics.
    """
    suite = suite.only(backbone, task)
    groups, refused = suite.groups, [method for *_, method in suite.refusals]
    if not groups:
        raise DataError(f"{backbone}/{task}: no finished run")
    primary = _one_metric(suite.runs)
    others = sorted({name for metrics in suite.runs["metrics"] for name in metrics} - {primary})
    columns = [
        text_column("method", "method", [method for *_, method in groups]),
        _score_column(groups, primary),
        *_best_epoch_columns(groups, primary),
        _difference_column(groups, primary),
        *(_score_column(groups, metric) for metric in others),
        number_column("seeds", "seeds_count", list(map(len, groups.values()))),
        _mean_column(groups, "trained parameters", "parameters_trained", _COUNT),
        _mean_column(groups, "stored bytes", "stored_bytes", _COUNT),
        _mean_column(groups, "effective MACs %", "macs_effective_share_of_dense", percent),
        _mean_column(groups, "executed MACs %", "macs_executed_share_of_dense", percent),
        _mean_column(groups, "sparsity %", "sparsity", percent),
        _collapsed_column(groups),
    ]
    notes = [
        f"{_SCORES_NOTE}{_interval_note(groups)}; Δ {REFERENCE_METHOD} is in points. MACs are % "
        "of the dense model's for one example: effective leaves zeros out, executed does not.",
        *_scale_notes([primary, *others]),
        *_scored_notes(suite.runs),
        *_undefined_notes(suite.runs, [primary, *others]),
        *common_notes(suite),
    ]
    columns = [_with_refused(column, refused) for column in columns]
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
        metric = _one_metric(suite.only(*pair).runs)
        own = [groups.get((*pair, method)) for method in methods]
        refused = [(*pair, method) in suite.refusals for method in methods]
        texts = [
            (_NOT_RUN if why else ABSENT)
            if group is None
            else _score_text(group["score"], metric) + (" *" if any(group["collapsed"]) else "")
            for group, why in zip(own, refused, strict=True)
        ]
        means = [None if group is None else mean_of(group["score"]) for group in own]
        page = directory / pair[0] / f"{pair[1]}.html"
        targets = [None if group is None else page for group in own]
        heading = f"{' '.join(pair)} ({scale_of(metric).heading})"
        columns.append(Column(heading, texts, {"/".join(pair): means}, targets=targets))
    seeds = sorted(set(runs["seed"]))
    notes = [f"{_SCORES_NOTE} (n = {len(seeds)}: {', '.join(map(str, seeds))})."]
    if any(runs["collapsed"]):
        notes.append("A star marks a method with a run that gave every example the same answer.")
    notes.extend(common_notes(suite))
    return write_table(directory / "headline", "Primary metric", columns, notes)


def write_timings(suite: Finished, directory: Path) -> list[Path]:
    """Write ``timings``: how long the runs took, on what; a repeated suite differs here."""
    groups = suite.groups

    def timing(heading: str, name: str, factor: float = 1.0) -> Column:
        return _mean_column(groups, heading, name, lambda value: f"{factor * value:.1f}")

    threads = [sorted(set(group["threads"]) - {None}) for group in groups.values()]
    columns = [
        *_name_columns(groups),
        timing("train s", "train_seconds"),
        timing("start-up s", "start_up_seconds"),
        timing("evaluate s", "evaluate_seconds"),
        timing("examples/s", "examples_per_second"),
        timing("peak memory MB", "peak_memory_bytes", 1e-6),
        timing("latency ms", "latency_seconds_batch_1", 1e3),
        timing("sequences/s", "sequences_per_second_batch_64"),
        timing("inference memory MB", "inference_peak_memory_bytes", 1e-6),
        text_column("threads", "threads", [", ".join(map(str, counts)) for counts in threads]),
        text_column("device", "device", [", ".join(devices_of(one)) for one in groups.values()]),
    ]
    notes = [*_TIMING_NOTES, *common_notes(suite)]
    return _written(suite, directory / "timings", "Timings", columns, notes)


def write_costs(suite: Finished, directory: Path) -> list[Path]:
    """Write what a tuned model costs, as counts: the same on every machine.

    ``costs`` has parameters and multiply-adds, ``costs-by-module`` where the multiply-adds are.
    """
    groups, notes = suite.groups, common_notes(suite)

    def column(heading: str, name: str, show: Callable[[Any], str], of: str = "") -> Column:
        return _mean_column(groups, heading, name, show, of)

    columns = [
        *_name_columns(groups),
        column("trained", "parameters_trained", _COUNT),
        column("with head", "parameters_trained_with_head", _COUNT),
        column("stored bytes", "stored_bytes", _COUNT),
        column("dense MACs", "macs_dense_per_example", macs_text, "macs_dense"),
        column("executed %", "macs_executed_share", percent),
        column("effective %", "macs_effective_share", percent),
        column("padding %", "macs_executed_padding_share", percent),
        column("dense at 128", "macs_dense_at_128_tokens", macs_text),
        column("executed % at 128", "macs_executed_share_at_128_tokens", percent),
        column("effective % at 128", "macs_effective_share_at_128_tokens", percent),
        column("search MACs", "macs_search", macs_text, "search_macs"),
        column("training MACs", "macs_training", macs_text, "training_macs"),
        column("whole life MACs", "macs_whole_life", macs_text),
    ]
    examples = suite.runs["whole_life_inference_examples"].max()
    life = (
        f"A whole life is search, training and {examples:,.0f} effective forward passes, at mean "
        "lengths; training runs dense kernels, padding not counted."
    )
    told = [_UNIT_NOTE, _LENGTH_NOTE, life, *notes]
    by_module = (
        f"{_UNIT_NOTE} Effective MACs of one sequence of the run's mean length, in % of the dense "
        "model's: by operator, then by module; either adds up to the effective MACs."
    )
    parts = [*_name_columns(groups), *_share_columns(suite)]
    title = "Multiply-adds by operator and by module"
    return [
        *_written(suite, directory / "costs", "Costs", columns, told),
        *_written(suite, directory / "costs-by-module", title, parts, [by_module, *notes]),
    ]


def write_savings(suite: Finished, directory: Path) -> list[Path]:
    """Write what training saves, in MACs (``savings``) and in seconds (``savings-time``)."""
    groups, written = suite.groups, []
    for unit, (name, title, heading, scale, note) in _SAVINGS.items():
        means = [mean_effort(group, unit) for group in groups.values()]
        saved = savings_of(groups, unit)
        columns = _name_columns(groups)[:-1]
        for part in ("search", "training"):
            values = [getattr(mean, part) / scale for mean in means]
            texts = [f"{value:.2f}" for value in values]
            fields = {f"{part}_{unit}": [getattr(mean, part) for mean in means]}
            columns.append(Column(f"{part} {heading}", texts, fields))
        for told, part in (
            ("saved %", "whole"), ("fewer examples", "fewer_examples"),
            ("cheaper examples", "cheaper_examples"), ("search", "search"),
        ):  # fmt: skip
            shares = [getattr(saved.get(key), part, None) for key in groups]
            columns.append(number_column(told, f"saved_{part}_fraction", shares, percent))
        written += _written(suite, directory / name, title, columns, [note, _SAVED_NOTE])
    return written


def headlines(rows: Iterable[RunRow]) -> dict[RunId, Headline]:
    """The numbers that a reader wants first of each run, for lists of runs.

    Args:
        rows: from :func:`sparsetune.reporting.load.collect`, all runs of their tasks.

    Returns:
        Of each run the primary metric, effective MACs of the dense model's for one example,
        trained parameters, and time saved (of the dense runs' mean seconds, search included,
        negative if it took longer; dense runs have none).
    """
    known = list(rows)
    groups = finished(known, [row.key for row in known]).groups
    told: dict[RunId, Headline] = {}
    for key, runs in groups.items():
        dense = groups.get((*key[:2], REFERENCE_METHOD))
        saved: Sequence[float | None] = [None] * len(runs)
        if dense is not None and key[2] != REFERENCE_METHOD:
            saved = saved_shares(runs, dense, "seconds")
        for run, part in zip(runs.itertuples(), saved, strict=True):
            fractions = (run.score, run.macs_effective_share_of_dense, part)
            names = (name for name in _NUMBERS if name.endswith("percent"))
            told[*key, run.seed] = {"parameters_trained": float(run.parameters_trained)} | {
                name: round(100 * value, 2)
                for name, value in zip(names, fractions, strict=True)
                if value is not None
            }
    return told


def spread(of_seeds: Sequence[Headline]) -> dict[str, float]:
    """Mean, sample standard deviation and count of one method's numbers, at least one seed's.

    Returns:
        ``<name>_mean`` for every name that a seed has, ``<name>_sd`` where two or more have it,
        and ``seeds_count``.

    Example:
        >>> spread([{"score_percent": 80.0}, {"score_percent": 82.0}])
        {'score_percent_mean': 81.0, 'score_percent_sd': 1.41, 'seeds_count': 2.0}
    """
    told: dict[str, float] = {}
    for name in _NUMBERS:
        values = [numbers[name] for numbers in of_seeds if name in numbers]
        if values:
            told[f"{name}_mean"] = round(statistics.fmean(values), 2)
        if len(values) > 1:
            told[f"{name}_sd"] = round(statistics.stdev(values), 2)
    return {**told, "seeds_count": float(len(of_seeds))}


def columns_of(methods: Mapping[str, Mapping[str, float]]) -> list[Column]:
    """A table of method id -> :func:`spread`, with one line per method."""

    def text(name: str, told: Mapping[str, float]) -> str:
        mean, deviation = told.get(f"{name}_mean"), told.get(f"{name}_sd")
        show = "{:z.1f}".format if name.endswith("percent") else _COUNT
        # A count that is the same for all seeds needs no spread.
        varies = deviation is not None and (deviation or show is not _COUNT)
        return ABSENT if mean is None else show(mean) + (f" ± {show(deviation)}" if varies else "")

    spreads = list(methods.values())
    columns = [text_column("method", "method", list(methods))]
    for name, heading in _NUMBERS.items():
        ends = [f"{name}_{end}" for end in ("mean", "sd")]
        fields = {end: [told.get(end) for told in spreads] for end in ends}
        columns.append(Column(heading, [text(name, told) for told in spreads], fields))
    counts = [int(told["seeds_count"]) for told in spreads]
    return [*columns, number_column("seeds", "seeds_count", counts)]


def macs_text(value: float) -> str:
    """A number of MACs with three digits and a unit.

    Example:
        >>> macs_text(11_174_000_000), macs_text(512)
        ('11.2 G', '512')
    """
    rounded = float(f"{value:.3g}")
    for size, letter in _UNITS:
        if rounded >= size:
            return f"{rounded / size:.3g} {letter}"
    return f"{rounded:.3g}"


def best_epoch(epochs: Sequence[EpochScore], metric: str) -> tuple[float, float] | None:
    """The best epoch of one run, and the metric's value after it; the earliest wins a tie.

    Returns:
        None if epochs were not scored, or the metric was undefined after all of them.
    """
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
    return [*names, number_column("seeds", "seeds_count", list(map(len, groups.values())))]


def _mean_column(
    groups: Groups, heading: str, name: str, show: Callable[[Any], str], of: str = ""
) -> Column:
    means = [mean_of(group[of or name]) for group in groups.values()]
    return number_column(heading, name, means, show)


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


def _score_text(values: Iterable[float | None], metric: str) -> str:
    found, scale = list(values), scale_of(metric)
    mean, deviation = mean_of(found), deviation_of(found)
    text = ABSENT if mean is None else scale.text(mean)
    return text if deviation is None else f"{text} ± {scale.text(deviation)}"


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
    scale, texts = scale_of(metric), []
    scores = [_scores(group, metric) for group in groups.values()]
    ends = [_interval(group, metric) or (None, None) for group in groups.values()]
    for values, (low, high) in zip(scores, ends, strict=True):
        told = "" if low is None or high is None else f" [{scale.text(low)}, {scale.text(high)}]"
        texts.append(_score_text(values, metric) + told)
    fields = {
        f"{metric}_mean": list(map(mean_of, scores)),
        f"{metric}_sd": list(map(deviation_of, scores)),
        f"{metric}_low": [low for low, _ in ends],
        f"{metric}_high": [high for _, high in ends],
    }
    return Column(scale.heading, texts, fields)


def _best_epoch_columns(groups: Groups, metric: str) -> list[Column]:
    """A column of the best epochs' scores; none if no run of the table scored its epochs."""
    if not any(any(group["epoch_scores"]) for group in groups.values()):
        return []
    texts, lines = [], []
    for group in groups.values():
        best = [best_epoch(epochs, metric) for epochs in group["epoch_scores"]]
        epochs, values = [], []
        if all(best):
            epochs, values = [f"{one[0]:g}" for one in best if one], [one[1] for one in best if one]
        mean, deviation = (mean_of(values) if values else None), deviation_of(values)
        lines.append((mean, deviation, ";".join(epochs)))
        shown = ", ".join(epochs if len(set(epochs)) > 1 else epochs[:1])
        several = "" if deviation is None else f" ± {percent(deviation)}"
        texts.append(f"{percent(mean)}{several} ({shown})" if values else ABSENT)
    names = (f"{metric}_best_epoch_mean", f"{metric}_best_epoch_sd", "best_epochs")
    return [Column("best epoch", texts, dict(zip(names, zip(*lines, strict=True), strict=True)))]


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


def _collapsed_column(groups: Groups) -> Column:
    counts = [sum(group["collapsed"]) for group in groups.values()]
    texts = [
        "" if not n else "collapsed" if n == len(group) else f"collapsed {n}/{len(group)}"
        for n, group in zip(counts, groups.values(), strict=True)
    ]
    return Column("flag", texts, {"collapsed_count": counts}, left=True)


def _share_columns(suite: Finished) -> list[Column]:
    """Effective MACs by operator and by module, over the dense model's."""
    runs = suite.runs
    there = {name for run in runs["macs_by_module"] for name, macs in run.items() if macs}
    operators = dict.fromkeys(name for run in runs["macs_by_operator"] for name in run)
    chosen = [("macs_by_operator", name) for name in operators]
    chosen += [("macs_by_module", name) for name in _MODULES if name in there]
    columns = []
    for kind, name in chosen:
        shares = runs[kind].map(lambda of, name=name: of[name]) / runs["macs_dense_per_example"]
        means = shares.groupby([runs[part] for part in KEY], sort=False).agg(mean_of)
        heading = f"{name.replace('_', ' ')} %"
        columns.append(number_column(heading, f"{name}_share", list(means), percent))
    return columns


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


def _with_refused(column: Column, methods: Sequence[str]) -> Column:
    """Add a line for each refused method: its name, no numbers, and the flag."""
    told = {"method": list(methods), "flag": [_NOT_RUN] * len(methods)}
    texts = [*column.texts, *told.get(column.heading, [ABSENT] * len(methods))]
    empty = [None] * len(methods)
    fields = {
        name: [*values, *(methods if name == "method" else empty)]
        for name, values in column.fields.items()
    }
    return replace(column, texts=texts, fields=fields)

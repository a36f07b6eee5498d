"""The tables of a suite: scores beside costs, the headline matrix, timings, and counts.

All but CSV print percentages with one decimal; CSV keeps fractions at full precision. No timing
is in them but in ``timings``, and only HTML names MLflow runs, which a rerun replaces.
"""

from collections.abc import Callable, Mapping, Sequence
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
    common_notes,
    deviation_of,
    devices_of,
    links_of,
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
_MODULES = (
    "embeddings", "query", "key", "value", "scores", "context",
    "attention_output", "ffn_in", "ffn_out", "pooler", "head", "update",
)  # fmt: skip
"""In the order in which a sequence passes them; a record has them in no order."""
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

Groups = Mapping[Key, pd.DataFrame]


def write_task_table(suite: Finished, directory: Path, *, backbone: str, task: str) -> list[Path]:
    """Write one backbone and task: a line per method, quality beside cost.

    Args:
        suite: finished runs; those of other tasks are left out. Each refusal has a line without
            numbers.
        directory: where ``<task>.md``, ``.csv``, ``.tex`` and ``.html`` go.
        backbone: id.
        task: id.

    Returns:
        The four files.

    Raises:
        DataError: no run of this task, or runs of it with different primary metrics.
    """
    suite = suite.only(backbone, task)
    groups = suite.groups
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
        _mean_column(groups, "trained parameters", "parameters_trained", "{:,.0f}".format),
        _mean_column(groups, "stored bytes", "stored_bytes", "{:,.0f}".format),
        _macs_column(groups, "effective"),
        _macs_column(groups, "executed"),
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
    columns = _with_refused(columns, [method for *_, method in suite.refusals])
    runs = links_of(groups.values())
    return write_table(directory / task, f"{backbone} on {task}", columns, notes, runs=runs)


def write_headline(suite: Finished, directory: Path) -> list[Path]:
    """Write the primary metric of every method on every backbone and task.

    Args:
        suite: finished runs.
        directory: where ``headline.md``, ``.csv``, ``.tex`` and ``.html`` go.

    Returns:
        The four files. The CSV has one column of mean fractions per ``backbone/task``.

    Raises:
        DataError: runs of one task have different primary metrics.
    """
    groups, runs = suite.groups, suite.runs
    methods = list(dict.fromkeys(method for *_, method in (*suite.order, *suite.refusals)))
    columns = [text_column("method", "method", methods)]
    for backbone, task in dict.fromkeys(key[:2] for key in groups):
        metric = _one_metric(suite.only(backbone, task).runs)
        texts, means, targets = [], [], []
        for method in methods:
            group = groups.get((backbone, task, method))
            refused = (backbone, task, method) in suite.refusals
            means.append(None if group is None else mean_of(group["score"]))
            targets.append(None if group is None else directory / backbone / f"{task}.html")
            if group is None:
                texts.append(_NOT_RUN if refused else ABSENT)
            else:
                star = " *" if any(group["collapsed"]) else ""
                texts.append(_score_text(list(group["score"]), metric) + star)
        heading = f"{backbone} {task} ({scale_of(metric).heading})"
        columns.append(Column(heading, texts, {f"{backbone}/{task}": means}, targets=targets))
    seeds = sorted(set(runs["seed"]))
    notes = [f"{_SCORES_NOTE} (n = {len(seeds)}: {', '.join(map(str, seeds))})."]
    if any(runs["collapsed"]):
        notes.append("A star marks a method with a run that gave every example the same answer.")
    notes.extend(common_notes(suite))
    return write_table(directory / "headline", "Primary metric", columns, notes)


def write_timings(suite: Finished, directory: Path) -> list[Path]:
    """Write how long the runs took, on what; two runs of a suite differ here and only here.

    Args:
        suite: finished runs.
        directory: where ``timings.md``, ``.csv``, ``.tex`` and ``.html`` go.

    Returns:
        The four files.
    """
    groups = suite.groups

    def timing(heading: str, name: str, factor: float = 1.0) -> Column:
        return _mean_column(groups, heading, name, lambda value: f"{factor * value:.1f}")

    threads = [
        sorted({count for count in group["threads"] if count is not None})
        for group in groups.values()
    ]
    columns = [
        *name_columns(groups),
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
    links = links_of(groups.values())
    return write_table(directory / "timings", "Timings", columns, notes, runs=links)


def write_costs(suite: Finished, directory: Path) -> list[Path]:
    """Write what a tuned model costs, as counts: the same on every machine.

    Args:
        suite: finished runs.
        directory: where ``costs.*`` (parameters and multiply-adds) and ``costs-by-module.*``
            (where the multiply-adds are) go.

    Returns:
        The eight files.
    """
    groups, notes = suite.groups, common_notes(suite)

    def column(heading: str, name: str, show: Callable[[Any], str]) -> Column:
        return _mean_column(groups, heading, name, show)

    columns = [
        *name_columns(groups),
        column("trained", "parameters_trained", "{:,.0f}".format),
        column("with head", "parameters_trained_with_head", "{:,.0f}".format),
        column("stored bytes", "stored_bytes", "{:,.0f}".format),
        replace(
            column("dense MACs", "macs_dense", macs_text),
            fields={"macs_dense_per_example": _means(groups, "macs_dense")},
        ),
        column("executed %", "macs_executed_share", percent),
        column("effective %", "macs_effective_share", percent),
        column("padding %", "macs_executed_padding_share", percent),
        column("dense at 128", "macs_dense_at_128_tokens", macs_text),
        column("executed % at 128", "macs_executed_share_at_128_tokens", percent),
        column("effective % at 128", "macs_effective_share_at_128_tokens", percent),
        number_column("search MACs", "macs_search", _means(groups, "search_macs"), macs_text),
        number_column("training MACs", "macs_training", _means(groups, "training_macs"), macs_text),
        column("whole life MACs", "macs_whole_life", macs_text),
    ]
    links = links_of(groups.values())
    life = [
        f"A whole life is search, training and {max(examples):,.0f} effective forward passes, at "
        "mean lengths; training runs dense kernels, padding not counted."
        for examples in [suite.runs["whole_life_inference_examples"]]
        if len(examples)
    ]
    costs = write_table(
        directory / "costs", "Costs", columns, [_UNIT_NOTE, _LENGTH_NOTE, *life, *notes], runs=links
    )
    by_module = (
        f"{_UNIT_NOTE} Effective MACs of one sequence of the run's mean length, in % of the dense "
        "model's: by operator, then by module; either adds up to the effective MACs."
    )
    modules = write_table(
        directory / "costs-by-module",
        "Multiply-adds by operator and by module",
        [*name_columns(groups), *_share_columns(groups)],
        [by_module, *notes],
        runs=links,
    )
    return [*costs, *modules]


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


def name_columns(groups: Groups, *, seeds: bool = True) -> list[Column]:
    """Backbone, task and method, of which each row is, and how many seeds it has."""
    names = [
        text_column(name, name, [key[place] for key in groups]) for place, name in enumerate(KEY)
    ]
    counts = number_column("seeds", "seeds_count", list(map(len, groups.values())))
    return [*names, counts] if seeds else names


def best_epoch(epochs: Sequence[EpochScore], metric: str) -> tuple[float, float] | None:
    """The best epoch of one run, and the metric's value after it; the earliest wins a tie.

    Args:
        epochs: ``epoch_scores`` of the run.
        metric: name of the metric to choose by.

    Returns:
        None if epochs were not scored, or the metric was undefined after all of them.
    """
    sign = -1 if lower_is_better(metric) else 1
    found = [(one.epoch, value) for one in epochs if (value := one.metrics.get(metric)) is not None]
    return max(found, key=lambda one: sign * one[1], default=None)


def _means(groups: Groups, name: str) -> list[Any]:
    return [mean_of(group[name]) for group in groups.values()]


def _mean_column(groups: Groups, heading: str, name: str, show: Callable[[Any], str]) -> Column:
    return number_column(heading, name, _means(groups, name), show)


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


def _score_text(values: Sequence[float | None], metric: str) -> str:
    mean, deviation, scale = mean_of(values), deviation_of(values), scale_of(metric)
    spread = "" if deviation is None else f" ± {scale.text(deviation)}"
    return (ABSENT if mean is None else scale.text(mean)) + spread


def _interval(group: pd.DataFrame, metric: str) -> Sequence[float] | None:
    """Bootstrap interval of a single run's score; several seeds have a deviation instead."""
    return group["intervals"].iloc[0].get(metric) if len(group) == 1 else None


def _interval_note(groups: Groups) -> str:
    told = [one for one in groups.values() if _interval(one, one["metric"].iloc[0])]
    if not told:
        return ""
    level = told[0]["interval_level"].iloc[0]
    return f"; with one seed, its {100 * level:g} % bootstrap interval over examples in brackets"


def _score_column(groups: Groups, metric: str) -> Column:
    scores = [_scores(group, metric) for group in groups.values()]
    intervals = [_interval(group, metric) for group in groups.values()]
    scale = scale_of(metric)
    texts = [
        _score_text(values, metric)
        + (f" [{scale.text(one[0])}, {scale.text(one[1])}]" if one else "")
        for values, one in zip(scores, intervals, strict=True)
    ]
    return Column(
        scale.heading,
        texts,
        {
            f"{metric}_mean": list(map(mean_of, scores)),
            f"{metric}_sd": list(map(deviation_of, scores)),
            f"{metric}_low": [one[0] if one else None for one in intervals],
            f"{metric}_high": [one[1] if one else None for one in intervals],
        },
    )


def _best_epoch_columns(groups: Groups, metric: str) -> list[Column]:
    """A column of the best epochs' scores; none if no run of the table scored its epochs."""
    if not any(any(group["epoch_scores"]) for group in groups.values()):
        return []
    texts: list[str] = []
    fields: dict[str, list[Any]] = {
        f"{metric}_best_epoch_mean": [], f"{metric}_best_epoch_sd": [], "best_epochs": [],
    }  # fmt: skip
    for group in groups.values():
        found = [best_epoch(epochs, metric) for epochs in group["epoch_scores"]]
        known = [one for one in found if one] if all(found) else []
        epochs = [f"{epoch:g}" for epoch, _ in known]
        values = [value for _, value in known]
        mean, deviation = (mean_of(values) if known else None), deviation_of(values)
        spread = "" if deviation is None else f" ± {percent(deviation)}"
        shown = epochs if len(set(epochs)) > 1 else epochs[:1]
        texts.append(f"{percent(mean)}{spread} ({', '.join(shown)})" if known else ABSENT)
        for name, value in zip(fields, (mean, deviation, ";".join(epochs)), strict=True):
            fields[name].append(value)
    return [Column("best epoch", texts, fields)]


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


def _macs_column(groups: Groups, kind: str) -> Column:
    shares = [
        mean_of(group[f"macs_{kind}_per_example"] / group["macs_dense_per_example"])
        for group in groups.values()
    ]
    return number_column(f"{kind} MACs %", f"macs_{kind}_share_of_dense", shares, percent)


def _collapsed_column(groups: Groups) -> Column:
    counts = [sum(group["collapsed"]) for group in groups.values()]
    texts = [
        "" if not n else "collapsed" if n == len(group) else f"collapsed {n}/{len(group)}"
        for n, group in zip(counts, groups.values(), strict=True)
    ]
    return Column("flag", texts, {"collapsed_count": counts}, left=True)


def _share_columns(groups: Groups) -> list[Column]:
    """Effective MACs by operator and by module, over the dense model's."""
    runs = [run for group in groups.values() for run in group["macs_by_module"]]
    there = {name for run in runs for name, macs in run.items() if macs}
    operators = dict.fromkeys(
        name for group in groups.values() for run in group["macs_by_operator"] for name in run
    )
    chosen = [("macs_by_operator", name) for name in operators]
    chosen += [("macs_by_module", name) for name in _MODULES if name in there]
    columns = []
    for kind, name in chosen:
        shares = [
            mean_of(
                run[name] / dense
                for run, dense in zip(group[kind], group["macs_dense_per_example"], strict=True)
            )
            for group in groups.values()
        ]
        heading = f"{name.replace('_', ' ')} %"
        columns.append(number_column(heading, f"{name}_share", shares, percent))
    return columns


def _scale_notes(metrics: Sequence[str]) -> list[str]:
    """Say which columns are no percentages, and where a smaller number is the better one."""
    plain = [scale_of(metric).heading for metric in metrics if scale_of(metric).factor == 1]
    lower = [scale_of(metric).heading for metric in metrics if lower_is_better(metric)]
    notes = [f"Not percentages: {', '.join(plain)}."] if plain else []
    return [*notes, *([f"Lower is better: {', '.join(lower)}."] if lower else [])]


def _scored_notes(runs: pd.DataFrame) -> list[str]:
    """Say which split is scored, and how far a best epoch can be trusted."""
    told = " or ".join(f"{count:,}" for count in sorted(set(runs["n_examples"])))
    splits = ", ".join(sorted(set(runs["evaluation_split"])))
    notes = [f"Scored on {told} examples of the split {splits}."]
    if any(runs["epoch_scores"]):
        notes.append(_EPOCH_NOTE)
    reasons = {reason for reason in runs["epoch_scores_note"] if reason}
    return [*notes, *(f"Epochs: {reason}." for reason in sorted(reasons))]


def _undefined_notes(runs: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Say of each metric without a value whose it is, and why if the record tells."""
    unexplained, notes = [], []
    for metric in metrics:
        heading = scale_of(metric).heading
        lacking: dict[str, dict[str, None]] = {}
        for method, values, told in zip(
            runs["method"], runs["metrics"], runs["metric_notes"], strict=True
        ):
            if values.get(metric) is None:
                lacking.setdefault(told.get(metric, ""), {})[method] = None
        for why, methods in lacking.items():
            if why:
                notes.append(f"No {heading} for at least one seed of {', '.join(methods)}: {why}.")
            else:
                unexplained += [f"{heading} of {method}" for method in methods]
    if unexplained:
        notes.insert(0, f"Undefined for at least one seed: {', '.join(unexplained)}.")
    return notes


def _with_refused(columns: Sequence[Column], methods: Sequence[str]) -> list[Column]:
    """Add a line for each refused method: its name, no numbers, and the flag."""
    absent = [ABSENT] * len(methods)
    texts = {"method": methods, "flag": [_NOT_RUN] * len(methods)}
    widened = [column.with_lines(texts.get(column.heading, absent)) for column in columns]
    return [replace(widened[0], fields={"method": widened[0].texts}), *widened[1:]]

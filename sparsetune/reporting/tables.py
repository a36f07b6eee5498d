"""The tables of a suite as Markdown, CSV, LaTeX and HTML, byte-identical for the same results.

All but CSV print percentages with one decimal; CSV keeps fractions at full precision.
No timing is in them, and only HTML names MLflow runs, which a rerun replaces.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sparsetune.config.metric import lower_is_better, scale_of
from sparsetune.errors import DataError
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs, links_of
from sparsetune.reporting.epochs import best_epoch_columns, scored_notes
from sparsetune.reporting.footnotes import NO_REFUSALS, common_notes, mean_of
from sparsetune.reporting.layout import (
    ABSENT,
    Column,
    number_column,
    percent,
    text_column,
    write_table,
)

REFERENCE_METHOD = "full"
"""The method that every other one of a task is compared with."""

_NOT_RUN = "not run"
_SCORES_NOTE = "Scores are percentages, mean ± sample standard deviation over seeds"


def write_task_table(
    rows: Sequence[RunRow],
    directory: Path,
    *,
    backbone: str,
    task: str,
    order: Sequence[Key],
    refusals: Mapping[Key, str] = NO_REFUSALS,
) -> list[Path]:
    """Write one backbone and task: a line per method, quality beside cost.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`; other tasks are left out.
        directory: where ``<task>.md``, ``.csv``, ``.tex`` and ``.html`` go.
        backbone: id.
        task: id.
        order: (backbone, task, method) of the whole suite, in the order to print.
        refusals: (backbone, task, method) that the suite asks for and that cannot run -> why.
            Each has a line without numbers.

    Returns:
        The four files.

    Raises:
        DataError: no run of this task, a run outside ``order``, runs of one task with different
            headline metrics, or a value missing from a record.
    """
    order = [key for key in order if key[:2] == (backbone, task)]
    refusals = {key: why for key, why in refusals.items() if key[:2] == (backbone, task)}
    groups = group_runs([row for row in rows if row.key[:2] == (backbone, task)], order)
    if not groups:
        raise DataError(f"{backbone}/{task}: no finished run")
    headline = _one_headline(groups)
    others = sorted({m for g in groups for row in g.rows for m in row.metrics} - {headline})
    columns = [
        text_column("method", "method", [group.key[2] for group in groups]),
        _score_column(groups, headline),
        *best_epoch_columns(groups, headline),
        _difference_column(groups, headline),
        *(_score_column(groups, metric) for metric in others),
        number_column("seeds", "seeds_count", [len(group.rows) for group in groups]),
        _count_column("trained parameters", "parameters_trained", groups),
        _count_column("stored bytes", "stored_bytes", groups),
        _macs_column("effective", groups),
        _macs_column("executed", groups),
        _sparsity_column(groups),
        _collapsed_column(groups),
    ]
    notes = [
        f"{_SCORES_NOTE}{_interval_note(groups)}; Δ {REFERENCE_METHOD} is in points. MACs are % "
        "of the dense model's for one example: effective leaves zeros out, executed does not.",
        *_scale_notes([headline, *others]),
        *scored_notes(groups),
        *_undefined_notes(groups, [headline, *others]),
        *common_notes(groups, order, refusals),
    ]
    columns = _with_refused(columns, [method for *_, method in refusals])
    runs = links_of(groups)
    return write_table(directory / task, f"{backbone} on {task}", columns, notes, runs=runs)


def write_headline(
    rows: Sequence[RunRow],
    directory: Path,
    *,
    order: Sequence[Key],
    refusals: Mapping[Key, str] = NO_REFUSALS,
) -> list[Path]:
    """Write the headline metric of every method on every backbone and task.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`.
        directory: where ``headline.md``, ``.csv``, ``.tex`` and ``.html`` go.
        order: (backbone, task, method) of the whole suite, in the order to print.
        refusals: (backbone, task, method) that the suite asks for and that cannot run -> why.

    Returns:
        The four files. The CSV has one column of mean fractions per ``backbone/task``.

    Raises:
        DataError: as :func:`write_task_table`.
    """
    groups = group_runs(rows, order)
    by_key = {group.key: group for group in groups}
    methods = list(dict.fromkeys(method for _, _, method in (*order, *refusals)))
    columns = [text_column("method", "method", methods)]
    for backbone, task in dict.fromkeys(group.key[:2] for group in groups):
        cells = [by_key.get((backbone, task, method)) for method in methods]
        metric = _one_headline([group for group in cells if group])
        texts = [
            _score_text(group, metric) + _star(group) if group
            else _NOT_RUN if (backbone, task, method) in refusals
            else ABSENT
            for group, method in zip(cells, methods, strict=True)
        ]  # fmt: skip
        means = [mean_of(_scores(group, metric)) if group else None for group in cells]
        heading = f"{backbone} {task} ({scale_of(metric).heading})"
        targets = [directory / backbone / f"{task}.html" if group else None for group in cells]
        columns.append(Column(heading, texts, [(f"{backbone}/{task}", means)], targets=targets))
    seeds = sorted({seed for group in groups for seed in group.seeds})
    notes = [f"{_SCORES_NOTE} (n = {len(seeds)}: {', '.join(map(str, seeds))})."]
    if any(row.collapsed for group in groups for row in group.rows):
        notes.append("A star marks a method with a run that gave every example the same answer.")
    notes.extend(common_notes(groups, order, refusals))
    return write_table(directory / "headline", "Headline metric", columns, notes)


def _one_headline(groups: Sequence[RunGroup]) -> str:
    rows = [row for group in groups for row in group.rows]
    for row in rows:
        if row.headline_metric != rows[0].headline_metric:
            raise DataError(
                f"{row.folder / 'evaluate.json'}: headline metric is {row.headline_metric!r}, "
                f"{rows[0].folder / 'evaluate.json'} has {rows[0].headline_metric!r}"
            )
    return rows[0].headline_metric


def _scores(group: RunGroup, metric: str) -> list[float | None]:
    return [row.metrics.get(metric) for row in group.rows]


def _deviation(values: Sequence[float | None]) -> float | None:
    if len(values) < 2 or any(value is None for value in values):
        return None
    return statistics.stdev(values)


def _interval(group: RunGroup, metric: str) -> tuple[float, float] | None:
    """Bootstrap interval of a single run's score; several seeds have a deviation instead."""
    if len(group.rows) > 1:
        return None
    # Records of earlier versions of the evaluate stage have no intervals.
    return (group.rows[0].records["evaluate"]["measured"].get("intervals") or {}).get(metric)


def _interval_note(groups: Sequence[RunGroup]) -> str:
    told = [g.rows[0] for g in groups if _interval(g, g.rows[0].headline_metric)]
    if not told:
        return ""
    level = told[0].measured("evaluate", "intervals_from")["level"]
    return f"; with one seed, its {100 * level:g} % bootstrap interval over examples in brackets"


def _score_text(group: RunGroup, metric: str) -> str:
    values = _scores(group, metric)
    deviation = _deviation(values)
    mean, scale = mean_of(values), scale_of(metric)
    spread = "" if deviation is None else f" ± {scale.text(deviation)}"
    return (ABSENT if mean is None else scale.text(mean)) + spread


def _star(group: RunGroup) -> str:
    return " *" if any(row.collapsed for row in group.rows) else ""


def _score_column(groups: Sequence[RunGroup], metric: str) -> Column:
    scores = [_scores(group, metric) for group in groups]
    intervals = [_interval(group, metric) for group in groups]
    scale = scale_of(metric)
    brackets = [
        f" [{scale.text(one[0])}, {scale.text(one[1])}]" if one else "" for one in intervals
    ]
    texts = [_score_text(group, metric) for group in groups]
    return Column(
        scale.heading,
        [text + bracket for text, bracket in zip(texts, brackets, strict=True)],
        [
            (f"{metric}_mean", [mean_of(values) for values in scores]),
            (f"{metric}_sd", [_deviation(values) for values in scores]),
            (f"{metric}_low", [one[0] if one else None for one in intervals]),
            (f"{metric}_high", [one[1] if one else None for one in intervals]),
        ],
    )


def _difference_column(groups: Sequence[RunGroup], metric: str) -> Column:
    means = {group.key[2]: mean_of(_scores(group, metric)) for group in groups}
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


def _count_column(heading: str, name: str, groups: Sequence[RunGroup]) -> Column:
    means = [mean_of(group.values("cost", name)) for group in groups]
    return number_column(heading, name, means, lambda value: f"{value:,.0f}")


def _macs_column(kind: str, groups: Sequence[RunGroup]) -> Column:
    name = f"macs_{kind}_per_example"
    shares = []
    for group in groups:
        dense = group.values("cost", "macs_dense_per_example")
        counted = group.values("cost", name)
        shares.append(mean_of([some / whole for some, whole in zip(counted, dense, strict=True)]))
    return number_column(f"{kind} MACs %", f"macs_{kind}_share_of_dense", shares, percent)


def _sparsity_column(groups: Sequence[RunGroup]) -> Column:
    means = [mean_of(group.values("cost", "sparsity")) for group in groups]
    return number_column("sparsity %", "sparsity", means, percent)


def _collapsed_column(groups: Sequence[RunGroup]) -> Column:
    counts = [sum(row.collapsed for row in group.rows) for group in groups]
    texts = [
        "" if not n else "collapsed" if n == len(group.rows) else f"collapsed {n}/{len(group.rows)}"
        for n, group in zip(counts, groups, strict=True)
    ]
    return Column("flag", texts, [("collapsed_count", counts)], left=True)


def _scale_notes(metrics: Sequence[str]) -> list[str]:
    """Say which columns are no percentages, and where a smaller number is the better one."""
    plain = [scale_of(metric).heading for metric in metrics if scale_of(metric).factor == 1]
    lower = [scale_of(metric).heading for metric in metrics if lower_is_better(metric)]
    notes = [f"Not percentages: {', '.join(plain)}."] if plain else []
    return [*notes, *([f"Lower is better: {', '.join(lower)}."] if lower else [])]


def _undefined_notes(groups: Sequence[RunGroup], metrics: Sequence[str]) -> list[str]:
    """Say of each metric without a value whose it is, and why if the record tells."""
    unexplained, notes = [], []
    for metric in metrics:
        heading = scale_of(metric).heading
        for why, methods in _lacking(groups, metric).items():
            if why:
                notes.append(f"No {heading} for at least one seed of {', '.join(methods)}: {why}.")
            else:
                unexplained += [f"{heading} of {method}" for method in methods]
    if unexplained:
        notes.insert(0, f"Undefined for at least one seed: {', '.join(unexplained)}.")
    return notes


def _lacking(groups: Sequence[RunGroup], metric: str) -> dict[str, list[str]]:
    """Reason, empty if none is recorded -> methods with a run that has no value."""
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        for row in (row for row in group.rows if row.metrics.get(metric) is None):
            told = row.records["evaluate"]["measured"].get("metric_notes", {})
            found.setdefault(told.get(metric, ""), {})[group.key[2]] = None
    return {why: list(methods) for why, methods in found.items()}


def _with_refused(columns: Sequence[Column], methods: Sequence[str]) -> list[Column]:
    """Add a line for each refused method: its name, no numbers, and the flag."""
    absent = [ABSENT] * len(methods)
    texts = {"method": methods, "flag": [_NOT_RUN] * len(methods)}
    widened = [column.with_lines(texts.get(column.heading, absent)) for column in columns]
    return [replace(widened[0], fields=[("method", widened[0].texts)]), *widened[1:]]

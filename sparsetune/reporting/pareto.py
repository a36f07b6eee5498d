"""The trade-off of every method: its score beside the dense run's, against what it costs.

Two costs: effective multiply-adds of one example, and parameters that train. The interactive
view of the same points is in ``interactive``.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator

from sparsetune.config.metric import scale_of
from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.reporting.canvas import (
    GREY,
    STYLE,
    footnote,
    legend_inches,
    method_legend,
    method_styles,
)
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs
from sparsetune.reporting.panels import Frame, Panel, Sheet, with_margins
from sparsetune.reporting.spots import Spot, reaches, scatter, write_labels

_COSTS = {
    "macs": "effective MACs of one example, % of the dense model's",
    "trained": "trained parameters, without the task head",
}
_PANEL = (3.1, 1.85)  # inches
_MOST_LABELS = 14  # more hide each other: then only the frontier is named


@dataclass(frozen=True)
class Tradeoff:
    """What one method reaches on one task, and what it costs; means over its seeds.

    Attributes:
        key: (backbone, task, method).
        score: headline metric minus the dense run's mean, in points (hundredths).
        spread: sample standard deviation of ``score`` over seeds; None for one seed.
        macs: effective MACs of one example over the dense model's, a fraction.
        trained: parameters that train, without the task head.
        seeds: how many.
        collapsed: some run gave every example the same answer.
    """

    key: Key
    score: float
    spread: float | None
    macs: float
    trained: float
    seeds: int
    collapsed: bool


def macs_share(row: RunRow) -> float:
    """Effective MACs of one example over the dense model's, a fraction."""
    return row.measured("cost", "macs_effective_per_example") / row.measured(
        "cost", "macs_dense_per_example"
    )


def reference_scores(
    groups: Sequence[RunGroup], reference_method: str
) -> dict[tuple[str, str], float]:
    """Mean headline metric of the dense run by (backbone, task), where it is defined."""
    return {
        group.key[:2]: statistics.fmean(scores)
        for group in groups
        if group.key[2] == reference_method and None not in (scores := scores_of(group))
    }


def scores_of(group: RunGroup) -> list[float | None]:
    """Headline metric of each seed; None where undefined."""
    return [row.metrics[row.headline_metric] for row in group.rows]


def tradeoffs(groups: Sequence[RunGroup], reference_method: str) -> list[Tradeoff]:
    """Score and cost of every method whose task has a dense run to compare with.

    Args:
        groups: from :func:`sparsetune.reporting.collect.group_runs`.
        reference_method: the dense run.

    Returns:
        In the order of the groups; without methods whose score is undefined for a seed.

    Raises:
        DataError: a value is missing from a record.
    """
    references = reference_scores(groups, reference_method)
    found = []
    for group in groups:
        scores = scores_of(group)
        if group.key[:2] not in references or None in scores:
            continue
        points = [100 * (score - references[group.key[:2]]) for score in scores]
        found.append(
            Tradeoff(
                key=group.key,
                score=statistics.fmean(points),
                spread=statistics.stdev(points) if len(points) > 1 else None,
                macs=statistics.fmean(macs_share(row) for row in group.rows),
                trained=statistics.fmean(group.values("cost", "parameters_trained")),
                seeds=len(points),
                collapsed=any(row.collapsed for row in group.rows),
            )
        )
    return found


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points nothing beats: no other costs as little and reaches as much.

    Args:
        points: (cost, score); less cost is better, more score is better.

    Returns:
        Indices by rising cost, and so by rising score. Of points that are the same in both, the
        first.

    Example:
        >>> frontier([(2, 9), (1, 5), (3, 9), (2, 4)])
        [1, 0]
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    kept: list[int] = []
    for index in order:
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


def write_pareto(
    rows: Sequence[RunRow], path: Path, *, order: Sequence[Key], reference_method: str
) -> None:
    """Draw, for each task of a backbone, scores against effective MACs and trained parameters.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`, of one backbone.
        path: SVG to write.
        order: (backbone, task, method) of the whole suite, in the order to draw.
        reference_method: the dense run that scores are told against; a task without it is left
            out.

    Raises:
        DataError: no task has a reference, or a value is missing from a record.
    """
    groups = group_runs(rows, order)
    metrics = {group.key[:2]: group.rows[0].headline_metric for group in groups}
    panels: dict[tuple[str, str], list[Tradeoff]] = {}
    for one in tradeoffs(groups, reference_method):
        panels.setdefault(one.key[:2], []).append(one)
    if not panels:
        raise DataError(f"no task of this suite has a score of {reference_method!r}")
    styles = method_styles(list(dict.fromkeys(group.key[2] for group in groups)))
    with mpl.rc_context(STYLE):
        legend = max(map(len, panels.values())) > _MOST_LABELS
        width = 2 * _PANEL[0] + 1.0  # panels, gap and margins
        foot = 0.55 + (legend_inches(list(styles), width) if legend else 0)
        sheet = Sheet(
            [_PANEL[0]] * 2, [_PANEL[1]] * len(panels), margins=(0.6, foot, 0.2, 0.25),
            gaps=(0.2, 0.65),
        )  # fmt: skip
        for line, (pair, members) in zip(sheet.panels, panels.items(), strict=True):
            told = f"{scale_of(metrics[pair]).heading} minus {reference_method}'s, points"
            for panel, cost in zip(line, _COSTS, strict=True):
                _panel(sheet, panel, members, cost, styles, told if cost == "macs" else "")
            Frame(sheet, line[0]).title(", ".join(pair), centred=False)
        if legend:
            method_legend(sheet.figure, styles)
        footnote(sheet.figure, _explained(panels), generated=_any_generated(panels))
        sheet.save(path)


def _explained(panels: Mapping[tuple[str, str], Sequence[Tradeoff]]) -> str:
    members = [one for found in panels.values() for one in found]
    text = "Up and to the left is better. Grey steps: what nothing beats in both."
    if any(one.spread is not None for one in members):
        seeds = sorted({one.seeds for one in members})
        text += f" Bars: ± 1 standard deviation over {'/'.join(map(str, seeds))} seeds."
    if any("↓" in label for found in panels.values() for *_, label in _drawn(found, "macs")):
        text += " Arrow: below the axis, at the score told."
    if any(one.collapsed for one in members):
        text += " Hollow: one answer for all examples."
    return text


def _any_generated(panels: Mapping[tuple[str, str], Sequence[Tradeoff]]) -> bool:
    return any(task.startswith(GENERATED_PREFIX) for _, task in panels)


def floor_of(scores: Sequence[float]) -> float:
    """Where an axis may end below, so that one method that failed does not hide the others.

    Args:
        scores: in points.

    Returns:
        The lowest score that is drawn at its place: three times the middle half's width, or
        three points if that is more, below the first quarter.
    """
    if len(scores) < 3:
        return min(scores)
    first, _, third = statistics.quantiles(scores, n=4, method="inclusive")
    return first - 3 * max(third - first, 1.0)


def _drawn(members: Sequence[Tradeoff], cost: str) -> list[tuple[float, float, str]]:
    """Where each method stands on an axis, and its label, which tells a score below the floor."""
    floor = floor_of([one.score for one in members])
    drawn = []
    for one in members:
        # A method that trains its head alone has no place on a logarithmic axis but the first.
        x = 100 * one.macs if cost == "macs" else max(one.trained, 1)
        below = f" ↓ {one.score:.1f}".replace("-", "\N{MINUS SIGN}") if one.score < floor else ""
        drawn.append((x, max(one.score, floor), one.key[2] + below))
    return drawn


def _panel(
    sheet: Sheet,
    panel: Panel,
    members: Sequence[Tradeoff],
    cost: str,
    styles: Mapping[str, tuple[str, str]],
    beside: str,
) -> None:
    drawn = _drawn(members, cost)
    spots = [
        Spot(x, y, styles[one.key[2]], spread=one.spread, hollow=one.collapsed)
        for one, (x, y, _) in zip(members, drawn, strict=True)
    ]
    logarithmic = cost == "trained"
    across = with_margins([spot.x for spot in spots], share=0.12, logarithmic=logarithmic)
    up = with_margins([0.0, *reaches(spots)], share=0.18)
    panel = panel.showing(across, up, logarithmic=logarithmic)
    best = [drawn[index][:2] for index in _best(members, cost)]
    x, y = zip(*best, strict=True)
    # Steps: along to the next cost, then up to its score.
    sheet.line(panel.x(np.repeat(x, 2)[1:]), panel.y(np.repeat(y, 2)[:-1]), color="#c4c4c4",
               linewidth=2.5, zorder=1)  # fmt: skip
    sheet.line(panel.box[::2], panel.y(0), color=GREY, linewidth=0.7, linestyle="--", zorder=0)
    scatter(sheet, panel, spots)
    _write_edges(Frame(sheet, panel), cost, beside)
    _name_points(sheet, panel, members, cost)


def _write_edges(frame: Frame, cost: str, beside: str) -> None:
    frame.edges()
    if cost == "trained":
        low, high = frame.panel.across
        found = LogLocator(subs=(1, 2, 5), numticks=8).tick_values(low, high)
        below = [tick for tick in found if low <= tick <= high]
        frame.below(below, list(map(EngFormatter(sep="", places=0), below)))
    else:
        frame.below_round()
    frame.names(_COSTS[cost], beside, numbers=frame.beside_round(texts=bool(beside)))


def _best(members: Sequence[Tradeoff], cost: str) -> list[int]:
    return frontier([(getattr(one, cost), one.score) for one in members])


def _name_points(sheet: Sheet, panel: Panel, members: Sequence[Tradeoff], cost: str) -> None:
    drawn = _drawn(members, cost)
    best = _best(members, cost)
    rest = [index for index in range(len(drawn)) if index not in best]
    named = best + (rest if len(members) <= _MOST_LABELS else [])
    write_labels(sheet, panel, [drawn[index] for index in named], size=6)

"""Where a method's saving comes from, as bars: fewer examples, cheaper examples, the search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsetune.catalog_rules import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.reporting.canvas import STYLE, foot_legend, footnote, page, save_svg, text_inches
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs
from sparsetune.reporting.savings import Saving, macs_of, mean_effort, saving, seconds_of

# Shade and hatch differ, so that the parts are told apart on grey paper too.
_PARTS = {
    "fewer_examples": ("fewer examples", "#0072B2", ""),
    "cheaper_examples": ("cheaper examples", "#9AD0F0", "////"),
    "search": ("search", "#D55E00", "xxxx"),
}
_UNITS = {"multiply-adds": macs_of, "seconds": seconds_of}
_LINE_INCHES = 0.19


def write_saved(
    rows: Sequence[RunRow], path: Path, *, order: Sequence[Key], reference_method: str
) -> None:
    """Draw, for each task of a backbone, what each method saves in multiply-adds and in seconds.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`, of one backbone.
        path: SVG to write.
        order: (backbone, task, method) of the whole suite, in the order to draw.
        reference_method: the dense run that savings are told against; a task without it, or
            with nothing else, is left out.

    Raises:
        DataError: no task is left, or a value is missing from a record.
    """
    groups = group_runs(rows, order)
    panels = {
        pair: found
        for pair in dict.fromkeys(group.key[:2] for group in groups)
        if (found := _savings(groups, pair, reference_method))
    }
    if not panels:
        raise DataError(f"no task of this suite has {reference_method!r} and another method")
    heights = [0.1 + _LINE_INCHES * len(found) for found in panels.values()]
    left = 0.15 + text_inches({method for found in panels.values() for method in found}, 7)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, axes = page(
            [2.7, 2.7], heights, margins=(left, 0.8, 0.1, 0.25), gaps=(0.2, 0.65),
            sharey="row", sharex="col",
        )  # fmt: skip
        for line, (pair, found) in zip(axes, panels.items(), strict=True):
            for axis, unit in zip(line, _UNITS, strict=True):
                _bars(axis, {method: parts[unit] for method, parts in found.items()})
                axis.set_xlabel(f"{unit} of training saved, % of {reference_method}'s")
                axis.tick_params(labelbottom=True)
            line[0].set_title(f"{pair[0]}, {pair[1]}", fontsize=8, y=1.0, loc="left")
        _legend(figure)
        generated = any(task.startswith(GENERATED_PREFIX) for _, task in panels)
        footnote(figure, "To the left of 0: costs more. Seconds change from run to run.",
                 generated=generated)  # fmt: skip
        save_svg(figure, path)


def _savings(
    groups: Sequence[RunGroup], pair: tuple[str, str], reference_method: str
) -> dict[str, dict[str, Saving]]:
    """Method -> unit -> what it saves; empty without a reference."""
    members = {group.key[2]: group for group in groups if group.key[:2] == pair}
    if reference_method not in members:
        return {}
    means = {
        method: {
            unit: mean_effort([effort(row) for row in group.rows])
            for unit, effort in _UNITS.items()
        }
        for method, group in members.items()
    }
    reference = means.pop(reference_method)
    return {
        method: {unit: saving(effort, reference[unit]) for unit, effort in efforts.items()}
        for method, efforts in means.items()
    }


def stacked(parts: Sequence[float]) -> list[float]:
    """Where each part of a bar begins, if gains go right of 0 and losses left of it.

    Args:
        parts: signed lengths.

    Example:
        >>> stacked([30, -5, 10, -2])
        [0.0, 0.0, 30.0, -5.0]
    """
    ends = {True: 0.0, False: 0.0}
    begins = []
    for part in parts:
        begins.append(ends[part >= 0])
        ends[part >= 0] += part
    return begins


def _bars(axis: Any, found: Mapping[str, Saving]) -> None:
    lines = range(len(found))
    lengths = [[100 * getattr(one, name) for name in _PARTS] for one in found.values()]
    begins = [stacked(one) for one in lengths]
    for (_, colour, hatch), length, begin in zip(
        _PARTS.values(), zip(*lengths, strict=True), zip(*begins, strict=True), strict=True
    ):
        # One artist for a part's bars: with one for each, a large suite takes a third longer.
        corners = [
            [(x, line - 0.35), (x, line + 0.35), (x + long, line + 0.35), (x + long, line - 0.35)]
            for line, x, long in zip(lines, begin, length, strict=True)
        ]
        bars = PolyCollection(
            corners, facecolor=colour, hatch=hatch, edgecolor="#333333", linewidth=0.4
        )
        bars.sticky_edges.x.extend(begin)  # as matplotlib's own bars: no margin where they begin
        axis.add_collection(bars)
    whole = [100 * one.whole for one in found.values()]
    axis.plot(whole, lines, marker="D", color="black", markersize=3.5, linestyle="",
              markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    for line, (value, one) in enumerate(zip(whole, lengths, strict=True)):
        end = sum(length for length in one if length > 0)
        told = f"  {value:+z.0f} %".replace("-", "\N{MINUS SIGN}")
        axis.text(end, line, told, va="center", fontsize=6)
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.set_yticks(lines, list(found))
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.margins(x=0.14)


def _legend(figure: Figure) -> None:
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="#333333", linewidth=0.4, label=label)
        for label, colour, hatch in _PARTS.values()
    ]
    handles.append(Line2D([], [], marker="D", color="black", linestyle="", markersize=3.5,
                          label="in all"))  # fmt: skip
    foot_legend(figure, handles, columns=len(handles))

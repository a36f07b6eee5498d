"""Where a method's saving comes from, as bars: fewer examples, cheaper examples, the search."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.reporting.canvas import STYLE, foot_legend, footnote, label_size, text_inches
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs
from sparsetune.reporting.panels import Frame, Panel, Sheet
from sparsetune.reporting.savings import Saving, macs_of, mean_effort, saving, seconds_of

# Shade and hatch differ, so that the parts are told apart on grey paper too.
_PARTS = {
    "fewer_examples": ("fewer examples", "#0072B2", ""),
    "cheaper_examples": ("cheaper examples", "#9AD0F0", "////"),
    "search": ("search", "#D55E00", "xxxx"),
}
_UNITS = {"multiply-adds": macs_of, "seconds": seconds_of}
_LINE_INCHES = 0.19
_WIDE = 2.7  # inches
_MARGIN = 0.14  # of the range
_NUMBER = 6  # points


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
    with mpl.rc_context(STYLE):
        sheet = Sheet([_WIDE, _WIDE], heights, margins=(left, 0.8, 0.1, 0.25), gaps=(0.2, 0.65))
        for column, unit in enumerate(_UNITS):
            bars = [[parts[unit] for parts in found.values()] for found in panels.values()]
            across = _ends([one for found in bars for one in found])
            for line, pair, found in zip(sheet.panels, panels, bars, strict=True):
                up = (len(found) - 0.4, -0.6)
                frame = Frame(sheet, line[column].showing(across, up), grid="x")
                frame.edges()
                frame.below_round()
                frame.beside(range(len(found)), () if column else list(panels[pair]))
                frame.names(f"{unit} of training saved, % of {reference_method}'s")
                _bars(sheet, frame.panel, found)
        for (panel, _), pair in zip(sheet.panels, panels, strict=True):
            Frame(sheet, panel).title(", ".join(pair), centred=False)
        _legend(sheet.figure)
        generated = any(task.startswith(GENERATED_PREFIX) for _, task in panels)
        footnote(sheet.figure, "To the left of 0: costs more. Seconds change from run to run.",
                 generated=generated)  # fmt: skip
        sheet.save(path)


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


def _ends(found: Sequence[Saving]) -> tuple[float, float]:
    """Ends of the axis, so that every bar has its number beside it, within the panel."""
    gains = [_gained(one) for one in found]
    low, high = min(map(_lost, found)), max(gains)
    if low == high:
        low, high = -1.0, 1.0  # nobody saves or costs anything
    margin = _MARGIN * (high - low)
    low -= margin if low < 0 else 0.0
    high += margin if high > 0 else 0.0
    for one, gain in zip(found, gains, strict=True):
        # A text that takes this share of the panel must end at its right edge or before.
        share = label_size(_told(one), _NUMBER)[0] / (72 * _WIDE)
        high = max(high, (gain - share * low) / (1 - share))
    return low, high


def _lengths(one: Saving) -> list[float]:
    return [100 * getattr(one, name) for name in _PARTS]


def _gained(one: Saving) -> float:
    return sum(length for length in _lengths(one) if length > 0)


def _lost(one: Saving) -> float:
    return sum(length for length in _lengths(one) if length < 0)


def _told(one: Saving) -> str:
    return f"  {100 * one.whole:+z.0f} %".replace("-", "\N{MINUS SIGN}")


def _bars(sheet: Sheet, panel: Panel, found: Sequence[Saving]) -> None:
    lengths = [_lengths(one) for one in found]
    begins = [stacked(one) for one in lengths]
    for (_, colour, hatch), length, begin in zip(
        _PARTS.values(), zip(*lengths, strict=True), zip(*begins, strict=True), strict=True
    ):
        low, high = panel.x(begin), panel.x(np.add(begin, length))
        for line, left, right in zip(range(len(found)), low, high, strict=True):
            bottom, top = panel.y([line + 0.35, line - 0.35])
            sheet.area([left, left, right, right], [bottom, top, top, bottom], facecolor=colour,
                       hatch=hatch, edgecolor="#333333", linewidth=0.4)  # fmt: skip
    for line, one in enumerate(found):
        y = float(panel.y(line))
        sheet.line(float(panel.x(100 * one.whole)), y, marker="D", color="black", markersize=3.5,
                   linestyle="", markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
        sheet.text(float(panel.x(_gained(one))), y, _told(one), va="center", fontsize=_NUMBER)
    zero = float(panel.x(0))
    sheet.line([zero, zero], panel.box[1::2], color="#333333", linewidth=0.8)


def _legend(figure: Figure) -> None:
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="#333333", linewidth=0.4, label=label)
        for label, colour, hatch in _PARTS.values()
    ]
    handles.append(Line2D([], [], marker="D", color="black", linestyle="", markersize=3.5,
                          label="in all"))  # fmt: skip
    foot_legend(figure, handles, columns=len(handles))

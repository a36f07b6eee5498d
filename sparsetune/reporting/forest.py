"""The forest plot of a suite's claims: each measured difference, its interval, what is claimed.

One panel for each kind of quantity, since a point of a score and a point of a cost are no common
measure; within a panel all claims share one axis. Verdicts differ by marker and word, and by
colour only beside them. A reader whose screen is dark gets the same picture in other colours.
"""

import io
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsetune.config.claim import Claim
from sparsetune.records import write_text_atomically
from sparsetune.reporting.figures import SVG_STYLE
from sparsetune.reporting.sentences import measured
from sparsetune.reporting.verdicts import Judgement, Verdict, allowed

_INK, _PAPER, _GRID, _ALLOWED = "#1b1d20", "#ffffff", "#d5d8dc", "#dbe7f1"
_STYLES: dict[Verdict, tuple[str, str, bool]] = {
    "holds": ("o", "#00694a", True),
    "fails": ("X", "#b03a00", True),
    "within noise": ("D", "#5a5f68", False),
}
"""Marker, colour, filled."""
_DARK = {
    _INK: "#e4e6e9", _PAPER: "#121212", _GRID: "#3b3f45", _ALLOWED: "#22374a",
    "#00694a": "#53c79b", "#b03a00": "#ff9c5b", "#5a5f68": "#aab0ba",
}  # fmt: skip
# All in points, 1/72 inch: rows have the height of their texts, however many there are.
_WIDTH, _MARGIN, _AXIS = 318, 6, 190
_LINE, _STRIP, _GAP, _HEAD, _FOOT, _LEGEND = 10, 19, 5, 22, 34, 30
_CHARACTERS = 70
_FONT = 7.5


class _Panel(NamedTuple):
    title: str
    axis: str


_PANELS = {
    "points": _Panel("Scores", "score less the other method's, points"),
    "%": _Panel("Costs and savings", "measured less claimed or compared, percentage points"),
    "tickets": _Panel("Tickets", "in common less what chance has, points"),
}


def write_forest(judgements: Sequence[Judgement], path: Path) -> None:
    """Draw every claim that was measured at a scale which counts, as SVG, in the order given.

    A claim's row has its sentence, the mean difference with its 95 % interval, the range that the
    claim allows, its tolerance included, and the verdict in words. The axis is as wide as most
    intervals need; arrows stand where one goes on beyond it.
    """
    panels: dict[str, list[Judgement]] = {name: [] for name in _PANELS}
    for one in judgements:
        if one.interval is not None:
            panels[_panel_of(one.claim)].append(one)
    drawn = {name: found for name, found in panels.items() if found}
    style = {**SVG_STYLE, "axes.spines.left": False, "axes.grid": False, "font.size": _FONT,
             "text.color": _INK, "axes.edgecolor": _INK, "xtick.color": _INK,
             "axes.labelcolor": _INK, "xtick.labelsize": _FONT}  # fmt: skip
    with mpl.rc_context(style):
        heights = [sum(map(_height, found)) for found in drawn.values()]
        height = sum(heights) + len(drawn) * (_HEAD + _FOOT) + _LEGEND
        figure = Figure(figsize=(_WIDTH / 72, height / 72), facecolor=_PAPER)
        top = float(height)
        for (name, found), tall in zip(drawn.items(), heights, strict=True):
            bottom = top - _HEAD - tall
            place = (_MARGIN / _WIDTH, bottom / height, _AXIS / _WIDTH, tall / height)
            axis = figure.add_axes(place, facecolor="none")
            axis.set_ylim(tall, 0)
            _draw_panel(axis, found, _PANELS[name])
            top = bottom - _FOOT
        _explain(figure, bool(drawn))
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    write_text_atomically(path, _with_dark_colours(drawing.getvalue()))


def inline(path: Path) -> str:
    """The picture as an element of an HTML page."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _panel_of(claim: Claim) -> str:
    return "tickets" if claim.measure.group == "tickets" else claim.measure.unit


def _sentence(judgement: Judgement) -> list[str]:
    return textwrap.wrap(judgement.claim.says, _CHARACTERS)


def _height(judgement: Judgement) -> float:
    return len(_sentence(judgement)) * _LINE + _STRIP + _GAP


def reach_of(judgements: Iterable[Judgement]) -> float:
    """How far the axis goes to both sides of 0, where measured equals claimed.

    Far enough for three quarters of the ends two and a half times over, so that one interval that
    says nothing does not squeeze the others; and for every tolerance.
    """
    ends, edges = [], [1.0]
    for one in judgements:
        found = one.interval
        if found is not None:
            ends += [abs(end) for end in (found.mean, found.low, found.high) if end is not None]
        edges.append(float(one.claim.tolerance))
    quarter = statistics.quantiles(ends, n=4, method="inclusive")[2] if len(ends) > 1 else ends[0]
    return 1.06 * max(1.5 * max(edges), min(max(ends), 2.5 * quarter))


def _draw_panel(axis: Axes, judgements: Sequence[Judgement], panel: _Panel) -> None:
    reach = reach_of(judgements)
    axis.set_xlim(-reach, reach)
    axis.set_yticks([])
    axis.axvline(0, color=_INK, linewidth=0.7, zorder=1)
    for tick in axis.get_xticks():
        if abs(tick) < reach:
            axis.axvline(tick, color=_GRID, linewidth=0.5, zorder=0)
    begin = 0.0
    for one in judgements:
        words = _sentence(one)
        middle = begin + len(words) * _LINE + _STRIP / 2
        axis.text(
            0, begin + 1, "\n".join(words), transform=axis.get_yaxis_transform(), va="top",
            linespacing=1.15, url=f"claims.html#{one.claim.id}",
            bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
        _draw_row(axis, one, middle, reach)
        begin += _height(one)
    axis.set_xlabel(panel.axis, loc="left")
    axis.text(0, -4, panel.title, transform=axis.get_yaxis_transform(), va="bottom", size=8.5,
              weight="bold")  # fmt: skip


def _draw_row(axis: Axes, judgement: Judgement, middle: float, reach: float) -> None:
    interval = judgement.interval
    if interval is None:
        return
    marker, colour, filled = _STYLES[judgement.verdict]
    low, high = (max(-reach, min(reach, end)) for end in allowed(judgement.claim))
    half = _STRIP / 2 - 3
    axis.fill_between([low, high], middle - half, middle + half, color=_ALLOWED, linewidth=0,
                      zorder=0.5)  # fmt: skip
    for edge in (low, high):
        if abs(edge) < reach:
            axis.plot([edge, edge], [middle - half, middle + half], color=_INK, linewidth=0.8,
                      linestyle=(0, (2, 1.5)), zorder=2)  # fmt: skip
    if interval.low is not None and interval.high is not None and interval.over != "nothing":
        seen = [max(-reach, min(reach, end)) for end in interval.ends]
        axis.plot(seen, [middle, middle], color=colour, linewidth=1.6, zorder=3)
        for end, shown in zip(interval.ends, seen, strict=True):
            sign = "|" if end == shown else ">" if end > shown else "<"
            axis.plot(shown, middle, marker=sign, color=colour, markersize=5, zorder=3,
                      clip_on=False)  # fmt: skip
    if abs(interval.mean) <= reach:
        axis.plot(interval.mean, middle, marker=marker, color=colour, markersize=5.5, zorder=4,
                  markerfacecolor=colour if filled else _PAPER)  # fmt: skip
    else:
        side, arrow = (-reach, "<") if interval.mean < 0 else (reach, ">")
        axis.plot(side, middle, marker=arrow, color=colour, markersize=6, zorder=4, clip_on=False)
    beside: Any = {"transform": axis.get_yaxis_transform(), "color": colour, "va": "center"}
    axis.text(1.04, middle - 4.5, judgement.verdict, weight="bold", **beside)
    beside["color"] = _INK
    axis.text(1.04, middle + 4.5, measured(judgement), **beside)


def _explain(figure: Figure, anything: bool) -> None:
    """The legend at the foot; or that there is nothing to show."""
    if not anything:
        figure.text(0.5, 0.5, "No claim was measured in this suite.", ha="center", va="center")
        return
    handles: list[Any] = [
        mpl.lines.Line2D([], [], marker=marker, color=colour, label=verdict, markersize=5.5,
                         markerfacecolor=colour if filled else _PAPER)
        for verdict, (marker, colour, filled) in _STYLES.items()
    ]  # fmt: skip
    handles.append(mpl.patches.Patch(facecolor=_ALLOWED, edgecolor=_INK, linestyle="--",
                                     label="allowed by the claim"))  # fmt: skip
    figure.legend(
        handles=handles, loc="lower left", ncols=4, fontsize=6.5, columnspacing=1.2,
        handlelength=1.6, handletextpad=0.5, borderaxespad=0.4, alignment="left",
        title="Line: 95 % interval; none where counted. Arrow: goes on beyond the axis.",
        title_fontsize=6.5,
    )  # fmt: skip


def _with_dark_colours(text: str) -> str:
    """The same picture with a style for dark screens: by colour, since Matplotlib has no classes.

    Programs that know no such styles show the light picture.
    """
    rules = "".join(
        # Markers are drawn by reference, where their ancestors are not seen.
        f'.forest [style*="{part}: {light}"], path[id^="m"][style*="{part}: {light}"] '
        f"{{ {part}: {dark} !important }}\n"
        for light, dark in _DARK.items()
        for part in ("fill", "stroke")
    )
    style = f"<style>\n@media screen and (prefers-color-scheme: dark) {{\n{rules}}}\n</style>\n"
    named = '<svg class="forest" role="group" aria-label="Forest plot of the claims" '
    head, _, rest = text.partition("<svg ")
    tag, _, body = rest.partition(">")
    return f"{head}{named}{tag}>\n{style}{body}"

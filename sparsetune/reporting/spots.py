"""Methods as points of a panel: marker, error bar and label."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparsetune.reporting.canvas import GREY, label_size, place_labels
from sparsetune.reporting.panels import Panel, Sheet

_MARKER = 3.0  # points from its middle to its edge


@dataclass(frozen=True)
class Spot:
    """One point of a panel: place, marker and colour, half the length of its error bar."""

    x: float
    y: float
    style: tuple[str, str]
    spread: float | None = None
    hollow: bool = False


def scatter(sheet: Sheet, panel: Panel, spots: Sequence[Spot]) -> None:
    """Draw points, each with its marker and its error bar.

    Args:
        sheet: the page.
        panel: with its final values.
        spots: what to draw.
    """
    for spot in spots:
        x, y = float(panel.x(spot.x)), float(panel.y(spot.y))
        marker, colour = spot.style
        if spot.spread is not None:
            ends = panel.y([spot.y - spot.spread, spot.y + spot.spread])
            sheet.line([x, x], ends, color=colour, linewidth=0.8, zorder=2)
        sheet.line(
            x, y, marker=marker, color=colour, markersize=5, linestyle="", zorder=3,
            markerfacecolor="white" if spot.hollow else colour,
        )  # fmt: skip


def reaches(spots: Iterable[Spot]) -> list[float]:
    """What an axis must show of points and their error bars: the ends of each."""
    return [spot.y + side * (spot.spread or 0.0) for spot in spots for side in (-1, 1)]


def write_labels(
    sheet: Sheet, panel: Panel, points: Sequence[tuple[float, float, str]], *, size: float
) -> None:
    """Write a label beside each point of a panel; far ones get a thin line to their point.

    Args:
        sheet: the page.
        panel: with its final values.
        points: values across and up, and the text; more important ones first.
        size: of the letters, in points.
    """
    places = [(float(panel.x(x)), float(panel.y(y))) for x, y, _ in points]
    sizes = [label_size(text, size) for *_, text in points]
    corners = place_labels(places, sizes, panel.box)
    for (*_, text), (x, y), (left, bottom), (width, height) in zip(
        points, places, corners, sizes, strict=True
    ):
        sheet.text(
            left, bottom, text, fontsize=size, ha="left", va="bottom", zorder=5,
            bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.4, "linewidth": 0},
        )  # fmt: skip
        middle = bottom + height / 2
        if abs(middle - y) > height:
            nearest = min(max(x, left), left + width)
            short = 1 - _MARKER / math.hypot(nearest - x, middle - y)
            ends = (
                [nearest, nearest + short * (x - nearest)],
                [middle, middle + short * (y - middle)],
            )
            sheet.line(*ends, color=GREY, linewidth=0.4, zorder=3)

"""Panels drawn on one axis: a page of matplotlib's own axes takes minutes where a suite is large.

Lengths on the page are points, from its lower left corner. What the panels show is not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparsetune.reporting.canvas import Box, label_size, save_svg

_GAP = 3.5  # points that a mark is long, and its number away; as matplotlib's axes have them
_EDGE = {"color": "black", "linewidth": 0.8, "solid_capstyle": "projecting"}
_GRID = {"color": "#dddddd", "linewidth": 0.5}
_SHADES = Normalize(0, 1)

_Look = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Panel:
    """One panel: where it is on the page, and which values its edges are.

    Attributes:
        box: left, bottom, right and top on the page, in points.
        across: values at its left and right edge.
        up: values at its lower and upper edge; the lower one may be more.
        logarithmic: whether ``across`` is.
    """

    box: Box
    across: tuple[float, float] = (0.0, 1.0)
    up: tuple[float, float] = (0.0, 1.0)
    logarithmic: bool = False

    def x(self, values: Any) -> Any:
        """Where values are, in points from the page's left edge."""
        low, high = self.across
        if self.logarithmic:
            values, low, high = np.log(values), np.log(low), np.log(high)
        share = (np.asarray(values) - low) / (high - low)
        return self.box[0] + (self.box[2] - self.box[0]) * share

    def y(self, values: Any) -> Any:
        """Where values are, in points from the page's lower edge."""
        share = (np.asarray(values) - self.up[0]) / (self.up[1] - self.up[0])
        return self.box[1] + (self.box[3] - self.box[1]) * share

    def showing(
        self, across: tuple[float, float], up: tuple[float, float], *, logarithmic: bool = False
    ) -> "Panel":
        """The same place with other values."""
        return replace(self, across=across, up=up, logarithmic=logarithmic)


class Sheet:
    """A figure of panels. Lines and markers of one look become one artist, however many panels.

    Args:
        widths: of the columns of panels, in inches, as all lengths here.
        heights: of the rows.
        margins: left, bottom, right and top of the grid.
        gaps: between columns and between rows.
    """

    def __init__(
        self,
        widths: Sequence[float],
        heights: Sequence[float],
        *,
        margins: Box,
        gaps: tuple[float, float],
    ) -> None:
        left, bottom, right, top = margins
        width = left + sum(widths) + gaps[0] * (len(widths) - 1) + right
        height = bottom + sum(heights) + gaps[1] * (len(heights) - 1) + top
        self.figure = Figure(figsize=(width, height))
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set_axis_off()
        self.axis.set(xlim=(0, 72 * width), ylim=(0, 72 * height), autoscale_on=False)
        columns = [left + sum(widths[:at]) + gaps[0] * at for at in range(len(widths))]
        rows = [height - top - sum(heights[: at + 1]) - gaps[1] * at for at in range(len(heights))]
        self.panels = [
            [
                Panel((72 * x, 72 * y, 72 * (x + wide), 72 * (y + high)))
                for x, wide in zip(columns, widths, strict=True)
            ]
            for y, high in zip(rows, heights, strict=True)
        ]
        self._lines: dict[_Look, list[np.ndarray]] = {}
        self._areas: dict[_Look, list[np.ndarray]] = {}

    def line(self, x: Any, y: Any, **look: Any) -> None:
        """Draw a line through points of the page, or a marker at each.

        Args:
            x: points from the left.
            y: points from below; as many, or one for all.
            look: keywords of matplotlib's ``Line2D``.
        """
        pair = np.column_stack(np.broadcast_arrays(*np.atleast_1d(x, y)))
        gap = [[np.nan, np.nan]]
        self._lines.setdefault(tuple(sorted(look.items())), []).extend([pair, gap])

    def area(self, x: Sequence[float], y: Sequence[float], **look: Any) -> None:
        """Fill a polygon of the page.

        Args:
            x: corners, points from the left.
            y: points from below; as many.
            look: keywords of matplotlib's ``PolyCollection``.
        """
        corners = np.column_stack([x, y])
        self._areas.setdefault(tuple(sorted(look.items())), []).append(corners)

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        """Write at a point of the page.

        Args:
            x: points from the left.
            y: points from below.
            text: what to write.
            look: keywords of matplotlib's ``Text``.
        """
        self.axis.text(x, y, text, **look)

    def image(self, panel: Panel, shades: np.ndarray) -> None:
        """Fill a panel with cells of one size, white for 0 and black for 1.

        Args:
            panel: where.
            shades: float, ``(lines, columns)``; beyond 0 and 1 as these.
        """
        left, bottom, right, top = panel.box
        # Kept as it is: matplotlib would make pixels of the page of it, and blur the borders.
        image = AxesImage(
            self.axis, cmap="Greys", norm=_SHADES, interpolation="none", origin="upper",
            extent=(left, right, bottom, top),
        )  # fmt: skip
        image.set_data(shades)
        self.axis.add_image(image)

    def save(self, path: Path) -> None:
        """Write the page as SVG, atomically and without a date."""
        for look, parts in self._areas.items():
            self.axis.add_artist(PolyCollection(parts, **dict(look)))
        for look, parts in self._lines.items():
            self.axis.add_artist(Line2D(*np.concatenate(parts).T, **dict(look)))
        save_svg(self.figure, path)


@dataclass(frozen=True)
class Frame:
    """A panel's left and lower edge, and what is written at them.

    Attributes:
        sheet: the page.
        panel: with its final values.
        grid: lines from the numbers below (``x``), those at the left (``y``), ``both``, or
            ``none``.
        tick: length of the marks at the numbers.
        numbers: size of the numbers.
    """

    sheet: Sheet
    panel: Panel
    grid: str = "both"
    tick: float = _GAP
    numbers: float = 7.0

    def edges(self) -> None:
        """Draw the two lines."""
        left, bottom, right, top = self.panel.box
        self.sheet.line([left, left, right], [top, bottom, bottom], **_EDGE, zorder=2.5)

    def below_round(self) -> None:
        """Write round numbers below the panel."""
        left, _, right, _ = self.panel.box
        ticks = round_ticks(*self.panel.across, most=(right - left) / (3 * self.numbers))
        self.below(ticks, tick_texts(ticks))

    def beside_round(self, *, texts: bool = True) -> list[str]:
        """Write round numbers left of the panel, or only their marks and grid; return them."""
        _, bottom, _, top = self.panel.box
        ticks = round_ticks(*self.panel.up, most=(top - bottom) / (2 * self.numbers))
        told = tick_texts(ticks) if texts else []
        self.beside(ticks, told)
        return told

    def below(self, ticks: Sequence[float], texts: Sequence[str]) -> None:
        """Write numbers below the panel, with marks and grid.

        Args:
            ticks: values.
            texts: as many, or none: then there are only marks and grid.
        """
        _, bottom, _, top = self.panel.box
        places = self.panel.x(ticks)
        self._mark("x", places, bottom, top)
        for x, text in zip(places, texts, strict=False):
            self.sheet.text(x, bottom - self.tick - _GAP, text, ha="center", va="top",
                            fontsize=self.numbers)  # fmt: skip

    def beside(self, ticks: Sequence[float], texts: Sequence[str]) -> None:
        """Write numbers or names left of the panel, with marks and grid.

        Args:
            ticks: values.
            texts: as many, or none: then there are only marks and grid.
        """
        left, _, right, _ = self.panel.box
        places = self.panel.y(ticks)
        self._mark("y", places, left, right)
        for y, text in zip(places, texts, strict=False):
            self.sheet.text(left - self.tick - _GAP, y, text, ha="right", va="center_baseline",
                            fontsize=self.numbers)  # fmt: skip

    def _mark(self, side: str, places: Sequence[float], edge: float, end: float) -> None:
        """At each place of an edge a mark, and a line of the grid to the other end of the panel."""
        for place in places:
            if self.grid in ("both", side):
                self._stand(side, place, [edge, end], **_GRID, zorder=0)
            if self.tick:
                self._stand(side, place, [edge - self.tick, edge], **_EDGE, zorder=2.5)

    def _stand(self, side: str, place: float, ends: Sequence[float], **look: Any) -> None:
        """Draw a line that stands on the lower edge (``x``) or on the left one (``y``)."""
        at = [place, place]
        self.sheet.line(*((at, ends) if side == "x" else (ends, at)), **look)

    def names(self, below: str, beside: str = "", *, numbers: Sequence[str] = ()) -> None:
        """Say what the numbers are.

        Args:
            below: what the lower ones are; may be empty.
            beside: what those at the left are; may be empty.
            numbers: those at the left, which it must not hide.
        """
        left, bottom, right, top = self.panel.box
        away = self.tick + _GAP
        if below:
            self.sheet.text((left + right) / 2, bottom - away - self.numbers - 4, below,
                            ha="center", va="top", fontsize=7)  # fmt: skip
        if beside:
            x = left - away - label_size(max(numbers, key=len, default=""), self.numbers)[0] - 4
            self.sheet.text(x, (bottom + top) / 2, beside, ha="right", va="center", rotation=90,
                            fontsize=7, multialignment="center")  # fmt: skip

    def title(self, text: str, *, lift: float = 6, size: float = 8, centred: bool = True) -> None:
        """Write above the panel, over its middle or from its left edge.

        Args:
            text: what to write.
            lift: how far above.
            size: of the letters.
            centred: whether over the middle.
        """
        left, _, right, top = self.panel.box
        x = (left + right) / 2 if centred else left
        self.sheet.text(x, top + lift, text, ha="center" if centred else "left", fontsize=size)


def grey_bar(sheet: Sheet, panel: Panel, name: str, *, factor: float = 1) -> None:
    """Say what white, black and the shades between are.

    Args:
        sheet: the page.
        panel: the bar's place.
        name: what the shades tell.
        factor: black's value.
    """
    left, bottom, right, top = panel.box
    sheet.image(panel, np.linspace(1, 0, 256)[:, None])
    sheet.line([left, right, right, left, left], [bottom, bottom, top, top, bottom], **_EDGE)
    ticks = [factor * share / 5 for share in range(6)]
    for y, text in zip(panel.showing((0, 1), (0, factor)).y(ticks), tick_texts(ticks), strict=True):
        sheet.line([right, right + _GAP], [y, y], **_EDGE)
        sheet.text(right + 2 * _GAP, y, text, va="center_baseline", fontsize=7)
    sheet.text(right + 26, (bottom + top) / 2, name, va="center", rotation=90, fontsize=7)


def round_ticks(low: float, high: float, *, most: float) -> list[float]:
    """Round numbers between two values.

    Args:
        low: least value.
        high: largest value.
        most: how many there is room for; at least one and at most nine parts are made.
    """
    parts = min(max(int(most), 1), 9)
    values = MaxNLocator(parts, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Numbers with as many decimals as tell them all exactly, up to nine.

    Args:
        ticks: equally far from each other.

    Example:
        >>> tick_texts([0, 2.5, 5])
        ['0.0', '2.5', '5.0']
    """
    slack = 1e-6 * (abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0)
    exact = (
        digits
        for digits in range(9)
        if all(abs(tick - round(tick, digits)) <= slack for tick in ticks)
    )
    digits = next(exact, 9)
    return [f"{tick:z.{digits}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks]


def with_margins(
    values: Sequence[float], *, share: float, logarithmic: bool = False
) -> tuple[float, float]:
    """Ends of an axis that leave some of its room beyond the least and the largest value.

    Args:
        values: at least one; above 0 if ``logarithmic``.
        share: of their range that is added at each end.
        logarithmic: whether the axis is.

    Returns:
        Low and high; around values that are all the same, a little below and above.
    """
    low, high = float(min(values)), float(max(values))
    if logarithmic:
        if low == high:
            low, high = low / 10, high * 10
        wider = (high / low) ** share
        return low / wider, high * wider
    if low == high:
        half = 0.05 * abs(low) or 0.05
        low, high = low - half, high + half
    return low - share * (high - low), high + share * (high - low)

"""What all figures share: how they look, how methods are told apart, where labels go, saving.

SVG, the same bytes for the same results; every method has a marker and a label of its own, so
nothing hangs on colour alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.records import replacing

# Okabe and Ito's colours: told apart by colour-blind people; the markers by everybody.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "p", "h", "*")
GREY = "#888888"
STYLE = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.labelsize": 7, "axes.axisbelow": True, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "grid.color": "#dddddd", "grid.linewidth": 0.5, "svg.hashsalt": "sparsetune",
    "svg.fonttype": "path", "hatch.linewidth": 0.5,
}  # fmt: skip

_LETTER_WIDTH = 0.6  # of the font's size, a little more than its mean letter
_LEGEND_COLUMNS = 5
_LEGEND_MARKER = 0.5  # inches of a marker and the gaps around it
_GAP = 5.0  # points between a marker's middle and its label
_LIFTS = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 8, -8)


Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def method_styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Marker and colour of each method, in the order given; 84 differ before they repeat."""
    return {
        method: (MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)])
        for index, method in enumerate(methods)
    }


def footnote(figure: Figure, text: str, *, generated: bool) -> None:
    """Write a line at the foot of a figure, and that its tasks are generated if they are."""
    if generated:
        text += f" Tasks called {GENERATED_PREFIX}... are generated."
    inches = figure.get_figheight()
    figure.text(0.07 / figure.get_figwidth(), 0.05 / inches, text, fontsize=6, color="#555555")


def text_inches(texts: Iterable[str], size: float) -> float:
    """About how wide the longest of some texts is in letters of ``size`` points."""
    return max(map(len, texts)) * size * _LETTER_WIDTH / 72


def legend_columns(methods: Sequence[str], width: float) -> int:
    """How many columns of a legend of methods fit beside each other, five at most.

    Args:
        methods: in the order of the legend, which fills its columns one after the other.
        width: of the figure, in inches.
    """
    for count in range(min(_LEGEND_COLUMNS, len(methods)), 1, -1):
        columns = [list(part) for part in np.array_split(methods, count)]
        if sum(text_inches(part, 8) + _LEGEND_MARKER for part in columns) <= width:
            return count
    return 1


def legend_inches(methods: Sequence[str], width: float) -> float:
    """Height of :func:`method_legend` and the footnote below it, in a figure of some width."""
    return 0.25 + 0.17 * -(-len(methods) // legend_columns(methods, width))


def method_legend(figure: Figure, styles: Mapping[str, tuple[str, str]]) -> None:
    """Put a legend of methods at the foot of a figure, above the line of a footnote."""
    handles = [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=method)
        for method, (marker, colour) in styles.items()
    ]
    foot_legend(figure, handles, columns=legend_columns(list(styles), figure.get_figwidth()))


def foot_legend(figure: Figure, handles: Sequence[Any], *, columns: int) -> None:
    """Put a legend at the foot of a figure, above the line of a footnote."""
    figure.legend(
        handles=handles, loc="lower center", ncols=columns, frameon=False,
        bbox_to_anchor=(0.5, 0.14 / figure.get_figheight()),
    )  # fmt: skip


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, atomically and without a date."""
    with replacing(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


def label_size(text: str, size: float) -> tuple[float, float]:
    """About how wide and how high a text is in letters of ``size`` points, in points."""
    return len(text) * size * _LETTER_WIDTH, size * 1.15


def place_labels(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], bounds: Box
) -> list[tuple[float, float]]:
    """Find a place for each label where it hides little: no marker, no label before it.

    Args:
        points: where the markers are.
        sizes: width and height of each label, in the same unit.
        bounds: labels should stay within.

    Returns:
        Lower left corner of each label. Of equally good places the nearest is taken, right of
        the marker before left of it.
    """
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    corners = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        choices = [
            (left, y - height / 2 + lift * height)
            for lift in _LIFTS
            for left in (x + _GAP, x - _GAP - width)
        ]
        boxes = [(a, b, a + width, b + height) for a, b in choices]
        # Rounded, or the last digit of two areas would choose between equally good places.
        hidden = [
            round(
                sum(_overlap(box, other) for other in taken)
                + 3 * (width * height - _overlap(box, bounds)),
                1,
            )
            for box in boxes
        ]
        best = hidden.index(min(hidden))
        taken.append(boxes[best])
        corners.append(choices[best])
    return corners


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)

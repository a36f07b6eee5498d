"""Training curves: the loss of every method on one task, each beside the dense run's."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.reporting.canvas import STYLE, footnote
from sparsetune.reporting.collect import RunGroup
from sparsetune.reporting.panels import Frame, Panel, Sheet

HISTORY = "history.csv"
_COLUMNS = 5
_PANEL = (1.36, 0.95)  # inches
_BEHIND = {"color": "#b0b0b0", "linewidth": 1.8, "zorder": 2.1}
_FRONT = {"color": "black", "linewidth": 0.9, "zorder": 2.2}
_MOST_POINTS = 30
_MOST_SEEDS = 5

Curve = tuple[np.ndarray, np.ndarray, list[float]]
"""Steps, losses, and the steps at which a later phase begins."""


def read_history(path: Path) -> Curve:
    """Read a run's losses.

    Args:
        path: ``history.csv`` of a run.

    Returns:
        Steps, which count on through all phases; losses; where later phases begin.

    Raises:
        DataError: the file is missing, empty, or not a history.
    """
    steps, losses, begins = [], [], []
    phase = None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            heading = next(rows, [])
            at_step, at_phase, at_loss = map(heading.index, ("step", "phase", "loss"))
            for row in filter(None, rows):
                if phase is not None and row[at_phase] != phase:
                    begins.append(steps[-1])
                phase = row[at_phase]
                steps.append(float(row[at_step]))
                losses.append(float(row[at_loss]))
    except (OSError, IndexError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not the history of a run: {error}") from None
    if not steps:
        raise DataError(f"{path}: not the history of a run: no steps")
    return np.array(steps), np.array(losses), begins


def thinned(steps: np.ndarray, losses: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbours, so that a long curve can be read, and drawn in little space.

    Args:
        steps: float, ``(N,)``.
        losses: float, ``(N,)``.
        most: points to keep, at least 1.

    Returns:
        At most ``most`` steps and losses: means over runs of ``ceil(N / most)`` neighbours, the
        last one perhaps shorter. Non-finite losses stay non-finite.
    """
    width = -(-len(steps) // most)
    starts = np.arange(0, len(steps), width)
    counts = np.diff([*starts, len(steps)])
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(losses, starts) / counts


def write_curves(groups: Sequence[RunGroup], path: Path, *, reference_method: str) -> None:
    """Draw the training losses of one backbone on one task, a panel for each method.

    Args:
        groups: of one backbone and task.
        path: SVG to write.
        reference_method: the dense run, drawn in grey behind every other.

    Raises:
        DataError: a history is missing or damaged.
    """
    curves = {
        group.key[2]: [_drawn(row.folder / HISTORY) for row in group.rows[:_MOST_SEEDS]]
        for group in groups
    }
    backbone, task, _ = groups[0].key
    columns = min(_COLUMNS, len(curves))
    scales = _scales([curve for found in curves.values() for curve in found])
    behind = curves.get(reference_method, [])
    with mpl.rc_context(STYLE):
        sheet = Sheet(
            [_PANEL[0]] * columns, [_PANEL[1]] * -(-len(curves) // columns),
            margins=(0.5, 0.45, 0.2, 0.5), gaps=(0.24, 0.3),
        )  # fmt: skip
        places = [panel for line in sheet.panels for panel in line]
        for index, (method, found) in enumerate(curves.items()):
            frame = Frame(sheet, scales.on(places[index]), grid="y", tick=0, numbers=6.5)
            _edges(frame, scales, first=index % columns == 0, last=index + columns >= len(curves))
            frame.title(method, lift=2.7, size=7)
            _panel(frame, scales, found, behind if method != reference_method else [])
        width, height = sheet.figure.get_size_inches() * 72
        sheet.text(width / 2, height - 12, f"{backbone}, {task}", ha="center", fontsize=9)
        sheet.text(width / 2, 14.4, "training step", ha="center", fontsize=7)
        sheet.text(4.3, height / 2, "training loss", rotation=90, va="center", fontsize=7)
        footnote(sheet.figure, _explained(curves, reference_method),
                 generated=task.startswith(GENERATED_PREFIX))  # fmt: skip
        sheet.save(path)


class _Drawn(NamedTuple):
    """What is drawn of a history: thinned, and what it was before."""

    steps: np.ndarray
    losses: np.ndarray
    begins: list[float]
    last_step: float
    points: int


def _drawn(path: Path) -> _Drawn:
    steps, losses, begins = read_history(path)
    return _Drawn(*thinned(steps, losses, _MOST_POINTS), begins, float(steps[-1]), len(steps))


@dataclass(frozen=True)
class _Scales:
    """What all panels share: the values at their edges, and the ticks."""

    last_step: float
    low: float
    high: float
    logarithmic: bool
    step_ticks: tuple[float, ...]
    loss_ticks: tuple[float, ...]

    def on(self, panel: Panel) -> Panel:
        """The panel with these scales."""
        low, high = self.up([self.low, self.high])
        return panel.showing((0, self.last_step), (low, high))

    def up(self, losses: Any) -> np.ndarray:
        """Losses as the panel has them: their logarithms, if it is logarithmic."""
        return np.log(losses) if self.logarithmic else np.asarray(losses)


def _scales(curves: Sequence[_Drawn]) -> _Scales:
    """Powers of ten for the losses, unless one is 0 or below; non-finite ones are left out."""
    losses = np.concatenate([curve.losses for curve in curves])
    losses = losses[np.isfinite(losses)]
    low, high = (losses.min(), losses.max()) if len(losses) else (0.0, 1.0)
    last = max(curve.last_step for curve in curves)
    logarithmic = bool(low > 0)
    if low == high:
        low, high = (low / 2, high * 2) if logarithmic else (low - 1, high + 1)
    locator = LogLocator(subs=(1, 2, 5), numticks=5) if logarithmic else MaxNLocator(4)
    ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    steps = [tick for tick in MaxNLocator(3, integer=True).tick_values(0, last) if tick <= last]
    return _Scales(last, low, high, logarithmic, tuple(steps), tuple(ticks))


def _edges(frame: Frame, scales: _Scales, *, first: bool, last: bool) -> None:
    """Edges and grid, and numbers at the left and at the foot of the page."""
    frame.edges()
    losses = [f"{tick:g}" for tick in scales.loss_ticks]
    frame.beside(scales.up(scales.loss_ticks), losses if first else [])
    if last:
        frame.below(scales.step_ticks, [f"{tick:g}" for tick in scales.step_ticks])


def _panel(
    frame: Frame, scales: _Scales, curves: Sequence[_Drawn], behind: Sequence[_Drawn]
) -> None:
    panel = frame.panel
    for found, look in ((behind, _BEHIND), (curves, _FRONT)):
        for curve in found:
            frame.sheet.line(panel.x(curve.steps), panel.y(scales.up(curve.losses)), **look)
    for begin in sorted({begin for curve in curves for begin in curve.begins}):
        x = float(panel.x(begin))
        frame.sheet.line([x, x], panel.box[1::2], color="#555555", linewidth=0.6, linestyle=":")


def _explained(curves: Mapping[str, Sequence[_Drawn]], reference_method: str) -> str:
    parts = []
    if reference_method in curves:
        parts.append(f"Grey: {reference_method}.")
    if any(curve.begins for found in curves.values() for curve in found):
        parts.append("Dotted: a later phase begins.")
    if any(curve.points > _MOST_POINTS for found in curves.values() for curve in found):
        parts.append("Means of neighbouring steps.")
    return " ".join(parts)

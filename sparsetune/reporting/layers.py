"""Where in a model the zeros are: sparsity of each layer, attention and feed-forward apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.reporting.canvas import STYLE, footnote, text_inches
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs
from sparsetune.reporting.panels import Frame, Panel, Sheet, grey_bar

PARTS = ("attention", "feed_forward")
_LINE_INCHES = 0.22
_MOST_NUMBERS = 1500  # cells of a figure; more are told by their shade alone


def write_layers(rows: Sequence[RunRow], path: Path, *, order: Sequence[Key]) -> None:
    """Draw, for each task of a backbone, the sparsity of each layer under each method.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`, of one backbone.
        path: SVG to write.
        order: (backbone, task, method) of the whole suite, in the order to draw.

    Raises:
        DataError: a value is missing from a record, or runs of one method have different numbers
            of layers.
    """
    panels: dict[tuple[str, str], dict[str, Mapping[str, np.ndarray]]] = {}
    for group in group_runs(rows, order):
        found = _mean_sparsity(group)
        if any(values.any() for values in found.values()):
            panels.setdefault(group.key[:2], {})[group.key[2]] = found
    with mpl.rc_context(STYLE):
        sheet = _drawn(panels) if panels else _nothing()
        footnote(
            sheet.figure,
            "Share of a layer's weights that are zero or were removed, mean over seeds. Methods "
            "without zeros are left out.",
            generated=any(task.startswith(GENERATED_PREFIX) for _, task in panels),
        )
        sheet.save(path)


def _nothing() -> Sheet:
    sheet = Sheet([7.0], [0.8], margins=(0, 0, 0, 0), gaps=(0, 0))
    sheet.text(252, 35, "No method of this suite leaves zeros in a layer.", ha="center")
    return sheet


def _mean_sparsity(group: RunGroup) -> dict[str, np.ndarray]:
    by_seed = group.values("cost", "sparsity_by_layer")
    for row, found in zip(group.rows, by_seed, strict=True):
        lengths = {len(found[part]) for part in PARTS}
        if lengths != {len(by_seed[0][PARTS[0]])}:
            raise DataError(
                f"{row.folder / 'cost.json'}: measured.sparsity_by_layer: got {sorted(lengths)} "
                f"layers, need {len(by_seed[0][PARTS[0]])}"
            )
    return {part: np.mean([found[part] for found in by_seed], axis=0) for part in PARTS}


def _drawn(panels: Mapping[tuple[str, str], Mapping[str, Mapping[str, np.ndarray]]]) -> Sheet:
    heights = [_LINE_INCHES * len(found) for found in panels.values()]
    left = 0.45 + text_inches({method for found in panels.values() for method in found}, 7)
    sheet = Sheet([2.6] * len(PARTS), heights, margins=(left, 0.6, 0.9, 0.25), gaps=(0.12, 0.45))
    cells = sum(
        values.size
        for found in panels.values()
        for one in found.values()
        for values in one.values()
    )
    for line, (pair, found) in zip(sheet.panels, panels.items(), strict=True):
        for panel, part in zip(line, PARTS, strict=True):
            values = np.stack([one[part] for one in found.values()])
            frame = _heat(sheet, panel, 100 * values, numbers=cells <= _MOST_NUMBERS)
            frame.title(f"{part.replace('_', '-')} weights", size=7)
            if part == PARTS[0]:
                frame.beside(range(len(found)), list(found))
                frame.names("", "\n".join(pair), numbers=list(found))
            if line is sheet.panels[-1]:
                frame.names("layer, from the embeddings up")
    width, height = sheet.figure.get_size_inches() * 72
    place = Panel((width - 47, 43, width - 38, min(158, height - 29)))
    grey_bar(sheet, place, "zeros, %", factor=100)
    return sheet


def _heat(sheet: Sheet, panel: Panel, values: np.ndarray, *, numbers: bool) -> Frame:
    lines, count = values.shape
    panel = panel.showing((-0.5, count - 0.5), (lines - 0.5, -0.5))
    sheet.image(panel, values / 100)
    frame = Frame(sheet, panel, grid="none", tick=0)
    frame.edges()
    ticks = range(0, count, 1 + count // 13)
    frame.below(ticks, [str(1 + tick) for tick in ticks])
    if numbers:
        for (line, column), value in np.ndenumerate(values):
            sheet.text(
                float(panel.x(column)), float(panel.y(line)), f"{value:.0f}", ha="center",
                va="center", fontsize=5.5, color="white" if value > 55 else "black",
            )  # fmt: skip
    return frame

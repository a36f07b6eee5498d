"""Where in a model the zeros are: sparsity of each layer, attention and feed-forward apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from sparsetune.catalog_rules import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.reporting.canvas import STYLE, footnote, page, save_svg, text_inches
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs

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
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        if panels:
            figure = _drawn(panels)
        else:
            figure = Figure(figsize=(7.0, 0.8))
            figure.text(0.5, 0.6, "No method of this suite leaves zeros in a layer.", ha="center")
        footnote(
            figure,
            "Share of a layer's weights that are zero or were removed, mean over seeds. Methods "
            "without zeros are left out.",
            generated=any(task.startswith(GENERATED_PREFIX) for _, task in panels),
        )
        save_svg(figure, path)


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


def _drawn(panels: Mapping[tuple[str, str], Mapping[str, Mapping[str, np.ndarray]]]) -> Figure:
    heights = [_LINE_INCHES * len(found) for found in panels.values()]
    left = 0.45 + text_inches({method for found in panels.values() for method in found}, 7)
    figure, axes = page(
        [2.6] * len(PARTS), heights, margins=(left, 0.6, 0.9, 0.25), gaps=(0.12, 0.45)
    )
    cells = sum(
        values.size
        for found in panels.values()
        for one in found.values()
        for values in one.values()
    )
    for line, (pair, found) in zip(axes, panels.items(), strict=True):
        for axis, part in zip(line, PARTS, strict=True):
            values = np.stack([one[part] for one in found.values()])
            image = _heat(axis, 100 * values, numbers=cells <= _MOST_NUMBERS)
            axis.set_title(f"{part.replace('_', '-')} weights", fontsize=7, y=1.0)
        line[0].set_yticks(range(len(found)), list(found))
        line[1].set_yticks([])
        line[0].set_ylabel(f"{pair[0]}\n{pair[1]}", fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("layer, from the embeddings up")
    width, height = figure.get_size_inches()
    long = min(1.6, height - 1)
    place = figure.add_axes((1 - 0.65 / width, 0.6 / height, 0.12 / width, long / height))
    bar = figure.colorbar(image, cax=place)
    bar.set_label("zeros, %", fontsize=7)
    return figure


def _heat(axis: Any, values: np.ndarray, *, numbers: bool) -> Any:
    image = axis.imshow(values, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    count = values.shape[1]
    axis.set_xticks(range(0, count, 1 + count // 13), range(1, count + 1, 1 + count // 13))
    axis.tick_params(length=0)
    if numbers:
        for (line, column), value in np.ndenumerate(values):
            axis.text(
                column, line, f"{value:.0f}", ha="center", va="center", fontsize=5.5,
                color="white" if value > 55 else "black",
            )  # fmt: skip
    return image

"""Pictures of a suite: scores against what training saves, and how a search's masks settle.

From records and saved arrays only. SVG, the same bytes for the same results; every method has
its own marker, so nothing hangs on colour alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

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
from sparsetune.reporting.panels import (
    Frame,
    Panel,
    Sheet,
    grey_bar,
    round_ticks,
    tick_texts,
    with_margins,
)
from sparsetune.reporting.savings import macs_of, mean_effort, saving
from sparsetune.reporting.spots import Spot, reaches, scatter

_COLUMNS = 4
_UNITS = ("head", "neuron")
_SIDE = 2.0  # inches
_PIXELS = 250
_PART = 8192


def write_scores_against_savings(
    rows: Sequence[RunRow], path: Path, *, order: Sequence[Key], reference_method: str
) -> None:
    """Draw, for each backbone and task, scores over the training MACs that a method saves.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`.
        path: SVG to write.
        order: (backbone, task, method) of the whole suite, in the order to draw.
        reference_method: the dense run that the others are compared with; a task without it
            is left out.

    Raises:
        DataError: no task has a reference, or a value is missing from a record.
    """
    groups = group_runs(rows, order)
    panels = {
        pair: [group for group in groups if group.key[:2] == pair]
        for pair in dict.fromkeys(group.key[:2] for group in groups)
        if any(group.key == (*pair, reference_method) for group in groups)
    }
    if not panels:
        raise DataError(f"no task of this suite was run with {reference_method!r}")
    # A reference alone says nothing, unless there is nothing else to draw.
    panels = {pair: members for pair, members in panels.items() if len(members) > 1} or panels
    methods = list(dict.fromkeys(group.key[2] for group in groups))
    styles = method_styles(methods)
    with mpl.rc_context(STYLE):
        columns = min(_COLUMNS, len(panels))
        width = columns * (1.9 + 0.6) + 0.15  # panels, gaps and margins
        foot = 0.5 + legend_inches(methods, width)
        sheet = Sheet(
            [1.9] * columns, [1.5] * -(-len(panels) // columns),
            margins=(0.6, foot, 0.15, 0.25), gaps=(0.6, 0.65),
        )  # fmt: skip
        places = [panel for line in sheet.panels for panel in line]
        for panel, members in zip(places, panels.values(), strict=False):
            _panel(sheet, panel, members, reference_method, styles)
        method_legend(sheet.figure, styles)
        footnote(
            sheet.figure, "Dashed: the dense run. Up and to the right is better.",
            generated=any(task.startswith(GENERATED_PREFIX) for _, task in panels),
        )  # fmt: skip
        sheet.save(path)


def _panel(
    sheet: Sheet,
    panel: Panel,
    groups: Sequence[RunGroup],
    reference_method: str,
    styles: Mapping[str, tuple[str, str]],
) -> None:
    efforts = {group.key[2]: mean_effort([macs_of(row) for row in group.rows]) for group in groups}
    reference = efforts[reference_method]
    metric = groups[0].rows[0].headline_metric
    scale = scale_of(metric)
    spots = {}
    for group in groups:
        method = group.key[2]
        scores = [row.metrics.get(metric) for row in group.rows]
        if any(score is None for score in scores):
            continue
        saved = 100 * saving(efforts[method], reference).whole
        mean = scale.factor * float(np.mean(scores))
        spread = scale.factor * float(np.std(scores, ddof=1)) if len(scores) > 1 else None
        spots[method] = Spot(saved, mean, styles[method], spread=spread)
    if spots:
        across = with_margins([spot.x for spot in spots.values()], share=0.05)
        panel = panel.showing(across, with_margins(reaches(spots.values()), share=0.05))
    if reference_method in spots:
        level = panel.y(spots[reference_method].y)
        sheet.line([panel.box[0], panel.box[2]], level, color=GREY, linewidth=0.7, linestyle="--",
                   zorder=0)  # fmt: skip
    scatter(sheet, panel, list(spots.values()))
    frame = Frame(sheet, panel)
    frame.edges()
    frame.below_round()
    beside = frame.beside_round()
    unit = ", %" if scale.factor == 100 else ""
    told = f"training MACs saved against {reference_method}, %"
    frame.names(told, f"{scale.heading}{unit}", numbers=beside)
    frame.title(f"{groups[0].key[0]}, {groups[0].key[1]}")


def mask_distances(masks: np.ndarray) -> np.ndarray:
    """Distances between all pairs of masks of a search, relative to chance.

    Args:
        masks: bool, ``(C, L, U)``: C checks, L layers, U units; True = kept; at least one check.

    Returns:
        float64, ``(C, C)``: share of units on which two masks differ over what independent
        masks of the last one's keep rate k would have, ``2 k (1 - k)``; 0 = identical.

    Raises:
        DataError: there is no check.

    Source:
        EarlyBERT (arXiv:2101.00063), figure 1.
    Differs:
        The figure is not relative to chance, and shows one feed-forward layer only.
    """
    if masks.ndim != 3 or not len(masks):
        raise DataError(f"masks of a search: got shape {masks.shape}, need (checks, layers, units)")
    flat = masks.reshape(len(masks), -1)
    counts = flat.sum(axis=1, dtype=np.float64)
    differing = (counts[:, None] + counts[None, :] - 2 * _kept_in_both(flat)) / flat.shape[1]
    kept = counts[-1] / flat.shape[1]
    chance = 2 * kept * (1 - kept)
    return differing / chance if chance else differing


def _kept_in_both(flat: np.ndarray) -> np.ndarray:
    """How many units each two of ``(C, N)`` masks share, by a product: float64, ``(C, C)``."""
    shared = np.zeros((len(flat), len(flat)))
    # In parts that stay in the cache; float32 counts exactly what a part can hold.
    for first in range(0, flat.shape[1], _PART):
        part = flat[:, first : first + _PART].astype(np.float32)
        shared += part @ part.T
    return shared


def write_mask_distances(gates: Path, path: Path, *, title: str, stops: Mapping[str, int]) -> None:
    """Draw how far the masks of a search are apart, heads and neurons side by side.

    Args:
        gates: ``gates.npz`` of a ticket.
        path: SVG to write.
        title: what was searched.
        stops: name -> step at which a stopping rule fires; drawn as a line.

    Raises:
        DataError: the file is missing, damaged or holds no search.
    """
    steps, masks = _read_masks(gates)
    edges = _edges(steps)
    ends = (float(edges[0]), float(edges[-1]))
    with mpl.rc_context(STYLE):
        sheet = Sheet([_SIDE, _SIDE], [_SIDE], margins=(0.7, 0.55, 1.1, 0.65), gaps=(0.4, 0))
        for panel, name in zip(sheet.panels[0], _UNITS, strict=True):
            frame = Frame(sheet, panel.showing(ends, ends), grid="none")
            _distances(frame, edges, mask_distances(masks[name]))
            _stops(frame, stops, numbers=name == _UNITS[0])
            frame.title(f"{name}s", lift=12)
        _, bottom, right, top = panel.box
        grey_bar(sheet, Panel((right + 26, bottom, right + 34, top)), "mask distance / chance")
        width, height = sheet.figure.get_size_inches()
        sheet.text(36 * width, 72 * height - 6, title, ha="center", va="top", fontsize=9)
        sheet.save(path)


def _distances(frame: Frame, edges: np.ndarray, distances: np.ndarray) -> None:
    """The cells as an image of equal pixels: checks need not be equally far from each other."""
    middles = (np.arange(_PIXELS) + 0.5) / _PIXELS * edges[-1]
    cells = np.searchsorted(edges, middles, side="right") - 1
    frame.sheet.image(frame.panel, distances[np.ix_(cells[::-1], cells)])


def _stops(frame: Frame, stops: Mapping[str, int], *, numbers: bool) -> None:
    """Search steps below, and at the left of the first panel; lines where rules stop."""
    panel = frame.panel
    ticks = round_ticks(*panel.across, most=6)
    texts = tick_texts(ticks)
    frame.edges()
    frame.below(ticks, texts)
    frame.beside(ticks, texts if numbers else [])
    frame.names("search step", "search step" if numbers else "", numbers=texts)
    for label, step in stops.items():
        x = float(panel.x(step))
        frame.sheet.line([x, x], panel.box[1::2], color="#D55E00", linewidth=1.0)
        frame.sheet.text(x, panel.box[3], f" {label}", color="#D55E00", fontsize=6, va="bottom")


def _read_masks(gates: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    try:
        with np.load(gates, allow_pickle=False) as arrays:
            return arrays["steps"], {name: arrays[f"{name}_masks"] for name in _UNITS}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{gates}: not the history of a search: {error}") from None


def _edges(steps: np.ndarray) -> np.ndarray:
    """Borders of the cells around the checked steps."""
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[0], middle, [steps[-1] + 0.5]])

"""Figures of a suite: trade-offs, what training saves, zeros by layer, curves, ticket searches.

SVG at ``path``, the same bytes for the same results; ``suite`` has the runs of one backbone. Every
method has its own marker, every part its own hatch, and shades have numbers: nothing hangs on
colour alone.
"""

import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from sparsetune.config.metric import scale_of
from sparsetune.config.task import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.records import replacing
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.load import KEY, Finished, deviation_of, is_generated
from sparsetune.reporting.savings import Unit, savings_of

HISTORY = "history.csv"
# Okabe and Ito's colours: told apart by colour-blind people; the markers by everybody.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "p", "h", "*")
_GREY = "#888888"
SVG_STYLE: Any = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.labelsize": 7, "axes.titlesize": 8, "axes.axisbelow": True, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "grid.color": "#dddddd", "grid.linewidth": 0.5, "hatch.linewidth": 0.5,
    "svg.hashsalt": "sparsetune", "svg.fonttype": "path", "legend.frameon": False,
}  # fmt: skip
_COSTS = {
    "macs": "effective MACs of one example, % of the dense model's",
    "trained": "trained parameters, without the task head",
}
# Shade and hatch differ, so that the parts are told apart on grey paper too.
_PARTS = {
    "fewer_examples": ("fewer examples", "#0072B2", ""),
    "cheaper_examples": ("cheaper examples", "#9AD0F0", "////"),
    "search": ("search", "#D55E00", "xxxx"),
}
_SAVED = {
    "training_macs_saved_fraction": ("training", "D", "#D55E00"),
    "inference_macs_saved_fraction": ("inference", "s", "#0072B2"),
}
# On a dark page the same figure has the colours on the right: a browser chooses by itself.
_DARK = {"#1f2328": "#e6edf3", "#fefefe": "#161b22", "#d0d7de": "#3d444d", "#6e7781": "#9198a1",
         "#0072B2": "#58a6ff", "#D55E00": "#f0883e"}  # fmt: skip
_INK, _CARD, _LINE, _FAINT, *_ = _DARK
_UNITS: Mapping[Unit, str] = {"macs": "multiply-adds", "seconds": "seconds"}
_WEIGHTS = ("attention", "feed_forward")
_SITES = ("head", "neuron")
_SMALL: Any = {"textcoords": "offset points", "fontsize": 6}
_MOST_NUMBERS = 1500  # cells of a figure; more are told by their shade alone
_MOST_POINTS = 30
_MOST_SEEDS = 5
_CURVES_ABREAST = 5


def method_styles(methods: Iterable[str], markers: Sequence[str] = _MARKERS) -> dict[str, Any]:
    """Marker and colour of each method, in the order given; 84 differ before they repeat."""
    return {
        method: (markers[index % len(markers)], COLOURS[index % len(COLOURS)])
        for index, method in enumerate(dict.fromkeys(methods))
    }


def against_dense(suite: Finished) -> pd.DataFrame:
    """The runs with a score whose task has a dense run to compare with.

    Returns:
        The runs' lines, and ``points``: the primary metric minus the dense runs' mean.

    Raises:
        DataError: no task has a dense run whose score is defined.
    """
    dense = {
        key[:2]: statistics.fmean(runs["score"])
        for key, runs in suite.groups.items()
        if key[2] == REFERENCE_METHOD and None not in set(runs["score"])
    }
    if not dense:
        raise DataError(f"no task of this suite has a score of {REFERENCE_METHOD!r}")
    means = pd.Series(
        [dense.get(pair) for pair in zip(suite.runs["backbone"], suite.runs["task"], strict=True)],
        suite.runs.index,
    )
    runs = suite.runs[suite.runs["score"].notna() & means.notna()]
    return runs.assign(points=100 * (runs["score"] - means))


def _tradeoffs(suite: Finished) -> pd.DataFrame:
    """Score and cost of every method whose task has a dense run, and whose score is defined.

    ``score`` is in points from the dense run's mean, ``spread`` their sample standard deviation.
    """
    lines = []
    for key, runs in against_dense(suite).groupby(list(KEY), sort=False):
        if len(runs) < len(suite.groups[key]):
            continue
        lines.append({
            **dict(zip(KEY, key, strict=True)), "metric": runs["metric"].iloc[0],
            "score": statistics.fmean(runs["points"]), "spread": deviation_of(runs["points"]),
            "macs": statistics.fmean(runs["macs_effective_share_of_dense"]),
            "trained": statistics.fmean(runs["parameters_trained"]),
            "seeds": len(runs), "collapsed": any(runs["collapsed"]),
        })  # fmt: skip
    return pd.DataFrame(lines)


def _frontier(points: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The points that nothing beats, by rising cost; of two that are the same, the first."""
    rising = points.sort_values([cost, "score"], ascending=[True, False], kind="stable")
    return rising[rising["score"] > rising["score"].cummax().shift(fill_value=-np.inf)]


def _floor_of(scores: pd.Series) -> float:
    """Where an axis may end below, so that one method that failed does not hide the others.

    Three times the middle half's width, or three points if that is more, below the first quarter.
    """
    first, third = scores.quantile([0.25, 0.75])
    return scores.min() if len(scores) < 3 else first - 3 * max(third - first, 1.0)


@mpl.rc_context(SVG_STYLE)
def write_pareto(suite: Finished, path: Path) -> None:
    """Draw, for each task of a backbone, scores against effective MACs and trained parameters.

    A task without a dense run is left out.

    Raises:
        DataError: as :func:`against_dense`.
    """
    found = _tradeoffs(suite)
    styles = method_styles(suite.runs["method"])
    tasks = list(found.groupby(["backbone", "task"], sort=False))
    figure, grid = _subplots(len(tasks), 2, width=3.4, height=2.3, sharey="row")
    for axes, (pair, points) in zip(grid, tasks, strict=True):
        for axis, cost in zip(axes, _COSTS, strict=True):
            _tradeoff_panel(axis, points, cost, styles)
        name = scale_of(points["metric"].iloc[0]).heading
        axes[0].set_ylabel(f"{name} minus {REFERENCE_METHOD}'s, points")
        axes[0].set_title(", ".join(pair), loc="left")
    told = "Up and to the left is better. Grey steps: what nothing beats in both."
    seeds = sorted(set(found["seeds"]))
    if seeds[-1] > 1:
        told += f" Bars: ± 1 standard deviation over {'/'.join(map(str, seeds))} seeds."
    if any(found["collapsed"]):
        told += " Hollow: one answer for all examples."
    handles = [
        mpl.lines.Line2D([], [], marker=marker, color=colour, linestyle="", label=method)
        for method, (marker, colour) in styles.items()
    ]
    _finish(figure, path, f"{told} Arrow: below the axis, at the score told.", suite, handles)


def _tradeoff_panel(axis: Axes, points: pd.DataFrame, cost: str, styles: Mapping[str, Any]) -> None:
    floor = _floor_of(points["score"])
    points = points.assign(
        # A method that trains its head alone has no place on a logarithmic axis but the first.
        x=100 * points["macs"] if cost == "macs" else points["trained"].clip(lower=1),
        y=points["score"].clip(lower=floor),
    )
    best = _frontier(points, cost)
    axis.step(best["x"], best["y"], where="post", color="#c4c4c4", linewidth=2.5, zorder=1)
    axis.axhline(0, color=_GREY, linewidth=0.7, linestyle="--", zorder=0)
    for one in points.itertuples():
        marker, colour = styles[one.method]
        axis.errorbar(
            one.x, one.y, yerr=one.spread, marker=marker, color=colour, markersize=5,
            markerfacecolor="white" if one.collapsed else colour, linestyle="", elinewidth=0.8,
            zorder=3,
        )  # fmt: skip
        if one.score < floor:
            axis.annotate(f"↓{one.score:.0f}", (one.x, one.y), (0, 5), ha="center", **_SMALL)
    for one in best.itertuples():
        axis.annotate(one.method, (one.x, one.y), (4, 4), **_SMALL)
    axis.margins(0.12, 0.15)
    axis.set_xlabel(_COSTS[cost])
    if cost == "trained":
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_minor_locator(NullLocator())


@mpl.rc_context(SVG_STYLE)
def write_saved(suite: Finished, path: Path) -> None:
    """Draw, for each task of a backbone, what each method saves in multiply-adds and in seconds.

    A task without a dense run, or with nothing else, is left out.

    Raises:
        DataError: no task is left.
    """
    found = {unit: savings_of(suite.groups, unit) for unit in _UNITS}
    pairs: dict[tuple[str, str], list[str]] = {}
    for backbone, task, method in found["macs"]:
        pairs.setdefault((backbone, task), []).append(method)
    if not pairs:
        raise DataError(f"no task of this suite has {REFERENCE_METHOD!r} and another method")
    lines = [len(methods) + 1 for methods in pairs.values()]
    figure, grid = _subplots(
        len(pairs), 2, width=3.4, height=0.45 + 0.18 * statistics.fmean(lines),
        sharex="col", height_ratios=lines,
    )  # fmt: skip
    for axes, (pair, methods) in zip(grid, pairs.items(), strict=True):
        for axis, unit in zip(axes, _UNITS, strict=True):
            parts = [found[unit][*pair, method] for method in methods]
            _saved_panel(axis, 100 * np.array([[getattr(p, n) for n in _PARTS] for p in parts]))
            axis.set_yticks(range(len(methods)), methods if unit == "macs" else [])
            axis.tick_params(labelbottom=True)
        axes[0].set_title(", ".join(pair), loc="left")
    for axis, name in zip(grid[-1], _UNITS.values(), strict=True):
        axis.set_xlabel(f"{name} of training saved, % of {REFERENCE_METHOD}'s")
    handles = [
        mpl.patches.Patch(facecolor=colour, hatch=hatch, edgecolor="#333333", label=label)
        for label, colour, hatch in _PARTS.values()
    ]
    told = "To the left of 0: costs more. Diamond: in all. Seconds change from run to run."
    _finish(figure, path, told, suite, handles)


def _stacked(lengths: np.ndarray) -> np.ndarray:
    """Where each part of each bar begins, if gains go right of 0 and losses left of it."""
    gains, losses = lengths.clip(min=0), lengths.clip(max=0)
    begins = (part.cumsum(axis=1) - part for part in (gains, losses))
    return np.where(lengths >= 0, *begins)


def _saved_panel(axis: Axes, lengths: np.ndarray) -> None:
    begins, lines = _stacked(lengths), range(len(lengths))
    for (_, colour, hatch), long, begin in zip(_PARTS.values(), lengths.T, begins.T, strict=True):
        axis.barh(lines, long, left=begin, height=0.7, color=colour, hatch=hatch,
                  edgecolor="#333333", linewidth=0.4)  # fmt: skip
    for line, parts in enumerate(lengths):
        whole, gained = sum(parts), parts.clip(min=0).sum()
        axis.plot(whole, line, marker="D", color="black", markersize=3.5, markeredgecolor="white")
        text = f"{whole:+z.0f} %".replace("-", "\N{MINUS SIGN}")
        axis.annotate(text, (gained, line), (5, 0), va="center", **_SMALL)
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.margins(x=0.16)
    axis.grid(visible=False, axis="y")
    axis.invert_yaxis()


@mpl.rc_context(SVG_STYLE)
def write_layers(suite: Finished, path: Path) -> None:
    """Draw, for each task of a backbone, the sparsity of each layer under each method.

    Raises:
        DataError: runs of one method have different numbers of layers.
    """
    panels: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for key, runs in suite.groups.items():
        shares = _mean_sparsity(runs)
        if shares.any():
            panels.setdefault(key[:2], {})[key[2]] = shares
    told = (
        "Share of a layer's weights that are zero or were removed, mean over seeds. Methods "
        "without zeros are left out."
    )
    if not panels:
        figure = Figure(figsize=(7, 0.8), layout="constrained")
        figure.text(0.5, 0.5, "No method of this suite leaves zeros in a layer.", ha="center")
        _finish(figure, path, told, suite)
        return
    lines = [len(methods) for methods in panels.values()]
    figure, grid = _subplots(
        len(panels), 2, width=3.4, height=0.45 + 0.2 * statistics.fmean(lines), height_ratios=lines
    )
    numbers = sum(one.size for found in panels.values() for one in found.values()) <= _MOST_NUMBERS
    for axes, (pair, found) in zip(grid, panels.items(), strict=True):
        for place, (axis, part) in enumerate(zip(axes, _WEIGHTS, strict=True)):
            values = 100 * np.stack([one[place] for one in found.values()])
            image = _heat(axis, values, numbers=numbers)
            axis.set_title(f"{part.replace('_', '-')} weights", fontsize=7)
            axis.set_yticks(range(len(found)), [] if place else list(found))
        axes[0].set_ylabel("\n".join(pair))
    for axis in grid[-1]:
        axis.set_xlabel("layer, from the embeddings up")
    figure.colorbar(image, ax=grid, label="zeros, %", shrink=min(1.0, 6 / sum(lines)), aspect=12)
    _finish(figure, path, told, suite)


def _mean_sparsity(runs: pd.DataFrame) -> np.ndarray:
    """Mean over seeds: float, ``(2, L)``, attention and feed-forward weights."""
    by_seed = list(runs["sparsity_by_layer"])
    need = len(by_seed[0][0])
    for folder, found in zip(runs["folder"], by_seed, strict=True):
        lengths = sorted({len(part) for part in found})
        if lengths != [need]:
            raise DataError(
                f"{folder / 'cost.json'}: measured.sparsity_by_layer: received {lengths} layers; "
                f"allowed: {need}"
            )
    return np.mean(by_seed, axis=0)


def _heat(axis: Axes, values: np.ndarray, *, numbers: bool) -> Any:
    image = axis.imshow(values, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    axis.grid(visible=False)
    count = values.shape[1]
    ticks = range(0, count, 1 + count // 13)
    axis.set_xticks(ticks, [str(1 + tick) for tick in ticks])
    for (line, column), value in np.ndenumerate(values) if numbers else ():
        axis.text(column, line, f"{value:.0f}", ha="center", va="center", fontsize=5.5,
                  color="white" if value > 55 else "black")  # fmt: skip
    return image


def _read_history(path: Path) -> pd.DataFrame:
    """A run's losses: ``step`` (counts on through all phases), ``loss`` and ``phase``."""
    try:
        types = {"step": float, "phase": str, "loss": float}
        history = pd.read_csv(path, usecols=list(types), dtype=types)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise DataError(f"{path}: not the history of a run: {error}") from None
    if history.empty:
        raise DataError(f"{path}: not the history of a run: no steps")
    return history


def _thinned(history: pd.DataFrame, most: int) -> pd.DataFrame:
    """Means over equally many neighbours, so that a long curve can be read; NaN stays NaN."""
    blocks = np.arange(len(history)) // -(-len(history) // most)
    return history[["step", "loss"]].groupby(blocks).agg(lambda of: of.to_numpy().mean())


@mpl.rc_context(SVG_STYLE)
def write_curves(suite: Finished, path: Path) -> None:
    """Draw the training losses on one task, a panel for each method, the dense runs behind it.

    Raises:
        DataError: a history is missing or damaged.
    """
    histories = {
        method: [_read_history(folder / HISTORY) for folder in runs["folder"].iloc[:_MOST_SEEDS]]
        for (*_, method), runs in suite.groups.items()
    }
    curves = {name: [_thinned(one, _MOST_POINTS) for one in of] for name, of in histories.items()}
    columns = min(_CURVES_ABREAST, len(curves))
    figure, grid = _subplots(
        -(-len(curves) // columns), columns, width=1.5, height=1.25, sharex=True, sharey=True
    )
    for axis in grid.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (method, found) in zip(grid.flat, curves.items(), strict=False):
        for curve in curves.get(REFERENCE_METHOD, []) if method != REFERENCE_METHOD else []:
            axis.plot(curve["step"], curve["loss"], color="#b0b0b0", linewidth=1.8)
        for curve, whole in zip(found, histories[method], strict=True):
            axis.plot(curve["step"], curve["loss"], color="black", linewidth=0.9)
            later = whole["phase"] != whole["phase"].shift(-1)
            for begin in whole["step"][later].iloc[:-1]:
                axis.axvline(begin, color="#555555", linewidth=0.6, linestyle=":")
        axis.set_title(method, fontsize=7)
    losses = np.concatenate([one["loss"] for found in curves.values() for one in found])
    if (losses[np.isfinite(losses)] > 0).all():
        grid.flat[0].set_yscale("log")
        grid.flat[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5))
        grid.flat[0].yaxis.set_minor_locator(NullLocator())
        grid.flat[0].yaxis.set_major_formatter("{x:g}")
    for axis in grid[-1]:
        axis.set_xlabel("training step")
    backbone, task = suite.runs[["backbone", "task"]].iloc[0]
    figure.suptitle(f"{backbone}, {task}", fontsize=9)
    figure.supylabel("training loss", fontsize=7)
    told = f"Grey: {REFERENCE_METHOD}. Dotted: a later phase begins. Means of neighbouring steps."
    _finish(figure, path, told, suite)


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
        raise DataError(
            f"masks of a search: received shape {masks.shape}; allowed: (checks, layers, units)"
        )
    # Counts up to 2 ** 53 are exact.
    flat = masks.reshape(len(masks), -1).astype(np.float64)
    counts = flat.sum(axis=1)
    differing = (counts[:, None] + counts[None, :] - 2 * flat @ flat.T) / flat.shape[1]
    kept = counts[-1] / flat.shape[1]
    chance = 2 * kept * (1 - kept)
    return differing / chance if chance else differing


@mpl.rc_context(SVG_STYLE)
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
    try:
        with np.load(gates, allow_pickle=False) as arrays:
            steps, masks = arrays["steps"], {name: arrays[f"{name}_masks"] for name in _SITES}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{gates}: not the history of a search: {error}") from None
    # Borders of the cells around the checked steps, which need not be equally far apart.
    edges = np.concatenate([[0], (steps[1:] + steps[:-1]) / 2, [steps[-1] + 0.5]])
    figure, grid = _subplots(1, 2, width=2.9, height=2.7, sharey=True)
    for axis, name in zip(grid[0], _SITES, strict=True):
        image = axis.pcolormesh(edges, edges, mask_distances(masks[name]), cmap="Greys", vmin=0,
                                vmax=1, rasterized=True)  # fmt: skip
        for label, step in stops.items():
            axis.axvline(step, color="#D55E00", linewidth=1.0)
            axis.annotate(f" {label}", (step, edges[-1]), color="#D55E00", fontsize=6, va="bottom")
        axis.set(title=f"{name}s\n", xlabel="search step", aspect="equal")
        axis.grid(visible=False)
    grid[0][0].set_ylabel("search step")
    figure.colorbar(image, ax=grid, label="mask distance / chance", shrink=0.8)
    figure.suptitle(title, fontsize=9)
    _save(figure, path)


@mpl.rc_context({
    **SVG_STYLE, "font.size": 9, "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "axes.edgecolor": _FAINT, "grid.color": _LINE, "axes.facecolor": _CARD,
    "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8.5,
})  # fmt: skip
def write_methods(
    rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], path: Path, *, title: str
) -> None:
    """Draw methods beside the dense run, and what they save; for light and dark pages.

    Args:
        rows: methods with their means over tasks, as the results of a suite have them.
        cells: what each of them reached on each task, likewise.
        path: SVG to write; it is narrow enough for a telephone.
        title: for readers who do not see the figure.
    """
    height = 0.27 * max(len(rows), 1) + 1.0
    figure = Figure(figsize=(4.7, height), layout="constrained", facecolor=_CARD)
    scores, saved = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = {row["method"]: place for place, row in enumerate(rows)}
    differences = [cell["difference"] for cell in cells]
    floor = _floor_of(100 * pd.Series(differences, dtype=float)) if cells else 0.0
    floor = min([floor, *(100 * row["difference"] - 1 for row in rows)])
    lowest: dict[int, float] = {}
    for cell in cells:
        if cell["method"] == REFERENCE_METHOD:
            continue
        value, place = 100 * cell["difference"], places[cell["method"]]
        if value < floor:
            lowest[place] = min(value, lowest.get(place, value))
        else:
            scores.plot(value, place, marker="o", color=_FAINT, markersize=3.5, linestyle="")
    for place, value in lowest.items():
        scores.plot(floor, place, marker="<", color=_FAINT, markersize=3.5, linestyle="")
        text = f"{value:.0f}".replace("-", "\N{MINUS SIGN}")
        scores.annotate(text, (floor, place), (0, 4), ha="center", **_SMALL)
    scores.axvline(0, color=_FAINT, linewidth=1.2, linestyle="--", zorder=0)
    for row in rows:
        place, mean = places[row["method"]], 100 * row["difference"]
        spread = row["score_sd"] and 100 * row["score_sd"]
        scores.errorbar(mean, place, xerr=spread, marker="D", color=_INK, markersize=5,
                        elinewidth=1.2, linestyle="")  # fmt: skip
        for name, (_, marker, colour) in _SAVED.items():
            if row[name] is not None and row["method"] != REFERENCE_METHOD:
                saved.plot(100 * row[name], place, marker=marker, color=colour, markersize=5.5,
                           linestyle="")  # fmt: skip
    saved.axvline(0, color=_FAINT, linewidth=1.2, linestyle="--", zorder=0)
    scores.set_yticks(range(len(rows)), list(places))
    scores.set_ylim(len(rows) - 0.5, -0.5)
    scores.set_xlabel(f"points beside {REFERENCE_METHOD}")
    saved.set_xlabel("multiply-adds\nsaved, %")
    for axis in (scores, saved):
        axis.tick_params(length=0)
        axis.margins(x=0.08)
    point = mpl.lines.Line2D([], [], marker="o", color=_FAINT, markersize=3.5, linestyle="")
    mean = mpl.lines.Line2D([], [], marker="D", color=_INK, markersize=5, linestyle="")
    kinds = [
        mpl.lines.Line2D([], [], marker=marker, color=colour, markersize=5.5, linestyle="")
        for _, marker, colour in _SAVED.values()
    ]
    several = any(row["score_sd"] is not None for row in rows)
    labels = [
        "mean ± seeds" if several else "mean",
        "one task",
        *(label for label, *_ in _SAVED.values()),
    ]
    figure.legend([mean, point, *kinds], labels, loc="outside lower center", ncols=4, fontsize=8,
                  columnspacing=1.2, handletextpad=0.2)  # fmt: skip
    with replacing(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None, "Title": title})
        partial.write_text(_for_both(partial.read_text(encoding="utf-8")), encoding="utf-8")


def _for_both(svg: str) -> str:
    """A figure whose colours change on a dark page; its own ground keeps it readable on any."""
    rules = "".join(
        f'[style*="{what}: {light.lower()}"]{{{what}:{dark}!important}}'
        for light, dark in _DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return svg.replace(" <defs>", f" {style}\n <defs>", 1)


def _subplots(
    rows: int, columns: int, *, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of panels, each about so large, in inches."""
    figure = Figure(figsize=(columns * width, rows * height + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _finish(
    figure: Figure, path: Path, told: str, suite: Finished, handles: Sequence[Any] = ()
) -> None:
    """Put the legend and a line of explanation at the foot, and write the figure."""
    if is_generated(suite.runs["task"]):
        told += f" Tasks called {GENERATED_PREFIX}... are generated."
    columns = max(1, int(figure.get_figwidth() // 1.3))
    told = textwrap.fill(told, int(22 * figure.get_figwidth()))
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=min(columns, 6), title=told,
        title_fontsize=6, fontsize=7,
    )  # fmt: skip
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, atomically and without a date."""
    with replacing(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})

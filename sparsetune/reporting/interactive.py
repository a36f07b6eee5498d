"""The trade-offs of a suite as one page to explore: point at a run to see which it is.

The page holds all it needs, plotly's script included, and asks nothing of the network.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsetune.config.metric import scale_of
from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.records import write_text_atomically
from sparsetune.reporting.canvas import COLOURS
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs
from sparsetune.reporting.pareto import macs_share, reference_scores

_SYMBOLS = ("circle", "square", "triangle-up", "triangle-down", "diamond", "cross", "x",
            "triangle-left", "triangle-right", "pentagon", "hexagon", "star")  # fmt: skip
_HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>"
    "effective MACs of one example: %{customdata[2]}<br>"
    "trained parameters: %{customdata[3]}<br>"
    "record: %{customdata[4]}<br>MLflow run: %{customdata[5]}<extra></extra>"
)
_AXES = ("macs", "trained")
_HEIGHT = 680  # pixels

Point = Mapping[str, Any]


def write_interactive(
    rows: Sequence[RunRow],
    path: Path,
    *,
    order: Sequence[Key],
    reference_method: str,
    title: str,
) -> None:
    """Write the page: every run by its score beside the dense run's, against two costs.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`.
        path: HTML to write.
        order: (backbone, task, method) of the whole suite, in the order of the legend.
        reference_method: the dense run that scores and trained parameters are told against.
        title: heading of the page.

    Raises:
        DataError: no task has a reference, or a value is missing from a record.
    """
    groups = group_runs(rows, order)
    by_method = _points(groups, reference_method)
    if not by_method:
        raise DataError(f"no task of this suite has a score of {reference_method!r}")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for index, (method, points) in enumerate(by_method.items()):
        for column, axis in enumerate(_AXES, start=1):
            figure.add_trace(_trace(method, points, axis, index), row=1, col=column)
    _lay_out(figure, by_method, reference_method, title)
    page = figure.to_html(
        full_html=True, include_plotlyjs=True, div_id="pareto", validate=True,
        config={"displaylogo": False, "responsive": True},
    )  # fmt: skip
    write_text_atomically(path, _framed(page, title))


def _framed(page: str, title: str) -> str:
    """A page within a frame of its own, so that another page can hold it as text.

    The report's landing page does: browsers neither run scripts that are set into a page, nor
    open addresses as long as this page would be.
    """
    style = f"width: 100%; height: {_HEIGHT + 40}px; border: 0"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8"><title>{escape(title)}</title>'
        f'\n<body style="margin: 0">\n<iframe title="{escape(title)}" style="{style}"\n'
        f'srcdoc="{escape(page)}"></iframe>\n</body>\n</html>\n'
    )


def _points(groups: Sequence[RunGroup], reference_method: str) -> dict[str, list[Point]]:
    """Method -> its runs, each with its place and what is told about it."""
    references = reference_scores(groups, reference_method)
    whole = {
        group.key[:2]: group.rows[0].measured("cost", "parameters_trained")
        for group in groups
        if group.key[2] == reference_method
    }
    found: dict[str, list[Point]] = {}
    for group in groups:
        pair = group.key[:2]
        for row in group.rows:
            score = row.metrics[row.headline_metric]
            if pair in references and score is not None:
                found.setdefault(group.key[2], []).append(
                    _point(row, score, references[pair], whole[pair])
                )
    return found


def _point(row: RunRow, score: float, reference: float, whole: int) -> Point:
    macs = row.measured("cost", "macs_effective_per_example")
    trained = row.measured("cost", "parameters_trained")
    tracked = row.records["tune"]["where"].get("tracking") or {}
    metric = scale_of(row.headline_metric).heading
    flag = ", the same answer for all examples" if row.collapsed else ""
    return {
        "pair": f"{row.backbone}, {row.task}",
        "macs": 100 * macs_share(row),
        # A method that trains only its head has no place on an axis of powers of ten but the first.
        "trained": 100 * max(trained, 1) / whole,
        "score": 100 * (score - reference),
        "collapsed": row.collapsed,
        "told": [
            f"{row.backbone} · {row.task} · {row.method} · seed {row.seed}",
            f"{metric} {100 * score:.1f} %, {100 * (score - reference):+.1f} points{flag}",
            f"{macs / 1e6:,.2f} M ({100 * macs_share(row):.1f} % of dense)",
            f"{trained:,} ({100 * trained / whole:.3g} % of the dense run's)",
            (row.folder / "evaluate.json").as_posix(),
            tracked.get("mlflow_run_id") or "not recorded",
        ],
    }


def _trace(method: str, points: Sequence[Point], axis: str, index: int) -> go.Scatter:
    symbol = _SYMBOLS[index % len(_SYMBOLS)]
    return go.Scatter(
        x=[point[axis] for point in points],
        y=[point["score"] for point in points],
        customdata=[point["told"] for point in points],
        hovertemplate=_HOVER,
        mode="markers",
        name=method,
        legendgroup=method,
        showlegend=axis == _AXES[0],
        marker={
            "symbol": [f"{symbol}-open" if point["collapsed"] else symbol for point in points],
            "color": COLOURS[index % len(COLOURS)],
            "size": 10,
            "opacity": 0.85,
            "line": {"width": 1},
        },
        unselected={"marker": {"opacity": 0.06}},
    )


def _lay_out(
    figure: go.Figure,
    by_method: Mapping[str, Sequence[Point]],
    reference_method: str,
    title: str,
) -> None:
    generated = any(
        point["pair"].split(", ")[1].startswith(GENERATED_PREFIX)
        for points in by_method.values()
        for point in points
    )
    told = "Point at a run for its numbers; click a method to hide it, twice to see it alone."
    if generated:
        told += f" Tasks called {GENERATED_PREFIX}... are generated."
    figure.update_layout(
        template="plotly_white",
        title={
            "text": f"{escape(title)}<br><sup>{told}</sup>",
            "x": 0.01,
            "y": 0.97,
            "yanchor": "top",
        },
        margin={"t": 110, "l": 70, "r": 20, "b": 60},
        height=_HEIGHT,
        hoverlabel={"bgcolor": "white", "font": {"color": "black"}, "align": "left"},
        legend={"title": "method", "tracegroupgap": 0},
        updatemenus=[_menu(by_method)],
    )
    figure.update_xaxes(title="effective MACs of one example, % of the dense model's", col=1)
    figure.update_xaxes(
        title=f"trained parameters, % of {reference_method}'s", type="log", dtick=1, col=2
    )
    figure.update_yaxes(title=f"score beside {reference_method}'s, points", col=1)


def _menu(by_method: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    """A list of tasks; choosing one dims the runs of all others."""
    pairs = dict.fromkeys(point["pair"] for points in by_method.values() for point in points)
    traces = list(range(2 * len(by_method)))
    buttons = [{"label": "all tasks", "method": "restyle",
                "args": [{"selectedpoints": [None] * len(traces)}, traces]}]  # fmt: skip
    for pair in pairs:
        chosen = [
            [index for index, point in enumerate(points) if point["pair"] == pair]
            for points in by_method.values()
            for _ in _AXES
        ]
        buttons.append({"label": pair, "method": "restyle",
                        "args": [{"selectedpoints": chosen}, traces]})  # fmt: skip
    return {
        "buttons": buttons, "x": 1.0, "xanchor": "right", "y": 1.02, "yanchor": "bottom",
        "direction": "down", "showactive": True,
    }  # fmt: skip

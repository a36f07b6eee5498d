"""The trade-offs of a suite as one page to explore: point at a run to see which it is.

The page holds all it needs, plotly's script included, and asks nothing of the network.
"""

from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsetune.config.metric import scale_of
from sparsetune.config.task import GENERATED_PREFIX
from sparsetune.records import write_text_atomically
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.figures import against_dense, method_styles
from sparsetune.reporting.load import Finished, is_generated
from sparsetune.reporting.render import page

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


def write_interactive(suite: Finished, path: Path, *, title: str) -> None:
    """Write the page: every run by its score beside the dense run's, against two costs.

    Raises:
        DataError: no task has a dense run whose score is defined.
    """
    points = _points(suite)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for method, (symbol, colour) in method_styles(points["method"], _SYMBOLS).items():
        for column, axis in enumerate(_AXES, start=1):
            own = points[points["method"] == method]
            figure.add_trace(_trace(method, own, axis, symbol, colour), row=1, col=column)
    _lay_out(figure, points, title)
    drawn = figure.to_html(
        full_html=True, include_plotlyjs=True, div_id="pareto", validate=True,
        config={"displaylogo": False, "responsive": True},
    )  # fmt: skip
    write_text_atomically(path, page("frame.html", title=title, page=drawn, height=_HEIGHT + 40))


def _points(suite: Finished) -> pd.DataFrame:
    """Each run with its place and what is told about it."""
    lines = []
    for run in against_dense(suite).itertuples():
        pair = (run.backbone, run.task)
        whole = suite.groups[*pair, REFERENCE_METHOD]["parameters_trained"].iloc[0]
        macs = 100 * run.macs_effective_share_of_dense
        flag = ", the same answer for all examples" if run.collapsed else ""
        lines.append({
            "method": run.method,
            "pair": ", ".join(pair),
            "macs": macs,
            # A method that trains only its head has no place on an axis of powers of ten.
            "trained": 100 * max(run.parameters_trained, 1) / whole,
            "score": run.points,
            "collapsed": run.collapsed,
            "told": [
                f"{run.backbone} · {run.task} · {run.method} · seed {run.seed}",
                f"{scale_of(run.metric).heading} {100 * run.score:.1f} %, "
                f"{run.points:+.1f} points{flag}",
                f"{run.macs_effective_per_example / 1e6:,.2f} M ({macs:.1f} % of dense)",
                f"{run.parameters_trained:,} ({100 * run.parameters_trained / whole:.3g} % of "
                "the dense run's)",
                run.link.record.as_posix(),
                run.link.mlflow_run_id or "not recorded",
            ],
        })  # fmt: skip
    return pd.DataFrame(lines)


def _trace(method: str, points: pd.DataFrame, axis: str, symbol: str, colour: str) -> go.Scatter:
    symbols = [f"{symbol}-open" if one else symbol for one in points["collapsed"]]
    return go.Scatter(
        x=list(points[axis]), y=list(points["score"]), customdata=list(points["told"]),
        hovertemplate=_HOVER, mode="markers", name=method, legendgroup=method,
        showlegend=axis == _AXES[0], unselected={"marker": {"opacity": 0.06}},
        marker={"symbol": symbols, "color": colour, "size": 10, "opacity": 0.85,
                "line": {"width": 1}},
    )  # fmt: skip


def _lay_out(figure: go.Figure, points: pd.DataFrame, title: str) -> None:
    told = "Point at a run for its numbers; click a method to hide it, twice to see it alone."
    if is_generated(pair.split(", ")[1] for pair in points["pair"]):
        told += f" Tasks called {GENERATED_PREFIX}... are generated."
    heading = f"{escape(title)}<br><sup>{told}</sup>"
    figure.update_layout(
        template="plotly_white",
        title={"text": heading, "x": 0.01, "y": 0.97, "yanchor": "top"},
        margin={"t": 110, "l": 70, "r": 20, "b": 60},
        height=_HEIGHT,
        hoverlabel={"bgcolor": "white", "font": {"color": "black"}, "align": "left"},
        legend={"title": "method", "tracegroupgap": 0},
        updatemenus=[_menu(points)],
    )
    figure.update_xaxes(title="effective MACs of one example, % of the dense model's", col=1)
    figure.update_xaxes(
        title=f"trained parameters, % of {REFERENCE_METHOD}'s", type="log", dtick=1, col=2
    )
    figure.update_yaxes(title=f"score beside {REFERENCE_METHOD}'s, points", col=1)


def _menu(points: pd.DataFrame) -> dict[str, Any]:
    """A list of tasks; choosing one dims the runs of all others."""
    by_method = [list(own["pair"]) for _, own in points.groupby("method", sort=False)]
    traces = list(range(len(_AXES) * len(by_method)))
    choices: dict[str, list[Any]] = {"all tasks": [None] * len(traces)}
    for pair in dict.fromkeys(points["pair"]):
        choices[pair] = [
            [index for index, one in enumerate(pairs) if one == pair]
            for pairs in by_method
            for _ in _AXES
        ]
    buttons = [
        {"label": label, "method": "restyle", "args": [{"selectedpoints": chosen}, traces]}
        for label, chosen in choices.items()
    ]
    return {
        "buttons": buttons, "x": 1.0, "xanchor": "right", "y": 1.02, "yanchor": "bottom",
        "direction": "down", "showactive": True,
    }  # fmt: skip

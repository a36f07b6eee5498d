"""How an experiment opens in MLflow: views that are stored with it, each with an address.

MLflow keeps a saved view as an experiment tag and lists it under "Saved views"; which columns a
page opens with otherwise is known to the browser alone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Experiment

VIEW_TAG = "mlflow.sharedViewState."
LOCAL_ADDRESS = "http://127.0.0.1:5000"
ADVICE = (
    "Tick runs and press Compare, or open one for its description, curves, data and files.",
    "The list beside the title leads to these pages too; an assistant at the right goes with x.",
)
"""What to do with the pages."""

_ORDER = "tags.`mlflow.runName`"
_ALL = {"startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs"}
_RUN_NAME = "attributes.`Run Name`"
_WIDTHS = {
    "backbone": 115, "task": 100, "method": 160, "label": 160, "seed": 60, "metric": 90,
    "score_percent": 135, "macs_effective_percent": 170, "parameters_trained": 145,
    "time_saved_percent": 145, "heads_kept": 100, "neurons_kept": 115,
    "ticket/search_seconds": 170, "ticket/stopping/settled_step": 220,
}  # fmt: skip
_NAME_WIDTH = {False: 190, True: 500}
"""Of the name's column, by whether it holds what runs are grouped by."""
_MOST_FOLDED = 150
_RUNS = "tags.stage = 'tune'"


@dataclass(frozen=True)
class View:
    """One way to look at an experiment.

    Attributes:
        id: end of its address.
        name: in MLflow's list of saved views.
        chosen: filter on runs, in MLflow's language.
        columns: (``tags`` or ``metrics``, name), in the order to show.
        grouped_by: tags; runs that share them are one line with means.
        charts: metrics against metrics, as (across, up); the page then opens on charts.
    """

    id: str
    name: str
    chosen: str
    columns: tuple[tuple[str, str], ...]
    grouped_by: tuple[str, ...] = ()
    charts: tuple[tuple[str, str], ...] = ()

    def state(self, groups: Iterable[Sequence[str]] = ()) -> dict[str, Any]:
        """The page's state, as MLflow's own "save view" writes it.

        Args:
            groups: values of the tags of ``grouped_by``; these lines open folded.
        """
        names = [f"{kind}.`{name}`" for kind, name in self.columns]
        widths = {full: _WIDTHS[name] for full, (_, name) in zip(names, self.columns, strict=True)}
        state: dict[str, Any] = {
            **_ALL,
            "searchFilter": self.chosen,
            "orderByKey": _ORDER,
            "orderByAsc": True,
            "datasetsFilter": [],
            "selectedColumns": names,
            "columnOrder": [_RUN_NAME, *names],
            "columnWidths": {_RUN_NAME: _NAME_WIDTH[bool(self.grouped_by)], **widths},
            "runsHiddenMode": "SHOW_ALL",
            "groupBy": None,
        }
        if self.grouped_by:
            keys = [{"mode": "tag", "groupByData": tag} for tag in self.grouped_by]
            state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
            folded = list(groups)
            if len(folded) <= _MOST_FOLDED:  # more would not fit into an experiment's tag
                state["groupsExpanded"] = {self._line(values): False for values in folded}
        if self.charts:
            state |= _chart_cards(self.charts)
        return state

    def _line(self, values: Sequence[str]) -> str:
        pairs = zip(self.grouped_by, values, strict=True)
        return ",".join(f"tag.{tag}.{value}" for tag, value in pairs)

    def page(self, experiment_id: str) -> str:
        """The view's address below the server's, as a fragment."""
        mode = "&compareRunsMode=CHART" if self.charts else ""
        # Otherwise MLflow surrounds the page with what it offers for language models' traces.
        kind = "&workflowType=machine_learning"
        return f"#/experiments/{experiment_id}/runs?viewStateShareKey={self.id}{mode}{kind}"


_HEADLINE = tuple(
    ("metrics", name)
    for name in (
        "score_percent", "macs_effective_percent", "parameters_trained", "time_saved_percent"
    )
)  # fmt: skip
_WHOLE = (
    *(("tags", name) for name in ("backbone", "task", "method")),
    *_HEADLINE,
    *(("tags", name) for name in ("metric", "seed")),
)
VIEWS = (
    View("runs", "Runs", _RUNS, _WHOLE),
    View("methods", "Methods", _RUNS, _HEADLINE, grouped_by=("backbone", "task", "method")),
    View("charts", "Charts", _RUNS, _WHOLE,
         charts=tuple((name, "score_percent") for _, name in _HEADLINE[1:])),
    View("tickets", "Tickets", "tags.stage = 'ticket'",
         (*(("tags", name) for name in ("backbone", "task", "label", "seed")),
          *(("metrics", name) for name in
            ("heads_kept", "neurons_kept", "ticket/search_seconds",
             "ticket/stopping/settled_step")))),
)  # fmt: skip
"""What is stored with every experiment; the first is the one to begin with."""


def view_tags(experiment: "Experiment", groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Experiment tags that are missing or that say something else.

    Args:
        experiment: as the store has it.
        groups: (backbone, task, method) of the suite, each once.
    """
    made = int(experiment.creation_time or 0)  # not now: a second call then changes nothing
    wanted = {f"{VIEW_TAG}{view.id}": _envelope(view, groups, made) for view in VIEWS}
    return {name: text for name, text in wanted.items() if experiment.tags.get(name) != text}


def links(experiments: Sequence["Experiment"], address: str) -> list[str]:
    """Lines for the terminal: every stored view of every experiment.

    Args:
        experiments: active ones.
        address: of the server, e.g. ``http://127.0.0.1:5000``.
    """
    lines = []
    for one in experiments:
        views = [view for view in VIEWS if f"{VIEW_TAG}{view.id}" in one.tags]
        if views:
            lines.append(f"Suite {one.name}:")
        for view in views:
            page = f"{address.rstrip('/')}/{view.page(one.experiment_id)}"
            lines.append(f"  {view.name + ':':<9}{page}")
    return lines


def view_links(experiment_id: str) -> str:
    """Links to the views in one line of Markdown, for the experiment's description.

    Args:
        experiment_id: MLflow's.
    """
    return " · ".join(f"[{view.name}]({view.page(experiment_id)})" for view in VIEWS)


def _envelope(view: View, groups: Sequence[Sequence[str]], made: int) -> str:
    told: Mapping[str, Any] = {
        "name": view.name,
        "createdAt": made,
        "updatedAt": made,
        "state": json.dumps(view.state(groups), sort_keys=True),
    }
    return json.dumps(told, sort_keys=True)


def _chart_cards(charts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    shown = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    section = {"uuid": "trade-offs", "name": "Score against cost", **shown}
    others = {"uuid": "model-metrics", "name": "Model metrics", **shown}
    cards = [
        {
            "uuid": f"trade-off-{number}",
            "type": "SCATTER",
            "metricSectionId": section["uuid"],
            "runsCountToCompare": 100,
            "deleted": False,
            "isGenerated": False,
            "xaxis": {"key": across, "type": "METRIC"},
            "yaxis": {"key": up, "type": "METRIC"},
        }
        for number, (across, up) in enumerate(charts, start=1)
    ]
    # "Reordered", or MLflow sorts what it makes itself before them.
    return {
        "compareRunCharts": cards,
        "compareRunSections": [section, others],
        "isAccordionReordered": True,
    }

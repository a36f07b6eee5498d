"""How an experiment reads in MLflow: its saved views, each with an address, and descriptions.

MLflow keeps a saved view as an experiment tag and lists it under "Saved views"; which columns a
page opens with otherwise is known to the browser alone. Descriptions are from the catalogue.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetune.config.backbone import Backbone
from sparsetune.config.suite import RunSpec, Suite
from sparsetune.config.support import SupportSettings
from sparsetune.config.task import GENERATED_PREFIX
from sparsetune.config.ticket import TicketSettings

if TYPE_CHECKING:
    from mlflow.entities import Experiment

VIEWS_HERE = "{views}"
"""In an experiment's description: where the links to its saved views go."""
VIEW_TAG = "mlflow.sharedViewState."
LOCAL_ADDRESS = "http://127.0.0.1:5000"
ADVICE = (
    "Tick runs and press Compare, or open one for its description, curves, data and files.",
    "The list beside the title leads to these pages too; an assistant at the right goes with x.",
)
"""What to do with the pages."""

_RUN_NAME = "attributes.`Run Name`"
_WIDTHS = {
    "backbone": 115, "task": 100, "method": 160, "label": 160, "seed": 60, "metric": 90,
    "score_percent": 135, "macs_effective_percent": 170, "parameters_trained": 145,
    "time_saved_percent": 145, "heads_kept": 100, "neurons_kept": 115,
    "ticket/search_seconds": 170, "ticket/stopping/settled_step": 220,
}  # fmt: skip
_NAME_WIDTH, _GROUP_WIDTH = 190, 500
_MOST_FOLDED = 150  # more would not fit into an experiment's tag
_TAG_CHARACTERS = 8000


@dataclass(frozen=True)
class View:
    """One way to look at an experiment.

    Attributes:
        id: end of its address.
        name: in MLflow's list of saved views.
        chosen: filter on runs, in MLflow's language.
        tags: columns to show.
        metrics: columns to show after those.
        more: tags to show last.
        grouped_by: tags; runs that share them are one line with means.
        charts: metrics to set the first metric against; the page then opens on charts.
    """

    id: str
    name: str
    chosen: str = "tags.stage = 'tune'"
    tags: tuple[str, ...] = ()
    metrics: tuple[str, ...] = (
        "score_percent", "macs_effective_percent", "parameters_trained", "time_saved_percent"
    )  # fmt: skip
    more: tuple[str, ...] = ()
    grouped_by: tuple[str, ...] = ()
    charts: tuple[str, ...] = ()

    def state(self, groups: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
        """The page's state, as MLflow's own "save view" writes it.

        Args:
            groups: values of the tags of ``grouped_by``; these lines open folded.
        """
        columns = [("tags", name) for name in self.tags]
        columns += [("metrics", name) for name in self.metrics]
        columns += [("tags", name) for name in self.more]
        widths = {f"{kind}.`{name}`": _WIDTHS[name] for kind, name in columns}
        state: dict[str, Any] = {
            "startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs",
            "searchFilter": self.chosen, "datasetsFilter": [], "runsHiddenMode": "SHOW_ALL",
            "orderByKey": "tags.`mlflow.runName`", "orderByAsc": True,
            "selectedColumns": list(widths), "columnOrder": [_RUN_NAME, *widths], "groupBy": None,
            "columnWidths": {_RUN_NAME: _GROUP_WIDTH if self.grouped_by else _NAME_WIDTH, **widths},
        }  # fmt: skip
        if self.grouped_by:
            keys = [{"mode": "tag", "groupByData": tag} for tag in self.grouped_by]
            state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
        if self.grouped_by and len(groups) <= _MOST_FOLDED:
            pairs = [zip(self.grouped_by, values, strict=True) for values in groups]
            lines = (",".join(f"tag.{tag}.{value}" for tag, value in line) for line in pairs)
            state["groupsExpanded"] = dict.fromkeys(lines, False)
        if self.charts:
            state |= _chart_cards(self.charts, self.metrics[0])
        return state

    def page(self, experiment_id: str) -> str:
        """The view's address below the server's, as a fragment."""
        mode = "&compareRunsMode=CHART" if self.charts else ""
        # Otherwise MLflow surrounds the page with what it offers for language models' traces.
        kind = "&workflowType=machine_learning"
        return f"#/experiments/{experiment_id}/runs?viewStateShareKey={self.id}{mode}{kind}"


_WHO = ("backbone", "task", "method")
VIEWS = (
    View("runs", "Runs", tags=_WHO, more=("metric", "seed")),
    View("methods", "Methods", grouped_by=_WHO),
    View("charts", "Charts", tags=_WHO, more=("metric", "seed"),
         charts=("macs_effective_percent", "parameters_trained", "time_saved_percent")),
    View("tickets", "Tickets", "tags.stage = 'ticket'", ("backbone", "task", "label", "seed"),
         ("heads_kept", "neurons_kept", "ticket/search_seconds", "ticket/stopping/settled_step")),
)  # fmt: skip
"""What is stored with every experiment; the first is the one to begin with."""


def view_tags(experiment: "Experiment", groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Experiment tags that store the views.

    Args:
        experiment: as the store has it.
        groups: (backbone, task, method) of the suite, each once.
    """
    made = int(experiment.creation_time or 0)  # not now: a second call then changes nothing
    tags = {}
    for view in VIEWS:
        state = json.dumps(view.state(groups), sort_keys=True)
        told = {"name": view.name, "createdAt": made, "updatedAt": made, "state": state}
        tags[f"{VIEW_TAG}{view.id}"] = json.dumps(told, sort_keys=True)
    return tags


def links(experiments: Iterable["Experiment"], address: str) -> list[str]:
    """Lines for the terminal: every stored view of every experiment.

    Args:
        experiments: active ones.
        address: of the server, e.g. ``http://127.0.0.1:5000``.
    """
    lines = []
    for one in experiments:
        views = [view for view in VIEWS if f"{VIEW_TAG}{view.id}" in one.tags]
        lines += [f"Suite {one.name}:"] if views else []
        for view in views:
            page = f"{address.rstrip('/')}/{view.page(one.experiment_id)}"
            lines.append(f"  {view.name + ':':<9}{page}")
    return lines


def view_links(experiment_id: str) -> str:
    """Links to the views in one line of Markdown, for the experiment's description."""
    return " · ".join(f"[{view.name}]({view.page(experiment_id)})" for view in VIEWS)


def suite_note(suite: Suite) -> str:
    """Description of a suite's experiment, with a place for the links to its views."""
    methods = {run.method.id: run.method.description for run in suite.runs}
    return within_limit(
        [
            # MLflow shows the first line only, until one asks for more.
            f"{len(suite.runs)} runs on {len(suite.groups())} pairs of backbone and task. "
            f"Open: {VIEWS_HERE}",
            "",
            "Runs are below a parent run for their backbone and task, which has the means over "
            f"seeds; the run `suite {suite.id}` holds tables, claims and figures.",
            *_generated(task for _, task in suite.groups()),
            "",
            *(f"- `{name}`: {text}" for name, text in methods.items()),
        ]
    )


def run_note(run: RunSpec, folder: Path) -> str:
    """Description of one run: what is trained on what, and where its records are.

    Args:
        run: resolved.
        folder: of the run.
    """
    start = "random weights" if run.method.start == "random" else "the backbone's weights"
    parts = {"backbone": run.backbone, "task": run.task, "support": run.support,
             "ticket": run.ticket}  # fmt: skip
    return "\n".join(
        [
            f"`{run.method.id}`: {run.method.description}",
            "",
            *(f"- {name} `{one.id}`: {one.description}" for name, one in parts.items() if one),
            f"- starts from {start}; seed {run.seed}",
            "",
            f"Records: `{folder}` (tune, evaluate and cost; copies are attached). "
            f"To make it again: `snakemake {folder}/evaluate.json` with the suite's configfile.",
            *_generated([run.task.id]),
        ]
    )


def part_note(part: Backbone | SupportSettings | TicketSettings, told: str, folder: Path) -> str:
    """Description of what runs share.

    Args:
        part: from the catalogue.
        told: what it holds, or nothing.
        folder: of the record.
    """
    return f"`{part.id}`: {part.description}\n\n{told}Record: `{folder}`."


def group_note(runs: Sequence[RunSpec], table: Sequence[str]) -> str:
    """Description of a parent run.

    Args:
        runs: of one backbone and task, at least one.
        table: lines of Markdown, one per method.
    """
    backbone, task = runs[0].backbone, runs[0].task
    return within_limit(
        [
            *table,
            "",
            f"Every method of `{backbone.id}` on `{task.id}`: mean ± standard deviation over "
            "seeds.",
            *_generated([task.id]),
            "",
            f"- `{backbone.id}`: {backbone.description}",
            f"- `{task.id}`: {task.description}",
            "- score %: the task's primary metric; effective MACs %: of the dense model's, zeros "
            "left out; time saved %: of the dense run's training, search included",
        ]
    )


def overview_note(suite: Suite, verdicts: Mapping[str, int], attached: Iterable[str]) -> str:
    """Description of the suite's own run.

    Args:
        suite: resolved.
        verdicts: verdict -> claims that have it; empty if none was judged yet.
        attached: what is attached, in words.
    """
    return "\n".join(
        [
            f"What the {len(suite.runs)} runs of suite `{suite.id}` come to; see Artifacts.",
            *_generated(task for _, task in suite.groups()),
            "",
            *(f"- claims, {name}: {count}" for name, count in verdicts.items()),
            *(f"- {name}" for name in attached),
        ]
    )


def within_limit(lines: Iterable[str]) -> str:
    """Whole lines up to what MLflow stores of a tag."""
    kept: list[str] = []
    length = 0
    for line in lines:
        length += len(line) + 1
        if length > _TAG_CHARACTERS - 2:
            return "\n".join([*kept, "…"])
        kept.append(line)
    return "\n".join(kept)


def _generated(tasks: Iterable[str]) -> list[str]:
    if any(task.startswith(GENERATED_PREFIX) for task in tasks):
        return ["", "Generated data: scores compare methods and say nothing about a benchmark."]
    return []


def _chart_cards(across: Sequence[str], up: str) -> dict[str, Any]:
    shown = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    section = {"uuid": "trade-offs", "name": "Score against cost", **shown}
    others = {"uuid": "model-metrics", "name": "Model metrics", **shown}
    cards = [
        {
            "uuid": f"trade-off-{number}", "type": "SCATTER", "metricSectionId": section["uuid"],
            "runsCountToCompare": 100, "deleted": False, "isGenerated": False,
            "xaxis": {"key": name, "type": "METRIC"}, "yaxis": {"key": up, "type": "METRIC"},
        }
        for number, name in enumerate(across, start=1)
    ]  # fmt: skip
    # "Reordered", or MLflow sorts what it makes itself before them.
    return {
        "compareRunCharts": cards,
        "compareRunSections": [section, others],
        "isAccordionReordered": True,
    }

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
_MOST_FOLDED = 150  # more would not fit into an experiment's tag
_TAG_CHARACTERS = 8000
_WHO = ("backbone", "task", "method")
_NUMBERS = ("score_percent", "macs_effective_percent", "parameters_trained", "time_saved_percent")


@dataclass(frozen=True)
class View:
    """One way to look at an experiment.

    Attributes:
        id: end of its address.
        name: in MLflow's list of saved views.
        tags: columns to show.
        metrics: columns to show after those.
        more: tags to show last.
        stage: whose runs.
        folded: runs that share the first tags are one line with means.
        charts: the page opens on charts of the first metric against each of the others.
    """

    id: str
    name: str
    tags: tuple[str, ...] = ()
    metrics: tuple[str, ...] = _NUMBERS
    more: tuple[str, ...] = ("metric", "seed")
    stage: str = "tune"
    folded: bool = False
    charts: bool = False

    def state(self, groups: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
        """The page's state, as MLflow's own "save view" writes it.

        Args:
            groups: values of the tags of a folded view's lines, which open folded.
        """
        shown = {"tags": () if self.folded else self.tags, "metrics": self.metrics}
        columns = [f"{kind}.`{name}`" for kind, names in shown.items() for name in names]
        columns += [f"tags.`{name}`" for name in self.more]
        widths = {name: 160 if name.endswith(("method`", "label`")) else max(80, 15 + 5 * len(name))
                  for name in columns}  # fmt: skip
        state: dict[str, Any] = {
            "startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs",
            "searchFilter": f"tags.stage = '{self.stage}'", "datasetsFilter": [],
            "runsHiddenMode": "SHOW_ALL", "orderByKey": "tags.`mlflow.runName`",
            "orderByAsc": True, "selectedColumns": columns, "columnOrder": [_RUN_NAME, *columns],
            "columnWidths": {_RUN_NAME: 500 if self.folded else 190, **widths}, "groupBy": None,
        }  # fmt: skip
        if self.folded:
            keys = [{"mode": "tag", "groupByData": tag} for tag in self.tags]
            state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
            if len(groups) <= _MOST_FOLDED:
                pairs = [zip(self.tags, values, strict=True) for values in groups]
                lines = (",".join(f"tag.{tag}.{value}" for tag, value in line) for line in pairs)
                state["groupsExpanded"] = dict.fromkeys(lines, False)
        if self.charts:
            own = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
            section = {"uuid": "trade-offs", "name": "Score against cost", **own}
            others = {"uuid": "model-metrics", "name": "Model metrics", **own}
            up, *across = ({"key": name, "type": "METRIC"} for name in self.metrics)
            card = {"type": "SCATTER", "metricSectionId": section["uuid"], "deleted": False,
                    "runsCountToCompare": 100, "isGenerated": False, "yaxis": up}  # fmt: skip
            state |= {
                "compareRunCharts": [{**card, "uuid": f"trade-off-{number}", "xaxis": axis}
                                     for number, axis in enumerate(across, start=1)],
                "compareRunSections": [section, others],
                # "Reordered", or MLflow sorts what it makes itself before them.
                "isAccordionReordered": True,
            }  # fmt: skip
        return state

    def page(self, experiment_id: str) -> str:
        """The view's address below the server's, as a fragment."""
        mode = "&compareRunsMode=CHART" if self.charts else ""
        # Otherwise MLflow surrounds the page with what it offers for language models' traces.
        kind = "&workflowType=machine_learning"
        return f"#/experiments/{experiment_id}/runs?viewStateShareKey={self.id}{mode}{kind}"


VIEWS = (
    View("runs", "Runs", _WHO),
    View("methods", "Methods", _WHO, more=(), folded=True),
    View("charts", "Charts", _WHO, charts=True),
    View("tickets", "Tickets", ("backbone", "task", "label", "seed"),
         ("heads_kept", "neurons_kept", "ticket/search_seconds", "ticket/stopping/settled_step"),
         more=(), stage="ticket"),
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
    listed = "\n".join(f"- `{name}`: {text}" for name, text in methods.items())
    # MLflow shows the first line only, until one asks for more.
    return within_limit(f"""\
{len(suite.runs)} runs on {len(suite.groups())} pairs of backbone and task. Open: {VIEWS_HERE}

Runs are below a parent run for their backbone and task, which has the means over seeds; the run \
`suite {suite.id}` holds tables, claims and figures.
{_caution(suite.runs)}
{listed}""")


def run_note(run: RunSpec, folder: Path) -> str:
    """Description of one run: what is trained on what, and where its records are."""
    start = "random weights" if run.method.start == "random" else "the backbone's weights"
    parts = {"backbone": run.backbone, "task": run.task, "support": run.support,
             "ticket": run.ticket}  # fmt: skip
    listed = "".join(f"- {kind} `{x.id}`: {x.description}\n" for kind, x in parts.items() if x)
    return f"""\
`{run.method.id}`: {run.method.description}

{listed}- starts from {start}; seed {run.seed}

Records: `{folder}` (tune, evaluate and cost; copies are attached). To make it again: \
`snakemake {folder}/evaluate.json` with the suite's configfile.
{_caution([run])}"""


def part_note(part: Backbone | SupportSettings | TicketSettings, told: str, folder: Path) -> str:
    """Description of what runs share: its own, what it holds, and the folder of its record."""
    return f"`{part.id}`: {part.description}\n\n{told}Record: `{folder}`."


def group_note(runs: Sequence[RunSpec], table: str) -> str:
    """Description of a parent run, of the runs of one backbone and task.

    Args:
        runs: at least one.
        table: Markdown, a line for each method.
    """
    backbone, task = runs[0].backbone, runs[0].task
    return within_limit(f"""\
{table.strip()}

Every method of `{backbone.id}` on `{task.id}`: mean ± standard deviation over seeds.
{_caution(runs)}
- `{backbone.id}`: {backbone.description}
- `{task.id}`: {task.description}
- score %: the task's primary metric; effective MACs %: of the dense model's, zeros left out; time \
saved %: of the dense run's training, search included""")


def overview_note(suite: Suite, verdicts: Mapping[str, int], attached: Iterable[str]) -> str:
    """Description of the suite's own run.

    Args:
        suite: resolved.
        verdicts: verdict -> claims that have it; empty if none was judged yet.
        attached: what is attached, in words.
    """
    claims = "".join(f"- claims, {name}: {count}\n" for name, count in verdicts.items())
    listed = claims + "".join(f"- {name}\n" for name in attached)
    return f"""\
What the {len(suite.runs)} runs of suite `{suite.id}` come to; see Artifacts.
{_caution(suite.runs)}
{listed}"""


def _caution(runs: Iterable[RunSpec]) -> str:
    if any(run.task.id.startswith(GENERATED_PREFIX) for run in runs):
        return "\nGenerated data: scores compare methods and say nothing about a benchmark.\n"
    return ""


def within_limit(text: str) -> str:
    """Whole lines up to what MLflow stores of a tag."""
    text = text.strip()
    if len(text) <= _TAG_CHARACTERS:
        return text
    return text[: text.rindex("\n", 0, _TAG_CHARACTERS - 2)] + "\n…"

"""What MLflow says in words about experiments and runs, in Markdown; from the catalogue only."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sparsetune.config.load import Backbone, RunSpec, Suite
from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.tracking.suite_run import VIEWS_HERE

_TAG_CHARACTERS = 8000


def suite_note(suite: Suite) -> str:
    """Description of a suite's experiment, with a place for the links to its views.

    Args:
        suite: resolved.
    """
    count, groups = len(suite.runs), len(suite.groups())
    methods = {run.method.id: run.method.description for run in suite.runs}
    return within_limit(
        [
            # MLflow shows the first line only, until one asks for more.
            f"{count} runs on {groups} pairs of backbone and task. Open: {VIEWS_HERE}",
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
    recipes = [
        f"- {name} `{recipe.id}`: {recipe.values.get('description', '')}"
        for name, recipe in (("support", run.support), ("ticket", run.ticket))
        if recipe is not None
    ]
    return "\n".join(
        [
            f"`{run.method.id}`: {run.method.description}",
            "",
            f"- backbone `{run.backbone.id}`: {run.backbone.description}",
            f"- task `{run.task.id}`: {run.task.description}",
            *recipes,
            f"- starts from {_start(run)}; seed {run.seed}",
            "",
            f"Records: `{folder}` (tune, evaluate and cost; copies are attached). "
            f"To make it again: `snakemake {folder}/evaluate.json` with the suite's configfile.",
            *_generated([run.task.id]),
        ]
    )


def ticket_note(run: RunSpec, folder: Path) -> str:
    """Description of one ticket.

    Args:
        run: a run that uses the ticket.
        folder: of the ticket.
    """
    return (
        f"`{run.ticket.id}`: {run.ticket.values.get('description', '')}\n\n"
        f"Which heads and neurons of `{run.backbone.id}` to keep on `{run.task.id}`, seed "
        f"{run.seed}: `ticket.json`, and how the gates went: `gates.npz`. Record: `{folder}`."
    )


def support_note(run: RunSpec, folder: Path) -> str:
    """Description of one support.

    Args:
        run: a run that uses the support.
        folder: of the support.
    """
    return (
        f"`{run.support.id}`: {run.support.values.get('description', '')}\n\n"
        f"Positions of the sparse residual S2 in the weights of `{run.backbone.id}`. "
        f"Record: `{folder}`."
    )


def backbone_note(backbone: Backbone, folder: Path) -> str:
    """Description of one backbone.

    Args:
        backbone: resolved.
        folder: of the backbone.
    """
    return f"`{backbone.id}`: {backbone.description}\n\nRecord: `{folder}`."


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
            "- score %: the task's headline metric; effective MACs %: of the dense model's, zeros "
            "left out; time saved %: of the dense run's training, search included",
        ]
    )


def overview_note(suite: Suite, verdicts: Mapping[str, int], rooms: Iterable[str]) -> str:
    """Description of the suite's own run.

    Args:
        suite: resolved.
        verdicts: verdict -> claims that have it; empty if none was judged yet.
        rooms: what is attached, by name.
    """
    judged = [f"- claims, {name}: {count}" for name, count in verdicts.items()]
    attached = [f"- {room}" for room in rooms]
    return "\n".join(
        [
            f"What the {len(suite.runs)} runs of suite `{suite.id}` come to; see Artifacts.",
            *_generated(task for _, task in suite.groups()),
            "",
            *judged,
            *attached,
        ]
    )


def within_limit(lines: Sequence[str]) -> str:
    """Whole lines up to what MLflow stores of a tag.

    Args:
        lines: of Markdown.
    """
    kept, length = [], 0
    for line in lines:
        length += len(line) + 1
        if length > _TAG_CHARACTERS - 2:
            return "\n".join([*kept, "…"])
        kept.append(line)
    return "\n".join(kept)


def _start(run: RunSpec) -> str:
    return "random weights" if run.method.start == "random" else "the backbone's weights"


def _generated(tasks: Iterable[str]) -> list[str]:
    if any(task.startswith(GENERATED_PREFIX) for task in tasks):
        return ["", "Generated data: scores compare methods and say nothing about a benchmark."]
    return []

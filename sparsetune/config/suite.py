"""A suite: a named list of runs, each backbone x task x method x seed with everything resolved."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sparsetune.config.backbone import Backbone
from sparsetune.config.method import Method
from sparsetune.config.reading import read_yaml, validated
from sparsetune.config.settings import Count, Id, Items, Settings, Text, UniqueItems
from sparsetune.config.support import SupportSettings
from sparsetune.config.task import Task
from sparsetune.config.ticket import SearchedTicket, TicketSettings
from sparsetune.records import digest_of


class Limits(Settings):
    """How much of a data set is used."""

    train_examples: Count | None = Field(
        description="use only the first N training examples; null = all"
    )
    evaluation_examples: Count | None = Field(description="likewise")


class Block(Settings):
    """Every combination of these."""

    backbones: UniqueItems[Id] = Field(description="ids")
    tasks: UniqueItems[Id] = Field(description="ids")
    methods: UniqueItems[Id] = Field(description="ids")


class SuiteFile(Settings):
    """What the file of a suite says."""

    suite: Id = Field(description="names the results folder and the MLflow experiment")
    description: Text = Field(description="one line")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto = CUDA when there")
    steps: Literal["captured", "eager"] = Field(
        default="captured",
        description="on CUDA, captured = training steps are replayed as graphs; eager = operation "
        "by operation; no result depends on it beyond rounding",
    )
    mirror: Text | None = Field(description="folder that serves every hub source; null = the hub")
    limits: Limits
    score_epochs: bool = Field(
        default=False,
        description="true = score the evaluation split after each epoch of the last training "
        "phase, beside the last model's score",
    )
    seeds: UniqueItems[Annotated[int, Field(ge=0, le=2**31 - 1)]]
    runs: Items[Block]


def read_suite(path: Path) -> dict[str, Any]:
    """Read the file of a suite.

    Returns:
        Its content as it stands, which is a whole suite.

    Raises:
        ConfigError: it is none; the ids that it names are not looked up.
    """
    content = read_yaml(path)
    validated(SuiteFile, content, origin=path)
    return dict(content)


def suite_files(folder: Path) -> dict[str, Path]:
    """The files of a catalogue's suites, by what they say in ``suite``.

    Raises:
        ConfigError: a file of the folder is not YAML.
    """
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        content = read_yaml(path)
        if isinstance(content, Mapping) and isinstance(content.get("suite"), str):
            found[content["suite"]] = path
    return found


@dataclass(frozen=True)
class RunSpec:
    """One run: backbone x task x method x seed, everything resolved."""

    suite: str
    backbone: Backbone
    task: Task
    method: Method
    seed: int
    limits: Limits
    support: SupportSettings | None = None
    ticket: TicketSettings | None = None
    score_epochs: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """(backbone, task, method): what runs that differ only in their seed share."""
        return self.backbone.id, self.task.id, self.method.id

    @property
    def path(self) -> str:
        """``backbone/task/method/seed-n``: the tail of the run's folder and its MLflow name."""
        return f"{self.backbone.id}/{self.task.id}/{self.method.id}/seed-{self.seed}"

    @property
    def ticket_path(self) -> str:
        """``backbone/task/ticket/seed-n``: the tail of its ticket's folder; without one, empty."""
        if self.ticket is None:
            return ""
        return f"{self.backbone.id}/{self.task.id}/{self.ticket.id}/seed-{self.seed}"

    @functools.cached_property
    def digest(self) -> str:
        """Digest of everything the run's result depends on, besides its input files."""
        return digest_of(self.settings())

    @functools.cached_property
    def ticket_digest(self) -> str:
        """Digest of everything the run's ticket depends on; without a ticket, of nothing."""
        return digest_of(self.ticket_settings()) if self.ticket else ""

    def ticket_settings(self) -> dict[str, Any]:
        """What the ``ticket`` stage depends on."""
        return {
            "ticket": self.ticket.settings() if self.ticket else None,
            "scoring": self.task.scoring(),
            "seed": self.seed,
            "limits": self.limits.model_dump(),
        }

    def settings(self) -> dict[str, Any]:
        """What the ``tune``, ``evaluate`` and ``cost`` stages depend on, but for metrics."""
        settings = {
            "architecture": self.backbone.architecture,
            "method": self.method.settings(),
            "scoring": self.task.scoring(),
            "layout": self.task.layout,
            "support": self.support.settings() if self.support else None,
            "ticket": self.ticket.settings() if self.ticket else None,
            "limits": self.limits.model_dump(),
        }
        # Only where it is asked for: it changes the records, and no other run must run again.
        if self.score_epochs:
            return {**settings, "score_epochs": True, "metrics": list(self.task.metrics)}
        return settings

    def evaluation_settings(self) -> dict[str, Any]:
        """What ``evaluate`` depends on: the metrics too."""
        return {**self.settings(), "metrics": list(self.task.metrics)}


@dataclass(frozen=True)
class Refusal:
    """A combination that a suite asks for and that cannot run.

    Attributes:
        reason: the method file's, in one line.
    """

    backbone: str
    task: str
    method: str
    reason: str


@dataclass(frozen=True)
class Suite:
    """A named list of runs, and apart from them what it asks for and cannot have."""

    id: str
    device: str
    mirror: str | None
    runs: tuple[RunSpec, ...] = field(repr=False)
    refusals: tuple[Refusal, ...] = ()
    score_epochs: bool = False
    steps: str = "captured"

    @functools.cached_property
    def by_path(self) -> dict[str, RunSpec]:
        """Runs by their path, in suite order."""
        return {run.path: run for run in self.runs}

    def groups(self) -> list[tuple[str, str]]:
        """Backbone x task pairs, in suite order, each once."""
        return list(dict.fromkeys((run.backbone.id, run.task.id) for run in self.runs))

    def tickets(self, *, searched: bool = False) -> list[str]:
        """``backbone/task/ticket/seed-n`` of every ticket, in suite order, each once.

        Args:
            searched: only those that a search draws.
        """
        kind = SearchedTicket if searched else TicketSettings
        wanted = [run.ticket_path for run in self.runs if isinstance(run.ticket, kind)]
        return list(dict.fromkeys(wanted))

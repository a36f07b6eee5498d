"""What the catalogue holds once it is read and resolved: backbones, tasks, methods, runs, suites.

Plain data. Reading, validating and resolving them is in ``catalog``. Imports no torch.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsetune.records import digest_of


@dataclass(frozen=True)
class Backbone:
    """A pre-trained model: where it comes from, or how it is pre-trained here."""

    id: str
    description: str
    architecture: str
    source: Mapping[str, Any]
    pretraining: Mapping[str, Any] | None = None
    tuned_as: str | None = None
    expected: Mapping[str, Any] | None = None

    @property
    def made_smaller(self) -> bool:
        """Whether heads and neurons are removed while it is pre-trained."""
        return "early" in (self.pretraining or {})

    def settings(self) -> dict[str, Any]:
        """What the ``backbone`` stage depends on."""
        return {
            "architecture": self.architecture,
            "source": self.source,
            "pretraining": self.pretraining,
        }


@dataclass(frozen=True)
class Task:
    """A data set with its published layout, what is predicted, and how it is scored."""

    id: str
    description: str
    layout: str
    kind: str
    source: Mapping[str, Any]
    evaluation_split: str
    maximum_tokens: int
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    window_stride_tokens: int | None = None
    generation: Mapping[str, Any] | None = None
    evaluation_part: str | None = None
    columns: Mapping[str, Any] | None = None
    splits: Mapping[str, str] | None = None
    expected: Mapping[str, Any] | None = None

    @property
    def label_count(self) -> int:
        """Outputs of the task head: labels, or 1 for a regression."""
        return len(self.labels) if self.kind == "classification" else 1

    def settings(self) -> dict[str, Any]:
        """What the ``dataset`` stage depends on: where the files are, and what is checked."""
        return {
            "layout": self.layout,
            "source": self.source,
            "kind": self.kind,
            "labels": list(self.labels),
            "evaluation_split": self.evaluation_split,
            **self._reading(),
        }

    def _reading(self) -> dict[str, Any]:
        """What only some layouts have; left out where absent, so that digests of others stay."""
        told = {
            "evaluation_part": self.evaluation_part,
            "columns": self.columns,
            "splits": self.splits,
        }
        return {key: value for key, value in told.items() if value is not None}

    def scoring(self) -> dict[str, Any]:
        """What training and evaluation depend on besides the files."""
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            "evaluation_split": self.evaluation_split,
            "maximum_tokens": self.maximum_tokens,
            "window_stride_tokens": self.window_stride_tokens,
            "metrics": list(self.metrics),
            "generation": self.generation,
            **self._reading(),
        }


@dataclass(frozen=True)
class Method:
    """Update + mask + phases, after the overrides for one backbone and task."""

    id: str
    description: str
    start: str
    update: Mapping[str, Any]
    mask: Mapping[str, Any]
    phases: tuple[Mapping[str, Any], ...]
    not_for: tuple[Mapping[str, Any], ...] = ()

    def settings(self) -> dict[str, Any]:
        """The resolved settings, as data."""
        return {
            "start": self.start,
            "update": self.update,
            "mask": self.mask,
            "phases": list(self.phases),
        }


@dataclass(frozen=True)
class Recipe:
    """A support or ticket recipe: an id and its resolved settings."""

    id: str
    values: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """The resolved settings without the description."""
        return {key: value for key, value in self.values.items() if key != "description"}


@dataclass(frozen=True)
class RunSpec:
    """One run: backbone x task x method x seed, everything resolved."""

    suite: str
    backbone: Backbone
    task: Task
    method: Method
    seed: int
    limits: Mapping[str, int | None]
    support: Recipe | None = None
    ticket: Recipe | None = None
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
            "limits": dict(self.limits),
        }

    def settings(self) -> dict[str, Any]:
        """What the ``tune``, ``evaluate`` and ``cost`` stages depend on."""
        settings = {
            "architecture": self.backbone.architecture,
            "method": self.method.settings(),
            "scoring": self.task.scoring(),
            "layout": self.task.layout,
            "support": self.support.settings() if self.support else None,
            "ticket": self.ticket.settings() if self.ticket else None,
            "limits": dict(self.limits),
        }
        # Only where it is asked for: it changes the records, and no other run must run again.
        return {**settings, "score_epochs": True} if self.score_epochs else settings


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
        runs = [run for run in self.runs if run.ticket]
        wanted = [run.ticket_path for run in runs if not searched or "search" in run.ticket.values]
        return list(dict.fromkeys(wanted))

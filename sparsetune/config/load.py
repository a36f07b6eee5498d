"""Backbones, tasks, methods, supports, tickets and suites: read, validated, resolved.

One YAML file is one thing. Everything a suite names is checked here before the first job
starts. Imports no torch: Snakemake reads the catalogue whenever it parses the workflow.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsetune.config.entries import (
    Backbone,
    Method,
    Recipe,
    Refusal,
    RunSpec,
    Suite,
    Task,
)
from sparsetune.config.files import check_places, merged, mirrored_text, read_checked
from sparsetune.config.rules import (
    backbone_rules,
    lender_rules,
    method_rules,
    method_task_rules,
    support_rules,
    task_rules,
    ticket_backbone_rules,
    ticket_rules,
)
from sparsetune.errors import ConfigError, nearest
from sparsetune.validation import first_violation

ID_PATTERN = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


class Catalogue:
    """The folder ``config/``: reads one file per thing, each at most once.

    Args:
        root: folder with ``backbones tasks methods supports tickets``.
        mirror: folder that replaces the hub for every backbone and task; None = the hub.

    Raises:
        ConfigError: from every method, for an unknown id or a file that breaks its schema.
    """

    def __init__(self, root: Path, *, mirror: str | None = None) -> None:
        self.root = root
        self.mirror = mirror
        self._read: dict[tuple[str, str], Mapping[str, Any]] = {}

    def backbone(self, backbone_id: str) -> Backbone:
        """Read one backbone; a mirror replaces its hub source."""
        raw = dict(self._file("backbone", backbone_id))
        self._require_all("backbone", backbone_id, backbone_rules(raw))
        if "tuned_as" in raw:
            self._require_known("backbone", raw["tuned_as"])
        raw["source"] = self._served(raw["source"], "backbones", backbone_id)
        if raw.get("pretraining", {}).get("tokenizer", {}).get("kind") == "published":
            raw["pretraining"] = self._with_tokenizer(raw["pretraining"], raw["architecture"])
        return Backbone(id=backbone_id, **raw)

    def _with_tokenizer(self, recipe: Mapping[str, Any], architecture: str) -> dict[str, Any]:
        """The recipe, with the source of the backbone whose tokenizer it takes."""
        lender = recipe["tokenizer"]["backbone"]
        raw = self._file("backbone", lender)
        self._require_all("backbone", lender, lender_rules(raw, architecture))
        served = self._served(raw["source"], "backbones", lender)
        return {**recipe, "tokenizer": {**recipe["tokenizer"], "source": served}}

    def task(self, task_id: str) -> Task:
        """Read one task; a mirror replaces its hub source."""
        raw = dict(self._file("task", task_id))
        self._require_all("task", task_id, task_rules(raw, task_id))
        raw["source"] = self._served(raw["source"], "datasets", task_id)
        raw["labels"] = tuple(raw.get("labels", ()))
        raw["metrics"] = tuple(raw["metrics"])
        return Task(id=task_id, **raw)

    def method(self, method_id: str, *, backbone_id: str, task_id: str) -> Method:
        """Resolve one method for a backbone and a task: its overrides are applied in order."""
        raw = self._overridden("method", method_id, backbone_id, task_id)
        lists = {key: tuple(raw[key]) for key in ("phases", "not_for") if key in raw}
        return Method(id=method_id, **{**raw, **lists})

    def support(self, support_id: str) -> Recipe:
        """Read one support recipe."""
        raw = self._file("support", support_id)
        self._require_all("support", support_id, support_rules(raw))
        return Recipe(support_id, raw)

    def ticket(self, ticket_id: str, *, backbone_id: str, task_id: str) -> Recipe:
        """Resolve one ticket recipe for a backbone and a task."""
        raw = self._overridden("ticket", ticket_id, backbone_id, task_id)
        self._require_all("ticket", ticket_id, ticket_rules(raw))
        return Recipe(ticket_id, raw)

    def ticket_of(self, ticket_id: str, backbone: Backbone, *, task_id: str) -> Recipe:
        """Resolve a ticket recipe that must be possible on the backbone."""
        recipe = self.ticket(ticket_id, backbone_id=backbone.id, task_id=task_id)
        rules = ticket_backbone_rules(recipe.values, backbone.architecture)
        self._require_all("ticket", ticket_id, rules)
        return recipe

    def run(
        self,
        ids: tuple[str, str, str, int],
        *,
        suite: str,
        limits: Mapping[str, int | None],
        score_epochs: bool = False,
    ) -> RunSpec:
        """Resolve one run.

        Args:
            ids: backbone, task, method, seed.
            suite: the suite's id.
            limits: ``train_examples`` and ``evaluation_examples``; None = all.
            score_epochs: whether the evaluation split is scored after each epoch.

        Raises:
            ConfigError: an unknown id, or a method that does not apply to task or backbone.
        """
        found = self._resolve(ids, suite, limits)
        if isinstance(found, Refusal):
            self._require(
                False, "method", found.method,
                f"does not run on backbone {found.backbone}: {found.reason}",
            )  # fmt: skip
        return replace(found, score_epochs=score_epochs)

    def _resolve(
        self, ids: tuple[str, str, str, int], suite: str, limits: Mapping[str, int | None]
    ) -> RunSpec | Refusal:
        backbone_id, task_id, method_id, seed = ids
        backbone, task = self.backbone(backbone_id), self.task(task_id)
        method = self.method(method_id, backbone_id=backbone_id, task_id=task_id)
        self._require(
            (task.kind == "generation") == (backbone.architecture == "gpt2"),
            "task", task_id,
            f"kind {task.kind} does not fit backbone {backbone_id} ({backbone.architecture}); "
            "generation needs gpt2, everything else bert or roberta",
        )  # fmt: skip
        self._require_all("method", method_id, method_task_rules(method.phases, task.kind))
        for place in method.not_for:
            if backbone.architecture in place["architectures"]:
                return Refusal(backbone_id, task_id, method_id, place["reason"])
        support = self.support(method.update["support"]) if "support" in method.update else None
        ticket = None
        if "ticket" in method.mask:
            ticket = self.ticket_of(method.mask["ticket"], backbone, task_id=task_id)
            self._require(
                not backbone.made_smaller,
                "method", method_id,
                f"mask.ticket does not fit backbone {backbone_id}, whose heads and neurons were "
                "removed in pre-training",
            )  # fmt: skip
        return RunSpec(suite, backbone, task, method, seed, dict(limits), support, ticket)

    def suite(self, config: Mapping[str, Any], *, origin: str) -> Suite:
        """Resolve a suite and everything it names.

        Args:
            config: the suite's content.
            origin: what a message calls it: its file name.
        """
        violation = first_violation("suite", config)
        if violation:
            raise ConfigError(f"{origin}: {violation}")
        runs: dict[str, RunSpec] = {}
        refusals: dict[Refusal, None] = {}
        score_epochs = config.get("score_epochs", False)
        for ids in _product(config):
            # Once for all seeds: a seed changes nothing else.
            found = self._resolve((*ids, 0), config["suite"], config["limits"])
            if isinstance(found, Refusal):
                refusals[found] = None
                continue
            for seed in config["seeds"]:
                run = replace(found, seed=seed, score_epochs=score_epochs)
                runs.setdefault(run.path, run)
        if not runs:
            raise ConfigError(f"{origin}: runs: none can run; {next(iter(refusals)).reason}")
        told = (config["suite"], config["device"], config["mirror"])
        return Suite(
            *told,
            runs=tuple(runs.values()),
            refusals=tuple(refusals),
            score_epochs=score_epochs,
        )

    def _overridden(
        self, thing: str, thing_id: str, backbone_id: str, task_id: str
    ) -> dict[str, Any]:
        raw = dict(self._file(thing, thing_id))
        names = {backbone_id, self._file("backbone", backbone_id).get("tuned_as", backbone_id)}
        for override in raw.pop("overrides", ()):
            where = override["where"]
            if names.intersection(where.get("backbones", names)) and task_id in where.get(
                "tasks", (task_id,)
            ):
                raw = merged(
                    raw, _change(override), origin=f"{self._path(thing, thing_id)}: overrides"
                )
        violation = first_violation(thing, raw)
        self._require(violation is None, thing, thing_id, f"after overrides: {violation}")
        if thing == "method":
            self._require_all("method", thing_id, method_rules(raw))
        return raw

    def _file(self, thing: str, thing_id: str) -> Mapping[str, Any]:
        key = (thing, thing_id)
        if key not in self._read:
            self._require_known(thing, thing_id)
            raw = read_checked(self._path(thing, thing_id), thing)
            places = {f"{kind}s": self.known(kind) for kind in ("backbone", "task")}
            origin = str(self._path(thing, thing_id))
            check_places(raw.get("overrides", ()), places, origin=origin)
            for override in raw.get("overrides", ()):
                # Laid on once, whatever the suite: a name that does not exist is told at once.
                merged(raw, _change(override), origin=f"{origin}: overrides")
            self._read[key] = raw
        return self._read[key]

    def _require_known(self, thing: str, thing_id: str) -> None:
        if not ID_PATTERN.fullmatch(thing_id):
            raise ConfigError(
                f"{thing} id {thing_id!r}: need lower-case letters and digits joined by '-' or '.'"
            )
        known = self.known(thing)
        if thing_id not in known:
            raise ConfigError(
                f"{self.root / (thing + 's')}: unknown {thing} {thing_id!r}"
                f"; known: {', '.join(known) or 'none'}{nearest(thing_id, known)}"
            )

    def known(self, thing: str) -> list[str]:
        """Ids of every ``backbone``, ``task``, ``method``, ``support`` or ``ticket``."""
        return sorted(path.stem for path in (self.root / f"{thing}s").glob("*.yaml"))

    def _path(self, thing: str, thing_id: str) -> Path:
        return self.root / f"{thing}s" / f"{thing_id}.yaml"

    def _require_all(self, thing: str, thing_id: str, rules: Iterable[tuple[bool, str]]) -> None:
        for holds, message in rules:
            self._require(holds, thing, thing_id, message)

    def _require(self, holds: bool, thing: str, thing_id: str, message: str) -> None:
        if not holds:
            raise ConfigError(f"{self._path(thing, thing_id)}: {message}")

    def _served(self, source: Mapping[str, Any], room: str, thing_id: str) -> Mapping[str, Any]:
        if self.mirror is None:
            return source
        if source["kind"] in ("text", "hub-text"):
            return mirrored_text(source, Path(self.mirror))
        if source["kind"] == "hub":
            return {"kind": "mirror", "path": str(Path(self.mirror) / room / thing_id)}
        return source


def _product(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for block in config["runs"]:
        for backbone in block["backbones"]:
            for task in block["tasks"]:
                for method in block["methods"]:
                    yield backbone, task, method


def _change(override: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in override.items() if key != "where"}

"""The catalogue: one thing by its id, and suites with everything that they name.

Everything a suite names is checked here before the first job starts. Imports no torch: Snakemake
reads the catalogue whenever it parses the workflow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sparsetune.config.backbone import (
    Backbone,
    HubSource,
    HubText,
    MirrorSource,
    TextFiles,
)
from sparsetune.config.method import DseeUpdate, Method, TicketMask, TrainPhase
from sparsetune.config.reading import check_keys, merged, read_yaml, validated
from sparsetune.config.settings import ID, Id, Items, Rule, Settings
from sparsetune.config.suite import Limits, Refusal, RunSpec, Suite, SuiteFile
from sparsetune.config.support import SUPPORTS, SupportSettings
from sparsetune.config.task import Task
from sparsetune.config.ticket import TICKETS, SearchedTicket, TicketSettings
from sparsetune.errors import ConfigError, nearest, refusal

ID_PATTERN = ID
Recipe = SupportSettings | TicketSettings


class Place(Settings):
    """Where an override holds; a key left out = everywhere."""

    backbones: Items[Id] | None = None
    tasks: Items[Id] | None = None

    def rules(self) -> Iterator[Rule]:
        """It says something."""
        yield bool(self.backbones or self.tasks), "", "needs backbones, tasks or both"

    def holds(self, backbones: set[str], task: str) -> bool:
        """Whether a backbone, by any of its names, and a task are in it."""
        on_backbone = self.backbones is None or not backbones.isdisjoint(self.backbones)
        return on_backbone and (self.tasks is None or task in self.tasks)


class _Entry(NamedTuple):
    """One file, laid over its base: what it says, and what changes where."""

    path: Path
    content: dict[str, Any]
    overrides: list[tuple[Place, dict[str, Any]]]


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
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._resolved: dict[tuple[Any, ...], Any] = {}
        self._known: dict[str, list[str]] = {}

    def backbone(self, backbone_id: str) -> Backbone:
        """Read one backbone; a mirror replaces its hub source."""
        return self._once("backbone", backbone_id, self._served_backbone)

    def _served_backbone(self, backbone: Backbone) -> Backbone:
        if backbone.tuned_as:
            self._require_known("backbone", backbone.tuned_as)
        change: dict[str, Any] = {"source": self._served(backbone.source, backbone.id, "backbones")}
        if backbone.published_tokenizer:
            change["tokenizer_source"] = self._tokenizer_of(backbone.published_tokenizer, backbone)
        return backbone.model_copy(update=change)

    def _tokenizer_of(self, lender_id: str, taker: Backbone) -> HubSource | MirrorSource:
        """The source of the backbone whose tokenizer another one takes."""
        lender = self.backbone(lender_id)
        if lender.architecture != taker.architecture or not isinstance(
            lender.source, HubSource | MirrorSource
        ):
            raise ConfigError(
                f"{self._path('backbone', lender_id)}: its tokenizer cannot be lent to "
                f"{taker.architecture}: source.kind {lender.source.kind}, architecture "
                f"{lender.architecture}; allowed: hub or mirror, {taker.architecture}"
            )
        return lender.source

    def task(self, task_id: str) -> Task:
        """Read one task; a mirror replaces its hub source."""
        return self._once("task", task_id, self._served_task)

    def _served_task(self, task: Task) -> Task:
        return task.model_copy(update={"source": self._served(task.source, task.id, "datasets")})

    def support(self, support_id: str) -> SupportSettings:
        """Read one support recipe."""
        return self._once("support", support_id, lambda support: support)

    def method(self, method_id: str, *, backbone_id: str, task_id: str) -> Method:
        """Resolve one method for a backbone and a task: its overrides are applied in order."""
        return self._overridden("method", method_id, backbone_id, task_id)

    def ticket(self, ticket_id: str, *, backbone_id: str, task_id: str) -> TicketSettings:
        """Resolve one ticket recipe for a backbone and a task."""
        return self._overridden("ticket", ticket_id, backbone_id, task_id)

    def ticket_of(self, ticket_id: str, backbone: Backbone, *, task_id: str) -> TicketSettings:
        """Resolve a ticket recipe that must be possible on the backbone."""
        ticket = self.ticket(ticket_id, backbone_id=backbone.id, task_id=task_id)
        searched = isinstance(ticket, SearchedTicket) and ticket.search.objective == "mlm"
        if searched and backbone.architecture == "gpt2":
            self._refuse(
                "ticket",
                ticket_id,
                "search.objective: received mlm for a gpt2 backbone, which has no masked language "
                "model; allowed there: task",
            )
        return ticket

    def run(
        self,
        ids: tuple[str, str, str, int],
        *,
        suite: str,
        limits: Mapping[str, int | None] | Limits,
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
        if not isinstance(limits, Limits):
            limits = validated(Limits, limits, origin="limits")
        found = self._resolve(ids, suite, limits)
        if isinstance(found, Refusal):
            self._refuse(
                "method",
                found.method,
                f"does not run on backbone {found.backbone}: {found.reason}",
            )
        return replace(found, score_epochs=score_epochs)

    def _resolve(
        self, ids: tuple[str, str, str, int], suite: str, limits: Limits
    ) -> RunSpec | Refusal:
        backbone_id, task_id, method_id, seed = ids
        backbone, task = self.backbone(backbone_id), self.task(task_id)
        method = self.method(method_id, backbone_id=backbone_id, task_id=task_id)
        self._check_pairs(backbone, task, method)
        for place in method.not_for:
            if backbone.architecture in place.architectures:
                return Refusal(backbone_id, task_id, method_id, place.reason)
        support = ticket = None
        if isinstance(method.update, DseeUpdate):
            support = self.support(method.update.support)
        if isinstance(method.mask, TicketMask):
            ticket = self.ticket_of(method.mask.ticket, backbone, task_id=task_id)
            if backbone.made_smaller:
                self._refuse(
                    "method",
                    method_id,
                    f"mask.ticket does not fit backbone {backbone_id}, whose heads and neurons "
                    "were removed in pre-training",
                )
        return RunSpec(suite, backbone, task, method, seed, limits, support, ticket)

    def _check_pairs(self, backbone: Backbone, task: Task, method: Method) -> None:
        """Check what each two of a run ask of each other."""
        if (task.kind == "generation") != (backbone.architecture == "gpt2"):
            self._refuse(
                "task",
                task.id,
                f"kind {task.kind} does not fit backbone {backbone.id} ({backbone.architecture}); "
                "generation needs gpt2, everything else bert or roberta",
            )
        if task.kind in ("classification", "generation"):
            return
        for phase in method.phases:
            if isinstance(phase, TrainPhase) and phase.label_smoothing:
                self._refuse(
                    "method",
                    method.id,
                    f"phases: {phase.name}: label_smoothing: received {phase.label_smoothing} for "
                    f"a task of kind {task.kind}, which has no classes; allowed there: 0",
                )

    def suite(self, config: Mapping[str, Any], *, origin: str) -> Suite:
        """Resolve a suite and everything it names.

        Args:
            config: the suite's content.
            origin: what a message calls it: its file name.
        """
        asked = validated(SuiteFile, config, origin=origin)
        runs: dict[str, RunSpec] = {}
        refusals: dict[Refusal, None] = {}
        for ids in _product(asked):
            # Once for all seeds: a seed changes nothing else.
            found = self._resolve((*ids, 0), asked.suite, asked.limits)
            if isinstance(found, Refusal):
                refusals[found] = None
                continue
            for seed in asked.seeds:
                run = replace(found, seed=seed, score_epochs=asked.score_epochs)
                runs.setdefault(run.path, run)
        if not runs:
            raise ConfigError(f"{origin}: runs: none can run; {next(iter(refusals)).reason}")
        return Suite(
            asked.suite,
            asked.device,
            asked.mirror,
            runs=tuple(runs.values()),
            refusals=tuple(refusals),
            score_epochs=asked.score_epochs,
        )

    def known(self, thing: str) -> list[str]:
        """Ids of every ``backbone``, ``task``, ``method``, ``support`` or ``ticket``."""
        if thing not in self._known:
            folder = self.root / f"{thing}s"
            self._known[thing] = sorted(path.stem for path in folder.glob("*.yaml"))
        return self._known[thing]

    def _once(self, thing: str, thing_id: str, finish: Any) -> Any:
        """A thing that depends on no place."""
        key = (thing, thing_id)
        if key not in self._resolved:
            entry = self._entry(thing, thing_id)
            model = self._validated(thing, thing_id, entry.content, str(entry.path))
            self._resolved[key] = finish(model)
        return self._resolved[key]

    def _validated(self, thing: str, thing_id: str, content: Any, origin: str) -> Any:
        model = _model_of(thing, content, origin=origin)
        return validated(model, content, origin=origin, id=thing_id)

    def _overridden(self, thing: str, thing_id: str, backbone_id: str, task_id: str) -> Any:
        """A thing after the overrides that hold for a place; each set of them is laid on once."""
        entry = self._entry(thing, thing_id)
        names = {backbone_id, self.backbone(backbone_id).tuned_as or backbone_id}
        holding = [i for i, (at, _) in enumerate(entry.overrides) if at.holds(names, task_id)]
        key = (thing, thing_id, *holding)
        if key not in self._resolved:
            origin, content = f"{entry.path}: overrides", entry.content
            for index in holding:
                content = merged(content, entry.overrides[index][1], origin=origin)
            told = f"{entry.path}: after overrides" if holding else str(entry.path)
            self._resolved[key] = self._validated(thing, thing_id, content, told)
        return self._resolved[key]

    def _entry(self, thing: str, thing_id: str) -> _Entry:
        """One file over its base, validated alone and with each of its overrides."""
        key = (thing, thing_id)
        if key not in self._entries:
            self._require_known(thing, thing_id)
            path = self._path(thing, thing_id)
            raw = read_yaml(path)
            entry = _Entry(path, raw, [])
            if isinstance(raw, Mapping):
                own = {key: raw[key] for key in raw if key not in ("base", "overrides")}
                entry = _Entry(path, own, self._overrides(path, raw.get("overrides", ())))
                if "base" in raw:
                    entry = self._over_base(thing, raw["base"], entry)
            self._validated(thing, thing_id, entry.content, str(path))
            for index, (_, change) in enumerate(entry.overrides):
                # Laid on once, whatever the suite: a name that does not exist is told at once.
                origin = f"{path}: overrides.{index}"
                content = merged(entry.content, change, origin=f"{path}: overrides")
                model = _model_of(thing, content, origin=origin)
                check_keys(model, content, origin=origin, id=thing_id)
            self._entries[key] = entry
        return self._entries[key]

    def _over_base(self, thing: str, base_id: Any, own: _Entry) -> _Entry:
        path = own.path
        known = [one for one in self.known(thing) if one != path.stem]
        if base_id not in known:
            raise ConfigError(refusal(path, "base", base_id, known))
        if "base" in read_yaml(self._path(thing, base_id)):
            raise ConfigError(f"{path}: base: {base_id!r} has a base itself; allowed: one level")
        if "description" not in own.content:
            raise ConfigError(f"{path}: top level: missing key 'description'")
        base = self._entry(thing, base_id)
        content = merged(base.content, own.content, origin=str(path))
        return _Entry(path, content, [*base.overrides, *own.overrides])

    def _overrides(self, path: Path, given: Any) -> list[tuple[Place, dict[str, Any]]]:
        if not isinstance(given, list | tuple) or not all(isinstance(o, Mapping) for o in given):
            raise ConfigError(f"{path}: overrides: received {given!r:.80}; allowed: a list of "
                              "mappings")  # fmt: skip
        found = []
        for index, override in enumerate(given):
            origin = f"{path}: overrides.{index}"
            if "where" not in override or len(override) < 2:
                raise ConfigError(f"{origin}: needs where, and what changes there")
            place = validated(Place, override["where"], origin=f"{origin}.where")
            for thing in ("backbone", "task"):
                known = self.known(thing)
                for unknown in (one for one in place.get(f"{thing}s", ()) if one not in known):
                    raise ConfigError(
                        f"{origin}.where.{thing}s: unknown id {unknown!r}; known: "
                        f"{', '.join(known)}{nearest(unknown, known)}"
                    )
            found.append((place, {key: override[key] for key in override if key != "where"}))
        return found

    def _require_known(self, thing: str, thing_id: str) -> None:
        if not ID.fullmatch(thing_id):
            raise ConfigError(
                f"{thing} id {thing_id!r}: need lower-case letters and digits joined by '-' or '.'"
            )
        known = self.known(thing)
        if thing_id not in known:
            raise ConfigError(
                f"{self.root / (thing + 's')}: unknown {thing} {thing_id!r}"
                f"; known: {', '.join(known) or 'none'}{nearest(thing_id, known)}"
            )

    def _path(self, thing: str, thing_id: str) -> Path:
        return self.root / f"{thing}s" / f"{thing_id}.yaml"

    def _refuse(self, thing: str, thing_id: str, message: str) -> None:
        raise ConfigError(f"{self._path(thing, thing_id)}: {message}")

    def _served(self, source: Any, thing_id: str, room: str) -> Any:
        """A source, or where the mirror keeps it.

        Relative paths of ``text`` are those below the mirror's ``datasets``; the files of
        ``hub-text`` lie there in the folder named like the repository, without its owner.
        """
        if self.mirror is None:
            return source
        datasets = Path(self.mirror) / "datasets"
        if isinstance(source, HubSource):
            return MirrorSource(kind="mirror", path=str(Path(self.mirror) / room / thing_id))
        if isinstance(source, TextFiles):
            paths = tuple(str(datasets / path) for path in source.paths)
            return source.model_copy(update={"paths": paths})
        if isinstance(source, HubText):
            folder = datasets / source.repository.rpartition("/")[2]
            paths = tuple(str(folder / name) for name in source.files)
            return TextFiles(kind="text", seed=source.seed, paths=paths, documents=source.documents)
        return source


_MODELS: dict[str, type[Settings]] = {"backbone": Backbone, "task": Task, "method": Method}
_FAMILIES: dict[str, tuple[str, Mapping[str, type[Settings]]]] = {
    "ticket": ("origin", TICKETS),
    "support": ("recipe", SUPPORTS),
}


def _model_of(thing: str, content: Any, *, origin: str) -> type[Settings]:
    """The class of a thing; a ticket's origin and a support's recipe choose theirs."""
    if thing in _MODELS:
        return _MODELS[thing]
    key, classes = _FAMILIES[thing]
    default = next(iter(classes))
    given = content.get(key, default) if isinstance(content, Mapping) else default
    if given not in classes:
        raise ConfigError(refusal(origin, key, given, classes))
    return classes[given]


def _product(asked: SuiteFile) -> Iterator[tuple[str, str, str]]:
    for block in asked.runs:
        for backbone in block.backbones:
            for task in block.tasks:
                for method in block.methods:
                    yield backbone, task, method

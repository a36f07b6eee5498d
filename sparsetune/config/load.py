"""The catalogue: one thing by its id, and suites with everything that they name.

Everything a suite names is checked here before the first job starts. Imports no torch: Snakemake
reads the catalogue whenever it parses the workflow.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from sparsetune.architectures.families import FAMILIES, WORKFLOW, longest_input
from sparsetune.config.backbone import Backbone, HubSource, HubText, MirrorSource, TextFiles
from sparsetune.config.folder import CatalogueFolder, Entry
from sparsetune.config.method import Method, TicketMask, TrainPhase
from sparsetune.config.reading import merged, validated, with_phases
from sparsetune.config.settings import Thing
from sparsetune.config.suite import Limits, Refusal, RunSpec, Suite, SuiteFile
from sparsetune.config.support import SUPPORTS, SupportSettings
from sparsetune.config.task import Task, context_room
from sparsetune.config.ticket import TICKETS, SearchedTicket, TicketSettings
from sparsetune.errors import ConfigError, DataError, refusal
from sparsetune.records import read_json


class Catalogue(CatalogueFolder):
    """The folder ``config/``: everything in it validated, each thing at most once.

    Args:
        root: folder with ``backbones tasks methods supports tickets``.
        mirror: folder that replaces the hub for every backbone and task; None = the hub.

    Raises:
        ConfigError: from every method, for an unknown id or a file that breaks its schema.
    """

    def __init__(self, root: Path, *, mirror: str | None = None) -> None:
        super().__init__(root)
        self.mirror = mirror
        self._checked: set[tuple[str, str]] = set()
        self._models: dict[tuple[str, str, str], Any] = {}
        self._lengths: dict[Path, int | None] = {}

    def backbone(self, backbone_id: str) -> Backbone:
        """Read one backbone; a mirror replaces its hub source."""
        backbone: Backbone = self._model("backbone", backbone_id)
        if backbone.tuned_as:
            self.require_known("backbone", backbone.tuned_as)
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
            self._refuse(
                lender,
                f"its tokenizer cannot be lent to {taker.architecture}: source.kind "
                f"{lender.source.kind}, architecture {lender.architecture}; allowed: hub or "
                f"mirror, {taker.architecture}",
            )
        return lender.source

    def task(self, task_id: str) -> Task:
        """Read one task; a mirror replaces its hub source."""
        task: Task = self._model("task", task_id)
        return task.model_copy(update={"source": self._served(task.source, task.id, "datasets")})

    def support(self, support_id: str) -> SupportSettings:
        """Read one support recipe."""
        support: SupportSettings = self._model("support", support_id)
        return support

    def method(self, method_id: str, *, backbone_id: str, task_id: str) -> Method:
        """Resolve one method for a backbone and a task: its overrides are applied in order.

        A method that varies its ticket has the varied one under its own id.
        """
        method: Method = self._model("method", method_id, self._at(backbone_id, task_id))
        if isinstance(method.mask, TicketMask) and method.mask.vary:
            mask = TicketMask(kind="ticket", ticket=method_id)
            return method.model_copy(update={"mask": mask})
        return method

    def ticket(self, ticket_id: str, *, backbone_id: str, task_id: str) -> TicketSettings:
        """Resolve one ticket recipe for a backbone and a task.

        Args:
            ticket_id: of a ticket, or of a method that varies one.
            backbone_id: whose overrides hold, and those of the backbone that it is tuned as.
            task_id: likewise.
        """
        at, entry = self._at(backbone_id, task_id), None
        if ticket_id not in self.known("ticket") and ticket_id in self.known("method"):
            mask = self._model("method", ticket_id, at).mask
            if isinstance(mask, TicketMask) and mask.vary:
                base = self._checked_entry("ticket", mask.ticket).at(*at)
                entry = self._varied(ticket_id, mask.ticket, mask.vary, base.content)
        ticket: TicketSettings = self._model("ticket", ticket_id, at, entry)
        return ticket

    def _varied(
        self, method_id: str, ticket_id: str, change: Mapping[str, Any], content: Any
    ) -> Entry:
        """A ticket as a method varies it."""
        origin = f"{self.entry('method', method_id).origin}: mask.vary"
        told = f"Ticket {ticket_id} as method {method_id} varies it."
        return Entry(origin, merged({**content, "description": told}, change, origin=origin))

    def ticket_of(self, ticket_id: str, backbone: Backbone, *, task_id: str) -> TicketSettings:
        """Resolve a ticket recipe that must be possible on the backbone."""
        ticket = self.ticket(ticket_id, backbone_id=backbone.id, task_id=task_id)
        searched = isinstance(ticket, SearchedTicket) and ticket.search.objective == "mlm"
        family = FAMILIES[backbone.architecture]
        if searched and "masked_lm" not in family.heads:
            own = "ticket" if ticket_id in self.known("ticket") else "method"
            raise ConfigError(
                f"{self.entry(own, ticket_id).origin}: search.objective: received mlm for a "
                f"{family.model_type} backbone, which has no masked language model; "
                "allowed there: task"
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
        found = self._resolve(ids, suite, validated(Limits, limits, origin="limits"))
        if isinstance(found, Refusal):
            origin = self.entry("method", found.method).origin
            raise ConfigError(
                f"{origin}: does not run on backbone {found.backbone}: {found.reason}"
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
        wanted = getattr(method.update, "support", None)  # DSEE's positions of S2
        if wanted is not None:
            support = self.support(wanted)
        if isinstance(method.mask, TicketMask):
            ticket = self.ticket_of(method.mask.ticket, backbone, task_id=task_id)
            if backbone.made_smaller:
                self._refuse(
                    method,
                    f"mask.ticket does not fit backbone {backbone_id}, whose heads and neurons "
                    "were removed in pre-training",
                )
        return RunSpec(suite, backbone, task, method, seed, limits, support, ticket)

    def _check_pairs(self, backbone: Backbone, task: Task, method: Method) -> None:
        """Check what each two of a run ask of each other."""
        family = FAMILIES[backbone.architecture]
        if task.kind not in family.heads:
            able = ", ".join(name for name in WORKFLOW if task.kind in FAMILIES[name].heads)
            self._refuse(
                task,
                f"kind {task.kind} does not fit backbone {backbone.id}, whose architecture "
                f"{family.model_type} has no such head; allowed: {able}",
            )
        longest = self._longest_input(backbone)
        # Texts to generate are far below their task's limit, so that a short GPT-2 takes them all.
        cut = task.kind != "generation"
        if cut and longest is not None and task.maximum_tokens > longest:
            self._refuse(
                task,
                f"maximum_tokens: received {task.maximum_tokens}; allowed on backbone "
                f"{backbone.id}: up to {longest}",
            )
        if task.generation and longest and task.generation.maximum_new_tokens >= longest:
            self._refuse(
                task,
                f"generation.maximum_new_tokens: received {task.generation.maximum_new_tokens}; "
                f"allowed on backbone {backbone.id}: less than {longest}, which the source shares",
            )
        if task.window_stride_tokens:
            special = _PAIR_SPECIAL_TOKENS.get(backbone.architecture, 3)
            room = context_room(task.maximum_tokens, special)
            if task.window_stride_tokens >= room:
                self._refuse(
                    task,
                    f"window_stride_tokens: received {task.window_stride_tokens}; allowed on "
                    f"backbone {backbone.id}: less than {room}, what maximum_tokens "
                    f"{task.maximum_tokens} leave beside a question and {special} special tokens",
                )
        if task.kind in ("classification", "generation"):
            return
        for phase in method.phases:
            if isinstance(phase, TrainPhase) and phase.label_smoothing:
                self._refuse(
                    method,
                    f"phases: {phase.name}: label_smoothing: received {phase.label_smoothing} for "
                    f"a task of kind {task.kind}, which has no classes; allowed there: 0",
                )

    def _longest_input(self, backbone: Backbone) -> int | None:
        """Tokens that a backbone takes, as the catalogue or a mirror's files tell; else None."""
        told = backbone.maximum_tokens
        if isinstance(backbone.source, MirrorSource):
            path = Path(backbone.source.path).expanduser() / "config.json"
            if path not in self._lengths:
                try:
                    config = read_json(path, what="backbone configuration")
                    self._lengths[path] = longest_input(config)
                except (DataError, AttributeError, OSError):
                    self._lengths[path] = None  # told by the stage that fetches it
            found = self._lengths[path]
            return min((one for one in (told, found) if one is not None), default=None)
        return told

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
            steps=asked.steps,
        )

    def _at(self, backbone_id: str, task_id: str) -> tuple[set[str], str]:
        """A place: the names by which overrides know the backbone, and the task."""
        return {backbone_id, self.backbone(backbone_id).tuned_as or backbone_id}, task_id

    def _model(
        self,
        thing: str,
        thing_id: str,
        at: tuple[set[str], str] | None = None,
        entry: Entry | None = None,
    ) -> Any:
        """A thing at a place, or as a given entry has it; validated once for each content."""
        if entry is None:
            entry = self._checked_entry(thing, thing_id)
            entry = entry.at(*at) if at else entry
        key = (thing, thing_id, json.dumps(entry.content, sort_keys=True))
        if key not in self._models:
            self._models[key] = _validated(thing, thing_id, entry)
        return self._models[key]

    def _checked_entry(self, thing: str, thing_id: str) -> Entry:
        """One thing as its file has it, checked alone and with each of its overrides."""
        entry = self.entry(thing, thing_id)
        if (thing, thing_id) not in self._checked:
            _validated(thing, thing_id, entry)
            self._check_variation(thing_id, entry.content)
            for index, (_, change) in enumerate(entry.overrides):
                # Laid on once, whatever the suite: a name that does not exist is told at once.
                changed = entry.changed([change], f"overrides.{index}")
                _validated(thing, thing_id, changed, rules=False)
                self._check_variation(thing_id, changed.content)
            self._checked.add((thing, thing_id))
        return entry

    def _check_variation(self, thing_id: str, content: Mapping[str, Any]) -> None:
        """Check the keys that a method varies in its ticket."""
        mask = content.get("mask")
        if isinstance(mask, Mapping) and isinstance(mask.get("vary"), Mapping):
            ticket = self._checked_entry("ticket", mask["ticket"]).content
            varied = self._varied(thing_id, mask["ticket"], mask["vary"], ticket)
            _validated("ticket", thing_id, varied, rules=False)

    def _refuse(self, thing: Thing, told: str) -> NoReturn:
        (kind,) = (name for name, model in _MODELS.items() if isinstance(thing, model))
        raise ConfigError(f"{self.entry(kind, thing.id).origin}: {told}")

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
            paths = tuple(str(datasets / Path(path).expanduser()) for path in source.paths)
            return source.model_copy(update={"paths": paths})
        if isinstance(source, HubText):
            folder = datasets / source.repository.rpartition("/")[2]
            paths = tuple(str(folder / name) for name in source.files)
            return TextFiles(kind="text", seed=source.seed, paths=paths, documents=source.documents)
        return source


_PAIR_SPECIAL_TOKENS = {"bert": 3, "roberta": 4}
"""Architecture -> special tokens around a question and its context."""
_MODELS: dict[str, type[Thing]] = {"backbone": Backbone, "task": Task, "method": Method}
_FAMILIES: dict[str, tuple[str, Mapping[str, type[Thing]]]] = {
    "ticket": ("origin", TICKETS),
    "support": ("recipe", SUPPORTS),
}


def _validated(thing: str, thing_id: str, entry: Entry, *, rules: bool = True) -> Any:
    """The thing, of its class; a ticket's origin and a support's recipe choose theirs."""
    origin, content = entry.origin, with_phases(entry.content, entry.origin)
    if thing in _MODELS:
        model = _MODELS[thing]
    else:
        key, classes = _FAMILIES[thing]
        default = next(iter(classes))
        given = content.get(key, default) if isinstance(content, Mapping) else default
        if given not in classes:
            raise ConfigError(refusal(origin, key, given, classes))
        model = classes[given]
    return validated(model, content, origin=origin, rules=rules, id=thing_id)


def _product(asked: SuiteFile) -> Iterator[tuple[str, str, str]]:
    for block in asked.runs:
        for backbone in block.backbones:
            for task in block.tasks:
                for method in block.methods:
                    yield backbone, task, method

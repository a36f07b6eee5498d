"""Stage ``ticket``: which heads and neurons to keep, searched or random, or which layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.loading import (
    Kind,
    check_length,
    has_language_head,
    load_model,
    load_tokenizer,
)
from sparsetune.config.backbone import Backbone
from sparsetune.config.load import Catalogue
from sparsetune.config.suite import Limits
from sparsetune.config.task import Task
from sparsetune.config.ticket import DrawnTicket, LayersTicket, SearchedTicket, TicketSettings
from sparsetune.data.features import masked_features, training_features
from sparsetune.data.folder_checks import check_kept_head
from sparsetune.earlybert.ticket import (
    DrawConfig,
    Ticket,
    TicketLabel,
    layer_ticket,
    random_ticket,
)
from sparsetune.randomness import derive
from sparsetune.records import TicketRecord, digest_of
from sparsetune.records.parts import TicketMeasured
from sparsetune.stages.context import Context, hashes
from sparsetune.training.search import SearchPlace, SearchResult, run_search, write_gates


@dataclass(frozen=True)
class TicketJob:
    """One ticket: recipe x backbone x task x seed, everything resolved."""

    recipe: TicketSettings
    backbone: Backbone
    task: Task
    seed: int
    suite: str
    limits: Limits

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        ticket_id: str,
        *,
        suite: str,
        ids: tuple[str, str, int],
        limits: Limits,
    ) -> "TicketJob":
        """Resolve a ticket from the catalogue; ``ids`` are backbone, task and seed."""
        backbone_id, task, seed = ids
        backbone = catalogue.backbone(backbone_id)
        recipe = catalogue.ticket_of(ticket_id, backbone, task_id=task)
        return cls(recipe, backbone, catalogue.task(task), seed, suite, limits)

    def settings(self) -> dict[str, Any]:
        """What the ticket depends on; the same as ``RunSpec.ticket_settings``."""
        return {
            "ticket": self.recipe.settings(),
            "scoring": self.task.scoring(),
            "seed": self.seed,
            "limits": self.limits.model_dump(),
        }

    @property
    def digest(self) -> str:
        """Digest of the settings."""
        return digest_of(self.settings())


def make_ticket(
    job: TicketJob, context: Context, *, inputs: tuple[Path, Path], output: Path
) -> None:
    """Draw a ticket and write ``ticket.json``, ``gates.npz`` and ``record.json``.

    Args:
        job: what to draw.
        context: the job's device and checkpoints.
        inputs: folders of the data set and of the backbone.
        output: where the files go.

    Raises:
        TrainingError: the search's loss became NaN or infinite.
    """
    record, read = output / "record.json", [folder / "record.json" for folder in inputs]
    if context.done_meanwhile(record, TicketRecord, digest=job.digest, inputs=read):
        return
    _ = context.device  # claimed before anything touches CUDA
    check_kept_head(inputs[1], job.backbone, job.task)
    search: SearchResult | None = None
    if isinstance(job.recipe, SearchedTicket):
        ticket, search = _searched(job, job.recipe, context, inputs)
    else:
        context.ready()
        ticket = _unsearched(job, inputs[1])
    output.mkdir(parents=True, exist_ok=True)
    write_gates(output / "gates.npz", search)
    ticket.save(output / "ticket.json")
    ids = {"suite": job.suite, "backbone": job.backbone.id, "task": job.task.id}
    context.leave(
        record,
        TicketRecord,
        asked={
            **ids, "ticket": job.recipe.id, "seed": job.seed, "digest": job.digest,
            "settings": job.settings(),
        },
        inputs=hashes(read),
        measured=TicketMeasured(
            kept_heads=[len(heads) for heads in ticket.kept_heads],
            kept_neurons=[len(neurons) for neurons in ticket.kept_neurons],
            kept_layers=list(ticket.kept_layers) if ticket.kept_layers else None,
            **(search.measured if search else {}),
        ),
    )  # fmt: skip


def _searched(
    job: TicketJob, recipe: SearchedTicket, context: Context, inputs: tuple[Path, Path]
) -> tuple[Ticket, SearchResult]:
    """Search on the task's loss, or on masked language modelling over its training texts."""
    dataset, backbone = inputs
    settings = recipe.search
    tokenizer = load_tokenizer(backbone)
    if job.task.kind != "generation":
        check_length(backbone, job.task.maximum_tokens)
    limit = job.limits.train_examples
    data: Any = training_features(job.task, dataset, tokenizer, limit)
    told: dict[str, Any] = {"objective": settings.objective}
    kind: Kind = job.task.kind
    label_count = job.task.label_count
    if settings.masked_fraction is not None:
        hiding = derive(job.seed, "search", "hidden tokens")
        data = masked_features(data[0], tokenizer, fraction=settings.masked_fraction, seed=hiding)
        kind, label_count = "masked_lm", 1
        told["language_head_from_checkpoint"] = has_language_head(backbone)
    model = load_model(backbone, kind=kind, label_count=label_count, seed=job.seed)
    work = context.work_folder(job.digest, folders=inputs, files=())
    context.ready()
    place = SearchPlace(work, context.engine)
    search = run_search(model, settings, data, place=place, seed=job.seed, draw=_draw_of(recipe))
    search.measured["search"].update(told)
    return search.ticket(_label(job)), search


def _unsearched(job: TicketJob, backbone: Path) -> Ticket:
    """Draw at random, or drop layers: only the backbone's shape counts."""
    task = job.task
    model = load_model(backbone, kind=task.kind, label_count=task.label_count, seed=job.seed)
    anatomy = Anatomy.of(model)
    shape = (anatomy.layers, anatomy.heads(0), anatomy.ffn_width(0))
    match job.recipe:
        case DrawnTicket():
            return random_ticket(shape, _draw_of(job.recipe), label=_label(job))
        case LayersTicket():
            return layer_ticket(shape, job.recipe.layer_sparsity, label=_label(job))
    raise TypeError(f"no way to draw {type(job.recipe).__name__}")


def _label(job: TicketJob) -> TicketLabel:
    return TicketLabel(job.backbone.id, job.task.id, job.recipe.id, job.seed)


def _draw_of(recipe: DrawnTicket) -> DrawConfig:
    return DrawConfig(
        head_ratio=recipe.head_sparsity,
        neuron_ratio=recipe.neuron_sparsity,
        neuron_scope=recipe.neuron_scope,
        head_scope=recipe.head_scope,
        neuron_multiple=recipe.neuron_multiple,
    )

"""Stage ``ticket``: which heads and neurons to keep, from EarlyBERT's search or at random."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsetune.catalog import Backbone, Catalogue, Recipe, Task
from sparsetune.jobs.asked import hashes, work_folder
from sparsetune.jobs.features import training_features
from sparsetune.models.anatomy import Anatomy
from sparsetune.models.backbones import load_model, load_tokenizer
from sparsetune.records import Clock, digest_of, make_record, write_record
from sparsetune.sparsity.tickets import (
    DrawConfig,
    Ticket,
    TicketLabel,
    draw_ticket,
    random_ticket,
)
from sparsetune.training.devices import claim_gpu, describe_device, resolve_device
from sparsetune.training.search import SearchPlace, SearchResult, run_search, write_gates


@dataclass(frozen=True)
class TicketJob:
    """One ticket: recipe x backbone x task x seed, everything resolved."""

    recipe: Recipe
    backbone: Backbone
    task: Task
    seed: int
    suite: str
    limits: dict[str, int | None]

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        ticket_id: str,
        *,
        suite: str,
        ids: tuple[str, str, int],
        limits: dict[str, int | None],
    ) -> "TicketJob":
        """Resolve a ticket from the catalogue; ``ids`` are backbone, task and seed."""
        backbone, task, seed = ids
        return cls(
            catalogue.ticket(ticket_id, backbone_id=backbone, task_id=task),
            catalogue.backbone(backbone),
            catalogue.task(task),
            seed,
            suite,
            limits,
        )

    def settings(self) -> dict[str, Any]:
        """What the ticket depends on; the same as ``RunSpec.ticket_settings``."""
        return {
            "ticket": self.recipe.settings(),
            "scoring": self.task.scoring(),
            "seed": self.seed,
            "limits": self.limits,
        }

    @property
    def digest(self) -> str:
        """Digest of the settings."""
        return digest_of(self.settings())


def make_ticket(
    job: TicketJob,
    *,
    inputs: tuple[Path, Path],
    output: Path,
    checkpoints: Path,
    device: str,
    checkpoint_seconds: float,
) -> None:
    """Draw a ticket and write ``ticket.json``, ``gates.npz`` and ``record.json``.

    Args:
        job: what to draw.
        inputs: folders of the data set and of the backbone.
        output: where the files go.
        checkpoints: what is needed to resume a search.
        device: ``auto``, ``cpu`` or ``cuda``.
        checkpoint_seconds: time between checkpoints.

    Raises:
        TrainingError: the search's loss became NaN or infinite.
    """
    clock = Clock()
    dataset, backbone = inputs
    lock = claim_gpu()
    chosen = resolve_device(device)
    model = load_model(
        backbone, kind=job.task.kind, label_count=job.task.label_count, seed=job.seed
    )
    recipe = job.recipe.values
    label = TicketLabel(job.backbone.id, job.task.id, job.recipe.id, job.seed)
    draw = DrawConfig(recipe["head_sparsity"], recipe["neuron_sparsity"], recipe["neuron_scope"])
    if recipe["origin"] == "random":
        clock.ready()
        anatomy = Anatomy.of(model)
        shape = (anatomy.layers, anatomy.heads(0), anatomy.ffn_width(0))
        ticket, search = random_ticket(shape, draw, label=label), None
    else:
        features, collate = training_features(
            job.task, dataset, load_tokenizer(backbone), job.limits
        )
        work = work_folder(checkpoints, job.digest, folders=(dataset, backbone), files=())
        clock.ready()
        search = run_search(
            model, recipe["search"], (features, collate),
            place=SearchPlace(work, chosen, checkpoint_seconds), seed=job.seed,
        )  # fmt: skip
        ticket = draw_ticket(search.heads, search.neurons, draw, label=label)
    _write(job, ticket, search, (dataset, backbone, output), clock.where(describe_device(chosen)))
    shutil.rmtree(checkpoints, ignore_errors=True)
    del lock


def _write(
    job: TicketJob,
    ticket: Ticket,
    search: SearchResult | None,
    places: tuple[Path, Path, Path],
    where: dict[str, Any],
) -> None:
    dataset, backbone, output = places
    output.mkdir(parents=True, exist_ok=True)
    write_gates(output / "gates.npz", search)
    ticket.save(output / "ticket.json")
    record = make_record(
        "ticket",
        asked={
            "suite": job.suite,
            "backbone": job.backbone.id,
            "task": job.task.id,
            "ticket": job.recipe.id,
            "seed": job.seed,
            "digest": job.digest,
            "settings": job.settings(),
        },
        inputs=hashes([dataset / "record.json", backbone / "record.json"]),
        measured={
            "kept_heads": [len(heads) for heads in ticket.kept_heads],
            "kept_neurons": [len(neurons) for neurons in ticket.kept_neurons],
            **(search.measured if search else {}),
        },
        where=where,
    )
    write_record(output / "record.json", record)

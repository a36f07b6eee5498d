"""EarlyBERT's search in pre-training: from random weights to the ticket, and back to them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from sparsetune.earlybert.ticket import DrawConfig, Ticket, TicketLabel, draw_ticket
from sparsetune.errors import ConfigError
from sparsetune.pruning.structured import remove
from sparsetune.training.plan import TrainingPlan
from sparsetune.training.search import SearchPlace, run_search, write_gates
from sparsetune.training.trainer import TrainSettings

TICKET, GATES = "ticket.json", "gates.npz"


def search_ticket(
    model: nn.Module,
    early: Mapping[str, Any],
    phase: tuple[TrainSettings, TrainingPlan],
    data: tuple[Sequence[Any], Callable[[list[Any]], dict[str, Tensor]]],
    *,
    label: TicketLabel,
    place: SearchPlace,
) -> dict[str, Any]:
    """Search which heads and neurons matter, in the first steps of the first phase.

    The search sees the batches, in the order and at the learning rates, with which the dense
    phase would begin.

    Args:
        model: random weights; left as it is, a copy is trained.
        early: the recipe's ``early`` section.
        phase: hyper-parameters and plan of the first phase as the dense model would train it.
        data: the phase's features and the function that makes a batch of some.
        label: whose ticket it is.
        place: where and on what the search runs; ``ticket.json`` and ``gates.npz`` are written
            beside its folder.

    Returns:
        What the search measured.

    Raises:
        ConfigError: the search would outlast the phase.
        TrainingError: the loss became NaN or infinite.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 4.3: 400 steps, penalty 1e-4.
    Differs:
        Nothing but the size of what it is run on.
    """
    settings, plan = phase
    if early["stop_steps"] > plan.steps:
        raise ConfigError(
            f"backbone {label.backbone}: pretraining.early.stop_steps: got {early['stop_steps']}, "
            f"the first phase has {plan.steps} steps"
        )
    search = {
        "train": {**asdict(settings), "epochs": plan.steps / plan.steps_per_epoch},
        "stop_steps": early["stop_steps"],
        "head_penalty": early["head_penalty"],
        "neuron_penalty": early["neuron_penalty"],
    }
    draw = DrawConfig(
        head_ratio=early["head_sparsity"],
        neuron_ratio=early["neuron_sparsity"],
        neuron_scope=early["neuron_scope"],
    )
    found = run_search(
        copy.deepcopy(model),
        search,
        data,
        place=place,
        seed=label.seed,
        draw=draw,
        plan=plan.until(early["stop_steps"]),
    )
    folder = place.folder.parent
    ticket = draw_ticket(found.heads, found.neurons, draw, label=label, search=found.end)
    ticket.save(folder / TICKET)
    write_gates(folder / GATES, found)
    return found.measured["search"]


def shrink(model: nn.Module, ticket: Ticket) -> None:
    """Remove from a model, in place, what its ticket does not keep; the rest keeps its values.

    Args:
        model: with the random weights that the search began from.
        ticket: drawn for a model of this size.

    Raises:
        ModelError: the ticket does not fit.
    """
    ticket.check_fits(model)
    remove(model, ticket.kept_heads, ticket.kept_neurons)

"""EarlyBERT's search on our training loop: weights and coefficients for a fraction of an epoch.

The search itself is :class:`sparsetune.earlybert.search.TicketSearch`; here is when it looks, when
it stops, how it is resumed, and what is told of it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.config.backbone import EarlySettings, PretrainingPhase
from sparsetune.config.settings import OptimizerSettings
from sparsetune.config.ticket import SearchSettings, SearchTraining
from sparsetune.earlybert.convergence import ConvergenceWatch
from sparsetune.earlybert.search import TicketSearch
from sparsetune.earlybert.ticket import (
    DrawConfig,
    SearchEnd,
    Ticket,
    TicketLabel,
    draw_masks,
    draw_ticket,
)
from sparsetune.errors import ConfigError
from sparsetune.randomness import derive
from sparsetune.records import replacing
from sparsetune.training.loop import Engine, PhaseJob, run_phase
from sparsetune.training.plan import TrainingPlan, lengths_of, make_plan, steps_in_epoch

TICKET, GATES = "ticket.json", "gates.npz"
_FEWEST_CHECKS = 20  # in a search that is short beside an epoch, as in pre-training
_ARRAYS = ("steps", "heads", "neurons", "head_masks", "neuron_masks")


@dataclass(frozen=True)
class SearchPlace:
    """Where and on what a search runs: folder for resuming, engine."""

    folder: Path
    engine: Engine


@dataclass(frozen=True)
class SearchResult:
    """How the coefficients came where they are at the end of a search.

    Attributes:
        steps: optimizer steps at which the masks were checked, ``(C,)``.
        head_history: the heads' coefficients at the checks, float32, ``(C, L, H)``.
        neuron_history: likewise, ``(C, L, F)``.
        draw: how masks are drawn.
        end: how the search ended, for the ticket.
        measured: numbers for the record.
    """

    steps: np.ndarray
    head_history: np.ndarray
    neuron_history: np.ndarray
    draw: DrawConfig
    end: SearchEnd
    measured: dict[str, Any]

    def ticket(self, label: TicketLabel) -> Ticket:
        """Draw the ticket from the last coefficients.

        Args:
            label: whose ticket.
        """
        heads, neurons = (torch.from_numpy(one[-1]) for one in self._histories())
        return draw_ticket(heads, neurons, self.draw, label=label, search=self.end)

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """The masks of every check: bool, ``(C, L, H)`` and ``(C, L, F)``, True = kept."""
        points = zip(*self._histories(), strict=True)
        heads, neurons = zip(*(draw_masks(*point, self.draw) for point in points), strict=True)
        return torch.stack(heads).numpy(), torch.stack(neurons).numpy()

    def _histories(self) -> tuple[np.ndarray, np.ndarray]:
        return self.head_history, self.neuron_history


def run_search(
    model: nn.Module,
    search: SearchSettings,
    data: tuple[Sequence[Any], Callable[[list[Any]], dict[str, Tensor]]],
    *,
    place: SearchPlace,
    seed: int,
    draw: DrawConfig,
    optimizer: str = "adamw",
    plan: TrainingPlan | None = None,
) -> SearchResult:
    """Train weights and coefficients with the task's loss plus an l1 term, then stop early.

    The learning rate is scheduled, and the examples ordered, as in a training of all the epochs.

    Args:
        model: dense, with its task head; changed in place and of no use afterwards.
        search: the ticket recipe's ``search`` section.
        data: training features and the function that makes a batch of some. Features that are
            made when asked for have ``lengths``: tokens of each.
        place: see :class:`SearchPlace`.
        seed: of the run; order and dropout have streams of their own.
        draw: how masks are drawn at each check, to see whether they have converged.
        optimizer: see :mod:`sparsetune.training.optimizers`.
        plan: the order of the examples; None = drawn from ``seed``.

    Raises:
        TrainingError: the loss became NaN or infinite.

    Source:
        EarlyBERT (arXiv:2101.00063), section 3.2; coefficients on heads and FFN neurons.
    Differs:
        The penalty counts once per optimizer step; the released code adds it to each accumulated
        batch. Stopping once the masks have converged is ours; the paper chose its fixed length
        from a plot.
    """
    plan = plan or _plan(data[0], search, derive(seed, "search", "order"))
    found = TicketSearch(
        model,
        penalties=(search.head_penalty, search.neuron_penalty),
        draw=draw,
        every=steps_between_checks(search, plan),
        last=plan.steps,
        window=search.settle.window,
        epsilon=search.settle.epsilon,
    )
    job = PhaseJob(
        name="search",
        features=data[0],
        collate=data[1],
        settings=search.train,
        optimizer=optimizer,
        plan=plan,
        folder=place.folder,
        engine=place.engine,
        seed=derive(seed, "search", "dropout"),
        horizon_steps=round(search.train.epochs * plan.steps_per_epoch),
        extra_loss=found.penalty,
        on_step=found.step,
        stopped=lambda: search.stop == "settled" and found.converged,
    )

    def state() -> dict[str, Tensor]:
        return {**{n: p.detach().cpu() for n, p in model.named_parameters()}, **found.state()}

    def load_state(state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(state[name])
        found.load_state(state)

    phase = run_phase(model, job, state=state, load_state=load_state)
    phase.pop("curve")
    stopping = _stopping(found, search, plan)
    end = SearchEnd(
        steps=stopping["check_steps"][-1],
        rule=search.stop,
        fixed_step=stopping["fixed_step"],
        settled_step=stopping["settled_step"],
        head_distance=stopping["head_distances"][-1],
        neuron_distance=stopping["neuron_distances"][-1],
    )
    measured = {"search": phase, "search_seconds": phase["seconds"], "stopping": stopping}
    return SearchResult(*found.history(), draw, end, measured)


def steps_between_checks(search: SearchSettings, plan: TrainingPlan) -> int:
    """Optimizer steps from one check of the masks to the next."""
    often = round(plan.steps_per_epoch / search.checks_per_epoch)
    return max(1, min(often, plan.steps // _FEWEST_CHECKS))


def _fixed_step(search: SearchSettings, steps_per_epoch: int) -> int:
    """Step at which the fixed rule stops, at least 1."""
    if search.stop_epochs is None:
        return search.stop_steps or 1
    return max(1, round(search.stop_epochs * steps_per_epoch))


def _plan(features: Sequence[Any], search: SearchSettings, seed: int) -> TrainingPlan:
    """The order of a search: the beginning of a full training's."""
    lengths, train = lengths_of(features), search.train
    steps = steps_in_epoch(len(lengths), train.batch_size, train.gradient_accumulation)
    last = _fixed_step(search, steps)
    if search.cap_epochs is not None:
        last = max(1, round(search.cap_epochs * steps))
    return make_plan(
        lengths,
        batch_size=train.batch_size,
        gradient_accumulation=train.gradient_accumulation,
        epochs=min(last / steps, train.epochs),
        seed=seed,
        horizon_epochs=train.epochs,
    )


def _stopping(found: TicketSearch, search: SearchSettings, plan: TrainingPlan) -> dict[str, Any]:
    """For the record: where each rule stops, and how far the masks moved at every check."""
    watch = cast(ConvergenceWatch, found.watch)  # a draw was given
    steps, heads, neurons = zip(*watch.checks, strict=True)
    return {
        "rule": search.stop,
        "steps_per_epoch": plan.steps_per_epoch,
        "fixed_step": _fixed_step(search, plan.steps_per_epoch),
        "last_step_allowed": plan.steps,
        "settled_step": watch.converged_step,
        "window": search.settle.window,
        "epsilon": search.settle.epsilon,
        "check_steps": list(steps),
        "head_distances": [None if value is None else round(value, 6) for value in heads],
        "neuron_distances": [None if value is None else round(value, 6) for value in neurons],
    }


def write_gates(path: Path, search: SearchResult | None) -> None:
    """Write a search's history as ``.npz``: coefficients, and the masks that they draw.

    Args:
        path: file to write, with ``steps`` int64 ``(C,)``; ``heads`` float32 and ``head_masks``
            bool ``(C, L, H)``; ``neurons`` and ``neuron_masks`` likewise, ``(C, L, F)``.
        search: None = no search: every array is empty.
    """
    arrays: Sequence[Any] = [np.zeros((0,), dtype=np.float32)] * len(_ARRAYS)
    if search:
        arrays = (search.steps, search.head_history, search.neuron_history, *search.masks())
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **cast(Any, dict(zip(_ARRAYS, arrays, strict=True))))


def search_in_pretraining(
    model: nn.Module,
    early: EarlySettings,
    phase: PretrainingPhase,
    plan: TrainingPlan,
    data: tuple[Sequence[Any], Callable[[list[Any]], dict[str, Tensor]]],
    *,
    label: TicketLabel,
    place: SearchPlace,
    optimizer: str,
) -> dict[str, Any]:
    """Search which heads and neurons matter, in the first steps of a pre-training.

    The search sees the batches, in the order and at the learning rates, with which the dense
    phase would begin.

    Args:
        model: random weights; left as it is, a copy is trained.
        early: the recipe's ``early`` section.
        phase: the first phase.
        plan: of that phase as the dense model would train it.
        data: the phase's features and the function that makes a batch of some.
        label: whose ticket it is.
        place: where and on what the search runs; ``ticket.json`` and ``gates.npz`` are written
            beside its folder.
        optimizer: of the pre-training.

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
    if early.stop_steps > plan.steps:
        raise ConfigError(
            f"backbone {label.backbone}: pretraining.early.stop_steps: received "
            f"{early.stop_steps}; allowed: up to the first phase's {plan.steps} steps"
        )
    optimizing = {name: getattr(phase, name) for name in OptimizerSettings.model_fields}
    search = SearchSettings(
        train=SearchTraining(**optimizing, epochs=plan.steps / plan.steps_per_epoch),
        stop_steps=early.stop_steps,
        head_penalty=early.head_penalty,
        neuron_penalty=early.neuron_penalty,
    )
    draw = DrawConfig(
        head_ratio=early.head_sparsity,
        neuron_ratio=early.neuron_sparsity,
        neuron_scope=early.neuron_scope,
    )
    found = run_search(
        copy.deepcopy(model),
        search,
        data,
        place=place,
        seed=label.seed,
        draw=draw,
        optimizer=optimizer,
        plan=plan.until(early.stop_steps),
    )
    found.ticket(label).save(place.folder.parent / TICKET)
    write_gates(place.folder.parent / GATES, found)
    return found.measured["search"]

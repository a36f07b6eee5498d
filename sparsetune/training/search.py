"""EarlyBERT's search: train weights and coefficients together for a fraction of an epoch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.earlybert.convergence import ConvergenceWatch
from sparsetune.earlybert.search import TicketSearch
from sparsetune.earlybert.ticket import DrawConfig, SearchEnd, draw_masks
from sparsetune.errors import ConfigError
from sparsetune.randomness import derive
from sparsetune.records import replacing
from sparsetune.training.plan import TrainingPlan, lengths_of, make_plan, steps_in_epoch
from sparsetune.training.trainer import PhaseJob, PhaseTrainer, TrainSettings, run_phase

_FEWEST_CHECKS = 20  # in a search that is short beside an epoch, as in pre-training


@dataclass(frozen=True)
class SearchPlace:
    """Where and on what a search runs: folder for resuming, device, time between checkpoints."""

    folder: Path
    device: str
    checkpoint_seconds: float


@dataclass(frozen=True)
class StopRule:
    """When a search ends, and how often it looks.

    Attributes:
        stop: ``fixed`` after a given length, or ``settled`` once the masks stand still.
        stop_epochs: length of a fixed search in epochs; or None.
        stop_steps: length of a fixed search in optimizer steps; or None.
        cap_epochs: a settled search ends here at the latest; None = at the fixed length.
        checks_per_epoch: how often masks are drawn and compared.
        window: checks that must agree.
        epsilon: how far they may differ, relative to chance.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 4: fixed, 0.2 epoch or 400 steps. Window and
        epsilon: You et al. 2020, arXiv:1909.11957.
    Differs:
        The settled rule is ours; the paper chose its fixed length from a plot.
    """

    stop: str = "fixed"
    stop_epochs: float | None = None
    stop_steps: int | None = None
    cap_epochs: float | None = None
    checks_per_epoch: int = 100
    window: int = 5
    epsilon: float = 0.1

    @classmethod
    def of(cls, search: Mapping[str, Any]) -> "StopRule":
        """Take the rule out of a ticket recipe's ``search`` section."""
        values = {**search, **search.get("settle", {})}
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    def fixed_step(self, steps_per_epoch: int) -> int:
        """Step at which the fixed rule stops, at least 1."""
        if self.stop_steps is not None:
            return self.stop_steps
        return max(1, round(self.stop_epochs * steps_per_epoch))

    def last_step(self, steps_per_epoch: int) -> int:
        """Step at which the search ends at the latest."""
        if self.stop == "settled" and self.cap_epochs is not None:
            return max(1, round(self.cap_epochs * steps_per_epoch))
        return self.fixed_step(steps_per_epoch)

    def steps_between_checks(self, plan: TrainingPlan) -> int:
        """Optimizer steps from one check to the next."""
        often = round(plan.steps_per_epoch / self.checks_per_epoch)
        return max(1, min(often, plan.steps // _FEWEST_CHECKS))


@dataclass(frozen=True)
class SearchResult:
    """How the coefficients came where they are at the end of a search.

    Attributes:
        steps: optimizer steps at which the history was taken, ``(C,)``.
        head_history: float32, ``(C, L, H)``.
        neuron_history: float32, ``(C, L, F)``.
        measured: numbers for the record.
        end: how the search ended, for the ticket; None if no masks were drawn on the way.
        draw: how masks were drawn on the way; or None.
    """

    steps: np.ndarray
    head_history: np.ndarray
    neuron_history: np.ndarray
    measured: dict[str, Any]
    end: SearchEnd | None = None
    draw: DrawConfig | None = None

    @property
    def heads(self) -> Tensor:
        """The heads' coefficients at the end, float32, ``(L, H)``."""
        return torch.from_numpy(self.head_history[-1])

    @property
    def neurons(self) -> Tensor:
        """The neurons' coefficients at the end, float32, ``(L, F)``."""
        return torch.from_numpy(self.neuron_history[-1])

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """The masks of every check, drawn as the ticket is.

        Returns:
            bool, ``(C, L, H)`` and ``(C, L, F)``, True = kept; empty if no masks were drawn.
        """
        if self.draw is None:
            return np.zeros((0,), dtype=bool), np.zeros((0,), dtype=bool)
        points = zip(self.head_history, self.neuron_history, strict=True)
        heads, neurons = zip(*(draw_masks(*point, self.draw) for point in points), strict=True)
        return torch.stack(heads).numpy(), torch.stack(neurons).numpy()


def run_search(
    model: nn.Module,
    search: Mapping[str, Any],
    data: tuple[Sequence[Any], Callable[[list[Any]], dict[str, Tensor]]],
    *,
    place: SearchPlace,
    seed: int,
    draw: DrawConfig | None = None,
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
        draw: how masks are drawn at each check, to see whether they have settled; None = they
            are not.
        plan: the order of the examples; None = drawn from ``seed``.

    Raises:
        ConfigError: the search waits for masks that are not drawn.
        TrainingError: the loss became NaN or infinite.

    Source:
        EarlyBERT (arXiv:2101.00063), section 3.2; coefficients on heads and FFN neurons.
    Differs:
        The penalty counts once per optimizer step; the released code adds it to each accumulated
        batch.
    """
    rule = StopRule.of(search)
    if rule.stop == "settled" and draw is None:
        raise ConfigError("search stop: received settled, allowed without a draw: fixed")
    plan = plan or _plan(
        data[0], TrainSettings.of(search["train"]), rule, derive(seed, "search", "order")
    )
    running = TicketSearch(
        model,
        penalties=(search["head_penalty"], search["neuron_penalty"]),
        draw=draw,
        every=rule.steps_between_checks(plan),
        last=plan.steps,
        window=rule.window,
        epsilon=rule.epsilon,
    )

    def state() -> dict[str, Tensor]:
        weights = {name: p.detach().cpu() for name, p in model.named_parameters()}
        return {**weights, **running.state()}

    def load_state(given: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(given[name])
        running.load_state(given)

    trainer = PhaseTrainer(
        model,
        _job(search, data, place=place, seed=seed, plan=plan, running=running),
        trained_state=state,
        load_trained_state=load_state,
    )
    phase = run_phase(trainer)
    phase.pop("curve")
    measured = {"search": phase, "search_seconds": phase["seconds"]}
    if running.watch is None:
        return SearchResult(*running.history(), measured)
    measured["stopping"] = _stopping(running.watch, rule, plan)
    return SearchResult(*running.history(), measured, _end(running.watch, rule, plan), draw)


def _job(
    search: Mapping[str, Any],
    data: tuple[Sequence[Any], Callable[[list[Any]], dict[str, Tensor]]],
    *,
    place: SearchPlace,
    seed: int,
    plan: TrainingPlan,
    running: TicketSearch,
) -> PhaseJob:
    settings = TrainSettings.of(search["train"])
    waits = StopRule.of(search).stop == "settled"
    return PhaseJob(
        name="search",
        features=data[0],
        collate=data[1],
        settings=settings,
        plan=plan,
        folder=place.folder,
        device=place.device,
        seed=derive(seed, "search", "dropout"),
        checkpoint_seconds=place.checkpoint_seconds,
        horizon_steps=round(settings.epochs * plan.steps_per_epoch),
        extra_loss=running.penalty,
        on_step=running.step,
        stopped=lambda: waits and running.converged,
    )


def _plan(
    features: Sequence[Any], settings: TrainSettings, rule: StopRule, seed: int
) -> TrainingPlan:
    """The order of a search: the beginning of a full training's."""
    lengths = lengths_of(features)
    steps = steps_in_epoch(len(lengths), settings.batch_size, settings.gradient_accumulation)
    return make_plan(
        lengths,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        epochs=min(rule.last_step(steps) / steps, settings.epochs),
        seed=seed,
        horizon_epochs=settings.epochs,
    )


def _stopping(watch: ConvergenceWatch, rule: StopRule, plan: TrainingPlan) -> dict[str, Any]:
    """For the record: where each rule stops, and how far the masks moved at every check."""
    steps, heads, neurons = zip(*watch.checks, strict=True)
    return {
        "rule": rule.stop,
        "steps_per_epoch": plan.steps_per_epoch,
        "fixed_step": rule.fixed_step(plan.steps_per_epoch),
        "last_step_allowed": plan.steps,
        "settled_step": watch.converged_step,
        "window": rule.window,
        "epsilon": rule.epsilon,
        "check_steps": list(steps),
        "head_distances": [_rounded(value) for value in heads],
        "neuron_distances": [_rounded(value) for value in neurons],
    }


def _end(watch: ConvergenceWatch, rule: StopRule, plan: TrainingPlan) -> SearchEnd:
    last = watch.checks[-1]
    return SearchEnd(
        steps=last.step,
        rule=rule.stop,
        fixed_step=rule.fixed_step(plan.steps_per_epoch),
        settled_step=watch.converged_step,
        head_distance=_rounded(last.head_distance),
        neuron_distance=_rounded(last.neuron_distance),
    )


def _rounded(distance: float | None) -> float | None:
    return None if distance is None else round(distance, 6)


def write_gates(path: Path, search: SearchResult | None) -> None:
    """Write a search's history as ``.npz``: coefficients, and the masks that they draw.

    Args:
        path: file to write, with ``steps`` int64 ``(C,)``; ``heads`` float32 and ``head_masks``
            bool ``(C, L, H)``; ``neurons`` and ``neuron_masks`` likewise, ``(C, L, F)``.
        search: None = no search: every array is empty, as masks are that were never drawn.
    """
    empty = np.zeros((0,), dtype=np.float32)
    head_masks, neuron_masks = search.masks() if search else (empty, empty)
    arrays = {
        "steps": search.steps if search else empty,
        "heads": search.head_history if search else empty,
        "neurons": search.neuron_history if search else empty,
        "head_masks": head_masks,
        "neuron_masks": neuron_masks,
    }
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)

"""One training phase, from its first batch to what it measured; resumed exactly where it was."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.config.settings import OptimizerSettings
from sparsetune.errors import DataError, TrainingError
from sparsetune.training.checkpoints import (
    Checkpoint,
    checkpoint_step,
    random_state,
    restore_random_state,
)
from sparsetune.training.losses import StepLoss
from sparsetune.training.optimizers import make_optimizer, make_schedule
from sparsetune.training.plan import TrainingPlan, lengths_of
from sparsetune.training.scoring import EpochScores, EpochScoring
from sparsetune.training.seeding import seed_everything
from sparsetune.training.step import Batch, CapturedStep, EagerStep, GraphLengths

logger = logging.getLogger(__name__)
CURVES = ("loss", "grad_norm", "learning_rate")
_CURVE_POINTS = 50


@dataclass(frozen=True)
class Engine:
    """How a training computes, whatever it trains.

    Attributes:
        device: ``cpu`` or ``cuda``.
        captured: replay steps as CUDA graphs where that works; see
            :mod:`sparsetune.training.step`.
        checkpoint_seconds: time between checkpoints.
    """

    device: str = "cpu"
    captured: bool = False
    checkpoint_seconds: float = 60


@dataclass(frozen=True)
class PhaseJob:
    """Everything one phase needs besides the model.

    Attributes:
        name: of the phase.
        features: training features; ``collate`` turns a list of them into a batch.
        collate: see ``features``.
        settings: hyper-parameters.
        optimizer: see :mod:`sparsetune.training.optimizers`.
        plan: the order of the examples.
        folder: where the checkpoint goes.
        engine: see :class:`Engine`.
        seed: of dropout, in ``[0, 2**63)``; the global generators start from it.
        horizon_steps: steps over which the learning rate is scheduled; None = the plan's.
        loss: see ``sparsetune.training.losses.step_loss``; None = the model's own.
        extra_loss: a term added to the loss once a step, or None.
        after_gradients: called with the step after every optimizer step, gradients still there.
        on_curve: called with (step, values) for every point of the curves.
        on_step: called with the step after every optimizer step.
        scoring: how the model is scored at the end of each epoch; None = not at all.
        stopped: asked before every step, the first too: True ends the phase before its plan.
    """

    name: str
    features: Sequence[Any]
    collate: Callable[[list[Any]], Batch]
    settings: OptimizerSettings
    plan: TrainingPlan
    folder: Path
    engine: Engine
    seed: int
    optimizer: str = "adamw"
    horizon_steps: int | None = None
    loss: StepLoss | None = None
    extra_loss: Callable[[], Tensor] | None = None
    after_gradients: Callable[[int], None] = field(default=lambda _step: None)
    on_curve: Callable[[int, Mapping[str, float]], None] = field(default=lambda _s, _v: None)
    on_step: Callable[[int], object] = field(default=lambda _step: None)
    scoring: EpochScoring | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)


def run_phase(
    model: nn.Module,
    job: PhaseJob,
    *,
    state: Callable[[], dict[str, Tensor]],
    load_state: Callable[[Mapping[str, Tensor]], None],
) -> dict[str, Any]:
    """Train one phase from its checkpoint, or from the start.

    Args:
        model: what is trained, on the engine's device afterwards; parameters with ``requires_grad``
            get updates.
        job: the phase.
        state: reads the trained tensors, for checkpoints.
        load_state: writes them back.

    Returns:
        What was measured: steps, tokens, seconds, final loss, the curve, and epoch scores if asked.

    Raises:
        TrainingError: the loss, or a score, is NaN or infinite; the last checkpoint is from before.
    """
    seed_everything(job.seed)
    model.to(job.engine.device)
    optimizer = make_optimizer(job.optimizer, model, job.settings)
    schedule = make_schedule(optimizer, job.settings, job.horizon_steps or job.plan.steps)
    gradients = _step_of(model, job)
    progress = _Progress(job)

    checkpoint = Checkpoint.read(job.folder)
    if checkpoint is not None:
        load_state(checkpoint.trained)
        optimizer.load_state_dict(dict(checkpoint.optimizer))
        schedule.load_state_dict(checkpoint.told["schedule"])
        restore_random_state(checkpoint.random)
        progress.take_up(checkpoint)

    saved_at = time.monotonic()
    with _training(model):
        while progress.step < job.plan.steps and not job.stopped():
            step = progress.step + 1
            batches = progress.batches(step)
            rate = float(schedule.get_last_lr()[0])
            loss, norm = gradients(batches)
            optimizer.step()
            schedule.step()
            job.after_gradients(step)
            gradients.clear()
            progress.add(step, loss)
            job.on_step(step)
            if progress.curve_due(step):
                progress.add_point(norm, rate)
            if progress.scores.due(step):
                progress.score(model)
            if time.monotonic() - saved_at >= job.engine.checkpoint_seconds:
                progress.refuse_bad_loss()  # or it would replace the last good checkpoint
                told = {**progress.told(), "schedule": schedule.state_dict()}
                Checkpoint(
                    step, state(), optimizer.state_dict(), random_state(job.engine.device), told
                ).write(job.folder)
                saved_at = time.monotonic()
    progress.refuse_bad_loss()
    return {
        **progress.measured(resumed_at_step=checkpoint.step if checkpoint else 0),
        "engine": gradients.description,
    }


def _step_of(model: nn.Module, job: PhaseJob) -> EagerStep:
    settings = job.settings
    common: dict[str, Any] = {
        "loss": job.loss,
        "extra_loss": job.extra_loss,
        "maximum_norm": settings.maximum_gradient_norm,
        "device": job.engine.device,
    }
    if not job.engine.captured:
        return EagerStep(model, **common)
    lengths = GraphLengths.planned(
        lengths_of(job.features), job.plan.batches, rows=settings.batch_size
    )
    accumulated = settings.gradient_accumulation
    return CapturedStep(
        model, batches=accumulated, rows=settings.batch_size, lengths=lengths, **common
    )


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Training mode, without the cache of keys and values that only decoding uses."""
    model.train()
    config: Any = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    if cached is not None:
        config.use_cache = False
    try:
        yield
    finally:
        if cached is not None:
            config.use_cache = cached


class _Progress:
    """How far a phase is, what it measured, and its clock."""

    def __init__(self, job: PhaseJob) -> None:
        self.job = job
        self.step = 0
        self.scores = EpochScores(job.scoring, job.plan)
        self._curve: list[dict[str, Any]] = []
        self._every = max(1, job.plan.steps // _CURVE_POINTS)
        self._logged_step = 0
        # On the device, so that watching every step does not make a GPU wait: the sum of the losses
        # since the last point, and the step of the first one that was not finite, -1 for none.
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=job.engine.device)
        self._bad_step = torch.tensor(-1, device=job.engine.device)
        self._seconds = 0.0  # of interrupted processes
        self._loading_seconds = 0.0  # of making batches, in all processes; a part of the above
        self._started = time.perf_counter()

    def batches(self, step: int) -> list[Batch]:
        """Make the batches of a step; the time of it is counted apart."""
        start, job = time.perf_counter(), self.job
        size = len(job.plan) // job.plan.steps
        planned = job.plan.batches[(step - 1) * size : step * size]
        made = [job.collate([job.features[index] for index in batch]) for batch in planned]
        self._loading_seconds += time.perf_counter() - start
        return made

    def add(self, step: int, loss: Tensor) -> None:
        """Count a step."""
        self.step = step
        self._loss_sum += loss
        first = (self._bad_step < 0) & ~torch.isfinite(loss)
        self._bad_step = torch.where(first, step, self._bad_step)
        if self.job.engine.device == "cpu":
            self.refuse_bad_loss()

    def curve_due(self, step: int) -> bool:
        """Whether the curves have a point at this step."""
        return step % self._every == 0 or step == self.job.plan.steps

    def add_point(self, norm: Tensor, rate: float) -> None:
        """Add a point to the curves: the mean loss since the last one."""
        self.refuse_bad_loss()
        loss = float(self._loss_sum) / (self.step - self._logged_step)
        point = {"step": self.step, "loss": loss, "grad_norm": float(norm), "learning_rate": rate}
        self._loss_sum.zero_()
        self._logged_step = self.step
        self._curve.append(point)
        self._announce(point)

    def score(self, model: nn.Module) -> None:
        """Score the model; the clock of training stands still."""
        self.refuse_bad_loss()  # which also waits for a GPU: what it still trains is not scoring
        try:
            self._started += self.scores.take(model, self.step)
        except DataError as error:
            message = f"phase {self.job.name}: scoring after step {self.step}: {error}"
            raise TrainingError(message) from None
        self.job.on_curve(*self.scores.points()[-1])

    def refuse_bad_loss(self) -> None:
        """Stop if any loss so far was not finite."""
        step = int(self._bad_step)
        if step < 0:
            return
        kept = checkpoint_step(self.job.folder)
        raise TrainingError(
            f"phase {self.job.name}: the loss is not finite at step {step}; last good checkpoint: "
            f"{f'step {kept} in {self.job.folder}' if kept else 'none'}; a smaller learning_rate "
            "may help"
        )

    def told(self) -> dict[str, Any]:
        """What a checkpoint must hold of it."""
        return {
            "curve": self._curve,
            "logged_step": self._logged_step,
            "loss_sum": float(self._loss_sum),
            "seconds": self._trained_seconds(),
            "loading_seconds": round(self._loading_seconds, 3),
            **self.scores.state(),
        }

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the watcher hears the curves from before again."""
        told = checkpoint.told
        self.step = checkpoint.step
        self._curve = list(told["curve"])
        self._logged_step = told["logged_step"]
        self._loss_sum.fill_(told["loss_sum"])
        self._seconds, self._loading_seconds = told["seconds"], told["loading_seconds"]
        self.scores.load_state(told)
        for point in self._curve:
            self._announce(point)
        for step, values in self.scores.points():
            self.job.on_curve(step, values)

    def measured(self, *, resumed_at_step: int) -> dict[str, Any]:
        """What the phase's record tells."""
        seen = self.job.plan.until(self.step)
        return {
            "name": self.job.name,
            "kind": "train",
            "steps": seen.steps,
            "examples_seen": seen.examples_seen,
            "tokens_seen": seen.tokens_seen,
            "seconds": self._trained_seconds(),
            "loading_seconds": round(self._loading_seconds, 3),
            "resumed_at_step": resumed_at_step,
            "final_loss": self._curve[-1]["loss"] if self._curve else None,
            "curve": self._curve,
            **self.scores.state(),
        }

    def _trained_seconds(self) -> float:
        """Seconds of training so far, before an interruption too; scoring does not count."""
        return round(self._seconds + time.perf_counter() - self._started, 3)

    def _announce(self, point: Mapping[str, Any]) -> None:
        logger.info(
            "phase %s step %s of %s: loss %.4f",
            self.job.name, point["step"], self.job.plan.steps, point["loss"],
        )  # fmt: skip
        self.job.on_curve(point["step"], {name: point[name] for name in CURVES})

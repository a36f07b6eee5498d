"""One training phase on the Hugging Face Trainer: planned order, exact resume, curves, guards."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from sparsetune.config.settings import OptimizerSettings
from sparsetune.errors import DataError, TrainingError
from sparsetune.records import read_json
from sparsetune.training.checkpoints import (
    COMPLETE,
    SafeCheckpoints,
    discard_incomplete,
    newest_complete,
)
from sparsetune.training.losses import StepLoss
from sparsetune.training.optimizers import optimizer_of
from sparsetune.training.plan import TrainingPlan
from sparsetune.training.scoring import EpochScores, EpochScoring
from sparsetune.training.seeding import seed_everything, use_deterministic_kernels

logger = logging.getLogger(__name__)
CURVES = ("loss", "grad_norm", "learning_rate")
_CURVE_POINTS = 50


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
        folder: where checkpoints go.
        device: ``cpu`` or ``cuda``.
        seed: of dropout, in ``[0, 2**63)``; the global generators start from it.
        checkpoint_seconds: time between checkpoints.
        horizon_steps: steps over which the learning rate is scheduled; None = the plan's.
        loss: see ``sparsetune.training.losses.step_loss``; None = the model's own.
        extra_loss: a term added to the loss, or None.
        after_gradients: called with the step after every optimizer step, gradients still there.
        on_curve: called with (step, values) for every point of the curves.
        on_step: called with the step after every optimizer step.
        scoring: how the model is scored at the end of each epoch; None = not at all.
        stopped: asked after ``on_step``, and when resuming: True ends the phase before its plan.
    """

    name: str
    features: Sequence[Any]
    collate: Callable[[list[Any]], dict[str, Tensor]]
    settings: OptimizerSettings
    plan: TrainingPlan
    folder: Path
    device: str
    seed: int
    checkpoint_seconds: float
    optimizer: str = "adamw"
    horizon_steps: int | None = None
    loss: StepLoss | None = None
    extra_loss: Callable[[], Tensor] | None = None
    after_gradients: Callable[[int], None] = field(default=lambda _step: None)
    on_curve: Callable[[int, Mapping[str, float]], None] = field(default=lambda _s, _v: None)
    on_step: Callable[[int], object] = field(default=lambda _step: None)
    scoring: EpochScoring | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)


class PhaseTrainer(SafeCheckpoints, Trainer):
    """The Trainer for one phase.

    Args:
        model: what is trained; parameters with ``requires_grad`` get updates.
        job: the phase.
        trained_state: reads the trained tensors, for checkpoints.
        load_trained_state: writes them back.
    """

    def __init__(
        self,
        model: nn.Module,
        job: PhaseJob,
        *,
        trained_state: Callable[[], dict[str, Tensor]],
        load_trained_state: Callable[[Mapping[str, Tensor]], None],
    ) -> None:
        use_deterministic_kernels()
        self.job = job
        self.trained_state = trained_state
        self.load_trained_state = load_trained_state
        # Step of the first loss that was not finite, -1 for none; kept on the device, so that
        # watching every step does not make a GPU wait.
        self._bad_step = torch.tensor(-1, device=job.device)
        self.earlier_seconds = 0.0  # of processes that were interrupted
        self.loading_seconds = 0.0  # of making batches, in all processes; a part of the above
        self.unlogged_loss = (0.0, 0)  # of an interrupted process: sum, and the step it began at
        self.scores = EpochScores(job.scoring, job.plan)
        self._started = time.perf_counter()
        super().__init__(
            model=model,
            args=_arguments(job),
            train_dataset=job.features,
            data_collator=job.collate,
            callbacks=[_PhaseCallback(job, self)],
            compute_loss_func=job.loss,
            optimizer_cls_and_kwargs=optimizer_of(
                job.optimizer, learning_rate=job.settings.learning_rate
            ),
        )
        self.remove_callback(PrinterCallback)  # curves go to history.csv and MLflow
        # Task heads take the Trainer's item count and ignore it: their losses stay means, and the
        # Trainer would sum the gradients of accumulated batches instead of averaging them.
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> DataLoader:
        """Batches in the planned order."""
        loader = DataLoader(
            cast(Any, self.train_dataset),
            batch_sampler=self.job.plan,
            collate_fn=self.data_collator,
            pin_memory=self.job.device == "cuda",
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The next batches; the time of making them is counted apart."""
        start = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self.loading_seconds += time.perf_counter() - start
        return batches

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Schedule the learning rate over the horizon, which a search leaves early."""
        steps = self.job.horizon_steps or num_training_steps
        return super().create_scheduler(steps, optimizer)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The task's loss, plus the phase's extra term."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.job.extra_loss is None:
            return loss
        extra = self.job.extra_loss()
        if self.job.loss is not None:  # a part of the step's mean, which nobody divides again
            extra = extra / self.current_gradient_accumulation_steps
        return (loss[0] + extra, *loss[1:]) if isinstance(loss, tuple) else loss + extra

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One batch forward and backward; notes the step of the first loss that is not finite."""
        loss = super().training_step(*args, **kwargs)
        first = (self._bad_step < 0) & ~torch.isfinite(loss)
        self._bad_step = torch.where(first, self.state.global_step + 1, self._bad_step)
        if self.job.device == "cpu":
            self.refuse_bad_loss()
        return loss

    def trained_seconds(self) -> float:
        """Seconds of training so far, before an interruption too; scoring does not count."""
        return round(self.earlier_seconds + time.perf_counter() - self._started, 3)

    def score_epoch(self, step: int) -> None:
        """Score the model if an epoch ends with this step; the clock of training stands still.

        Raises:
            TrainingError: the loss or the model's output is not finite.
        """
        if not self.scores.due(step):
            return
        self.refuse_bad_loss()  # which also waits for a GPU: what it still trains is not scoring
        try:
            self._started += self.scores.take(cast(nn.Module, self.model), step)
        except DataError as error:
            message = f"phase {self.job.name}: scoring after step {step}: {error}"
            raise TrainingError(message) from None
        self.job.on_curve(*self.scores.points()[-1])

    def loss_since_log(self) -> tuple[float, int]:
        """Losses summed since the last point of the curve, and that point's step."""
        return float(self._tr_loss), self._globalstep_last_logged

    def refuse_bad_loss(self) -> None:
        """Stop if any loss so far was not finite.

        Raises:
            TrainingError: naming the phase, the step and the last good checkpoint.
        """
        step = int(self._bad_step)
        if step >= 0:
            kept = newest_complete(self.job.folder)
            raise TrainingError(
                f"phase {self.job.name}: the loss is not finite at step {step}; last good "
                f"checkpoint: {kept or 'none'}; a smaller learning_rate may help"
            )


class _PhaseCallback(TrainerCallback):
    """Curves, time-based checkpoints, and the guard against a loss that is not finite."""

    def __init__(self, job: PhaseJob, trainer: PhaseTrainer) -> None:
        self.job = job
        self.trainer = trainer
        self.saved_at = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The Trainer starts its sum anew when it resumes, so the next point would be another one.
        loss, step = self.trainer.unlogged_loss
        self.trainer._tr_loss += loss
        self.trainer._globalstep_last_logged = step

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.job.after_gradients(state.global_step + 1)  # the Trainer counts the step later

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.job.on_step(state.global_step)
        self.trainer.score_epoch(state.global_step)  # before a checkpoint, which holds the score
        if self.job.stopped():
            control.should_training_stop = True
        if time.monotonic() - self.saved_at >= self.job.checkpoint_seconds:
            control.should_save = True
            self.saved_at = time.monotonic()
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.trainer.refuse_bad_loss()
        if "loss" in logs:
            _announce(self.job, {"step": state.global_step, **logs})


def run_phase(trainer: PhaseTrainer) -> dict[str, Any]:
    """Train one phase from its newest complete checkpoint, or from the start.

    Returns:
        What was measured: steps, tokens, seconds, final loss, the curve, and epoch scores if asked.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    job = trainer.job
    discard_incomplete(job.folder)
    checkpoint = newest_complete(job.folder)
    if checkpoint is not None:
        # Every kind of trained state, masks included, is read by us; the Trainer restores the rest.
        trainer._load_from_checkpoint(str(checkpoint))
        complete = read_json(checkpoint / COMPLETE)
        trainer.earlier_seconds = complete["seconds"]
        trainer.loading_seconds = complete["loading_seconds"]
        trainer.unlogged_loss = (complete["loss_since_log"], complete["logged_step"])
        trainer.scores.load_state(complete)
        for point in _curve(read_json(checkpoint / TRAINER_STATE_NAME)["log_history"]):
            _announce(job, point)
        for step, values in trainer.scores.points():
            job.on_curve(step, values)
    if checkpoint is not None and job.stopped():
        # Stopped and saved, then killed: the Trainer would make one step more before it asks.
        trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    else:
        seed_everything(job.seed)  # a checkpoint then goes on with the numbers that it was left at
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.refuse_bad_loss()
    curve = _curve(trainer.state.log_history)
    seen = job.plan.until(trainer.state.global_step)
    return {
        "name": job.name,
        "kind": "train",
        "steps": seen.steps,
        "examples_seen": seen.examples_seen,
        "tokens_seen": seen.tokens_seen,
        "seconds": trainer.trained_seconds(),
        "loading_seconds": round(trainer.loading_seconds, 3),
        "resumed_at_step": int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
        "final_loss": curve[-1]["loss"] if curve else None,
        "curve": curve,
        **trainer.scores.state(),
    }


def _curve(log_history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points of the training curves: step and every value of ``CURVES`` that was logged."""
    return [
        {key: entry[key] for key in ("step", *CURVES) if key in entry}
        for entry in log_history
        if "loss" in entry
    ]


def _announce(job: PhaseJob, point: Mapping[str, Any]) -> None:
    logger.info("phase %s step %s of %s: loss %.4f", job.name, point["step"], job.plan.steps,
                point["loss"])  # fmt: skip
    job.on_curve(point["step"], {key: float(point[key]) for key in CURVES if key in point})


def _arguments(job: PhaseJob) -> TrainingArguments:
    settings, cuda = job.settings, job.device == "cuda"
    horizon = job.horizon_steps or job.plan.steps
    return TrainingArguments(
        output_dir=str(job.folder),
        max_steps=job.plan.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup_fraction * horizon),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.maximum_gradient_norm,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        logging_steps=max(1, job.plan.steps // _CURVE_POINTS),
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        eval_strategy="no",
        report_to="none",
        use_cpu=not cuda,
        bf16=cuda,
        seed=job.seed % 2**32,  # what the Trainer's constructor may ask of numpy
        data_seed=job.seed % 2**32,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_num_workers=0,
    )

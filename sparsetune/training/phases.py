"""A method's phases in order, each resumable; what is done is kept until the run's file is."""

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.config.method import (
    HeadsMask,
    Mask,
    NOfMMask,
    Phase,
    PrunePhase,
    TrainPhase,
    UnstructuredMask,
)
from sparsetune.errors import ModelError
from sparsetune.methods.pruning import check_mask, heads_for, masks_for
from sparsetune.methods.tuned import TunedModel
from sparsetune.records import read_json, write_json
from sparsetune.training.checkpoints import read_state, save_state
from sparsetune.training.loop import CURVES, Engine, PhaseJob, run_phase
from sparsetune.training.losses import step_loss
from sparsetune.training.plan import lengths_of, make_plan
from sparsetune.training.scoring import EpochScoring, score_point
from sparsetune.training.seeding import phase_seed


@dataclass(frozen=True)
class Workplace:
    """Where and on what phases run.

    Attributes:
        folder: keeps checkpoints and finished phases until the run is done.
        engine: how it computes.
        seed: the run's; see :func:`sparsetune.training.seeding.phase_seed`.
        on_curve: called with (step over all phases, values).
        scoring: how the model is scored after each epoch of the last phase that trains; None =
            not at all.
    """

    folder: Path
    engine: Engine
    seed: int
    on_curve: Callable[[int, Mapping[str, float]], None]
    scoring: EpochScoring | None = None


def run_phases(
    tuned: TunedModel,
    phases: Sequence[Phase],
    *,
    features: Sequence[Any],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    mask: Mask,
    workplace: Workplace,
) -> list[dict[str, Any]]:
    """Run (or go on with) every phase of a method.

    Args:
        tuned: the model as built, before any training; trained in place.
        phases: the method's phases.
        features: training features.
        collate: makes a batch of some features.
        mask: the method's ``mask`` settings, for prune phases.
        workplace: see :class:`Workplace`.

    Returns:
        What each phase measured, in order.

    Raises:
        ModelError: the mask does not fit the model; before training.
        TrainingError: a loss became NaN or infinite.
    """
    check_mask(tuned.model, mask)
    start = _start_values(tuned, phases)
    results: list[dict[str, Any]] = []
    for index, phase in enumerate(phases):
        done = workplace.folder / f"phase-{index}.safetensors"
        result = read_json(done.with_suffix(".json")) if done.with_suffix(".json").exists() else {}
        state = read_state(done) if result else None
        steps_before = sum(earlier.get("steps", 0) for earlier in results)
        if state is not None:
            _take_up(tuned, result, state)
            _replay(result, steps_before, workplace)
        else:
            if isinstance(phase, PrunePhase):
                masks = phase_seed(workplace.seed, index, phase.name, "masks")
                result = _prune(tuned, phase, mask, seed=masks, start=start)
            else:
                scored = not any(isinstance(later, TrainPhase) for later in phases[index + 1 :])
                job = _job(phase, index, (features, collate), workplace, steps_before)
                result = _train(
                    tuned, phase.label_smoothing, job if scored else replace(job, scoring=None)
                )
            save_state(tuned.state(), done)
            write_json(done.with_suffix(".json"), result)
        results.append(result)
    return results


def peak_memory_bytes(device: str) -> int:
    """Most memory held so far: on the GPU by torch's allocator, else by the whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _start_values(tuned: TunedModel, phases: Sequence[Phase]) -> dict[str, Tensor]:
    """What a phase that rewinds goes back to; a large copy, so only if there is such a phase."""
    return (
        tuned.trained_values()
        if any(isinstance(phase, PrunePhase) and phase.rewind for phase in phases)
        else {}
    )


def _take_up(tuned: TunedModel, result: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Bring the model to where a phase left it that an earlier process finished."""
    if "kept_heads" in result:
        tuned.remove_heads(result["kept_heads"])
    tuned.load_state(state)


def _replay(result: Mapping[str, Any], steps_before: int, workplace: Workplace) -> None:
    """Tell the watcher the curves of a phase that an earlier process finished."""
    for point in result.get("curve", ()):
        values = {key: float(point[key]) for key in CURVES if key in point}
        workplace.on_curve(steps_before + point["step"], values)
    if workplace.scoring is None:
        return
    for entry in result.get("epoch_scores", ()):
        values = score_point(entry, workplace.scoring.headline)
        workplace.on_curve(steps_before + entry["step"], values)


def _job(
    phase: TrainPhase,
    index: int,
    data: tuple[Sequence[Any], Callable[[list[Any]], dict[str, Tensor]]],
    workplace: Workplace,
    steps_before: int,
) -> PhaseJob:
    features, collate = data
    plan = make_plan(
        lengths_of(features),
        batch_size=phase.batch_size,
        gradient_accumulation=phase.gradient_accumulation,
        epochs=phase.epochs,
        seed=phase_seed(workplace.seed, index, phase.name, "order"),
    )
    return PhaseJob(
        name=phase.name,
        features=features,
        collate=collate,
        settings=phase,
        plan=plan,
        folder=workplace.folder / f"phase-{index}",
        engine=workplace.engine,
        seed=phase_seed(workplace.seed, index, phase.name, "dropout"),
        on_curve=lambda step, values: workplace.on_curve(steps_before + step, values),
        scoring=workplace.scoring,
    )


def _train(tuned: TunedModel, smoothing: float, job: PhaseJob) -> dict[str, Any]:
    job = replace(job, loss=step_loss(tuned.structure.head, smoothing))
    companion = tuned.companion
    if companion:
        companion.begin(job.plan.steps)
        job = replace(job, extra_loss=companion.loss, after_gradients=companion.after_gradients)
    return run_phase(tuned.model, job, state=tuned.state, load_state=tuned.load_state)


def _prune(
    tuned: TunedModel,
    phase: PrunePhase,
    mask: Mask,
    *,
    seed: int,
    start: Mapping[str, Tensor],
) -> dict[str, Any]:
    told = {"name": phase.name, "kind": "prune"}
    if isinstance(mask, HeadsMask):
        kept_heads = heads_for(tuned.model, mask, seed=seed)
        anatomy = Anatomy.of(tuned.model)
        heads = sum(anatomy.heads(layer) for layer in range(anatomy.layers))
        tuned.remove_heads(kept_heads)
        removed = heads - sum(len(kept) for kept in kept_heads)
        return {**told, "heads": heads, "heads_removed": removed, "kept_heads": kept_heads}
    if not isinstance(mask, UnstructuredMask | NOfMMask):
        raise ModelError(
            f"phase {phase.name}: received mask.kind {mask.kind}, which draws no masks"
        )
    masks = masks_for(tuned.model, mask, seed=seed, share=phase.share, earlier=tuned.masks)
    if phase.rewind:
        tuned.rewind(start)
    tuned.prune(masks)
    kept = sum(int(one.sum()) for one in masks.values())
    total = sum(one.numel() for one in masks.values())
    return {**told, "weights_in_pools": total, "weights_zeroed": total - kept}

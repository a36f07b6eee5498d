"""Stage ``cost``: parameters, multiply-adds and bytes of one run, counted from shapes.

Neither torch nor the model is loaded. What only they know comes from ``evaluate``: how long the
sequences are, how many steps a generation took, and which weights the model multiplies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsetune.config.suite import RunSpec
from sparsetune.cost.lengths import EVALUATION_BATCH, Lengths
from sparsetune.cost.macs import TrainingPhase, macs_by_module, whole_life_macs
from sparsetune.cost.parameters import count_parameters, sparsity, sparsity_by_layer
from sparsetune.cost.run import PUBLISHED_TOKENS, TunedShape, training_over_lengths
from sparsetune.cost.shapes import ModelShape, as_stored
from sparsetune.cost.updates import UpdateCount
from sparsetune.errors import DataError
from sparsetune.methods.registry import update_of
from sparsetune.pruning.manifest import Kept, read_counts
from sparsetune.records import (
    CostRecord,
    EvaluateRecord,
    TicketRecord,
    TuneRecord,
    read_json,
    read_record,
)
from sparsetune.records.parts import (
    CostMeasured,
    EvaluateMeasured,
    PrunedPhase,
    SearchPhase,
    SparsityByLayer,
    TrainedPhase,
    TuneMeasured,
)
from sparsetune.stages.context import Context, asked_of_run, hashes

WHOLE_LIFE_INFERENCE_EXAMPLES = 100_000  # ours: a modest deployment; the parts are in the record
_READ = ("model.safetensors", "tune.json", "evaluate.json")


def count_cost(
    spec: RunSpec,
    context: Context,
    *,
    backbone: Path,
    run: Path,
    ticket: Path | None,
    output: Path,
) -> None:
    """Count one run's cost and write ``cost.json``.

    Args:
        spec: the run.
        context: the job.
        backbone: the backbone's folder, for its ``config.json``.
        run: the run's folder, with ``model.safetensors``, ``tune.json`` and ``evaluate.json``.
        ticket: the run's ``ticket.json``; its search is part of the whole life.
        output: where ``cost.json`` goes.

    Raises:
        DataError: the counted parameters are not those that were trained, or the counted weights
            not those that the evaluated model multiplies.
    """
    tuned = read_record(run / "tune.json", TuneRecord).measured
    evaluated = read_record(run / "evaluate.json", EvaluateRecord).measured
    manifest, counts = read_counts(run / "model.safetensors")
    kept, settings = manifest.kept or Kept(), manifest.update or {}
    config = read_json(backbone / "config.json", what="backbone configuration")
    dense = ModelShape.dense(config, spec.task.kind, spec.task.label_count)
    shape = stored = as_stored(dense, backbone)
    if kept.heads is not None and kept.neurons is not None:
        shape = stored.with_kept(kept.heads, kept.neurons)
    shape = shape.with_layers(kept.layers)
    update = update_of(settings).count(shape, counts.supports)
    sizes = shape.sizes()
    zeros = {key: sizes[key] - left for key, left in counts.kept.items()}
    context.ready()
    search = _search_of(ticket)
    before = (stored, _whole_update(spec, settings, stored))
    phases = _phases(tuned, (shape, update), before_removal=before)
    if search:
        phases.insert(0, _search_phase(search, dense))
    tuned_shape = TunedShape(dense, shape, update, zeros)
    tuned_shape.check_weights(evaluated.weights_multiplied)
    measured = CostMeasured(
        **_parameters(tuned_shape, trained=tuned.parameters_trained),
        # Heads and neurons that were removed count as zeros.
        sparsity=sparsity(shape, zeros, dense=dense),
        sparsity_by_layer=SparsityByLayer(
            **sparsity_by_layer(shape, zeros, dense=dense, kept_layers=kept.layers)
        ),
        search_seconds=search.seconds - search.loading_seconds if search else 0.0,
        **_macs(tuned_shape, phases),
        **_breakdown(tuned_shape, phases, evaluated),
    )
    context.leave(
        output / "cost.json",
        CostRecord,
        asked=asked_of_run(spec),
        inputs=hashes([*(run / name for name in _READ), backbone / "config.json"]),
        measured=measured,
    )


def _search_of(ticket: Path | None) -> SearchPhase | None:
    if ticket is None:
        return None
    return read_record(ticket.parent / "record.json", TicketRecord).measured.search


def _parameters(tuned: TunedShape, *, trained: int) -> dict[str, Any]:
    counted = count_parameters(tuned.shape, tuned.update, tuned.zeros)
    if counted.trained_with_head != trained:
        raise DataError(
            f"counted {counted.trained_with_head} trained parameters, the run trained {trained}"
        )
    return {
        "parameters_total": counted.total,
        "parameters_trained": counted.trained,
        "parameters_trained_with_head": counted.trained_with_head,
        "stored_bytes": counted.stored_bytes,
    }


def _whole_update(spec: RunSpec, settings: Mapping[str, Any], shape: ModelShape) -> UpdateCount:
    """The update as it was attached, before any phase removed heads and their part of it."""
    entries = {}
    if spec.support:
        count = 0 if spec.support.recipe == "empty" else spec.support.n_sparse
        entries = {key: count for key, *_ in shape.matrices(spec.support.targets, fused=False)}
    return update_of(settings).count(shape, entries)


def _phases(
    tuned: TuneMeasured,
    final: tuple[ModelShape, UpdateCount],
    *,
    before_removal: tuple[ModelShape, UpdateCount],
) -> list[TrainingPhase]:
    """Every phase that trained, with the shape and the update that it trained."""
    tokens = tuned.tokens_seen / tuned.examples_seen
    removals = [one for one in tuned.phases if isinstance(one, PrunedPhase) and one.kept_heads]
    now = before_removal if removals else final
    phases = []
    for phase in tuned.phases:
        if isinstance(phase, TrainedPhase):
            phases.append(TrainingPhase(phase.name, phase.examples_seen, tokens, *now))
        elif phase in removals:
            now = final
    return phases


def _search_phase(search: SearchPhase, dense: ModelShape) -> TrainingPhase:
    own_head = search.objective == "task"
    searched = dense if own_head else replace(dense, head="masked_lm", pooler=False)
    tokens = search.tokens_seen / search.examples_seen
    return TrainingPhase("search", search.examples_seen, tokens, searched)


def _macs(tuned: TunedShape, phases: Sequence[TrainingPhase]) -> dict[str, Any]:
    # The mean length in the run's own phases; a search, which comes first, has its own.
    tokens = phases[-1].tokens
    executed = macs_by_module(tuned.shape, tokens, tuned.update)
    effective = macs_by_module(tuned.shape, tokens, tuned.update, tuned.zeros)
    life = whole_life_macs(
        phases,
        inference_macs=sum(effective.values()),
        inference_examples=WHOLE_LIFE_INFERENCE_EXAMPLES,
    )
    return {
        "tokens_per_example_mean": round(tokens, 4),
        "macs_dense_per_example": sum(macs_by_module(tuned.dense, tokens).values()),
        "macs_executed_per_example": sum(executed.values()),
        "macs_effective_per_example": sum(effective.values()),
        "macs_whole_life": life["total"],
        "whole_life_inference_examples": WHOLE_LIFE_INFERENCE_EXAMPLES,
        "breakdown": {"executed": executed, "effective": effective, "whole_life": life},
    }


def _breakdown(
    tuned: TunedShape, phases: Sequence[TrainingPhase], evaluated: EvaluateMeasured
) -> dict[str, Any]:
    """MACs at the published length, over the real lengths, and where in the model they are.

    Everything that is long is a list, which MLflow's metrics leave to the record.
    """
    training = Lengths.from_pairs(evaluated.token_lengths.training)
    evaluation = Lengths.from_pairs(evaluated.token_lengths.evaluation)
    tokens = phases[-1].tokens
    parts: dict[str, Any] = {
        f"macs_at_{PUBLISHED_TOKENS}_tokens": tuned.macs(PUBLISHED_TOKENS),
        "macs_by_layer": tuned.by_layer(tokens),
        "macs_by_operator": tuned.by_operator(tokens),
        "macs_training_over_lengths": training_over_lengths(phases, training),
    }
    rows = [("training", "none", training)]
    if evaluated.decoding:
        made = tuned.generation(evaluation, evaluated.decoding.model_dump())
        parts["macs_per_text"] = [{"part": part, **macs} for part, macs in made.items()]
    else:
        padded = evaluation.padded(EVALUATION_BATCH)
        rows += [("evaluation", "none", evaluation), ("evaluation", "batches", padded)]
    parts["macs_over_lengths"] = [
        {
            "split": split, "padding": padding, "sequences": found.sequences,
            "tokens_mean": round(found.mean, 4), **tuned.over(found),
        }
        for split, padding, found in rows
    ]  # fmt: skip
    return parts

"""Stage ``evaluate``: predictions and official metrics of a tuned model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from sparsetune.architectures.loading import load_tokenizer
from sparsetune.config.load import RunSpec
from sparsetune.cost.lengths import Lengths
from sparsetune.cost.macs import visible_keys
from sparsetune.data.features import training_features
from sparsetune.evaluation.metrics import assess
from sparsetune.evaluation.metrics.classification import collapsed
from sparsetune.evaluation.predict import EvaluationSplit, Predicted
from sparsetune.evaluation.predictions import NAME, write_predictions
from sparsetune.evaluation.speed import measure_speed
from sparsetune.evaluation.statistics import DEFAULT, intervals
from sparsetune.methods.operators import multiplied_weights
from sparsetune.methods.tuned import load_tuned
from sparsetune.records import EvaluateRecord
from sparsetune.stages.context import Context, asked_of_run, hashes
from sparsetune.training.phases import peak_memory_bytes
from sparsetune.training.plan import lengths_of


def evaluate(
    spec: RunSpec, context: Context, *, dataset: Path, backbone: Path, run: Path, output: Path
) -> None:
    """Score one run on its task's evaluation split, and measure what its answers take.

    Args:
        spec: the run.
        context: the job's device.
        dataset: the task's folder.
        backbone: the backbone's folder.
        run: the run's folder, with ``model.safetensors`` from ``tune``.
        output: where ``predictions.parquet`` and ``evaluate.json`` go.

    Raises:
        DataError, ModelError: an input is missing or damaged, or the model has an operator whose
            cost is not known.
    """
    chosen = context.device  # before anything touches CUDA
    split = EvaluationSplit.read(spec.task, dataset, load_tokenizer(backbone), spec.limits)
    tuned = load_tuned(run / "model.safetensors", backbone)
    weights = multiplied_weights(tuned.model, tuned.structure.update)
    context.ready()
    predicted = split.predict(tuned.model, chosen)
    predictions, seconds = predicted.values, predicted.seconds
    peak = peak_memory_bytes(chosen)
    scores, notes = assess(spec.task.metrics, predictions, split.references)
    measured = {
        "headline_metric": spec.task.metrics[0],
        "metrics": scores,
        "metric_notes": notes,
        "intervals": intervals(scores, predictions, split.references),
        "intervals_from": asdict(DEFAULT),
        "collapsed": collapsed(predictions),
        "baseline": _baseline(spec, split.references),
        "n_examples": len(split.examples),
        "evaluate_seconds": round(seconds, 3),
        "examples_per_second": round(len(split.examples) / seconds, 3),
        **_speed(split, tuned.model, chosen),
        "inference_peak_memory_bytes": peak,
        # Lists, since these are for the cost stage and would drown what MLflow shows.
        "weights_multiplied": [list(pair) for pair in weights.items()],
        "token_lengths": _token_lengths(spec, dataset, split),
        **_decoding(split, predicted),
    }
    ids = [example.id for example in split.examples]
    write_predictions(output / NAME, ids, predictions, split.references)
    context.leave(
        output / "evaluate.json",
        EvaluateRecord,
        asked=asked_of_run(spec),
        inputs=hashes(
            [dataset / "record.json", backbone / "record.json", run / "model.safetensors"]
        ),
        measured=measured,
    )


def _speed(split: EvaluationSplit, model: nn.Module, device: str) -> dict[str, Any]:
    """Latency alone and throughput in a batch of 64, and how they were measured."""
    measured = measure_speed(split, model, device)
    alone, *batched = measured
    return {
        "latency_seconds_batch_1": alone["latency_median_seconds"],
        "sequences_per_second_batch_64": batched[0]["sequences_per_second"] if batched else None,
        "speed": measured,
    }


def _token_lengths(
    spec: RunSpec, dataset: Path, split: EvaluationSplit
) -> dict[str, list[list[int]]]:
    """[tokens, sequences] of both splits as they are encoded, windows for spans, unpadded."""
    features, _ = training_features(spec.task, dataset, split.tokenizer, spec.limits)
    both = {"evaluation": split.features, "training": features}
    return {name: Lengths.of(lengths_of(found)).pairs() for name, found in both.items()}


def _decoding(split: EvaluationSplit, predicted: Predicted) -> dict[str, dict[str, int]]:
    """What generating the whole split took, for counting; nothing for other kinds."""
    if predicted.decoding_steps is None:
        return {}
    prompts = lengths_of(split.features)
    pairs = list(zip(prompts, predicted.decoding_steps, strict=True))
    keys = sum(visible_keys(tokens, steps) for tokens, steps in pairs)
    return {
        "decoding": {
            "beams": split.task.generation["beams"],
            "steps_total": sum(predicted.decoding_steps),
            "visible_keys_total": keys,
        }
    }


def _baseline(spec: RunSpec, references: Sequence[Any]) -> dict[str, float]:
    """What always answering the most frequent class would score; nothing for other kinds."""
    if spec.task.kind != "classification":
        return {}
    (_, count), *_ = Counter(references).most_common(1)
    return {"majority_accuracy_fraction": count / len(references)}

"""Stage ``evaluate``: predictions and official metrics of a tuned model."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsetune.architectures.loading import load_tokenizer
from sparsetune.config.load import RunSpec
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
from sparsetune.records.parts import Decoding, EvaluateMeasured, TokenLengths
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
    device = context.device  # before anything touches CUDA
    split = EvaluationSplit.read(spec.task, dataset, load_tokenizer(backbone), spec.limits)
    tuned = load_tuned(run / "model.safetensors", backbone)
    weights = multiplied_weights(tuned.model, tuned.structure.update)
    context.ready()
    with tuned.computing(device, trains=False):
        predicted = split.predict(tuned.model, device)
        peak = peak_memory_bytes(device)
        speed = measure_speed(split, tuned.model, device)
    examples, references = len(split.examples), split.references
    scores, notes = assess(spec.task.metrics, predicted.values, references)
    limit = spec.limits.train_examples
    training, _ = training_features(spec.task, dataset, split.tokenizer, limit)
    measured = EvaluateMeasured(
        headline_metric=spec.task.metrics[0],
        metrics=scores,
        metric_notes=notes,
        intervals=intervals(scores, predicted.values, references),
        intervals_from=DEFAULT,
        collapsed=collapsed(predicted.values),
        baseline=_baseline(spec, references),
        n_examples=examples,
        evaluate_seconds=round(predicted.seconds, 3),
        examples_per_second=round(examples / predicted.seconds, 3),
        latency_seconds_batch_1=speed[0].latency_median_seconds,
        sequences_per_second_batch_64=speed[1].sequences_per_second if speed[1:] else None,
        speed=speed,
        inference_peak_memory_bytes=peak,
        # Lists, since these are for the cost stage and would drown what MLflow shows.
        weights_multiplied=list(weights.items()),
        token_lengths=TokenLengths(
            evaluation=sorted(Counter(lengths_of(split.features)).items()),
            training=sorted(Counter(lengths_of(training)).items()),
        ),
        **_decoding(split, predicted),
    )
    ids = [example.id for example in split.examples]
    write_predictions(output / NAME, ids, predicted.values, references)
    inputs = [dataset / "record.json", backbone / "record.json", run / "model.safetensors"]
    context.leave(
        output / "evaluate.json",
        EvaluateRecord,
        asked=asked_of_run(spec, spec.evaluation_settings()),
        inputs=hashes(inputs),
        measured=measured,
    )


def _decoding(split: EvaluationSplit, predicted: Predicted) -> dict[str, Decoding]:
    """What generating the whole split took, for counting; nothing for other kinds."""
    settings, steps = split.task.generation, predicted.decoding_steps
    if settings is None or steps is None:
        return {}
    prompts = lengths_of(split.features)
    keys = sum(visible_keys(*pair) for pair in zip(prompts, steps, strict=True))
    found = Decoding(beams=settings.beams, steps_total=sum(steps), visible_keys_total=keys)
    return {"decoding": found}


def _baseline(spec: RunSpec, references: Sequence[Any]) -> dict[str, float]:
    """What always answering the most frequent class would score; nothing for other kinds."""
    if spec.task.kind != "classification":
        return {}
    (_, count), *_ = Counter(references).most_common(1)
    return {"majority_accuracy_fraction": count / len(references)}

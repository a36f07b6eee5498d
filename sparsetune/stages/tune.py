"""Stage ``tune``: train a run's parameters, phase by phase, and keep only what was trained."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from sparsetune.architectures.loading import check_length, load_tokenizer
from sparsetune.config.suite import RunSpec
from sparsetune.data.features import training_features
from sparsetune.data.folder_checks import check_kept_head
from sparsetune.earlybert.ticket import Ticket
from sparsetune.errors import ModelError
from sparsetune.evaluation.predict import EvaluationSplit
from sparsetune.methods.kind import UpdateKind
from sparsetune.methods.tuned import Structure, TunedModel, build
from sparsetune.records import TuneRecord, git_state, sha256_of, write_text_atomically
from sparsetune.records.parts import EpochScore, Tracking, TuneMeasured
from sparsetune.stages.context import Context, asked_of_run, hashes
from sparsetune.stages.support import read_support
from sparsetune.tracking.client import COMMIT_TAG, NOTE_TAG, RunKey, source_tags
from sparsetune.tracking.live import LiveRun, TrackingOutcome
from sparsetune.tracking.views import run_note
from sparsetune.training.loop import CURVES
from sparsetune.training.phases import Workplace, peak_memory_bytes, run_phases
from sparsetune.training.plan import lengths_of
from sparsetune.training.scoring import EpochScoring, curve_of, score_point

_NOT_IN_PHASES = ("curve", "epoch_scores", "scoring_seconds")
_NOT_GENERATED = "not scored: decoding the split after every epoch can outlast the training"


@dataclass(frozen=True)
class TunePaths:
    """Files and folders of one run.

    Attributes:
        dataset: the task's folder.
        backbone: the backbone's folder.
        support: ``support.safetensors``, for DSEE.
        ticket: ``ticket.json``, for methods that remove heads and neurons.
        output: the run's folder.
        results: where the MLflow store is; None = no tracking.
    """

    dataset: Path
    backbone: Path
    output: Path
    support: Path | None = None
    ticket: Path | None = None
    results: Path | None = None

    def recipes(self) -> list[Path]:
        """The files of support and ticket that there are."""
        return [path for path in (self.support, self.ticket) if path is not None]

    def inputs(self) -> list[Path]:
        """Files whose hashes the record holds."""
        return [self.dataset / "record.json", self.backbone / "record.json", *self.recipes()]


def tune(spec: RunSpec, paths: TunePaths, context: Context) -> None:
    """Train one run, or go on with it after an interruption.

    Args:
        spec: the run.
        paths: see :class:`TunePaths`.
        context: the job's device and checkpoints.

    Raises:
        DataError, ModelError: an input is missing or does not fit; before training.
        TrainingError: no such device, or a loss that is NaN or infinite.
    """
    record = paths.output / "tune.json"
    if context.done_meanwhile(record, TuneRecord, digest=spec.digest, inputs=paths.inputs()):
        return
    device = context.device  # before anything touches CUDA
    inputs = hashes(paths.inputs())
    check_kept_head(paths.backbone, spec.backbone, spec.task)
    tokenizer = load_tokenizer(paths.backbone)
    features, collate = training_features(
        spec.task, paths.dataset, tokenizer, spec.limits.train_examples
    )
    # Inputs of other kinds are cut to this length; texts to generate are far below it.
    texts = spec.task.kind == "generation"
    longest = max(lengths_of(features)) if texts else spec.task.maximum_tokens
    check_length(paths.backbone, max(longest, _longest_generated(spec, paths.dataset, tokenizer)))
    scoring = _scoring(spec, paths.dataset, tokenizer, device)
    tuned = build_run(spec, paths)
    folder = context.work_folder(
        spec.digest, folders=(paths.dataset, paths.backbone), files=paths.recipes()
    )
    context.ready()
    live = _live_run(spec, paths)
    on_curve = live.log if live else _unwatched
    workplace = Workplace(folder, context.engine, spec.seed, on_curve, scoring)
    try:
        with tuned.computing(device, trains=True):
            results = run_phases(
                tuned,
                spec.method.phases,
                features=features,
                collate=collate,
                mask=spec.method.mask,
                workplace=workplace,
            )
    except BaseException:
        if live:
            live.finish("FAILED")
        raise
    # Before what was trained and given up goes.
    parameters = sum(one.numel() for one in tuned.trained_parameters().values())
    peak = peak_memory_bytes(device)
    tuned.finish()
    tuned.save(paths.output / "model.safetensors")
    _write_history(paths.output / "history.csv", results, spec.task.metrics[0])
    measured = _measured(
        spec,
        results,
        parameters_trained=parameters,
        peak_memory_bytes=peak,
        model_sha256=sha256_of(paths.output / "model.safetensors"),
    )
    outcome = TrackingOutcome(None, None)
    if live:
        outcome = live.finish("FINISHED", metrics=measured.model_dump(mode="json"))
    context.leave(
        record,
        TuneRecord,
        asked=asked_of_run(spec),
        inputs=inputs,
        measured=measured,
        tracking=Tracking(mlflow_run_id=outcome.run_id, problem=outcome.problem),
    )


def build_run(spec: RunSpec, paths: TunePaths) -> TunedModel:
    """Build a run's model from backbone, ticket and support, before any training.

    Raises:
        ModelError: the ticket was made for another backbone, or does not fit.
    """
    supports: dict[str, Tensor] = read_support(paths.support) if paths.support else {}
    ticket = Ticket.load(paths.ticket) if paths.ticket else None
    if ticket and ticket.backbone != spec.backbone.id:
        raise ModelError(
            f"{paths.ticket}: made for backbone {ticket.backbone}, the run uses {spec.backbone.id}"
        )
    structure = Structure(
        head=spec.task.kind,
        label_count=spec.task.label_count,
        seed=spec.seed,
        random_weights=spec.method.start == "random",
        update=cast(UpdateKind, spec.method.update),
        kept_heads=[list(heads) for heads in ticket.kept_heads] if ticket else None,
        kept_neurons=[list(neurons) for neurons in ticket.kept_neurons] if ticket else None,
        kept_layers=list(ticket.kept_layers) if ticket and ticket.kept_layers else None,
    )
    return build(paths.backbone, structure, supports)


def _live_run(spec: RunSpec, paths: TunePaths) -> LiveRun | None:
    if paths.results is None:
        return None
    key = RunKey("tune", spec.suite, spec.backbone.id, spec.task.id, spec.method.id, spec.seed)
    place = paths.results / spec.suite / "runs" / spec.path
    tags = {
        **source_tags(key.stage),
        "digest": spec.digest,
        COMMIT_TAG: git_state()["commit"] or "unknown",
        NOTE_TAG: run_note(spec, place),
    }
    return LiveRun(paths.results, key, spec.settings(), tags=tags)


def _measured(spec: RunSpec, results: Sequence[Mapping[str, Any]], **known: Any) -> TuneMeasured:
    trained = [result for result in results if result["kind"] == "train"]
    totals = {
        name: sum(result[name] for result in trained)
        for name in ("steps", "examples_seen", "tokens_seen")
    }
    phases: list[Any] = [
        {key: value for key, value in result.items() if key not in _NOT_IN_PHASES}
        for result in results
    ]
    return TuneMeasured(
        **totals,
        train_seconds=round(sum(result["seconds"] for result in trained), 3),
        loading_seconds=round(sum(result["loading_seconds"] for result in trained), 3),
        final_loss=trained[-1]["final_loss"],
        phases=phases,
        **known,
        **(_epoch_scores(spec, results) if spec.score_epochs else {}),
    )


def _longest_generated(spec: RunSpec, dataset: Path, tokenizer: Any) -> int:
    """Tokens that the model sees at most when it generates; 0 for other kinds."""
    if spec.task.generation is None:
        return 0
    split = EvaluationSplit.read(spec.task, dataset, tokenizer, spec.limits)
    return max(lengths_of(split.features)) + spec.task.generation.maximum_new_tokens - 1


def _scoring(spec: RunSpec, dataset: Path, tokenizer: Any, device: str) -> EpochScoring | None:
    if not spec.score_epochs or spec.task.kind == "generation":
        return None
    split = EvaluationSplit.read(spec.task, dataset, tokenizer, spec.limits)
    return EpochScoring(spec.task.metrics[0], lambda model: split.score(model, device))


def _epoch_scores(spec: RunSpec, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was scored after each epoch, with steps counted over all phases as in the curves."""
    if spec.task.kind == "generation":
        return {"epoch_scores": [], "epoch_scores_note": _NOT_GENERATED}
    scored = next(index for index, result in enumerate(results) if "epoch_scores" in result)
    before = sum(result.get("steps", 0) for result in results[:scored])
    entries = [EpochScore(**entry) for entry in results[scored]["epoch_scores"]]
    return {
        "epoch_scores": [
            entry.model_copy(update={"step": before + entry.step}) for entry in entries
        ],
        "scoring_seconds": results[scored]["scoring_seconds"],
    }


def _write_history(path: Path, results: Sequence[Mapping[str, Any]], headline: str) -> None:
    scored = any("epoch_scores" in result for result in results)
    columns = [*CURVES, *([curve_of(headline)] if scored else [])]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["step", "phase", *columns])
    before = 0
    for result in results:
        points = {point["step"]: dict(point) for point in result.get("curve", ())}
        for entry in result.get("epoch_scores", ()):
            points.setdefault(entry["step"], {}).update(score_point(entry, headline))
        for step, point in sorted(points.items()):
            values = [point.get(name, "") for name in columns]
            rows.writerow([before + step, result["name"], *values])
        before += result.get("steps", 0)
    write_text_atomically(path, text.getvalue())


def _unwatched(step: int, values: Mapping[str, float]) -> None:
    """Where curves go when nothing tracks the run; ``history.csv`` has them anyway."""

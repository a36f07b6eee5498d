"""The jobs of a suite, or those that are finished, with the work in each: rows of a frame.

Planned work is counted on the catalogue, and on what was fetched; done work is read from records.
Imports no torch.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune import records
from sparsetune.config.backbone import Backbone, PretrainingPhase
from sparsetune.config.load import Catalogue
from sparsetune.config.method import HeadsMask, TrainPhase
from sparsetune.config.settings import OptimizerSettings, Settings
from sparsetune.config.suite import RunSpec, Suite
from sparsetune.config.task import SyntheticTask, Task
from sparsetune.config.ticket import SearchedTicket, SearchSettings
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.parameters import VALUE_BYTES, dense_parameters
from sparsetune.cost.shapes import Head, LayerShape, ModelShape
from sparsetune.errors import ConfigError
from sparsetune.records import STAGES, digest_of, read_json, read_record
from sparsetune.training.plan import steps_in_epoch

Row = dict[str, Any]

COLUMNS: Row = {
    "id": "", "stage": "", "kind": "", "backbone": "", "task": "", "method": "", "digest": "",
    "needs": (), "passes": 0.0, "macs": 0.0, "disk_bytes": 0.0, "device": "", "device_kind": "",
    "tokens": math.nan, "work_seconds": 0.0, "job_seconds": 0.0,
}  # fmt: skip
"""Column -> its value where a job has none.

``kind``: what trains, so that jobs of one kind differ from a fit alike; ``passes``: batches through
the model, for generation one for each new token; ``macs``: multiply-adds of all passes;
``tokens``: mean length of an example; ``work_seconds``: of the passes; ``job_seconds``: of the
process.
"""
_DOCUMENT_TOKENS = 28.0  # of the generated corpus, as measured
_TEXT_BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True)
class Size:
    """Examples of a task, their mean length, and the bytes of its files."""

    train: int
    evaluation: int
    tokens: float
    stored_bytes: float


def jobs_of(
    suite: Suite, catalogue: Catalogue, places: Sequence[Path], finished: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """List the suite's jobs, shared ones once, each after those that it needs.

    Args:
        suite: resolved.
        catalogue: that it was resolved from.
        places: folders of results, whose ``resources`` beside tell sizes.
        finished: jobs, which tell mean lengths.

    Returns:
        A row for each job; and the tasks whose mean length nobody measured.
    """
    measured = finished.dropna(subset=["tokens"]).set_index("task")["tokens"].to_dict()
    rows: dict[str, Row] = {}
    sizes: dict[str, Size] = {}
    shapes: dict[str, ModelShape] = {}
    for run in suite.runs:
        task, backbone = run.task, run.backbone
        if task.id not in sizes:
            folder = _there(places, "datasets", task.id)
            sizes[task.id] = _size(task, folder, measured.get(task.id))
        if backbone.id not in shapes:
            folder = _there(places, "backbones", backbone.id)
            shapes[backbone.id] = _shape(backbone, catalogue, folder)
        for row in _jobs_of_run(run, sizes[task.id], shapes[backbone.id]):
            rows.setdefault(row["id"], row)
    own = [row for row in rows.values() if row["stage"] in ("evaluate", "cost")]
    for pair in suite.groups():
        needs = [one["id"] for one in own if (one["backbone"], one["task"]) == pair]
        name = "/".join(("tables", *pair))
        rows[name] = {"id": name, "stage": "tables", "needs": needs}
    for stage in ("tables", "claims", "figures", "track"):
        rows[stage] = {"id": stage, "stage": stage, "needs": [one["id"] for one in own]}
    jobs = frame_of(rows.values())
    order = jobs["stage"].map(list(STAGES).index)
    return jobs.iloc[order.argsort(kind="stable")], sorted(sizes.keys() - measured.keys())


def frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a frame with all of :data:`COLUMNS`."""
    return pd.DataFrame([{**COLUMNS, **row} for row in rows], columns=list(COLUMNS))


def finished_jobs(results: Path) -> Iterator[Row]:
    """Finished jobs below a folder of results, and in ``resources`` beside it.

    A run whose cost is not counted yet is left out: its record does not tell its work.

    Raises:
        DataError: a record is damaged.
    """
    resources = results.parent / "resources"
    for path in sorted(resources.glob("datasets/*/record.json")):
        yield _finished(read_record(path, records.DatasetRecord), f"dataset/{path.parent.name}")
    for path in sorted(resources.glob("backbones/*/record.json")):
        made = read_record(path, records.BackboneRecord)
        yield _finished(made, f"backbone/{path.parent.name}", **_pretrained(made))
    for suite in sorted(path for path in results.glob("*") if path.is_dir()):
        dense: dict[str, float] = {}
        for path in sorted(suite.glob("runs/*/*/*/seed-*/cost.json")):
            tail = path.parent.relative_to(suite / "runs")
            cost = read_record(path, records.CostRecord)
            tune = read_record(path.with_name("tune.json"), records.TuneRecord)
            answered = read_record(path.with_name("evaluate.json"), records.EvaluateRecord)
            dense[str(tail.parent.parent)] = cost.measured.macs_dense_per_example
            yield _finished(cost, f"cost/{tail}")
            yield _finished(tune, f"tune/{tail}", **_tuned(tune, cost))
            work = _answers(
                answered.measured.n_examples,
                cost.measured.macs_executed_per_example,
                answered.asked.settings["scoring"].get("generation"),
            )
            work["work_seconds"] = answered.measured.evaluate_seconds
            yield _finished(answered, f"evaluate/{tail}", **work)
        for path in sorted(suite.glob("tickets/*/*/*/seed-*/record.json")):
            tail = path.parent.relative_to(suite / "tickets")
            drawn = read_record(path, records.TicketRecord)
            whole = dense.get(str(tail.parent.parent))
            yield _finished(drawn, f"ticket/{tail}", **_searched(drawn, whole))
        for path in sorted(suite.glob("support/*/*/record.json")):
            name = path.parent.relative_to(suite)
            yield _finished(read_record(path, records.SupportRecord), str(name))


def _finished(record: records.Record[Any, Any], name: str, **work: Any) -> Row:
    asked, where = record.asked, record.where
    return {
        "id": name,
        "stage": asked.stage,
        "backbone": getattr(asked, "backbone", ""),
        "task": getattr(asked, "task", ""),
        "digest": asked.digest,
        "device": where.device.name,
        "device_kind": where.device.kind,
        "job_seconds": where.seconds + (where.start_up_seconds or 0.0),
        **work,
    }


def _pretrained(record: records.BackboneRecord) -> Row:
    done = record.measured.pretraining
    if done is None:
        return {}
    planned = record.asked.settings["pretraining"]["phases"]
    batches = {phase["name"]: phase["gradient_accumulation"] for phase in planned}
    passes, seconds = sum(one.steps * batches[one.name] for one in done.phases), done.train_seconds
    if done.search:
        passes += done.search.steps * planned[0]["gradient_accumulation"]
        seconds += done.search_seconds or 0.0
    return {"kind": "pretraining", "passes": passes, "macs": done.macs_total,
            "work_seconds": seconds}  # fmt: skip


def _tuned(record: records.TuneRecord, cost: records.CostRecord) -> Row:
    method, done = record.asked.settings["method"], record.measured
    batches = {phase["name"]: phase.get("gradient_accumulation") for phase in method["phases"]}
    trained = [phase for phase in done.phases if phase.kind == "train"]
    kind, forward = _kind(method), cost.measured.macs_executed_per_example
    return {
        "kind": kind,
        "passes": sum(phase.steps * batches[phase.name] for phase in trained),
        "macs": _times(kind) * forward * done.examples_seen,
        "tokens": done.tokens_seen / done.examples_seen,
        "work_seconds": done.train_seconds,
    }


def _searched(record: records.TicketRecord, dense_macs: float | None) -> Row:
    search = record.measured.search
    if search is None or dense_macs is None:
        return {}
    train = record.asked.settings["ticket"]["search"]["train"]
    return {"kind": "search", "passes": search.steps * train["gradient_accumulation"],
            "macs": 3 * dense_macs * search.examples_seen,
            "work_seconds": search.seconds}  # fmt: skip


def _jobs_of_run(run: RunSpec, size: Size, dense: ModelShape) -> Iterator[Row]:
    task, backbone, method, tokens = run.task, run.backbone, run.method, size.tokens
    needs = [f"dataset/{task.id}", f"backbone/{backbone.id}"]
    here = {"backbone": backbone.id, "task": task.id, "method": method.id, "digest": run.digest}
    yield {"id": needs[0], "stage": "dataset", "task": task.id,
           "digest": digest_of(task.settings()), "disk_bytes": size.stored_bytes}  # fmt: skip
    yield _backbone_job(backbone, dense)
    train = min(run.limits.train_examples or size.train, size.train)
    answers = min(run.limits.evaluation_examples or size.evaluation, size.evaluation)
    dense = replace(dense, head=task.kind, label_count=task.label_count)
    shape = final = _stored(backbone, dense)
    if run.support:
        needs.append(f"support/{backbone.id}/{run.support.id}")
        yield {"id": needs[-1], "stage": "support", "needs": needs[1:2], "backbone": backbone.id,
               "digest": digest_of(run.support.settings())}  # fmt: skip
    if run.ticket:
        shape = final = _smaller(shape, run.ticket)
        passes, macs = 0, 0.0
        if isinstance(run.ticket, SearchedTicket):
            forward = _forward(dense, tokens)
            passes, macs = _search(run.ticket.search, train, forward)
        name = f"ticket/{run.ticket_path}"
        yield {"id": name, "stage": "ticket", "kind": "search", "needs": needs[:2], **here,
               "digest": run.ticket_digest, "passes": passes, "macs": macs}  # fmt: skip
        needs.append(name)
    elif isinstance(method.mask, HeadsMask):
        final = _smaller(shape, method.mask)
    kind, passes, macs = _kind(method.settings()), 0, 0.0
    for phase in method.phases:
        if isinstance(phase, TrainPhase):
            forward = _forward(shape, tokens)
            more = _training(phase, phase.epochs, train, forward=forward * _times(kind))
            passes, macs = passes + more[0], macs + more[1]
        else:
            shape = final
    kept = VALUE_BYTES * dense_parameters(final) * kind.startswith("full/")
    yield {"id": f"tune/{run.path}", "stage": "tune", "kind": kind, "needs": needs, **here,
           "passes": passes, "macs": macs, "disk_bytes": kept}  # fmt: skip
    generation = task.generation.model_dump() if task.generation else None
    yield {"id": f"evaluate/{run.path}", "stage": "evaluate", "needs": [f"tune/{run.path}"],
           **here, **_answers(answers, _forward(final, tokens), generation)}  # fmt: skip
    yield {"id": f"cost/{run.path}", "stage": "cost", "needs": [f"evaluate/{run.path}"], **here}


def _backbone_job(backbone: Backbone, dense: ModelShape) -> Row:
    """A search before a pre-training is counted on the dense model."""
    stored, recipe, passes, macs = _stored(backbone, dense), backbone.pretraining, 0.0, 0.0
    early = recipe.early if recipe else None
    trainings = [(recipe.phases[0], float(early.stop_steps), dense)] if recipe and early else []
    for phase in recipe.phases if recipe else ():
        steps = phase.steps or _steps_of_corpus(backbone, phase)
        trainings.append((phase, steps * (early.steps_share if early else 1.0), stored))
    head: Head = "generation" if backbone.architecture == "gpt2" else "masked_lm"
    for phase, steps, shape in trainings:
        documents = recipe is not None and recipe.blocks == "documents"
        tokens = min(phase.block_tokens, _DOCUMENT_TOKENS if documents else math.inf)
        batches = steps * phase.gradient_accumulation
        passes += batches
        macs += batches * phase.batch_size * 3 * _forward(replace(shape, head=head), tokens)
    return {"id": f"backbone/{backbone.id}", "stage": "backbone", "kind": "pretraining",
            "backbone": backbone.id, "passes": passes, "macs": macs,
            "digest": digest_of(backbone.settings()),
            "disk_bytes": VALUE_BYTES * dense_parameters(stored)}  # fmt: skip


def _steps_of_corpus(backbone: Backbone, phase: PretrainingPhase) -> float:
    documents, recipe = getattr(backbone.source, "documents", None), backbone.pretraining
    if documents is None or not recipe or recipe.blocks != "documents" or not phase.epochs:
        raise ConfigError(
            f"backbone {backbone.id}: phase {phase.name}: epochs of a corpus of unknown length; "
            "an estimate needs steps"
        )
    return phase.epochs * documents / (phase.batch_size * phase.gradient_accumulation)


def _kind(method: Mapping[str, Any]) -> str:
    """What is trained, under which mask: jobs of one kind differ from the fit in the same way."""
    update = method["update"]
    return f"{update.get('type', update['kind'])}/{method['mask']['kind']}"


def _times(kind: str) -> int:
    """Forward passes that a training pass costs: gradients of weights only where they train."""
    return 3 if kind.startswith("full/") else 2


def _training(
    settings: OptimizerSettings, epochs: float, examples: int, *, forward: float
) -> tuple[int, float]:
    """Passes, and MACs of sequences: the mean batch is as full as an epoch's."""
    batch, accumulation = settings.batch_size, settings.gradient_accumulation
    passes = max(1, round(epochs * steps_in_epoch(examples, batch, accumulation))) * accumulation
    return passes, forward * passes * examples / math.ceil(examples / batch)


def _search(search: SearchSettings, examples: int, forward: float) -> tuple[int, float]:
    """A search that stops by itself is counted to its cap."""
    batch, accumulation = search.train.batch_size, search.train.gradient_accumulation
    length = search.cap_epochs or search.stop_epochs
    epochs = length or (search.stop_steps or 0) / steps_in_epoch(examples, batch, accumulation)
    return _training(search.train, epochs, examples, forward=3 * forward)


def _answers(examples: int, forward: float, generation: Mapping[str, Any] | None) -> Row:
    passes = math.ceil(examples / EVALUATION_BATCH)
    if generation is None:
        return {"passes": passes, "macs": examples * forward}
    return {"passes": passes * generation["maximum_new_tokens"],
            "macs": examples * forward * generation["beams"]}  # fmt: skip


def _forward(shape: ModelShape, tokens: float) -> int:
    return sum(macs_by_module(shape, tokens).values())


def _stored(backbone: Backbone, dense: ModelShape) -> ModelShape:
    recipe = backbone.pretraining
    return _smaller(dense, recipe.early) if recipe and recipe.early else dense


def _smaller(shape: ModelShape, recipe: Settings) -> ModelShape:
    """The model after a recipe's shares of layers, heads and neurons were removed, about."""
    layers, heads, neurons = (
        1.0 - getattr(recipe, f"{unit}_sparsity", 0.0) for unit in ("layer", "head", "neuron")
    )
    return replace(shape, layers=tuple(
        LayerShape(max(1, round(heads * one.heads)), one.head_size,
                   max(1, round(neurons * one.ffn_width)))
        for one in shape.layers[: max(1, round(layers * len(shape.layers)))]
    ))  # fmt: skip


def _there(places: Sequence[Path], room: str, name: str) -> Path | None:
    folders = (place.parent / "resources" / room / name for place in places)
    return next((folder for folder in folders if (folder / "record.json").exists()), None)


def _size(task: Task, folder: Path | None, tokens: float | None) -> Size:
    """As the record and the runs tell, else as the catalogue does."""
    told: dict[str, Any] = task.expected.model_dump() if task.expected else {}
    if isinstance(task.source, SyntheticTask):
        sizes = task.source.sizes
        told["train_examples"] = sizes.train
        answers = sizes.test if task.evaluation_split == "test" else sizes.evaluation
        told["evaluation_examples"] = answers
    stored = None
    if folder:
        measured = read_record(folder / "record.json", records.DatasetRecord).measured
        told |= {"train_examples": measured.train_examples,
                 "evaluation_examples": measured.evaluation_examples}  # fmt: skip
        stored = measured.stored_bytes
    told |= {"tokens": tokens} if tokens else {}
    for key in ("train_examples", "evaluation_examples", "tokens"):
        if told.get(key) is None:
            raise ConfigError(f"task {task.id}: expected.{key}: missing, and no record tells it")
    train, answers, length = told["train_examples"], told["evaluation_examples"], told["tokens"]
    text = (train + answers) * length * _TEXT_BYTES_PER_TOKEN
    return Size(train, answers, length, text if stored is None else stored)


def _shape(backbone: Backbone, catalogue: Catalogue, folder: Path | None) -> ModelShape:
    """The backbone before any removal: as its folder has it, else as the catalogue tells."""
    if folder:
        config = read_json(folder / "config.json", what="backbone configuration")
        return replace(ModelShape.dense(config, "regression", 1), pooler=False)
    recipe, sizes = backbone.pretraining, backbone.expected
    vocabulary = getattr(sizes, "vocabulary_size", None)
    if recipe:
        lender = backbone.published_tokenizer
        words = catalogue.backbone(lender).expected if lender else recipe.tokenizer
        vocabulary = getattr(words, "vocabulary_size", None)
    found = recipe.shape if recipe else sizes
    if found is None or vocabulary is None:
        raise ConfigError(f"backbone {backbone.id}: expected: missing, and nothing was fetched")
    layer = LayerShape(found.heads, found.hidden_size // found.heads, found.feed_forward_size)
    types = {"bert": 2, "roberta": 1, "gpt2": 0}[backbone.architecture]
    return ModelShape(
        backbone.architecture, found.hidden_size, (layer,) * found.layers, vocabulary,
        found.maximum_positions, types, head="regression", label_count=1, pooler=False,
    )  # fmt: skip

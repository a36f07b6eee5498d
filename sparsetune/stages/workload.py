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

from sparsetune.config.load import Backbone, Catalogue, RunSpec, Suite, Task
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.cost.macs import executed_macs
from sparsetune.cost.params import VALUE_BYTES, dense_parameters
from sparsetune.cost.shapes import LayerShape, ModelShape
from sparsetune.errors import ConfigError
from sparsetune.records import (
    STAGES,
    BackboneRecord,
    CostRecord,
    DatasetRecord,
    EvaluateRecord,
    Record,
    SupportRecord,
    TicketRecord,
    TuneRecord,
    digest_of,
    read_json,
    read_record,
)
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
    for backbone, task in suite.groups():
        needs = [one["id"] for one in own if (one["backbone"], one["task"]) == (backbone, task)]
        name = f"tables/{backbone}/{task}"
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
        yield _finished(read_record(path, DatasetRecord), f"dataset/{path.parent.name}")
    for path in sorted(resources.glob("backbones/*/record.json")):
        made = read_record(path, BackboneRecord)
        yield _finished(made, f"backbone/{path.parent.name}", **_pretrained(made))
    for suite in sorted(path for path in results.glob("*") if path.is_dir()):
        dense: dict[str, float] = {}
        for path in sorted(suite.glob("runs/*/*/*/seed-*/cost.json")):
            tail = path.parent.relative_to(suite / "runs")
            cost = read_record(path, CostRecord)
            tune = read_record(path.with_name("tune.json"), TuneRecord)
            answered = read_record(path.with_name("evaluate.json"), EvaluateRecord)
            dense[str(tail.parent.parent)] = cost.measured.macs_dense_per_example
            yield _finished(cost, f"cost/{tail}")
            yield _finished(tune, f"tune/{tail}", **_tuned(tune, cost))
            work = _answers(
                answered.measured.n_examples,
                cost.measured.macs_executed_per_example,
                answered.asked.settings["scoring"]["generation"],
            )
            work["work_seconds"] = answered.measured.evaluate_seconds
            yield _finished(answered, f"evaluate/{tail}", **work)
        for path in sorted(suite.glob("tickets/*/*/*/seed-*/record.json")):
            tail = path.parent.relative_to(suite / "tickets")
            drawn = read_record(path, TicketRecord)
            whole = dense.get(str(tail.parent.parent))
            yield _finished(drawn, f"ticket/{tail}", **_searched(drawn, whole))
        for path in sorted(suite.glob("support/*/*/record.json")):
            name = path.parent.relative_to(suite)
            yield _finished(read_record(path, SupportRecord), str(name))


def _finished(record: Record[Any, Any], name: str, **work: Any) -> Row:
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


def _pretrained(record: BackboneRecord) -> Row:
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


def _tuned(record: TuneRecord, cost: CostRecord) -> Row:
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


def _searched(record: TicketRecord, dense_macs: float | None) -> Row:
    search = record.measured.search
    if search is None or dense_macs is None:
        return {}
    train = record.asked.settings["ticket"]["search"]["train"]
    return {"kind": "search", "passes": search.steps * train["gradient_accumulation"],
            "macs": 3 * dense_macs * search.examples_seen,
            "work_seconds": search.seconds}  # fmt: skip


def _jobs_of_run(run: RunSpec, size: Size, dense: ModelShape) -> Iterator[Row]:
    task, backbone, method = run.task, run.backbone, run.method
    needs = [f"dataset/{task.id}", f"backbone/{backbone.id}"]
    here = {"backbone": backbone.id, "task": task.id, "method": method.id, "digest": run.digest}
    yield {"id": needs[0], "stage": "dataset", "task": task.id,
           "digest": digest_of(task.settings()), "disk_bytes": size.stored_bytes}  # fmt: skip
    yield _backbone_job(backbone, dense)
    limits, tokens = run.limits, size.tokens
    train = min(limits["train_examples"] or size.train, size.train)
    answers = min(limits["evaluation_examples"] or size.evaluation, size.evaluation)
    dense = replace(dense, head=task.kind, label_count=task.label_count)
    shape = final = _stored(backbone, dense)
    if run.support:
        needs.append(f"support/{backbone.id}/{run.support.id}")
        yield {"id": needs[-1], "stage": "support", "needs": needs[1:2], "backbone": backbone.id,
               "digest": digest_of(run.support.settings())}  # fmt: skip
    if run.ticket:
        needs.append(f"ticket/{run.ticket_path}")
        recipe = run.ticket.settings()
        shape = final = _smaller(shape, recipe)
        passes, macs = 0.0, 0.0
        if recipe.get("search"):
            passes, macs = _search(recipe["search"], train, _forward(dense, tokens))
        yield {"id": needs[-1], "stage": "ticket", "kind": "search", "needs": needs[:2], **here,
               "digest": run.ticket_digest, "passes": passes, "macs": macs}  # fmt: skip
    elif method.mask["kind"] == "heads":
        final = _smaller(shape, method.mask)
    kind, passes, macs = _kind(method.settings()), 0.0, 0.0
    for phase in method.phases:
        shape = final if phase["kind"] == "prune" else shape
        if phase["kind"] == "train":
            more = _training(phase, train, _forward(shape, tokens), kind)
            passes, macs = passes + more[0], macs + more[1]
    kept = VALUE_BYTES * dense_parameters(final) * kind.startswith("full/")
    yield {"id": f"tune/{run.path}", "stage": "tune", "kind": kind, "needs": tuple(needs), **here,
           "passes": passes, "macs": macs, "disk_bytes": kept}  # fmt: skip
    work = _answers(answers, _forward(final, tokens), task.generation)
    yield {"id": f"evaluate/{run.path}", "stage": "evaluate", "needs": [f"tune/{run.path}"],
           **here, **work}  # fmt: skip
    yield {"id": f"cost/{run.path}", "stage": "cost", "needs": [f"evaluate/{run.path}"], **here}


def _backbone_job(backbone: Backbone, dense: ModelShape) -> Row:
    stored, recipe, passes, macs = _stored(backbone, dense), backbone.pretraining, 0, 0.0
    early = (recipe or {}).get("early")
    for number, phase in enumerate(recipe["phases"] if recipe else ()):
        batches = phase["gradient_accumulation"]
        tokens = float(phase["block_tokens"])
        if recipe["blocks"] == "documents":
            tokens = min(tokens, _DOCUMENT_TOKENS)
        steps = phase.get("steps") or _steps_of_corpus(backbone, phase)
        trainings = [(steps * (early["steps_share"] if early else 1), stored)]
        trainings += [(early["stop_steps"], dense)] if early and number == 0 else []
        head = "generation" if backbone.architecture == "gpt2" else "masked_lm"
        for count, shape in trainings:
            passes += count * batches
            once = 3 * _forward(replace(shape, head=head, pooler=False), tokens)
            macs += count * batches * phase["batch_size"] * once
    return {"id": f"backbone/{backbone.id}", "stage": "backbone", "kind": "pretraining",
            "backbone": backbone.id, "passes": passes, "macs": macs,
            "digest": digest_of(backbone.settings()),
            "disk_bytes": VALUE_BYTES * dense_parameters(stored)}  # fmt: skip


def _steps_of_corpus(backbone: Backbone, phase: Mapping[str, Any]) -> float:
    documents = backbone.source.get("documents")
    if documents is None or backbone.pretraining["blocks"] != "documents":
        raise ConfigError(
            f"backbone {backbone.id}: phase {phase['name']}: epochs of a corpus of unknown length; "
            "an estimate needs steps"
        )
    return phase["epochs"] * documents / (phase["batch_size"] * phase["gradient_accumulation"])


def _kind(method: Mapping[str, Any]) -> str:
    """What is trained, under which mask: jobs of one kind differ from the fit in the same way."""
    update = method["update"]
    return f"{update.get('type', update['kind'])}/{method['mask']['kind']}"


def _training(
    phase: Mapping[str, Any], examples: int, forward: float, kind: str
) -> tuple[float, float]:
    """Passes, and MACs of sequences: the mean batch is as full as an epoch's."""
    batch, accumulation = phase["batch_size"], phase["gradient_accumulation"]
    epoch = steps_in_epoch(examples, batch, accumulation)
    passes = max(1, round(phase["epochs"] * epoch)) * accumulation
    return passes, _times(kind) * forward * passes * examples / math.ceil(examples / batch)


def _search(search: Mapping[str, Any], examples: int, forward: float) -> tuple[float, float]:
    """A search that stops by itself is counted to its cap."""
    train = search["train"]
    epoch = steps_in_epoch(examples, train["batch_size"], train["gradient_accumulation"])
    length = search.get("cap_epochs") or search.get("stop_epochs") or search["stop_steps"] / epoch
    return _training({**train, "epochs": length}, examples, forward, "search")


def _times(kind: str) -> int:
    """Forward passes that a training pass costs: gradients of weights only where they train."""
    return 3 if kind.startswith(("full/", "search", "pretraining")) else 2


def _answers(
    examples: int, forward: float, generation: Mapping[str, Any] | None
) -> dict[str, float]:
    passes = math.ceil(examples / EVALUATION_BATCH)
    if generation is None:
        return {"passes": passes, "macs": examples * forward}
    return {"passes": passes * generation["maximum_new_tokens"],
            "macs": examples * forward * generation["beams"]}  # fmt: skip


def _forward(shape: ModelShape, tokens: float) -> int:
    return sum(executed_macs(shape, tokens).values())


def _stored(backbone: Backbone, dense: ModelShape) -> ModelShape:
    early = (backbone.pretraining or {}).get("early")
    return _smaller(dense, early) if early else dense


def _smaller(shape: ModelShape, recipe: Mapping[str, Any]) -> ModelShape:
    """The model after a recipe's shares of layers, heads and neurons were removed, about."""
    dropped = [recipe.get(f"{unit}_sparsity", 0.0) for unit in ("layer", "head", "neuron")]
    kept = [1.0 - share for share in dropped]
    layers = shape.layers[: max(1, round(kept[0] * len(shape.layers)))]
    return replace(shape, layers=tuple(
        LayerShape(max(1, round(kept[1] * one.heads)), one.head_size,
                   max(1, round(kept[2] * one.ffn_width))) for one in layers))  # fmt: skip


def _there(places: Sequence[Path], room: str, name: str) -> Path | None:
    folders = (place.parent / "resources" / room / name for place in places)
    return next((folder for folder in folders if (folder / "record.json").exists()), None)


def _size(task: Task, folder: Path | None, tokens: float | None) -> Size:
    """As the record and the runs tell, else as the catalogue does."""
    expected, sizes = task.expected or {}, task.source.get("sizes")
    told = {key: expected.get(key) for key in ("train_examples", "evaluation_examples", "tokens")}
    if sizes:
        split = "test" if task.evaluation_split == "test" else "evaluation"
        told |= {"train_examples": sizes["train"], "evaluation_examples": sizes[split]}
    stored = None
    if folder:
        measured = read_record(folder / "record.json", DatasetRecord).measured
        told["train_examples"] = measured.train_examples
        told["evaluation_examples"] = measured.evaluation_examples
        stored = measured.stored_bytes
    told["tokens"] = tokens or told["tokens"]
    for key, value in told.items():
        if value is None:
            raise ConfigError(f"task {task.id}: expected.{key}: missing, and no record tells it")
    train, evaluation, length = told.values()
    text = (train + evaluation) * length * _TEXT_BYTES_PER_TOKEN
    return Size(train, evaluation, length, text if stored is None else stored)


def _shape(backbone: Backbone, catalogue: Catalogue, folder: Path | None) -> ModelShape:
    """The backbone before any removal: as its folder has it, else as the catalogue tells."""
    if folder:
        config = read_json(folder / "config.json", what="backbone configuration")
        return ModelShape.dense(config, "regression", 1)
    sizes = dict(backbone.expected or {})
    if backbone.pretraining:
        tokenizer = backbone.pretraining["tokenizer"]
        lender = tokenizer.get("backbone")
        words = (catalogue.backbone(lender).expected or {}) if lender else tokenizer
        sizes = {**backbone.pretraining["shape"], "vocabulary_size": words.get("vocabulary_size")}
    if not sizes.get("vocabulary_size"):
        raise ConfigError(f"backbone {backbone.id}: expected: missing, and nothing was fetched")
    heads, hidden = sizes["heads"], sizes["hidden_size"]
    layer = LayerShape(heads, hidden // heads, sizes["feed_forward_size"])
    return ModelShape(
        backbone.architecture, hidden, (layer,) * sizes["layers"], sizes["vocabulary_size"],
        sizes["maximum_positions"], {"bert": 2, "roberta": 1}.get(backbone.architecture, 0),
        head="regression", label_count=1, pooler=False,
    )  # fmt: skip

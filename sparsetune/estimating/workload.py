"""The jobs of a suite and the work in each, counted from the catalogue before anything runs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparsetune.config.load import Backbone, RunSpec, Suite, Task
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.cost.macs import executed_macs, training_macs
from sparsetune.cost.params import VALUE_BYTES, count_parameters, dense_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import Update
from sparsetune.errors import ConfigError
from sparsetune.estimating.sizes import DOCUMENT_TOKENS, TaskSize, after_removal, under_head
from sparsetune.stages.cost import update_of
from sparsetune.training.plan import steps_in_epoch

_KEPT_CHECKPOINTS = 2  # as training/trainer.py
_COPIES = 3  # values and AdamW's two moments


@dataclass(frozen=True)
class Work:
    """What a job computes, besides starting.

    Attributes:
        batches: passes through the model (forward and, in training, backward); for generation,
            one for each new token.
        macs: multiply-adds of all passes.
        updates: optimizer steps x trained parameters.
    """

    batches: float = 0.0
    macs: float = 0.0
    updates: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.batches + other.batches, self.macs + other.macs, self.updates + other.updates
        )


@dataclass(frozen=True)
class Job:
    """One job of the workflow.

    Attributes:
        id: ``stage/...``, unlike any other job's.
        stage: its rule's.
        needs: ids of the jobs before it.
        work: to be done once started.
        backbone: its id, or empty.
        task: likewise.
        method: the method's, support's or ticket's id, or empty.
        steps: optimizer steps.
        tokens: seen in training, padding not counted.
        disk_bytes: what it leaves.
        peak_bytes: checkpoints while it runs.
        download_bytes: fetched from the hub.
        tokens_measured: whether the length of its examples is from records.
        digest: of its settings, as its record has it.
    """

    id: str
    stage: str
    needs: tuple[str, ...] = ()
    work: Work = Work()
    backbone: str = ""
    task: str = ""
    method: str = ""
    steps: int = 0
    tokens: float = 0.0
    disk_bytes: float = 0.0
    peak_bytes: float = 0.0
    download_bytes: float = 0.0
    tokens_measured: bool = True
    digest: str = ""


@dataclass(frozen=True)
class Sizes:
    """Sizes of everything a suite names.

    Attributes:
        tasks: task id -> size, before limits, for one backbone: lengths are of its tokenizer.
        shapes: backbone id -> (dense, as tuned), under any head.
    """

    tasks: Mapping[tuple[str, str], TaskSize]
    shapes: Mapping[str, tuple[ModelShape, ModelShape]]


def jobs_of(suite: Suite, sizes: Sizes) -> list[Job]:
    """List the suite's jobs, shared ones once.

    Args:
        suite: resolved.
        sizes: of every (backbone, task) and backbone of the suite.

    Returns:
        Jobs in the order of the data's flow: each after those that it needs.

    Raises:
        ConfigError: a pre-training whose steps cannot be told.
    """
    jobs: dict[str, Job] = {}
    plans: dict[tuple[str, ...], Any] = {}
    for run in suite.runs:
        for job in _jobs_of_run(run, sizes, plans, known=jobs):
            jobs[job.id] = job
    own = [job for job in jobs.values() if job.stage in ("evaluate", "cost")]
    groups: dict[tuple[str, str], list[str]] = {group: [] for group in suite.groups()}
    for job in own:
        groups[job.backbone, job.task].append(job.id)
    for (backbone, task), needs in groups.items():
        name = f"tables/{backbone}/{task}"
        jobs[name] = Job(name, "tables", tuple(needs), backbone=backbone, task=task)
    everything = tuple(job.id for job in own)
    for stage in ("tables", "claims", "figures", "track"):
        jobs[stage] = Job(stage, stage, everything)
    return list(jobs.values())


def _jobs_of_run(
    run: RunSpec, sizes: Sizes, plans: dict[tuple[str, ...], Any], *, known: Mapping[str, Job]
) -> Iterator[Job]:
    """Its jobs that are not known yet; seeds share the counting, which ``plans`` keeps."""
    size = sizes.tasks[run.backbone.id, run.task.id].limited(run.limits)
    if f"dataset/{run.task.id}" not in known:
        yield _dataset_job(run.task, sizes.tasks[run.backbone.id, run.task.id])
    if f"backbone/{run.backbone.id}" not in known:
        yield _backbone_job(run.backbone, *sizes.shapes[run.backbone.id])
    if run.support and f"support/{run.backbone.id}/{run.support.id}" not in known:
        yield _support_job(run, sizes.shapes[run.backbone.id][1])
    if run.ticket and f"ticket/{run.ticket_path}" not in known:
        key = ("ticket", run.backbone.id, run.task.id, run.ticket.id)
        if key not in plans:
            plans[key] = _search(run, size, sizes.shapes[run.backbone.id][0])
        yield _ticket_job(run, plans[key], measured=size.tokens_measured)
    if run.key not in plans:
        plans[run.key] = _plan(run, size, sizes.shapes[run.backbone.id][1])
    yield from _own(run, plans[run.key], measured=size.tokens_measured)


def _dataset_job(task: Task, size: TaskSize) -> Job:
    stored = size.stored_bytes if size.stored_bytes is not None else size.download_bytes
    fetched = size.download_bytes if task.source["kind"] == "hub" else 0.0
    name = f"dataset/{task.id}"
    return Job(name, "dataset", task=task.id, disk_bytes=stored, download_bytes=fetched)


def _backbone_job(backbone: Backbone, dense: ModelShape, stored: ModelShape) -> Job:
    size = VALUE_BYTES * dense_parameters(stored)
    work, steps, tokens = Work(), 0, 0.0
    if backbone.pretraining:
        work, steps, tokens = _pretraining(backbone, dense, stored)
    return Job(
        f"backbone/{backbone.id}", "backbone", (), work, backbone.id,
        steps=steps, tokens=tokens, disk_bytes=size,
        download_bytes=size if backbone.source["kind"] == "hub" else 0.0,
        peak_bytes=_KEPT_CHECKPOINTS * _COPIES * size if steps else 0.0,
    )  # fmt: skip


def _pretraining(
    backbone: Backbone, dense: ModelShape, stored: ModelShape
) -> tuple[Work, int, float]:
    """Work, steps and tokens of a pre-training; an early one searches first, then trains less."""
    recipe, early = backbone.pretraining, backbone.pretraining.get("early")
    kind = "generation" if backbone.architecture == "gpt2" else "masked_lm"
    plan = [(phase, _planned_steps(backbone, phase)) for phase in recipe["phases"]]
    passes = [(phase, steps, stored) for phase, steps in plan]
    if early:
        passes = [(phase, max(1, round(early["steps_share"] * steps)), stored)
                  for phase, steps in plan]  # fmt: skip
        passes.insert(0, (plan[0][0], early["stop_steps"], dense))
    work, tokens = Work(), 0.0
    for phase, steps, shape in passes:
        length = phase["block_tokens"]
        if recipe["blocks"] == "documents":
            length = min(length, DOCUMENT_TOKENS)
        batches = steps * phase["gradient_accumulation"]
        seen = batches * phase["batch_size"]
        work += _training(under_head(shape, kind, 1), Update.full(), steps, (batches, seen, length))
        tokens += seen * length
    return work, sum(steps for _, steps, _ in passes), tokens


def _planned_steps(backbone: Backbone, phase: Mapping[str, Any]) -> int:
    if "steps" in phase:
        return phase["steps"]
    documents = backbone.source.get("documents")
    if documents is None or backbone.pretraining["blocks"] != "documents":
        raise ConfigError(
            f"backbone {backbone.id}: phase {phase['name']}: epochs of a corpus of unknown length; "
            "an estimate needs steps"
        )
    epoch = steps_in_epoch(documents, phase["batch_size"], phase["gradient_accumulation"])
    return max(1, round(phase["epochs"] * epoch))


def _support_job(run: RunSpec, shape: ModelShape) -> Job:
    recipe = run.support.settings()
    macs = 0.0
    if recipe["recipe"] == "grebsmo":
        for _, _, rows, columns in shape.matrices(recipe["targets"], fused=False):
            # Each alternation: two products with a factor of the current rank, and their QR.
            ranks = [min(1 + turn * recipe["rank_growth"], rows, columns)
                     for turn in range(recipe["rounds"])]  # fmt: skip
            macs += recipe["inner_rounds"] * sum(
                3 * rows * columns * rank + rows * rank**2 for rank in ranks
            )
    name, place = f"support/{run.backbone.id}/{run.support.id}", f"backbone/{run.backbone.id}"
    return Job(name, "support", (place,), Work(macs=macs), run.backbone.id, method=run.support.id)


def _search(run: RunSpec, size: TaskSize, dense: ModelShape) -> tuple[Work, int, float]:
    """Work, steps and tokens of a ticket's search; nothing where none is searched."""
    search = run.ticket.values.get("search")
    if not search:
        return Work(), 0, 0.0
    batch = _batch(search["train"])
    steps = _search_steps(search, steps_in_epoch(size.train_examples, *batch))
    batches, seen = passes(size.train_examples, steps, *batch)
    kind, labels = run.task.kind, run.task.label_count
    if search["objective"] == "mlm":
        kind, labels = "masked_lm", 1
    shape = under_head(dense, kind, labels)
    work = _training(shape, Update.full(), steps, (batches, seen, size.tokens))
    return work, steps, seen * size.tokens


def _ticket_job(run: RunSpec, search: tuple[Work, int, float], *, measured: bool) -> Job:
    work, steps, tokens = search
    return Job(
        f"ticket/{run.ticket_path}", "ticket", _inputs(run), work, run.backbone.id, run.task.id,
        run.ticket.id, steps, tokens, tokens_measured=measured or not steps,
        digest=run.ticket_digest,
    )  # fmt: skip


def _search_steps(search: Mapping[str, Any], epoch: int) -> int:
    """A settled search ends when its masks say so, so its cap is counted."""
    if search["stop"] == "settled" and "cap_epochs" in search:
        return max(1, round(search["cap_epochs"] * epoch))
    return search.get("stop_steps") or max(1, round(search["stop_epochs"] * epoch))


def _batch(settings: Mapping[str, Any]) -> tuple[int, int]:
    return settings["batch_size"], settings["gradient_accumulation"]


def passes(examples: int, steps: int, batch_size: int, accumulation: int) -> tuple[int, float]:
    """Batches and sequences in so many optimizer steps.

    Args:
        examples: in the training split, > 0.
        steps: of the optimizer.
        batch_size: examples in a batch.
        accumulation: batches in a step.

    Returns:
        Batches, and sequences: the mean batch is as full as an epoch's.

    Example:
        >>> passes(100, 4, 32, 1)  # batches of 32, 32, 32 and 4
        (4, 100.0)
    """
    batches = steps * accumulation
    return batches, batches * examples / math.ceil(examples / batch_size)


def _training(
    shape: ModelShape, update: Update, steps: int, seen: tuple[float, float, float]
) -> Work:
    batches, sequences, tokens = seen
    macs = sum(training_macs(shape, tokens, update).values()) * sequences
    trained = count_parameters(shape, update).trained_with_head
    return Work(batches, macs, steps * trained)


def _inputs(run: RunSpec) -> tuple[str, ...]:
    return (f"dataset/{run.task.id}", f"backbone/{run.backbone.id}")


@dataclass(frozen=True)
class _Plan:
    """What all seeds of a run have in common."""

    training: Work
    evaluation: Work
    steps: int
    tokens: float
    disk_bytes: float
    peak_bytes: float


def _plan(run: RunSpec, size: TaskSize, stored: ModelShape) -> _Plan:
    before, final = _shapes(run, under_head(stored, run.task.kind, run.task.label_count))
    work, steps, tokens = Work(), 0, 0.0
    for phase, shape in _phases(run, before, final):
        epoch = steps_in_epoch(size.train_examples, *_batch(phase))
        count = max(1, round(phase["epochs"] * epoch))
        batches, seen = passes(size.train_examples, count, *_batch(phase))
        work += _training(shape, _update(run, shape), count, (batches, seen, size.tokens))
        steps, tokens = steps + count, tokens + seen * size.tokens
    update = _update(run, final)
    masked = run.method.mask["kind"] in ("unstructured", "n-of-m")
    zeros = {key: 0 for key, *_ in final.sites()} if masked else None
    counted = count_parameters(final, update, zeros)
    return _Plan(
        work, _evaluation(run, size, final, update), steps, tokens, counted.stored_bytes,
        _KEPT_CHECKPOINTS * _COPIES * VALUE_BYTES * counted.trained_with_head,
    )  # fmt: skip


def _own(run: RunSpec, plan: _Plan, *, measured: bool) -> Iterator[Job]:
    needs = list(_inputs(run))
    needs += [f"support/{run.backbone.id}/{run.support.id}"] if run.support else []
    needs += [f"ticket/{run.ticket_path}"] if run.ticket else []
    named = {"backbone": run.backbone.id, "task": run.task.id, "method": run.method.id,
             "tokens_measured": measured, "digest": run.digest}  # fmt: skip
    yield Job(
        f"tune/{run.path}", "tune", tuple(needs), plan.training, steps=plan.steps,
        tokens=plan.tokens, disk_bytes=plan.disk_bytes, peak_bytes=plan.peak_bytes, **named,
    )  # fmt: skip
    after = (f"tune/{run.path}",)
    yield Job(f"evaluate/{run.path}", "evaluate", after, plan.evaluation, **named)
    yield Job(f"cost/{run.path}", "cost", (*after, f"evaluate/{run.path}"), **named)


def _shapes(run: RunSpec, dense: ModelShape) -> tuple[ModelShape, ModelShape]:
    """The model as its training begins, and as it ends."""
    mask = run.method.mask
    if run.ticket:
        recipe = run.ticket.values
        if recipe["origin"] == "layers":
            layers = len(dense.layers)
            kept = layers - int(recipe["layer_sparsity"] * layers + 0.5)
            small = dense.with_layers(range(kept))
        else:
            small = after_removal(dense, recipe["head_sparsity"], recipe["neuron_sparsity"])
        return small, small
    if mask["kind"] == "heads":
        return dense, after_removal(dense, mask["head_sparsity"], 0.0)
    return dense, dense


def _phases(
    run: RunSpec, before: ModelShape, final: ModelShape
) -> Iterator[tuple[Mapping[str, Any], ModelShape]]:
    shape = before
    for phase in run.method.phases:
        if phase["kind"] == "prune":
            shape = final
        else:
            yield phase, shape


def _update(run: RunSpec, shape: ModelShape) -> Update:
    settings, entries = dict(run.method.update), 0
    if run.support:
        recipe = run.support.settings()
        settings["targets"] = recipe["targets"]
        entries = 0 if recipe["recipe"] == "empty" else recipe["n_sparse"]
    entries = settings.get("n_sparse", entries)
    return update_of(settings, {key: entries for key, *_ in shape.sites()} if entries else {})


def _evaluation(run: RunSpec, size: TaskSize, shape: ModelShape, update: Update) -> Work:
    settings = run.task.generation
    macs = sum(executed_macs(shape, size.tokens, update).values()) * size.evaluation_examples
    batches = math.ceil(size.evaluation_examples / EVALUATION_BATCH)
    if settings is None:
        return Work(batches, macs)
    return Work(batches * settings["maximum_new_tokens"], macs * settings["beams"])

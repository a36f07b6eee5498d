"""What a suite will take, told before it runs, and how far off that was for what has run.

A job's seconds = start-up of its stage + passes through the model x seconds of one, scaled by
multiply-adds and device from finished jobs; where none tells, they are assumed. Without torch.
"""

import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune import records
from sparsetune.architectures.families import FAMILIES
from sparsetune.config.backbone import Backbone, Pretraining
from sparsetune.config.load import Catalogue
from sparsetune.config.method import HeadsMask, TrainPhase
from sparsetune.config.settings import OptimizerSettings, Settings
from sparsetune.config.suite import RunSpec, Suite
from sparsetune.config.task import SyntheticTask, Task
from sparsetune.config.ticket import SearchedTicket
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.shapes import LayerShape, ModelShape
from sparsetune.errors import ConfigError, DataError, ModelError, refusal
from sparsetune.records import STAGES, read_json, read_record
from sparsetune.training.plan import steps_in_epoch

Row = dict[str, Any]

COLUMNS: Row = {
    "id": "", "stage": "", "kind": "", "backbone": "", "task": "", "digest": "", "needs": (),
    "passes": 0.0, "macs": 0.0, "device": "", "device_kind": "", "work_seconds": 0.0,
    "job_seconds": 0.0,
}  # fmt: skip
"""Column of a frame of jobs -> its value where a job has none.

``kind``: of work, e.g. what trains under which mask; ``passes``: batches through the model, for
generation one for each new token; ``macs``: multiply-adds of all passes; ``work_seconds``: of the
passes; ``job_seconds``: of the process.
"""
# Assumptions, used only where no record tells. Start-up: imports, loading, writing.
START_UP_SECONDS = {
    "dataset": 5.0, "backbone": 10.0, "support": 6.0, "ticket": 8.0, "tune": 8.0, "evaluate": 8.0,
    "cost": 1.0, "tables": 1.0, "claims": 3.0, "figures": 5.0, "track": 5.0,
}  # fmt: skip
PEAK_MACS_PER_SECOND = {  # dense products in 16 bits, as the makers state them: FLOPS / 2
    "t4": 32.5e12, "v100": 62.5e12, "l4": 60.5e12, "a10": 62.5e12, "a100": 156e12,
    "l40s": 181e12, "h100": 494.5e12, "h200": 494.5e12,
}  # fmt: skip
_CORE = (0.02, 1 / 20e9)  # seconds of a pass and of a multiply-add
_GPU_PASS_SECONDS, _PEAK_SHARE = 0.04, 0.2  # short sequences in small batches: far from the peak
_DEVICE_STAGES = ("backbone", "ticket", "tune", "evaluate")
_SIZES = ("train_examples", "evaluation_examples", "tokens")
_MADE = Path("resources")  # what was fetched before tells what the catalogue does not
_DOCUMENT_TOKENS = 28.0  # of the generated corpus, as measured


def estimate(
    suite: Suite,
    catalogue: Catalogue,
    *,
    results: Sequence[Path] = (),
    cores: int | None = None,
    gpus: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Predict the jobs of a suite and their time.

    Args:
        suite: resolved.
        catalogue: that it was resolved from.
        results: folders with finished suites to learn from; none = ``results``, if it is there.
        cores: jobs at once, of those that hold a core; None = the machine's.
        gpus: jobs at once, of those that hold a GPU; None = one if the suite asks for a GPU.
        device: name of the device, or a part of it; None = as the records have it.

    Returns:
        Plain data, which :func:`as_text` prints.

    Raises:
        ConfigError: a folder that is not there, a device of which nothing is known, or a size
            that the catalogue does not tell.
        DataError: a record is damaged.
    """
    for folder in results:
        if not folder.is_dir():
            raise ConfigError(f"--results: received {folder}: no such folder; it holds suites")
    places = list(results) or [Path("results")]
    finished = _frame_of(row for place in places for row in _finished_jobs(place))
    if results and finished.empty:
        told = ", ".join(map(str, results))
        raise ConfigError(f"--results: received {told}: no finished job below <suite>/runs")
    wish = "cuda" if gpus else suite.device
    kinds = ["cpu", "cuda"] if wish == "auto" else [wish]
    there = finished[finished["device_kind"].isin(kinds)]["device"]
    device = device or str(next(iter(there.mode()), "a100" if wish == "cuda" else "cpu"))
    used = _of_device(finished, device)
    is_gpu = device != "cpu" and "cpu" not in set(used["device_kind"])
    if gpus and not is_gpu:
        raise ConfigError(f"--gpus: received {gpus}, but --device {device!r} is no GPU")
    jobs = _jobs_of(suite, catalogue)
    jobs = jobs.assign(jobs=1, seconds=_predict(jobs, finished, device))
    capacity = {"core": cores or os.cpu_count() or 1, "gpu": (gpus or 1) if is_gpu else 0}
    stages = jobs.groupby("stage", sort=False)[["jobs", "passes", "macs", "seconds"]].sum()
    known = f"{len(used)} finished jobs on {', '.join(used['device'].unique())}"
    return {
        "suite": suite.id,
        "place": f"{capacity['gpu'] or capacity['core']} x {device}",
        "jobs": len(jobs),
        "stages": stages.reset_index().to_dict("records"),
        "job_seconds": float(jobs["seconds"].sum()),
        "wall_seconds": _wall_seconds(jobs, capacity),
        "speed": f"from {known}" if len(used) else f"ASSUMED: no finished job tells of {device}",
        "comparison": _compare(jobs, finished, device).reset_index().to_dict("records"),
    }


def as_text(told: Mapping[str, Any]) -> str:
    """Lay out an estimate for a terminal: tables and totals."""
    formats: dict[Any, Callable[[float], str]] = {
        "macs": "{:.1e}".format, "passes": "{:,.0f}".format, "off": "x {:.2f}".format,
        **dict.fromkeys(("seconds", "predicted", "measured"), _duration),
    }  # fmt: skip
    stages, compared = (
        pd.DataFrame(told[name]).to_string(index=False, formatters=formats)
        for name in ("stages", "comparison")
    )
    lines = [
        f"suite {told['suite']}: {told['jobs']} jobs on {told['place']}",
        *("", stages, ""),
        f"all jobs    {_duration(told['job_seconds'])}, one after the other",
        f"wall clock  {_duration(told['wall_seconds'])} on {told['place']}",
        f"speed       {told['speed']}",
    ]
    if told["comparison"]:
        lines += ["", "What has run, and what jobs of the other tasks foretell", compared]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _predict(jobs: pd.DataFrame, finished: pd.DataFrame, device: str) -> "pd.Series[float]":
    """Seconds of each job, from the start of its process to its end.

    What is assumed of the device is multiplied by measured / assumed seconds of finished jobs: the
    median over the same kind of work, else over the stage, else over all. Jobs of another device
    are compared with what is assumed of that one.
    """
    used = _of_device(finished, device)
    done = used[(used["passes"] > 0) & (used["work_seconds"] > 0)]
    guesses = [assumed_seconds(row.device, row.device_kind, row) for row in done.itertuples()]
    ratio = done["work_seconds"] / guesses
    by_kind, by_stage = (ratio.groupby(done[name]).median() for name in ("kind", "stage"))
    times = jobs["kind"].map(by_kind).fillna(jobs["stage"].map(by_stage))
    times = times.fillna(ratio.median() if len(ratio) else 1.0)
    waited = (used["job_seconds"] - used["work_seconds"]).clip(lower=0)
    start_up = {**START_UP_SECONDS, **waited.groupby(used["stage"]).median()}
    kind = next(iter(used["device_kind"]), "")
    return assumed_seconds(device, kind, jobs) * times + jobs["stage"].map(start_up)


def _of_device(finished: pd.DataFrame, device: str) -> pd.DataFrame:
    """Jobs on this device, each once; if there are none, those on any GPU if this is one."""
    jobs = finished.drop_duplicates(["id", "digest"])
    named = jobs["device"].str.lower().str.contains(device.lower(), regex=False)
    on_it = jobs[named | (jobs["device_kind"] == device.lower())]
    return jobs[jobs["device_kind"] == "cuda"] if on_it.empty and device != "cpu" else on_it


def assumed_seconds(device: str, kind: str, work: Any) -> Any:
    """Tell what a device is assumed to take for passes through a model.

    Args:
        device: its name or a part of it, ``cpu``, or one of :data:`PEAK_MACS_PER_SECOND`.
        kind: as records have it: a GPU that has run but is not in the table counts as an A100.
        work: has ``passes`` and ``macs``, numbers or columns.

    Raises:
        ConfigError: a device of which nothing is known.
    """
    if "cpu" in (device, kind):
        return work.passes * _CORE[0] + work.macs * _CORE[1]
    held = [one for one in PEAK_MACS_PER_SECOND if one in device.lower()]
    name = max(held, key=len, default="a100" if kind else None)  # "a10" is in the name of an A100
    if name is None:
        raise ConfigError(refusal("--device", "name", device, ["cpu", *PEAK_MACS_PER_SECOND]))
    return work.passes * _GPU_PASS_SECONDS + work.macs / (_PEAK_SHARE * PEAK_MACS_PER_SECOND[name])


def _compare(jobs: pd.DataFrame, finished: pd.DataFrame, device: str) -> pd.DataFrame:
    """By task and for all: what finished jobs took beside what those of all other tasks foretell.

    Of jobs that have run, the planned work is what is judged; empty if fewer than two tasks have.
    """
    held = _of_device(finished, device)
    held = held[(held["passes"] > 0) & (held["task"] != "")]
    if held["task"].nunique() < 2:
        return pd.DataFrame()
    held = held.merge(jobs[["id", "digest", "passes", "macs"]], how="left", on=["id", "digest"],
                      suffixes=("_done", ""))  # fmt: skip
    for column in ("passes", "macs"):
        held[column] = held[column].fillna(held[f"{column}_done"])
    for task, part in held.groupby("task"):
        others = finished[finished["task"] != task]
        held.loc[part.index, "predicted"] = _predict(part, others, device)
    told = held.assign(jobs=1, measured=held["job_seconds"]).groupby("task")
    sums = told[["jobs", "predicted", "measured"]].sum()
    sums.loc["all"] = sums.sum()
    return sums.assign(jobs=sums["jobs"].astype(int), off=sums["measured"] / sums["predicted"])


def _wall_seconds(jobs: pd.DataFrame, capacity: Mapping[str, int]) -> float:
    """Length of a list schedule: what can start first goes first to the place that is free first.

    At most the longest chain above total / cores (Graham 1969). A job that another needs may be
    missing: it was made before.
    """
    rows = {row.id: row for row in jobs.itertuples()}
    needs = {name: rows.keys() & set(row.needs) for name, row in rows.items()}
    after: dict[str, list[str]] = {name: [] for name in rows}
    for name, needed in needs.items():
        for need in needed:
            after[need].append(name)
    free = {place: [0.0] * count for place, count in capacity.items()}
    ends: dict[str, float] = {}
    ready = [(0.0, name) for name, needed in needs.items() if not needed]
    while ready:
        since, name = heapq.heappop(ready)
        on_gpu = free["gpu"] and rows[name].stage in _DEVICE_STAGES
        places = free["gpu" if on_gpu else "core"]
        ends[name] = max(since, places[0]) + rows[name].seconds
        heapq.heapreplace(places, ends[name])
        for other in after[name]:
            if needs[other] <= ends.keys():
                heapq.heappush(ready, (max(ends[need] for need in needs[other]), other))
    return max(ends.values(), default=0.0)


def _frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a frame with all of :data:`COLUMNS`."""
    return pd.DataFrame([{**COLUMNS, **row} for row in rows], columns=list(COLUMNS))


def _finished_jobs(results: Path) -> Iterator[Row]:
    """Finished training and evaluation below a folder, with the work in each job.

    A run whose cost is not counted yet is left out: its record does not tell its work.
    """
    for path in sorted(results.glob("*/runs/*/*/*/seed-*/cost.json")):
        tail = "/".join(path.parts[-5:-1])
        cost = read_record(path, records.CostRecord)
        tune = read_record(path.with_name("tune.json"), records.TuneRecord)
        answered = read_record(path.with_name("evaluate.json"), records.EvaluateRecord)
        done, forward = tune.measured, cost.measured.macs_executed_per_example
        method = tune.asked.settings["method"]
        batches = {phase["name"]: phase.get("gradient_accumulation") for phase in method["phases"]}
        trained = [phase for phase in done.phases if phase.kind == "train"]
        training = {
            "kind": _kind(method),
            "passes": sum(phase.steps * batches[phase.name] for phase in trained),
            "macs": _times(method) * forward * done.examples_seen,
            "work_seconds": done.train_seconds,
        }
        generation = answered.asked.settings["scoring"].get("generation")
        answers = _answers(answered.measured.n_examples, forward, generation)
        answers["work_seconds"] = answered.measured.evaluate_seconds
        for record, work in ((tune, training), (answered, answers)):
            asked, where = record.asked, record.where
            yield {
                "id": f"{asked.stage}/{tail}", "stage": asked.stage, "task": asked.task,
                "digest": asked.digest, "device": where.device.name,
                "device_kind": where.device.kind,
                "job_seconds": where.seconds + (where.start_up_seconds or 0.0), **work,
            }  # fmt: skip


def _jobs_of(suite: Suite, catalogue: Catalogue) -> pd.DataFrame:
    """The suite's jobs with their work, shared ones once, in an order in which they can run."""
    rows = {job["id"]: job for run in suite.runs for job in jobs_of_run(run, catalogue)}
    own = [job for job in rows.values() if job["stage"] == "cost"]
    for pair in suite.groups():
        needs = [job["id"] for job in own if (job["backbone"], job["task"]) == pair]
        name = "/".join(("tables", *pair))
        rows[name] = {"id": name, "stage": "tables", "needs": needs}
    for stage in ("tables", "claims", "figures", "track"):
        rows[stage] = {"id": stage, "stage": stage, "needs": [job["id"] for job in own]}
    order = list(STAGES).index
    return _frame_of(sorted(rows.values(), key=lambda job: order(job["stage"])))


def jobs_of_run(run: RunSpec, catalogue: Catalogue) -> Iterator[Row]:
    """List the jobs that one run needs, from its data set to its cost, as :data:`COLUMNS` has them.

    Args:
        run: resolved.
        catalogue: that it was resolved from.

    Raises:
        ConfigError: a size that the catalogue does not tell.
    """
    task, backbone, recipe = run.task, run.backbone, run.backbone.pretraining
    data, start = f"dataset/{task.id}", f"backbone/{backbone.id}"
    here = {"backbone": backbone.id, "task": task.id, "digest": run.digest}
    train, answers, tokens = sizes_of(run)
    dense = shape_of(backbone, catalogue)
    yield {"id": data, "stage": "dataset"}
    work = _pretraining(backbone, recipe, dense) if recipe else {}
    yield {"id": start, "stage": "backbone", "kind": "full/none", **work}
    needs = [data, start]
    dense = replace(dense, head=task.kind, label_count=task.label_count)
    shape = final = _smaller(dense, recipe.early) if recipe and recipe.early else dense
    if run.support:
        needs.append(f"support/{backbone.id}/{run.support.id}")
        yield {"id": needs[-1], "stage": "support", "needs": [start]}
    if run.ticket:
        shape = final = _smaller(shape, run.ticket)
        work = {}
        if isinstance(run.ticket, SearchedTicket):  # one that stops by itself: to its cap
            search, how = run.ticket.search, run.ticket.search.train
            steps = steps_in_epoch(train, how.batch_size, how.gradient_accumulation)
            epochs = search.cap_epochs or search.stop_epochs or (search.stop_steps or 0) / steps
            work = _training(how, epochs, train, 3 * _forward(dense, tokens))
        needs.append(f"ticket/{run.ticket_path}")
        yield {"id": needs[-1], "stage": "ticket", "kind": "full/none", "needs": [data, start],
               **work}  # fmt: skip
    elif isinstance(run.method.mask, HeadsMask):
        final = _smaller(shape, run.method.mask)
    method, phases = run.method.settings(), []
    for phase in run.method.phases:
        if isinstance(phase, TrainPhase):
            macs = _times(method) * _forward(shape, tokens)
            phases.append(_training(phase, phase.epochs, train, macs))
        else:
            shape = final
    work = {name: sum(phase[name] for phase in phases) for name in ("passes", "macs")}
    tune, evaluate = f"tune/{run.path}", f"evaluate/{run.path}"
    yield {"id": tune, "stage": "tune", "kind": _kind(method), "needs": needs, **here, **work}
    generation = task.generation.model_dump() if task.generation else None
    work = _answers(answers, _forward(final, tokens), generation)
    yield {"id": evaluate, "stage": "evaluate", "needs": [tune], **here, **work}
    yield {"id": f"cost/{run.path}", "stage": "cost", "needs": [evaluate], **here}


def _pretraining(backbone: Backbone, recipe: Pretraining, dense: ModelShape) -> Row:
    """The work of a backbone's own training; a search before it is counted on the dense model."""
    early, by_document = recipe.early, recipe.blocks == "documents"
    head = FAMILIES[backbone.architecture].language_model
    dense = replace(dense, head=head)
    stored = _smaller(dense, early) if early else dense
    documents = getattr(backbone.source, "documents", None) if by_document else None
    trainings = [(recipe.phases[0], float(early.stop_steps), dense)] if early else []
    for phase in recipe.phases:
        if phase.steps is None and documents is None:
            raise ConfigError(
                f"backbone {backbone.id}: phase {phase.name}: epochs of a corpus of unknown "
                "length; an estimate needs steps"
            )
        batch = phase.batch_size * phase.gradient_accumulation
        steps = phase.steps or (phase.epochs or 0) * (documents or 0) / batch
        trainings.append((phase, steps * (early.steps_share if early else 1.0), stored))
    work = {"passes": 0.0, "macs": 0.0}
    for phase, steps, shape in trainings:
        tokens = min(phase.block_tokens, _DOCUMENT_TOKENS if by_document else math.inf)
        passes = steps * phase.gradient_accumulation
        work["passes"] += passes
        work["macs"] += passes * phase.batch_size * 3 * _forward(shape, tokens)
    return work


def _training(settings: OptimizerSettings, epochs: float, examples: int, macs: float) -> Row:
    """Passes of a training, and the MACs of its sequences: the mean batch is as full as all."""
    batch, accumulation = settings.batch_size, settings.gradient_accumulation
    passes = max(1, round(epochs * steps_in_epoch(examples, batch, accumulation))) * accumulation
    return {"passes": passes, "macs": macs * passes * examples / math.ceil(examples / batch)}


def _answers(examples: int, forward: float, generation: Mapping[str, Any] | None) -> Row:
    passes, macs = math.ceil(examples / EVALUATION_BATCH), examples * forward
    if generation is None:
        return {"kind": "answers", "passes": passes, "macs": macs}
    tokens, beams = generation["maximum_new_tokens"], generation["beams"]
    return {"kind": "generation", "passes": passes * tokens, "macs": macs * beams}


def _kind(method: Mapping[str, Any]) -> str:
    update = method["update"]
    return f"{update.get('type', update['kind'])}/{method['mask']['kind']}"


def _times(method: Mapping[str, Any]) -> int:
    """Forward passes that a training pass costs: gradients of weights only where they train."""
    return 3 if method["update"]["kind"] == "full" else 2


def _forward(shape: ModelShape, tokens: float) -> int:
    return sum(macs_by_module(shape, tokens).values())


def _smaller(shape: ModelShape, recipe: Settings) -> ModelShape:
    """The model after a recipe's shares of layers, heads and neurons were removed, about."""
    layers, heads, neurons = (
        1.0 - getattr(recipe, f"{unit}_sparsity", 0.0) for unit in ("layer", "head", "neuron")
    )
    one = shape.layers[0]  # all are alike
    kept = replace(one, heads=max(1, round(heads * one.heads)),
                   ffn_width=max(1, round(neurons * one.ffn_width)))  # fmt: skip
    return replace(shape, layers=(kept,) * max(1, round(layers * len(shape.layers))))


def sizes_of(run: RunSpec) -> tuple[int, int, float]:
    """Examples of training and evaluation, within the run's limits, and their mean length.

    Raises:
        ConfigError: the catalogue does not tell.
    """
    task, limits = run.task, run.limits.model_dump()
    told: Row = task.expected.model_dump() if task.expected else {}
    if isinstance(task.source, SyntheticTask):
        sizes = task.source.sizes.model_dump()
        split = "test" if task.evaluation_split == "test" else "evaluation"
        told |= {"train_examples": sizes["train"], "evaluation_examples": sizes[split]}
    if None in map(told.get, _SIZES):
        told = {**_read_sizes(task), **{key: one for key, one in told.items() if one is not None}}
    for key in _SIZES:
        if told.get(key) is None:
            raise ConfigError(f"task {task.id}: expected.{key}: missing; an estimate needs it")
        told[key] = min(told[key], limits.get(key) or math.inf)
    return told["train_examples"], told["evaluation_examples"], told["tokens"]


def _read_sizes(task: Task) -> Row:
    """Sizes of a data set that was made before; texts count as long as they may be."""
    try:
        record = read_record(_MADE / "datasets" / task.id / "record.json", records.DatasetRecord)
    except DataError:
        return {}
    done = record.measured
    train = done.train_references or done.train_examples
    sizes = {"train_examples": train, "evaluation_examples": done.evaluation_examples}
    return {**sizes, "tokens": task.maximum_tokens}


def _read_shape(backbone: Backbone) -> ModelShape | None:
    """Shape of a backbone that was fetched before."""
    try:
        config = read_json(_MADE / "backbones" / backbone.id / "config.json")
        return replace(ModelShape.dense(config, "regression", 1), pooler=False)
    except (DataError, ModelError):
        return None


def shape_of(backbone: Backbone, catalogue: Catalogue) -> ModelShape:
    """The backbone before any removal, as the catalogue tells, without a head.

    Raises:
        ConfigError: the catalogue does not tell.
    """
    recipe, lender = backbone.pretraining, backbone.published_tokenizer
    words = catalogue.backbone(lender).expected if lender else recipe and recipe.tokenizer
    vocabulary = getattr(words if recipe else backbone.expected, "vocabulary_size", None)
    found = recipe.shape if recipe else backbone.expected
    if found is None and (fetched := _read_shape(backbone)) is not None:
        return fetched
    if found is None or vocabulary is None:
        raise ConfigError(f"backbone {backbone.id}: expected: missing; an estimate needs it")
    told = backbone.expected if recipe is None else None
    shared = (told and told.key_value_heads) or found.heads
    layer = LayerShape(
        shared,
        (told and told.head_size) or found.hidden_size // found.heads,
        found.feed_forward_size,
        found.heads // shared,
        gated=FAMILIES[backbone.architecture].gated,
    )
    return ModelShape(
        backbone.architecture, found.hidden_size, (layer,) * found.layers, vocabulary,
        found.maximum_positions, 0, head="regression", label_count=1, pooler=False,
    )  # fmt: skip

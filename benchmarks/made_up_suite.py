"""The papers' 2,585 runs, finished though nobody trained them: files with made-up numbers.

The catalogue, the settings and the layout of every file are real; what was measured is drawn at
random. Only to see how long reading, judging and drawing take.
"""

import csv
import json
import os
import platform
from pathlib import Path

import numpy as np

from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.config.ticket import SearchedTicket
from sparsetune.evaluation.predictions import NAME, write_predictions
from sparsetune.records import RECORDS, TicketRecord, write_record
from sparsetune.stages.context import asked_of_run

ROOT = Path(__file__).resolve().parent.parent
SUITE = ROOT / "config" / "paper.yaml"
EXAMPLES = 400
# The widths that tickets and layers have: layers, heads, neurons, parameters.
SHAPES = {
    "bert-base": (12, 12, 3072, 109_000_000),
    "bert-large": (24, 16, 4096, 335_000_000),
    "roberta-base": (12, 12, 3072, 125_000_000),
    "roberta-large": (24, 16, 4096, 355_000_000),
    "gpt2": (12, 12, 3072, 124_000_000),
    "gpt2-medium": (24, 16, 4096, 355_000_000),
}
SPARSITY = {"none": 0.0, "ticket": 0.3}
WORDS = ("city", "old", "stone", "near", "the", "river", "where", "two", "roads", "meet")
CHECKS = 100
SPEED = {
    "sequences": 1, "tokens": 32, "threads": 1, "sequences_per_second": 100.0, "repeats": 3,
    "latency_median_seconds": 0.01, "latency_p90_seconds": 0.02,
    "latency_minimum_seconds": 0.01, "warmup": 2, "engine": "eager",
}  # fmt: skip
WHERE = {
    "commit": "c" * 40,
    "dirty": False,
    "device": {"kind": "cpu", "name": "made up"},
    "started": "2026-01-01T00:00:00Z",
    "ended": "2026-01-01T00:10:00Z",
    "packages": {"numpy": np.__version__, "torch": "0", "transformers": "0"},
    "platform": platform.platform(),
    "python": platform.python_version(),
    "seconds": 600.0,
    "start_up_seconds": 5.0,
}


def write_suite(results):
    """Write all files of the suite that tables, claims and figures read.

    Args:
        results: folder to write, the suite's own.

    Returns:
        The suite.
    """
    suite = Catalogue(SUITE.parent).suite(read_yaml(SUITE), origin=SUITE.name)
    generator = np.random.default_rng(0)
    tasks = {run.task.id: run.task for run in suite.runs}
    answers = {name: _references(task, generator) for name, task in tasks.items()}
    for run in suite.runs:
        folder = results / "runs" / run.path
        folder.mkdir(parents=True)
        references = answers[run.task.id]
        _write_records(run, folder, generator)
        _write_history(run, folder / "history.csv", generator)
        predictions = _predictions(run.task.kind, references, generator)
        names = [f"{run.task.id}-{number}" for number in range(EXAMPLES)]
        write_predictions(folder / NAME, names, predictions, references)
    gates = {}
    for run in {run.ticket_path: run for run in suite.runs if run.ticket}.values():
        folder = results / "tickets" / run.ticket_path
        folder.mkdir(parents=True)
        _write_ticket(run, folder, generator)
        if isinstance(run.ticket, SearchedTicket):
            made = gates.setdefault(run.backbone.id, folder / "gates.npz")
            if made.exists():
                os.link(made, folder / "gates.npz")
            else:
                _write_gates(SHAPES[run.backbone.id], made, generator)
    return suite


def _references(task, generator):
    """What is right on each example: a label, a score, or several texts."""
    if task.kind == "classification":
        return generator.integers(0, len(task.labels), EXAMPLES).tolist()
    if task.kind == "regression":
        return generator.uniform(0, 5, EXAMPLES).round(2).tolist()
    return [[" ".join(generator.choice(WORDS, 3)) for _ in range(3)] for _ in range(EXAMPLES)]


def _predictions(kind, references, generator):
    """Right for most of the examples, and another example's answer for the others."""
    chosen = np.where(generator.random(EXAMPLES) < 0.8, np.arange(EXAMPLES),
                      generator.permutation(EXAMPLES))  # fmt: skip
    answers = [references[index] for index in chosen]
    return [one[0] for one in answers] if kind in ("span", "generation") else answers


def _write_records(run, folder, generator):
    asked = asked_of_run(run)
    model = generator.bytes(32).hex()
    tuned = _tuned(run, generator)
    tuned["model_sha256"] = model
    measured = {"tune": tuned, "evaluate": _evaluated(run, generator), "cost": _counted(run, tuned)}
    own = f"results/{run.suite}/runs/{run.path}/model.safetensors"
    for stage, values in measured.items():
        inputs = {f"resources/datasets/{run.task.id}/record.json": "d" * 64}
        where = dict(WHERE)
        if stage == "tune":
            where["tracking"] = {"mlflow_run_id": model[:32], "problem": None}
        else:
            inputs[own] = model
        record = RECORDS[stage].of(asked, inputs=inputs, measured=values, where=where)
        write_record(folder / f"{stage}.json", record)


def _tuned(run, generator):
    whole = SHAPES[run.backbone.id][3]
    phases = [
        {
            "name": phase.name, "kind": "train", "steps": 300, "examples_seen": 9600,
            "tokens_seen": 300_000, "seconds": round(float(generator.uniform(50, 90)), 3),
            "loading_seconds": 1.0, "final_loss": float(generator.uniform(0.1, 0.6)),
            "engine": "eager",
            "resumed_at_step": 0,
        }
        for phase in run.method.phases
        if phase.kind == "train"
    ]  # fmt: skip
    metric = run.task.metrics[0]
    return {
        "phases": phases,
        "train_seconds": sum(phase["seconds"] for phase in phases),
        "loading_seconds": sum(phase["loading_seconds"] for phase in phases),
        "steps": 300 * len(phases), "examples_seen": 9600 * len(phases),
        "tokens_seen": 300_000 * len(phases), "final_loss": phases[-1]["final_loss"],
        "parameters_trained": whole if run.method.update.kind == "full" else whole // 200,
        "peak_memory_bytes": 2_000_000_000, "scoring_seconds": 3.0,
        "epoch_scores": [
            {"epoch": epoch, "step": 100 * epoch, "metrics": {metric: float(generator.random())}}
            for epoch in (1, 2, 3)
        ],
    }  # fmt: skip


def _evaluated(run, generator):
    scores = {name: float(generator.normal(0.8, 0.02)) for name in run.task.metrics}
    return {
        "headline_metric": run.task.metrics[0], "metrics": scores, "metric_notes": {},
        "intervals": {name: [value - 0.03, value + 0.03] for name, value in scores.items()},
        "intervals_from": {"resamples": 1000, "level": 0.95, "seed": 0},
        "collapsed": bool(generator.random() < 0.01), "baseline": {}, "n_examples": EXAMPLES,
        "evaluate_seconds": 4.0, "examples_per_second": EXAMPLES / 4.0,
        "latency_seconds_batch_1": 0.01, "sequences_per_second_batch_64": 500.0, "speed": [SPEED],
        "inference_peak_memory_bytes": 1_000_000_000, "weights_multiplied": [["query", 1_000]],
        "token_lengths": {"evaluation": [[32, EXAMPLES]], "training": [[32, 9600]]},
    }  # fmt: skip


def _counted(run, tuned):
    layers, _, _, whole = SHAPES[run.backbone.id]
    sparsity = SPARSITY.get(run.method.mask.kind, 0.5)
    dense, trained = 60 * whole, tuned["parameters_trained"]
    effective = round(dense * (1.01 - sparsity)) + trained
    train = {phase["name"]: 3 * effective * phase["examples_seen"] for phase in tuned["phases"]}
    life = {**train, "inference": 100_000 * effective, "search": 3200 * dense}
    parts = [sparsity * (0.6 + 0.8 * layer / layers) for layer in range(layers)]
    macs = {"dense": dense, "executed": dense, "effective": effective}
    modules = dict.fromkeys(("query", "key", "value", "context", "ffn_in"), effective // 6)
    modules["update"] = trained
    operators = (("linear", effective - trained), ("attention", 0), ("low_rank", trained))
    texts = {}
    if run.task.kind == "generation":
        texts = {"macs_per_text": [{"part": part, **macs} for part in ("prefill", "decode")]}
    return {
        "parameters_total": whole, "parameters_trained": trained,
        "parameters_trained_with_head": trained + 1538, "stored_bytes": 4 * trained,
        "sparsity": sparsity, "sparsity_by_layer": {"attention": parts, "feed_forward": parts},
        "search_seconds": 30.0 if run.ticket and isinstance(run.ticket, SearchedTicket) else 0.0,
        "tokens_per_example_mean": 31.25, "macs_dense_per_example": dense,
        "macs_executed_per_example": dense, "macs_effective_per_example": effective,
        "macs_at_128_tokens": {kind: 4 * count for kind, count in macs.items()},
        "macs_over_lengths": [
            {"split": "evaluation", "padding": padding, "sequences": EXAMPLES,
             "tokens_mean": 31.25, **macs}
            for padding in ("none", "batches")
        ],
        "macs_by_operator": [
            {"operator": name, "executed": count, "effective": count} for name, count in operators
        ],
        "macs_whole_life": sum(life.values()), "whole_life_inference_examples": 100_000,
        "breakdown": {"executed": modules, "effective": modules,
                      "whole_life": {**life, "total": sum(life.values())}}, **texts,
        "macs_by_layer": {"executed": {}, "effective": {}}, "macs_training_over_lengths": [],
    }  # fmt: skip


def _write_history(run, path, generator):
    """As many points a phase as the trainer logs."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["step", "phase", "loss", "grad_norm", "learning_rate"])
        step = 0
        for phase in (one for one in run.method.phases if one.kind == "train"):
            for noise in generator.normal(0, 0.05, 50).tolist():
                step += 6
                loss = 0.1 + 0.6 / (1 + step / 50) * (1 + noise)
                rows.writerow([step, phase.name, loss, 1.0 + noise, 2e-5])


def _write_ticket(run, folder, generator):
    layers, heads, neurons, _ = SHAPES[run.backbone.id]
    searched = isinstance(run.ticket, SearchedTicket)
    kept = {
        name: [np.flatnonzero(generator.random(width) < 0.7).tolist() for _ in range(layers)]
        for name, width in (("kept_heads", heads), ("kept_neurons", neurons))
    }
    ids = {"backbone": run.backbone.id, "task": run.task.id, "seed": run.seed}
    ticket = {
        **ids, **kept, "recipe": run.ticket.id, "origin": "search" if searched else "random",
        "heads": heads, "neurons": neurons, "kept_layers": None, "neuron_multiple": 1,
        "search": None,
    }  # fmt: skip
    (folder / "ticket.json").write_text(json.dumps(ticket, sort_keys=True) + "\n")
    asked = {**ids, "suite": run.suite, "ticket": run.ticket.id, "digest": run.ticket_digest,
             "settings": run.ticket_settings()}  # fmt: skip
    measured = {name: list(map(len, units)) for name, units in kept.items()}
    if searched:
        steps = list(range(3, 3 * CHECKS + 1, 3))
        measured["stopping"] = {
            "rule": "fixed", "steps_per_epoch": 300, "last_step_allowed": steps[-1], "window": 5,
            "epsilon": 0.1, "head_distances": [0.1] * CHECKS, "neuron_distances": [0.1] * CHECKS,
            "check_steps": steps, "fixed_step": steps[-1], "settled_step": steps[CHECKS // 2],
        }  # fmt: skip
    record = TicketRecord.of(asked, inputs={}, measured=measured, where=WHERE)
    write_record(folder / "record.json", record)


def _write_gates(shape, path, generator):
    """Coefficients on a random walk, and the largest of each check as its masks."""
    arrays = {"steps": np.arange(3, 3 * CHECKS + 1, 3)}
    for name, width in (("head", shape[1]), ("neuron", shape[2])):
        moves = generator.normal(0, 0.1, (CHECKS, shape[0], width)).astype(np.float32)
        walks = 1 + np.cumsum(moves / np.arange(1, CHECKS + 1)[:, None, None], axis=0)
        arrays[f"{name}s"] = walks
        arrays[f"{name}_masks"] = walks > np.quantile(walks, 0.3, axis=(1, 2), keepdims=True)
    np.savez_compressed(path, **arrays)

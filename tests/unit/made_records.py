"""Records as the stages write them, made up: whole, so that a test names only what it is about."""

import copy
import json

from sparsetune.records import RECORDS, STAGES, read_any_record

WHERE = {
    "commit": "c" * 40, "dirty": False, "device": {"kind": "cpu", "name": "cpu"},
    "started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:01:00Z", "packages": {},
    "platform": "Linux", "python": "3.11.2", "seconds": 60.0, "start_up_seconds": 4.0,
}  # fmt: skip
IDS = {
    "suite": "mini", "backbone": "mini-bert", "task": "mini-sst2", "method": "full", "seed": 0,
    "digest": "a" * 16, "settings": {}, "support": "grebsmo-64", "ticket": "earlybert",
}  # fmt: skip
OPTIONAL_IDS = {"tune": ("support", "ticket")}
OPTIONAL_IDS |= {"evaluate": OPTIONAL_IDS["tune"], "cost": OPTIONAL_IDS["tune"]}
PHASE = {
    "name": "train", "kind": "train", "steps": 100, "examples_seen": 300, "tokens_seen": 3000,
    "seconds": 5.25, "loading_seconds": 0.25, "resumed_at_step": 0, "final_loss": 0.5,
    "engine": "eager",
}  # fmt: skip
SPEED = {
    "sequences": 1, "tokens": 17, "threads": 1, "sequences_per_second": 500.0, "repeats": 3,
    "latency_median_seconds": 0.002, "latency_p90_seconds": 0.003,
    "latency_minimum_seconds": 0.001, "warmup": 2, "engine": "eager",
}  # fmt: skip
MACS = {"dense": 1_000, "executed": 1_007, "effective": 1_007}
MODULES = {"executed": {"query": 1_000, "update": 7}, "effective": {"query": 1_000, "update": 7}}
MEASURED = {
    "dataset": {
        "train_examples": 3, "evaluation_examples": 2, "files": {"train.tsv": "f" * 64},
        "stored_bytes": 77, "revision": None,
    },
    "backbone": {
        "files": {"model.safetensors": "f" * 64}, "stored_bytes": 4000,
        "parameters_stored": 1000,
    },
    "support": {"matrices": 1, "positions": 64, "residual": {"layer.0.query": 0.5}},
    "ticket": {"kept_heads": [3, 4], "kept_neurons": [20, 30]},
    "tune": {
        "train_seconds": 5.25, "loading_seconds": 0.25, "steps": 100, "examples_seen": 300,
        "tokens_seen": 3000, "final_loss": 0.5, "parameters_trained": 12_345, "phases": [PHASE],
        "peak_memory_bytes": 512_000_000, "model_sha256": "e" * 64,
    },
    "evaluate": {
        "headline_metric": "accuracy_fraction",
        "metrics": {"accuracy_fraction": 0.8, "f1_fraction": 0.75}, "metric_notes": {},
        "intervals": {}, "intervals_from": {"resamples": 1000, "level": 0.95, "seed": 0},
        "collapsed": False, "baseline": {}, "n_examples": 400, "evaluate_seconds": 0.5,
        "examples_per_second": 800.0, "latency_seconds_batch_1": 0.002,
        "sequences_per_second_batch_64": None, "speed": [SPEED],
        "inference_peak_memory_bytes": 256_000_000, "weights_multiplied": [["query", 1_000]],
        "token_lengths": {"evaluation": [[17, 400]], "training": [[17, 300]]},
    },
    "cost": {
        "parameters_total": 1_000_000, "parameters_trained": 12_345,
        "parameters_trained_with_head": 12_345, "stored_bytes": 50_000, "sparsity": 0.0,
        "sparsity_by_layer": {"attention": [0.0], "feed_forward": [0.0]}, "search_seconds": 0.0,
        "tokens_per_example_mean": 17.0, "macs_dense_per_example": 1_000,
        "macs_executed_per_example": 1_007, "macs_effective_per_example": 1_007,
        "macs_whole_life": 900_007, "whole_life_inference_examples": 100_000,
        "breakdown": {
            **MODULES, "whole_life": {"train": 900_000, "inference": 7, "total": 900_007},
        },
        "macs_at_128_tokens": MACS, "macs_by_layer": {
            kind: {name: [value] for name, value in modules.items()}
            for kind, modules in MODULES.items()
        },
        "macs_by_operator": [{"operator": "linear", "executed": 1_007, "effective": 1_007}],
        "macs_training_over_lengths": [{"phase": "train", "macs": 900_000}],
        "macs_over_lengths": [
            {"split": "training", "padding": "none", "sequences": 300, "tokens_mean": 17.0, **MACS}
        ],
    },
    "claims": {"verdicts": {}, "verdicts_by_paper": {}, "claims": [], "runs_count": 1},
    "track": {"published": 1, "unchanged": 0, "problems": [], "attempt": "first"},
}  # fmt: skip


def made_record(stage, /, *, measured=None, where=None, inputs=None, without=(), **asked):
    """One record as plain data, which a test may edit: what is given is laid over what is usual.

    Args:
        stage: the stage that seems to have written it.
        measured: values that take the place of the usual ones, or come beside them.
        where: likewise.
        inputs: path -> sha256.
        without: names that are left out of ``measured``.
        asked: ids and settings, where they are not the usual ones.
    """
    names = RECORDS[stage].model_fields["asked"].annotation.model_fields
    usual = {name: IDS[name] for name in names if name in IDS}
    for name in OPTIONAL_IDS.get(stage, ()):
        del usual[name]
    record = {
        "asked": {"stage": stage, "stage_version": STAGES[stage], **usual, **asked},
        "inputs": dict(inputs or {}),
        "measured": {**MEASURED[stage], **(measured or {})},
        "where": {**WHERE, **(where or {})},
    }
    for name in without:
        del record["measured"][name]
    return copy.deepcopy(record)


def write_made(path, stage, /, **given):
    """Write a record of :func:`made_record`, unchecked, and give it back."""
    record = made_record(stage, **given)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return record


def measured_of(path):
    """What a record that some stage wrote measured, as plain data; the whole of it is validated."""
    return read_any_record(path).model_dump(mode="json")["measured"]

"""What the training loop adds to the work of a step, and what order and padding cost.

    python benchmarks/loop.py

mini-bert's shape with random weights, batches of 32 sentences of 4 to 40 tokens, one thread. The
loop (``sparsetune.training.loop``: batches from features, curves, guard, clock) and a bare loop
over ready batches (forward, backward, clipping, fused AdamW) alternate; the median of the ratios of
their processor times counts. Likewise the planned order, which groups texts by length, and a random
one. Prints a table and writes ``benchmarks/results/loop.json``.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertForSequenceClassification

from sparsetune.config.method import TrainPhase
from sparsetune.data.tokenization import collate
from sparsetune.training.loop import Engine, PhaseJob, run_phase
from sparsetune.training.optimizers import make_optimizer
from sparsetune.training.plan import make_plan

PAIRS, STEPS, BATCH, VOCABULARY = 9, 60, 32, 1100
TARGET = 1.05
SETTINGS = TrainPhase.model_validate(
    {
        "name": "train", "kind": "train", "epochs": 1.0, "learning_rate": 1e-4, "batch_size": BATCH,
        "gradient_accumulation": 1, "weight_decay": 0.01, "warmup_fraction": 0.1,
        "schedule": "linear", "maximum_gradient_norm": 1.0,
    }
)  # fmt: skip
COLLATE = partial(collate, pad_token_id=0)


def new_model():
    """mini-bert with random weights."""
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=96, num_hidden_layers=3, num_attention_heads=12,
            intermediate_size=384, max_position_embeddings=128, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def features():
    """Sentences of many lengths, with labels."""
    draws = np.random.default_rng(0)
    made = []
    for _ in range(STEPS * BATCH):
        ids = draws.integers(5, VOCABULARY, size=draws.integers(4, 41)).tolist()
        made.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids[0] % 2})
    return made


def job_of(data, plan, folder):
    """The phase that the loop trains."""
    return PhaseJob(
        name="train", features=data, collate=COLLATE, settings=SETTINGS, plan=plan,
        folder=Path(folder), engine=Engine(checkpoint_seconds=1e9), seed=1,
    )  # fmt: skip


def loop(job):
    """Processor seconds a step of the loop."""
    model = new_model()
    state = {
        "state": lambda: {name: one.detach() for name, one in model.named_parameters()},
        "load_state": lambda state: None,
    }
    started = time.process_time()
    run_phase(model, job, **state)
    return (time.process_time() - started) / job.plan.steps


def bare(batches):
    """Processor seconds a step of the work alone."""
    model = new_model().train()
    optimizer = make_optimizer("adamw", model, SETTINGS)
    started = time.process_time()
    for batch in batches:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - started) / len(batches)


def main():
    """Measure, print and save."""
    torch.set_num_threads(1)
    data = features()
    lengths = [len(one["input_ids"]) for one in data]
    plan = make_plan(lengths, batch_size=BATCH, epochs=1.0, seed=1)
    batches = [COLLATE([data[index] for index in batch]) for batch in plan.batches]
    shuffled = np.random.default_rng(2).permutation(len(data)).reshape(-1, BATCH)
    at_random = [COLLATE([data[index] for index in batch]) for batch in shuffled]
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(data, plan, folder)
        sides = (lambda: loop(job), lambda: bare(batches), lambda: bare(at_random))
        for side in sides:
            side()
        rounds = [[side() for side in sides] for _ in range(PAIRS)]
    ratio = statistics.median(ours / theirs for ours, theirs, _ in rounds)
    grouped = statistics.median(theirs / random for _, theirs, random in rounds)
    ours, theirs, random = (1000 * statistics.median(one) for one in zip(*rounds, strict=True))
    print(f"loop / bare loop: {ratio:.3f} (at most {TARGET}); {ours:.2f}, {theirs:.2f} ms a step")
    shares = [padding(made) for made in (batches, at_random)]
    print(
        f"grouped / random order: {grouped:.3f}; {theirs:.2f}, {random:.2f} ms a step; of the "
        f"positions {shares[0]:.1%} and {shares[1]:.1%} are padding"
    )
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "setting": f"mini-bert, batch {BATCH}, {plan.steps} steps, {PAIRS} rounds, processor time",
        "milliseconds": {
            "loop": round(ours, 3), "bare": round(theirs, 3), "bare, random order": round(random, 3)
        },
        "loop / bare": {"ratio": round(ratio, 4), "target": TARGET},
        "grouped / random order": {"ratio": round(grouped, 4)},
        "padding_fraction": {"grouped": round(shares[0], 4), "random": round(shares[1], 4)},
    }  # fmt: skip
    target = Path(__file__).parent / "results" / "loop.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


def padding(batches):
    """Share of the positions that are padding."""
    kept = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return 1 - kept / sum(batch["attention_mask"].numel() for batch in batches)


if __name__ == "__main__":
    main()

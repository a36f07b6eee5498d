"""What EarlyBERT's coefficients cost in a search step, and what its smaller model saves.

    python benchmarks/earlybert.py

Four layers of BERT-base's width, batch 16 x 128, two threads, float32; a step is forward, backward,
clipping and AdamW. Two steps to be compared alternate, and the median of their ratios counts, so
that a machine that slows down slows down both; processor time is told beside wall-clock time, since
a busy machine disturbs it less. Prints a table and writes ``benchmarks/results/earlybert.json``.
"""

import json
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertForSequenceClassification

from sparsetune.cost.macs import training_macs
from sparsetune.cost.shapes import ModelShape
from sparsetune.earlybert.gates import Gates
from sparsetune.earlybert.ticket import DrawConfig, TicketLabel, random_ticket
from sparsetune.pruning.structured import remove

THREADS, LAYERS, BATCH, TOKENS, PAIRS = 2, 4, 16, 128, 12
VOCABULARY = 1000  # small: a third of BERT-base's layers must not carry all of its embeddings
LAMBDA = 1e-4
TARGETS = {"search step with coefficients / without": 1.03, "drawn model / dense model": 0.66}


def new_model(attention="sdpa"):
    """Four layers of BERT-base's width with random weights."""
    config = BertConfig(vocab_size=VOCABULARY, num_hidden_layers=LAYERS)
    config._attn_implementation = attention
    torch.manual_seed(0)
    return BertForSequenceClassification(config).train()


def step_of(model, penalty=None):
    """A function that makes one training step."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, VOCABULARY, (BATCH, TOKENS), generator=generator)
    batch = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": torch.randint(2, (BATCH,), generator=generator),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)

    def step():
        loss = model(**batch).loss
        (loss if penalty is None else loss + penalty()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def gated():
    """A search step: the same model with coefficients and their penalty."""
    model = new_model()
    gates = Gates(model)
    model.add_module("early_gates", gates)
    return step_of(model, partial(gates.penalty, LAMBDA, LAMBDA))


def drawn():
    """A step of the model after 4 of 12 heads a layer and 40 % of all neurons are removed."""
    model = new_model()
    ticket = random_ticket(
        (LAYERS, 12, 3072), DrawConfig(), label=TicketLabel("bert", "none", "random", 0)
    )
    remove(model, ticket.kept_heads, ticket.kept_neurons)
    return step_of(model), ticket


def seconds_of(step):
    """Wall-clock and processor seconds of one step."""
    start, busy = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start, time.process_time() - busy


def compared(one, other):
    """Median seconds of two steps, and the median of their ratios, pair by pair."""
    for step in (one, other):
        step()
    pairs = [(seconds_of(one), seconds_of(other)) for _ in range(PAIRS)]
    found = {}
    for index, clock in enumerate(("wall", "processor")):
        seconds = [(first[index], second[index]) for first, second in pairs]
        ratios = [first / second for first, second in seconds]
        low, _, high = statistics.quantiles(ratios, n=4)
        found[clock] = {
            "seconds": [round(statistics.median(side), 4) for side in zip(*seconds, strict=True)],
            "ratio": round(statistics.median(ratios), 4),
            "ratio_quartiles": [round(low, 4), round(high, 4)],
        }
    return found


def analytic(ticket):
    """Multiply-adds of the drawn model's training step over the dense model's."""
    config = {**new_model().config.to_dict(), "model_type": "bert"}
    dense = ModelShape.dense(config, "classification", 2)
    small = dense.with_kept(ticket.kept_heads, ticket.kept_neurons)
    totals = [sum(training_macs(shape, TOKENS).values()) for shape in (small, dense)]
    return round(totals[0] / totals[1], 4)


def main():
    """Measure, print and save."""
    torch.set_num_threads(THREADS)
    dense = step_of(new_model())
    smaller, ticket = drawn()
    steps = dict(zip(TARGETS, (gated(), smaller), strict=True))
    found = {name: compared(step, dense) for name, step in steps.items()}
    for name, values in found.items():
        values["target"] = TARGETS[name]
        print(f"{name}: at most {TARGETS[name]}")
        for clock in ("wall", "processor"):
            print(f"{values[clock]['ratio']:6.3f}  {clock} time, {values[clock]}")
    found["drawn model / dense model"]["multiply_adds_ratio"] = analytic(ticket)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {THREADS} threads",
        "setting": f"{LAYERS} layers of BERT-base's width, batch {BATCH} x {TOKENS}, float32",
        "pairs": PAIRS,
        **found,
    }
    target = Path(__file__).parent / "results" / "earlybert.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

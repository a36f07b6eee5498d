"""A training step of full tuning, PEFT's LoRA and DSEE on equal terms: same model, batch, head."""

import json
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, set_seed
from transformers.models.bert.modeling_bert import BertForSequenceClassification

from sparsetune.dsee.layer import DseeConfig, apply_dsee

RANK, ALPHA, POSITIONS, LAYERS, SEED = 16, 32.0, 64, 4, 0
TARGETS = ("query", "value")


def backbone():
    """BERT-base's width, fewer layers, random weights, as training sees it (dropout on)."""
    set_seed(SEED)
    config = BertConfig(num_hidden_layers=LAYERS, num_labels=2)
    return BertForSequenceClassification(config).train()


def with_lora():
    """PEFT's LoRA; its task type makes the classifier train too."""
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=list(TARGETS),
    )
    return get_peft_model(backbone(), settings)


def with_dsee():
    """Our layer, with as many positions as published."""
    model = backbone()
    config = DseeConfig(RANK, ALPHA, POSITIONS, TARGETS, support="random", seed=SEED)
    return apply_dsee(model, config)


VARIANTS = {"dsee": with_dsee, "lora": with_lora, "full": backbone}


def step_of(variant, examples, tokens):
    """Return a function that trains one step, already run once (optimizer state exists)."""
    model = VARIANTS[variant]()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1, model.config.vocab_size, (examples, tokens), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.arange(examples) % 2

    def step():
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return step


def peak_bytes(step):
    """Most memory that tensors held during one step, above what they held before it.

    From torch's allocation events, so neither other processes nor the allocator's habit of
    keeping freed memory disturb it. Scratch space inside the matrix library is not seen.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    held = highest = 0
    for event in sorted(changes, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        highest = max(highest, held)
    return highest

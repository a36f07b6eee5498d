"""A training step of full tuning, PEFT's LoRA and DSEE on equal terms: same model, batch, head.

On CUDA all of them run in bfloat16 autocast with a fused AdamW, and a step ends when the device is
done.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, set_seed
from transformers.models.bert.modeling_bert import BertForSequenceClassification

from sparsetune.dsee.config import DseeConfig
from sparsetune.dsee.layer import apply_dsee, fold_together

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


def with_dsee(use="auto"):
    """Our layer, with as many positions as published; ``use``: see ``fold_together``."""
    model = backbone()
    config = DseeConfig(RANK, ALPHA, POSITIONS, TARGETS, support="random", seed=SEED)
    apply_dsee(model, config)
    fold_together(model, use)
    return model


VARIANTS = {
    "dsee": with_dsee,
    "together": partial(with_dsee, "always"),
    "apart": partial(with_dsee, "never"),
    "lora": with_lora,
    "full": backbone,
}


def step_of(variant, examples, tokens, device="cpu"):
    """Return a function that trains one step, already run once (optimizer state exists)."""
    model = VARIANTS[variant]().to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device == "cuda")
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1, model.config.vocab_size, (examples, tokens), generator=generator)
    ids, labels = ids.to(device), (torch.arange(examples) % 2).to(device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    return step


class _Counter(TorchDispatchMode):
    """Counts the operators that compute something; views cost a GPU no kernel."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += not function.is_view
        return result


def operators(variant):
    """Count the operators of a step's forward and backward pass in bfloat16 autocast.

    About as many kernels does a GPU start; their number does not depend on the machine.
    """
    model = VARIANTS[variant]()
    ids = torch.ones(2, 8, dtype=torch.long)
    labels = torch.tensor([0, 1])
    for counter in (_Counter(), _Counter()):  # once for what is made once
        with counter, torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids, labels=labels).loss.backward()
    return counter.count


def peak_bytes(step, device="cpu"):
    """Most memory that tensors held during one step, above what they held before it.

    On the CPU from torch's allocation events, so neither other processes nor the allocator's habit
    of keeping freed memory disturb it. Scratch space inside the matrix library is not seen.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
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

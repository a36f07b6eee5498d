"""Backbones that are pre-trained in a second: 40 documents, 24 wide, two phases."""

from pathlib import Path

from unit.tiny import HEADS, HIDDEN, LAYERS, WIDTH

from sparsetune.config.load import Backbone
from sparsetune.training.loop import Engine
from sparsetune.training.pretraining import PretrainingPlace, pretrain

PHASE = {
    "name": "short", "block_tokens": 12, "steps": 6, "learning_rate": 1e-2, "batch_size": 4,
    "gradient_accumulation": 2, "weight_decay": 0.01, "warmup_fraction": 0.25,
    "schedule": "linear", "maximum_gradient_norm": 1.0,
}  # fmt: skip
LONG = {**PHASE, "name": "long", "block_tokens": 24, "steps": 5, "batch_size": 2}
EARLY = {
    "stop_steps": 3, "head_penalty": 1e-4, "neuron_penalty": 1e-4, "head_sparsity": 0.25,
    "neuron_sparsity": 0.3, "neuron_scope": "global", "steps_share": 0.8,
}  # fmt: skip
TOKENIZERS = {"bert": "wordpiece", "roberta": "byte-bpe", "gpt2": "byte-bpe"}


def tiny_backbone(architecture="bert", *, early=True, **changes):
    recipe = {
        "objective": "causal" if architecture == "gpt2" else "masked",
        "tokenizer": {"kind": TOKENIZERS[architecture], "vocabulary_size": 300},
        "shape": {
            "hidden_size": HIDDEN, "layers": LAYERS, "heads": HEADS, "feed_forward_size": WIDTH,
            "maximum_positions": 32, "dropout": 0.1, "initializer_range": 0.05,
        },
        "embeddings": "cooccurrence", "blocks": "documents", "optimizer": "adamw",
        "phases": [PHASE, LONG],
    }  # fmt: skip
    if architecture != "gpt2":
        recipe["masked_fraction"] = 0.3
    if early:
        recipe["early"] = EARLY
    source = changes.pop("source", {"kind": "world", "seed": 3, "documents": 40})
    return Backbone.model_validate({
        "id": "tiny", "description": "x", "architecture": architecture, "source": source,
        "tokenizer_source": changes.pop("tokenizer_source", None),
        "pretraining": {**recipe, **changes},
    })  # fmt: skip


def run(root: Path, backbone, *, checkpoint_seconds=1e9, inputs=None):
    place = PretrainingPlace(
        root / "work", root / "lock.yaml", Engine(checkpoint_seconds=checkpoint_seconds)
    )
    return pretrain(backbone, root / "out", place=place, inputs=inputs or {})

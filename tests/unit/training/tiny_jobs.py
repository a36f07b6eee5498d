"""Made-up features, backbones on disk and phases small enough to train in a test."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from unit.tiny import VOCAB, tiny_model

from sparsetune.architectures.loading import load_model
from sparsetune.config.method import HeadsMask, NoMask, PrunePhase, TrainPhase, UnstructuredMask
from sparsetune.data.tokenization import collate
from sparsetune.dsee.support import model_supports
from sparsetune.methods.registry import update_of
from sparsetune.methods.tuned import Structure, build
from sparsetune.training.loop import Engine, PhaseJob, run_phase
from sparsetune.training.phases import Workplace
from sparsetune.training.plan import make_plan

PHASE = {
    "name": "train", "kind": "train", "epochs": 2.0, "learning_rate": 1e-2, "batch_size": 3,
    "gradient_accumulation": 2, "weight_decay": 0.01, "warmup_fraction": 0.25,
    "schedule": "linear", "maximum_gradient_norm": 1.0,
}  # fmt: skip
PHASES = [PHASE, {"name": "prune", "kind": "prune"}, {**PHASE, "name": "recover", "epochs": 1.0}]
MASK = UnstructuredMask(
    kind="unstructured", pools="two", adapted_sparsity=0.25, rest_sparsity=0.5, score="delta"
)
NO_MASK = NoMask(kind="none")
HEADS = HeadsMask(kind="heads", head_sparsity=0.25, score="delta")
UPDATES = {
    "full": {"kind": "full"},
    "lora": {
        "kind": "peft", "type": "lora", "rank": 3, "alpha": 6, "dropout": 0.0,
        "targets": ["query", "value"],
    },
    "bitfit": {"kind": "bitfit"},
    "ia3": {
        "kind": "peft", "type": "ia3", "targets": ["key", "value", "ffn_out"],
        "feedforward": ["ffn_out"],
    },
    "adalora": {
        "kind": "peft", "type": "adalora", "rank": 3, "initial_rank": 5, "alpha": 6,
        "dropout": 0.0, "targets": ["query", "value"], "orthogonality_weight": 0.1,
        "initial_fraction": 0.25, "final_fraction": 0.25, "interval_steps": 1,
        "sensitivity_smoothing": 0.85, "uncertainty_smoothing": 0.85,
    },
    "supra": {
        "kind": "peft", "type": "supra", "rank": 3, "alpha": 6, "dropout": 0.0,
        "targets": ["query", "value"], "n_sparse": 11,
    },
    "dsee": {
        "kind": "dsee", "rank": 3, "alpha": 6, "init": "zero", "support": "random",
    },
}  # fmt: skip
KEPT = {"kept_heads": [[0, 2, 3], [1, 2, 3]], "kept_neurons": [list(range(30)), list(range(5, 40))]}
COLLATE = partial(collate, pad_token_id=0)


def phases_of(*settings):
    """Phases as a method has them."""
    kinds = {"train": TrainPhase, "prune": PrunePhase}
    return [kinds[one["kind"]].model_validate(one) for one in settings]


def changed(mask, **changes):
    """The same settings with some others."""
    return mask.model_copy(update=changes)


class Interrupted(Exception):
    """Stands for a killed process."""


def features(count=20, *, seed=0, labels=3):
    draws = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = draws.integers(2, VOCAB, size=draws.integers(3, 10)).tolist()
        made.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids[0] % labels})
    return made


def phase_job(
    folder, *, data=None, horizon_epochs=None, changes=(), captured=False,
    checkpoint_seconds=1e9, **others,
):  # fmt: skip
    """One phase on made-up features; ``changes`` are hyper-parameters, ``others`` job fields."""
    data = data or features()
    changes = dict(changes)
    optimizer = changes.pop("optimizer", "adamw")
    (settings,) = phases_of({**PHASE, **changes})
    plan = make_plan(
        [len(feature["input_ids"]) for feature in data],
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        epochs=settings.epochs,
        seed=5,
        horizon_epochs=horizon_epochs,
    )
    engine = Engine("cpu", captured, checkpoint_seconds)
    fixed = {"name": "train", "engine": engine, "seed": 5, "optimizer": optimizer, **others}
    return PhaseJob(
        features=data, collate=COLLATE, settings=settings, plan=plan, folder=folder, **fixed
    )


def stop_at(stop):
    """A step callback that breaks off training at step ``stop``, before it is saved."""

    def on_step(step, values=None):
        if step == stop:
            raise Interrupted

    return on_step


def workplace(folder, *, on_curve=lambda _step, _values: None, checkpoint_seconds=1e9):
    return Workplace(folder, Engine(checkpoint_seconds=checkpoint_seconds), 5, on_curve)


def save_backbone(root: Path, kind) -> Path:
    """A Hugging Face folder of a tiny random model; fit for ``load_model``."""
    folder = root / kind
    if not folder.exists():
        tiny_model(kind, task="lm" if kind == "gpt2" else "bare").save_pretrained(folder)
    return folder


def build_tiny(backbone, update, *, seed=3, kept=None):
    attached = update_of(UPDATES[update])
    structure = Structure("classification", 3, seed, False, attached, **(kept or {}))
    supports = {}
    if update == "dsee":
        dense = load_model(backbone, kind="classification", label_count=3, seed=0)
        found = model_supports(dense, ["query", "value"], recipe="random", n_sparse=11, seed=0)
        supports = {key: result.positions for key, result in found.items()}
    return build(backbone, structure, supports)


def train(job, model=None):
    """Run one phase on all parameters of a model: what it measured, and the parameters."""
    model = model or tiny_model("bert", scale=1.0)

    def load(state):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(state[name])

    result = run_phase(
        model,
        job,
        state=lambda: {name: p.detach() for name, p in model.named_parameters()},
        load_state=load,
    )
    return result, dict(model.named_parameters())


def interrupt(folder, model=None, **options):
    """Train a phase that is broken off; every step before is saved."""
    job = phase_job(folder, **{"checkpoint_seconds": 0, **options})
    with pytest.raises(Interrupted):
        train(job, model)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model

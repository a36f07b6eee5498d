from dataclasses import replace

import pytest
import torch
from torch import nn
from unit.tiny import adapted, tiny_model
from unit.tiny_families import PAIRS, family_model
from unit.training.tiny_jobs import UPDATES

from sparsetune.architectures.families import FAMILIES, WORKFLOW
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.parameters import count_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ModelError
from sparsetune.methods.operators import multiplied_weights
from sparsetune.methods.registry import update_of
from sparsetune.pruning.structured import remove

FULL = update_of({"kind": "full"})

KINDS = [("bert", "classification", "classification"), ("bert", "qa", "span"),
         ("roberta", "classification", "classification"), ("roberta", "qa", "span"),
         ("gpt2", "lm", "generation"), ("gpt2", "classification", "classification")]  # fmt: skip


def counted(model, head, update=FULL, kept=None, entries=None):
    """What the cost stage counts for one token, but for products of two activations."""
    shape = ModelShape.dense(model.config.to_dict(), head, 3)
    shape = shape.with_kept(*kept) if kept else shape
    macs = macs_by_module(shape, 1, update.count(shape, entries or {}))
    return {name: n for name, n in macs.items() if n and name not in ("scores", "context")}


@pytest.mark.parametrize(("kind", "task", "head"), KINDS)
def test_every_weight_of_a_dense_model_is_one_that_is_counted(kind, task, head):
    model = tiny_model(kind, task=task)
    assert multiplied_weights(model, FULL) == counted(model, head)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_what_is_removed_is_gone_and_dsee_s_update_counts(kind):
    model = adapted(kind)
    update, head = update_of(UPDATES["dsee"]), "classification"
    entries = {f"layer.{layer}.{name}": 11 for layer in (0, 1) for name in ("query", "value")}
    assert multiplied_weights(model, update) == counted(model, head, update, entries=entries)
    kept = [[0, 2], [1]], [list(range(9)), [3]]
    smaller = tiny_model(kind)
    remove(smaller, *kept)
    assert multiplied_weights(smaller, FULL) == counted(smaller, head, kept=kept)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in UPDATES for kind in ("bert", "gpt2")
     if name != "dsee" and (name, kind) != ("supra", "gpt2")],  # PEFT refuses it
)  # fmt: skip
def test_updates_of_the_library_are_counted_and_scales_are_free(name, kind):
    model, update = tiny_model(kind), update_of(UPDATES[name])
    supports = update.attach(model, {}, 0).supports
    entries = {key: len(positions) for key, positions in supports.items()}
    assert multiplied_weights(model, update) == counted(
        model, "classification", update, entries=entries
    )
    if name in ("lora", "supra", "adalora"):
        with pytest.raises(ModelError, match="whose cost is not known"):
            multiplied_weights(model, FULL)  # another update's branches


def counted_for_tokens(model, head, update):
    """Likewise, for any family: relative positions are made once for a batch."""
    shape = ModelShape.dense(model.config.to_dict(), head, 3)
    shape = replace(shape, told_around=replace(shape.around, relative=0))
    macs = macs_by_module(shape, 1, update.count(shape, {}))
    return {name: n for name, n in macs.items() if n and name not in ("scores", "context")}


# No run has a head for every token, and a masked language model is searched, not evaluated.
IN_WORKFLOW = [
    (kind, task)
    for kind, task in PAIRS
    if kind in WORKFLOW
    and (task in ("sequence", "answer") or (task == "language" and FAMILIES[kind].generates))
]


@pytest.mark.parametrize(("kind", "task"), IN_WORKFLOW)
def test_every_weight_of_every_family_of_the_workflow_is_counted(kind, task):
    head = {"sequence": "classification", "answer": "span", "language": "generation"}[task]
    model = family_model(kind, task)
    assert multiplied_weights(model, FULL) == counted_for_tokens(model, head, FULL)


FAMILY_RUNS = [(kind, name) for kind in ("distilbert", "deberta-v2", "modernbert", "llama", "qwen3")
               for name in ("lora", "ia3", "adalora", "bitfit")]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), FAMILY_RUNS)
def test_updates_of_every_family_are_counted_with_what_they_train(kind, name):
    model, update = family_model(kind, "sequence"), update_of(UPDATES[name])
    if name == "bitfit" and kind in ("modernbert", "llama", "qwen3"):
        with pytest.raises(ModelError, match=f"type {kind} without biases"):
            update.attach(model, {}, 0)
        return
    update.attach(model, {}, 0)
    shape = ModelShape.dense(model.config.to_dict(), "classification", 3)
    count = update.count(shape, {})
    assert multiplied_weights(model, update) == counted_for_tokens(model, "classification", update)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert count_parameters(shape, count).trained_with_head == trained


def insert(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@pytest.mark.parametrize(
    ("path", "module", "message"),
    [
        ("bert.encoder.layer.1.adapter", nn.Linear(24, 4), "adapter: a Linear with 100 param"),
        ("bert.encoder.mixer", nn.Conv1d(24, 24, 3), "encoder.mixer: a Conv1d with 1752 param"),
        ("bert.encoder.layer.0.intermediate.dense", nn.Bilinear(24, 1, 40), "dense: a Bilinear"),
        ("bert.encoder.layer.0.attention.self.query.extra", nn.Linear(24, 4), "query.extra"),
        ("bert.pooler.more", nn.GRU(24, 24), "bert.pooler.more: a GRU"),
        ("second_head", nn.Linear(24, 3), "second_head: a Linear with 75 parameters"),
    ],
)
def test_an_operator_whose_cost_is_not_known_is_refused_by_name(path, module, message):
    model = tiny_model("bert")
    insert(model, path, module)
    with pytest.raises(ModelError, match=message):
        multiplied_weights(model, FULL)


def test_a_bare_parameter_of_the_model_is_refused():
    model = tiny_model("bert")
    model.register_parameter("mixing", nn.Parameter(torch.ones(3)))
    with pytest.raises(ModelError, match="the model itself: a BertForSequenceClassification with"):
        multiplied_weights(model, FULL)

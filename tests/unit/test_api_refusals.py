"""Everything that must be refused at the API before training, by one clear line."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AlbertConfig, AlbertModel
from unit.tiny import LAYERS, WIDTH, tiny_model

import sparsetune
from sparsetune import DseeConfig
from sparsetune.errors import ConfigError, ModelError
from sparsetune.pruning.structured import remove

CONFIG = DseeConfig(rank=3, alpha=6.0, n_sparse=11, support="random")


def positions(**changes):
    """Three positions for query and value of both layers, then the changes."""
    sites = [f"layer.{layer}.{name}" for layer in (0, 1) for name in ("query", "value")]
    given = {site: torch.tensor([1, 2, 3]) for site in sites}
    return given | {name.replace("_", "."): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "dsee rank: received 0, allowed: 1"),
        ({"rank": 4.0}, "dsee rank: received 4.0, allowed: a whole number"),
        ({"rank": True}, "dsee rank: received True, allowed: a whole number"),
        ({"alpha": float("nan")}, "dsee alpha: received nan, allowed: above 0"),
        ({"alpha": 10**400}, r"dsee alpha: received 10{56}\.\.\., allowed: above 0, and finite"),
        ({"alpha": "16"}, "dsee alpha: received '16', allowed: a number"),
        ({"n_sparse": -1}, "dsee n_sparse: received -1, allowed: 0 or more"),
        ({"seed": None}, "dsee seed: received None, allowed: a whole number"),
        ({"targets": "query"}, "dsee targets: received 'query', allowed: a list"),
        ({"targets": None}, "dsee targets: received None, allowed: a list"),
        ({"targets": ()}, r"dsee targets: received \[\], allowed: .*query, key, value"),
        ({"targets": ("c_attn",)}, r"targets: received \['c_attn'\], .*query, key, .* ffn_out"),
        ({"targets": ("query", "query")}, "allowed: distinct names"),
        ({"init": "kaiming"}, "dsee init: received 'kaiming', allowed: zero, normal"),
        ({"support": "largest"}, "received 'largest', allowed: magnitude, random, empty, grebsmo"),
        ({"r": 4}, r"dsee r: received 4 beside rank 3, allowed: one of the two"),
        ({"support": 7}, "dsee support: received 7, allowed: .* site -> positions"),
    ],
)
def test_a_wrong_setting_is_refused_when_it_is_written(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        replace(CONFIG, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 25}, "layer.0.query of 24 x 24: dsee rank: received 25, allowed: 1 to 24"),
        ({"n_sparse": 577}, "24 x 24: dsee n_sparse: received 577, allowed: 0 to 576"),
        ({"support": {}}, "no support for layer.0.query; received 0 supports"),
        ({"support": positions(layer_9_query=torch.tensor([1]))}, "layer.9.query; .* in 2 layers"),
        ({"support": positions(layer_0_key=torch.tensor([1]))}, "layer.0.key; .*query, value"),
        ({"support": positions(layer_1_value=torch.arange(12))}, "12 positions; .* at most 11"),
        ({"support": positions(layer_1_value=torch.tensor([576]))}, r"576..576, .* 0\.\.575 of"),
        ({"support": positions(layer_1_value=torch.tensor([-1, 4]))}, "received -1..4"),
        ({"support": positions(layer_1_value=torch.tensor([4, 4]))}, "a position occurs twice"),
        ({"support": positions(layer_1_value=torch.ones(2))}, "received torch.float32 of 1 dim"),
        ({"support": positions(layer_1_value=torch.ones(2, 2, dtype=int))}, "of 2 dimensions"),
        ({"support": positions(layer_1_value=[1, 2])}, "received a list, needed: a tensor"),
    ],
)
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_what_does_not_fit_the_model_is_refused_and_leaves_it_alone(kind, changes, message):
    model = tiny_model(kind)
    modules = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ModelError, match=message):
        sparsetune.apply_dsee(model, replace(CONFIG, **changes))
    assert {name: type(module) for name, module in model.named_modules()} == modules
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_rank_is_held_against_the_smaller_matrices_of_a_pruned_model():
    model = tiny_model("bert")
    remove(model, [[0], [0, 1, 2, 3]], [list(range(WIDTH))] * LAYERS)
    with pytest.raises(
        ModelError, match=r"query of 6 x 24: dsee rank: received 7, allowed: 1 to 6"
    ):
        sparsetune.apply_dsee(model, replace(CONFIG, rank=7))


def test_a_model_that_is_wrapped_or_of_another_kind_is_refused():
    with pytest.raises(ModelError, match=r"query is wrapped already: a .*\.DseeLinear"):
        sparsetune.apply_dsee(sparsetune.apply_dsee(tiny_model("bert"), CONFIG), CONFIG)
    lora = get_peft_model(tiny_model("bert"), LoraConfig(target_modules=["query"]))
    with pytest.raises(ModelError, match=r"query is wrapped already: a peft\..*\.Linear, which "):
        sparsetune.apply_dsee(lora, CONFIG)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    other = AlbertModel(AlbertConfig(vocab_size=9, **sizes))
    with pytest.raises(ModelError, match=r"'albert' .* known: bert, roberta, .*gpt2"):
        sparsetune.apply_dsee(other, CONFIG)
    with pytest.raises(ModelError, match=r"model type None of Linear"):
        sparsetune.apply_dsee(torch.nn.Linear(2, 2), CONFIG)


@pytest.mark.parametrize("config", [{"rank": 3}, None])
def test_settings_of_another_kind_are_refused(config):
    with pytest.raises(ConfigError, match=r"config: received a .*, allowed: a sparsetune.Dsee"):
        sparsetune.apply_dsee(tiny_model("bert"), config)


def test_words_of_peft_are_read_as_ours():
    told = DseeConfig(r=4, lora_alpha=8.0, target_modules=["key"], n_sparse=5)
    assert told == DseeConfig(rank=4, alpha=8.0, targets=("key",), n_sparse=5)
    assert replace(told, seed=3).rank == 4
    assert replace(told, rank=5) == DseeConfig(rank=5, alpha=8.0, targets=("key",), n_sparse=5)
    for word, message in (
        ({"r": 0}, "dsee rank: received 0"),
        ({"target_modules": "all-linear"}, "dsee targets: received 'all-linear', allowed: a list"),
    ):
        with pytest.raises(ConfigError, match=message):
            DseeConfig(**word)


def test_an_unknown_merge_policy_or_a_second_merge_is_refused():
    model = sparsetune.apply_dsee(tiny_model("gpt2"), CONFIG)
    with pytest.raises(ModelError, match=r"'sparse'; allowed: unmerged, dense, masked"):
        sparsetune.merge(model, "sparse")
    sparsetune.merge(model, "dense")
    with pytest.raises(ModelError, match="nothing to merge"):
        sparsetune.merge(model, "dense")

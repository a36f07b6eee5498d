import pytest
from unit.cost.configs import BERT_BASE, TINY_BERT, TINY_GPT2, TINY_ROBERTA

from sparsetune.cost.macs import (
    LAYER_MODULES,
    effective_macs,
    executed_macs,
    macs_by_layer,
    macs_by_operator,
)
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import Update
from sparsetune.errors import ModelError

ZEROS = {"layer.0.query": 100, "layer.1.ffn_out": 30}
UPDATES = [None, Update.dsee(2, 5, ["query", "value"]), Update.ia3(["key"], [])]


def small(config=TINY_BERT, head="classification"):
    dense = ModelShape.dense(config, head, 2)
    return dense.with_kept([[0], [0, 2]], [range(10), range(7)])


def test_one_layer_by_hand():
    # Layer 0 keeps one head of 8 features and 10 neurons of D = 24; T = 5, 100 zeros in its query.
    layers = macs_by_layer(small(), 5, Update.dsee(2, 5, ["query"]), ZEROS)
    first = {module: values[0] for module, values in layers.items()}
    assert first == {
        "query": 5 * (8 * 24 - 100), "key": 5 * 8 * 24, "value": 5 * 8 * 24,
        "attention_output": 5 * 24 * 8, "ffn_in": 5 * 10 * 24, "ffn_out": 5 * 24 * 10,
        "scores": 25 * 8, "context": 25 * 8, "update": 5 * (2 * (8 + 24) + 5),
    }  # fmt: skip


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(
    ("config", "head"),
    [(TINY_BERT, "classification"), (TINY_ROBERTA, "span"), (TINY_GPT2, "generation")],
)
def test_layers_and_operators_add_up_to_the_modules(config, head, update):
    shape = small(config, head)
    for zeros in (None, ZEROS):
        modules = effective_macs(shape, 9, update, zeros)
        layers = macs_by_layer(shape, 9, update, zeros)
        assert {name: sum(values) for name, values in layers.items()} == {
            name: modules[name] for name in LAYER_MODULES
        }
        operators = macs_by_operator(shape, 9, update, zeros)
        assert sum(operators.values()) == sum(modules.values())
        assert min(operators.values()) >= 0
    assert effective_macs(shape, 9, update) == executed_macs(shape, 9, update)


def test_operators_of_bert_base_by_hand():
    update = Update.dsee(16, 64, ["query", "value"])
    found = macs_by_operator(ModelShape.dense(BERT_BASE, "classification", 2), 128, update)
    assert found == {
        "linear": 12 * 7_077_888 * 128 + 768**2 + 1536,
        "attention": 12 * 2 * 128**2 * 768,
        "low_rank": 128 * 589_824,
        "single_entries": 128 * 24 * 64,
    }


def test_lengths_and_sites_are_checked():
    with pytest.raises(ModelError, match="tokens: got 0"):
        macs_by_layer(small(), 0)
    with pytest.raises(ModelError, match="unknown site"):
        macs_by_layer(small(), 3, zeros={"layer.0.pooler": 1})

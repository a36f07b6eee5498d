import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForMaskedLM, GPT2LMHeadModel
from unit.tiny import VOCAB, tiny_config

from sparsetune.cost.macs import pretraining_macs
from sparsetune.cost.shapes import language_model_shapes
from sparsetune.errors import ModelError

SMALL = {
    "model_type": "bert", "hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 6,
    "num_hidden_layers": 1, "vocab_size": 10, "max_position_embeddings": 8, "type_vocab_size": 2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    return tmp_path


def test_masked_language_modelling_by_hand(folder):
    # Three tokens. Four 4x4 projections 4*16*3 = 192, two 4x6 matrices 2*24*3 = 144, scores and
    # context 2*(3*3*4) = 72, head 3*(16 + 40) = 168: 576 forward, 3 x 576 = 1728 in training.
    dense, shape = language_model_shapes(folder)
    assert shape == dense
    assert pretraining_macs(dense, [(1, 3)]) == 1728
    assert pretraining_macs(dense, [(2, 6), (0, 0), (1, 3)]) == 3 * 1728


def test_the_smaller_model_by_hand(folder):
    # One head of two and half of the neurons: 96 + 72 + 36 + 168 = 372 forward.
    sizes = {"heads_by_layer": [1], "neurons_by_layer": [3]}
    (folder / "config.json").write_text(json.dumps(SMALL | sizes))
    _, shape = language_model_shapes(folder)
    assert pretraining_macs(shape, [(1, 3)]) == 3 * 372


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_forward_agrees_with_torchs_own_counter(tmp_path, architecture):
    config = tiny_config(architecture)
    config._attn_implementation = "eager"  # the counter does not see the fused kernel on a CPU
    model_class = BertForMaskedLM if architecture == "bert" else GPT2LMHeadModel
    model = model_class(config).eval()
    model.config.save_pretrained(tmp_path)
    tokens = torch.randint(2, VOCAB, (1, 9))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens)
    dense, _ = language_model_shapes(tmp_path)
    assert pretraining_macs(dense, [(1, 9)]) == 3 * counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads_by_layer": [1]}, "config.json: need heads_by_layer and neurons_by_layer"),
        ({"heads_by_layer": 1, "neurons_by_layer": 2}, "need heads_by_layer and neurons_by_layer"),
        ({"heads_by_layer": [1, 1], "neurons_by_layer": [3, 3]}, "received 2 layers, model has 1"),
        ({"heads_by_layer": [3], "neurons_by_layer": [3]}, "received 2; allowed: 0 to 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(folder, sizes, message):
    (folder / "config.json").write_text(json.dumps(SMALL | sizes))
    with pytest.raises(ModelError, match=message):
        language_model_shapes(folder)

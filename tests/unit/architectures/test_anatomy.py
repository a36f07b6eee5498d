from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    LayoutLMConfig,
    LayoutLMForSequenceClassification,
)
from unit.tiny import HEADS, HIDDEN, KINDS, LAYERS, WIDTH, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune.architectures import anatomy, loading
from sparsetune.architectures.anatomy import Anatomy, task_head_parameters
from sparsetune.architectures.bert import BERT
from sparsetune.architectures.copies import WeightCopies
from sparsetune.earlybert.gates import Gates
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import remove


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["bare", "classification", "qa"])
def test_counts_layers_heads_and_neurons_with_any_head(kind, task):
    anatomy = Anatomy.of(tiny_model(kind, task=task))
    assert (anatomy.layers, anatomy.head_size) == (LAYERS, HIDDEN // HEADS)
    assert [anatomy.heads(n) for n in range(LAYERS)] == [HEADS] * LAYERS
    assert [anatomy.ffn_width(n) for n in range(LAYERS)] == [WIDTH] * LAYERS


@pytest.mark.parametrize("kind", KINDS)
def test_each_projection_is_seen_out_by_in(kind):
    anatomy = Anatomy.of(tiny_model(kind))
    shapes = {site.projection: site.shape for site in anatomy.sites()}
    square = (HIDDEN, HIDDEN)
    assert shapes == {
        **dict.fromkeys(("query", "key", "value", "attention_output"), square),
        "ffn_in": (WIDTH, HIDDEN),
        "ffn_out": (HIDDEN, WIDTH),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_view_computes_what_the_module_computes(kind):
    anatomy = Anatomy.of(tiny_model(kind))
    for site in anatomy.sites():
        x = torch.randn(2, site.shape[1], generator=torch.Generator().manual_seed(1))
        rows = site.out_slice(site.shape[0] * site.parts)
        with torch.no_grad():
            expected = site.module(x)[:, rows] - site.module.bias[rows]
            torch.testing.assert_close(x @ site.weight_view().t(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_view_writes_through_to_the_stored_weight(kind):
    site = Anatomy.of(tiny_model(kind)).site(1, "value")
    with torch.no_grad():
        before = site.module.weight.clone()
        site.weight_view()[0, 0] += 1.0
    changed = (site.module.weight != before).nonzero().tolist()
    assert changed == ([[0, 2 * HIDDEN]] if kind == "gpt2" else [[0, 0]])


@pytest.mark.parametrize("kind", KINDS)
def test_site_path_and_key_lead_back_to_the_site(kind):
    model = tiny_model(kind)
    anatomy = Anatomy.of(model)
    site = anatomy.site(1, "ffn_out")
    assert site.key == "layer.1.ffn_out"
    assert anatomy.site_of(site.key).module is model.get_submodule(site.path)


def test_unknown_architecture_names_those_that_are_known():
    config = AlbertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ModelError, match=r"'albert'.*known: bert, roberta, .*llama"):
        Anatomy.of(AlbertModel(config))
    with pytest.raises(ModelError, match="bert, roberta"):
        Anatomy.of(nn.Linear(2, 2))


@pytest.mark.parametrize("key", ["layer.2.query", "layer.0.pooler", "query", "layer.-1.query"])
def test_site_that_does_not_exist_is_refused(key):
    with pytest.raises(ModelError):
        Anatomy.of(tiny_model("bert")).site_of(key)


@pytest.mark.parametrize(
    ("kind", "task", "names"),
    [
        ("bert", "classification", {"classifier.weight", "classifier.bias"}),
        ("bert", "qa", {"qa_outputs.weight", "qa_outputs.bias"}),
        ("gpt2", "classification", {"score.weight"}),
        ("gpt2", "lm", set()),
        ("bert", "bare", set()),
    ],
)
def test_task_head_is_named(kind, task, names):
    assert set(task_head_parameters(tiny_model(kind, task=task))) == names


def test_roberta_head_includes_its_dense_layer():
    names = set(task_head_parameters(tiny_model("roberta")))
    assert names == {
        f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")
    }


def test_one_description_makes_a_new_family_work_everywhere(monkeypatch, tmp_path):
    told = replace(
        BERT, model_type="layoutlm", class_prefix="LayoutLM", new_weights=(), activation=None
    )
    families = MappingProxyType({**anatomy.FAMILIES, "layoutlm": told})
    for module in (anatomy, loading):
        monkeypatch.setattr(module, "FAMILIES", families)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LayoutLMConfig(vocab_size=50, intermediate_size=12, num_labels=3, **sizes)
    model = LayoutLMForSequenceClassification(config).eval()
    with torch.no_grad():
        Anatomy.of(model).site(0, "attention_output").weight_view()[:, 2:4] = 0.0
    before = output_of(model, tiny_batch())
    assert WeightCopies(model).rounded == []  # it does not tell where its activation is
    remove(model, [[0, 2, 3], [0, 1, 2, 3]], [range(12), range(12)])
    torch.testing.assert_close(output_of(model, tiny_batch()), before)
    assert Gates(LayoutLMForSequenceClassification(config)).heads.shape == (2, 4)
    assert set(task_head_parameters(model)) == {"classifier.weight", "classifier.bias"}
    update = sparsetune.DseeConfig(rank=2, n_sparse=3, support="random", init="normal")
    merged = output_of(sparsetune.apply_dsee(model, update), tiny_batch())
    sparsetune.merge(model, "dense")
    sparsetune.save(model, tmp_path)
    torch.testing.assert_close(output_of(sparsetune.load(tmp_path), tiny_batch()), merged)
    again = loading.load_model(tmp_path, kind="classification", label_count=3, seed=0)
    assert [Anatomy.of(again).heads(n) for n in (0, 1)] == [3, 4]

import subprocess
import sys

import pytest
from unit.cost.configs import (
    BERT_BASE,
    DEBERTA_V3,
    MODERNBERT,
    QWEN3,
    ROBERTA_BASE,
    TINY_BERT,
    TINY_DISTILBERT,
    TINY_GPT2,
    TINY_LLAMA,
    TINY_ROBERTA,
    dsee,
)

from sparsetune.cost.parameters import (
    count_parameters,
    dense_parameters,
    sparsity,
    sparsity_by_layer,
)
from sparsetune.cost.shapes import LayerShape, ModelShape
from sparsetune.cost.updates import FULL, low_rank_branches
from sparsetune.errors import ModelError


def test_bert_base_has_the_known_number_of_parameters():
    # Embeddings (30522 + 512 + 2) * 768 + norm 1536 = 23,837,184; 12 layers of 7,087,872;
    # pooler 590,592; classifier 1,538.
    shape = ModelShape.dense(BERT_BASE, "classification", 2)
    assert dense_parameters(shape) == 23_837_184 + 12 * 7_087_872 + 590_592 + 1_538


def test_qwen3_has_the_known_number_of_parameters():
    # Embeddings 151936 * 1024 = 155,582,464; a layer: queries and output 2 * 2048 * 1024, keys and
    # values 2 * 1024 * 1024, three of 3072 * 1024, norms 2 * 1024 + 2 * 128 = 15,730,944; a norm.
    shape = ModelShape.dense(QWEN3, "generation", 1)
    assert dense_parameters(shape) == 155_582_464 + 28 * 15_730_944 + 1_024 == 596_049_920
    assert shape.bias_parameters() == shape.head_parameters() == 0
    untied = ModelShape.dense(QWEN3 | {"tie_word_embeddings": False}, "generation", 1)
    assert untied.head_parameters() == 155_582_464


def test_deberta_v3_has_the_known_number_of_parameters():
    # Embeddings 128100 * 768 + norm 1536 = 98,382,336; relative ones 512 * 768 + norm 1536 =
    # 394,752; BERT's layers, pooler and classifier.
    shape = ModelShape.dense(DEBERTA_V3, "classification", 2)
    expected = 98_382_336 + 394_752 + 12 * 7_087_872 + 590_592 + 1_538
    assert dense_parameters(shape) == expected == 184_423_682
    # In version 2 each layer has two further matrices, of 768 * 768 + 768.
    own = ModelShape.dense(DEBERTA_V3 | {"share_att_key": False}, "classification", 2)
    assert dense_parameters(own) == expected + 12 * 2 * 590_592


def test_modernbert_has_the_known_number_of_parameters():
    # Embeddings 50368 * 768 + norm 768 = 38,683,392; a layer: 4 * 768 * 768, 3 * 1152 * 768, norms
    # 2 * 768 = 5,015,040, the first without a norm; last norm; head 768 * 768 + 768; 50368 biases.
    shape = ModelShape.dense(MODERNBERT, "masked_lm", 1)
    expected = 38_683_392 + 22 * 5_015_040 - 768 + 768 + 590_592 + 50_368
    assert dense_parameters(shape) == expected == 149_655_232
    # Two matrices hold five projections.
    stored = {key: rows for key, _, rows, _ in shape.matrices(shape.family.projections, fused=True)}
    assert stored["layer.0.query"] == 3 * 768
    assert stored["layer.0.ffn_in"] == 2 * 1152
    assert len(stored) == 22 * 4


def test_robertas_whole_classifier_is_its_head():
    shape = ModelShape.dense(ROBERTA_BASE, "classification", 2)
    assert shape.head_parameters() == 592_130
    assert not shape.pooler


def test_full_update_trains_everything():
    shape = ModelShape.dense(TINY_BERT, "classification", 3)
    count = count_parameters(shape, FULL)
    assert count.trained_with_head == count.total == dense_parameters(shape)
    assert count.trained == count.total - shape.head_parameters()
    assert count.stored_bytes == 4 * count.total


def test_stored_bytes_hold_values_positions_and_mask_bits():
    # D = 24: query and value are 24 x 24, two layers, rank 2: 4 * 2 * 48 = 384 values, 4 * 5
    # sparse values with as many positions, head 24 * 2 + 2 = 50; masks of 576 and 960 bits.
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    zeros = {"layer.0.query": 100, "layer.1.ffn_in": 0}
    count = count_parameters(shape, dsee(shape, 2, 5, ["query", "value"]), zeros)
    assert count.stored_bytes == 4 * (384 + 20 + 50) + 4 * 20 + 576 // 8 + 960 // 8


@pytest.mark.parametrize(
    ("config", "head", "auto"),
    [
        (TINY_BERT, "classification", "BertForSequenceClassification"),
        (TINY_BERT, "span", "BertForQuestionAnswering"),
        (TINY_ROBERTA, "classification", "RobertaForSequenceClassification"),
        (TINY_ROBERTA, "span", "RobertaForQuestionAnswering"),
        (TINY_DISTILBERT, "classification", "DistilBertForSequenceClassification"),
        (TINY_DISTILBERT, "span", "DistilBertForQuestionAnswering"),
        (TINY_DISTILBERT, "masked_lm", "DistilBertForMaskedLM"),
        (TINY_BERT | {"model_type": "camembert"}, "span", "CamembertForQuestionAnswering"),
        (
            TINY_BERT | {"model_type": "xlm-roberta"},
            "classification",
            "XLMRobertaForSequenceClassification",
        ),
        (TINY_GPT2, "generation", "GPT2LMHeadModel"),
        (TINY_GPT2, "classification", "GPT2ForSequenceClassification"),
        (TINY_GPT2, "span", "GPT2ForQuestionAnswering"),
    ],
)
def test_parameters_equal_those_of_the_library(config, head, auto):
    transformers = pytest.importorskip("transformers")
    values = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(config["model_type"], **values, num_labels=2)
    model = getattr(transformers, auto)(settings)
    counted = dense_parameters(ModelShape.dense(config, head, 2))
    assert counted == sum(parameter.numel() for parameter in model.parameters())


def test_removal_keeps_what_is_named():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    smaller = shape.with_kept([[0, 2], [1]], [range(10), [3]])
    assert smaller.layers == (LayerShape(2, 8, 10), LayerShape(1, 8, 1))
    # Per head: 3 * (24 * 8 + 8) + 8 * 24 = 792; per neuron: 24 + 1 + 24 = 49.
    assert dense_parameters(shape) - dense_parameters(smaller) == 3 * 792 + (80 - 11) * 49


def test_sparsity_counts_removed_weights_when_the_dense_model_is_given():
    dense = ModelShape.dense(TINY_BERT, "classification", 2)
    weights = 2 * (4 * 24 * 24 + 2 * 24 * 40)
    assert sparsity(dense, {"layer.0.key": 200}) == pytest.approx(200 / weights)
    smaller = dense.with_kept([[0], [0, 1, 2]], [range(40), range(40)])
    assert sparsity(smaller, dense=dense) == pytest.approx(2 * 4 * 24 * 8 / weights)
    with pytest.raises(ModelError, match="fewer than"):
        sparsity(dense, dense=smaller)


def test_sparsity_by_layer_worked_by_hand():
    dense = ModelShape.dense(TINY_BERT, "classification", 2)
    smaller = dense.with_kept([[0], [0, 1, 2]], [range(40), range(10)])
    found = sparsity_by_layer(smaller, {"layer.1.key": 144, "layer.1.ffn_in": 24}, dense=dense)
    # Layer 0 keeps one of three heads; 144 of the 4 * 24 * 24 weights of layer 1's attention are 0.
    assert found["attention"] == pytest.approx([2 / 3, 144 / 2304], abs=1e-6)
    # Layer 1 keeps 10 of 40 neurons, and 24 of the 2 * 24 * 40 weights are 0 besides.
    assert found["feed_forward"] == pytest.approx([0, 0.75 + 24 / 1920], abs=1e-6)


def test_sparsity_by_layer_adds_up_to_the_whole_and_counts_removed_layers():
    dense = ModelShape.dense(TINY_BERT, "classification", 2)
    left = dense.with_layers([1])
    zeros = {"layer.0.query": 100}
    found = sparsity_by_layer(left, zeros, dense=dense, kept_layers=[1])
    assert (found["attention"][0], found["feed_forward"][0]) == (1, 1)
    whole = sum(4 * 24 * 24 * a + 2 * 24 * 40 * f for a, f in zip(*found.values(), strict=True))
    weights = 2 * (4 * 24 * 24 + 2 * 24 * 40)
    assert whole / weights == pytest.approx(sparsity(left, zeros, dense=dense), abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelShape.dense({"model_type": "t5"}, "span", 2), "bert, roberta, .*, gpt2"),
        (lambda: ModelShape.dense({"model_type": "rembert"}, "span", 2), "'rembert'; allowed"),
        (lambda: ModelShape.dense(TINY_LLAMA | {"num_key_value_heads": 4}, "span", 2), "of 4 key"),
        (lambda: ModelShape.dense({"model_type": "bert"}, "span", 2), "config.hidden_size"),
        (lambda: ModelShape.dense(TINY_BERT | {"hidden_size": 25}, "span", 2), "multiple of 3"),
        (lambda: ModelShape.dense(TINY_BERT, "generation", 2), "'generation' for 'bert'"),
        (lambda: ModelShape.dense(TINY_BERT, "tagging", 2), "'tagging'; allowed"),
        (lambda: LayerShape(0, 8, 8), "layer.heads"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()


@pytest.mark.parametrize(
    ("heads", "neurons", "message"),
    [
        ([[0]], [[0], [0]], "kept_heads: received 1 layers, model has 2"),
        ([[0], [3]], [[0], [0]], r"kept_heads\[1\]: received 3; allowed: 0 to 2"),
        ([[0], []], [[0], [0]], r"kept_heads\[1\]: received 0 numbers"),
        ([[0], [1]], [[0], [5, 5]], r"kept_neurons\[1\]: received 2 numbers"),
    ],
)
def test_removal_that_does_not_fit_is_refused(heads, neurons, message):
    with pytest.raises(ModelError, match=message):
        ModelShape.dense(TINY_BERT, "classification", 2).with_kept(heads, neurons)


def test_zeros_entries_and_ranks_must_fit_their_matrix():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    with pytest.raises(ModelError, match=r"unknown site 'layer.7.query'"):
        count_parameters(shape, FULL, {"layer.7.query": 1})
    with pytest.raises(ModelError, match=r"layer.0.query: received 577; allowed: 0 to 576"):
        sparsity(shape, {"layer.0.query": 577})
    for ranks, message in (
        ({"layer.2.query": 1}, r"ranks: layer.2.query: no such target in this model"),
        ({"layer.0.query": 5}, "ranks: layer.0.query: received 5; allowed: 0 to 4"),
    ):
        with pytest.raises(ModelError, match=message):
            low_rank_branches(shape, ["query"], 4, ranks=ranks)
    with pytest.raises(ModelError, match="n_sparse: received 577"):
        dsee(shape, 1, 577, ["query"])


def test_counting_imports_neither_torch_nor_transformers():
    code = (
        "import sys, sparsetune.cost.run, sparsetune.methods.registry\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

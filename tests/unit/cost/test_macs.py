from types import SimpleNamespace

import pytest
from unit.cost.configs import (
    BERT_BASE,
    TINY,
    TINY_BERT,
    TINY_DISTILBERT,
    TINY_ELECTRA,
    TINY_GPT2,
    TINY_LLAMA,
    TINY_ROBERTA,
    dsee,
    lora,
    total,
)  # fmt: skip

from sparsetune.cost.macs import (
    LAYER_MODULES,
    MODULES,
    TrainingPhase,
    macs_by_layer,
    macs_by_module,
    macs_by_operator,
    training_macs,
    whole_life_macs,
)
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import Branch, UpdateCount
from sparsetune.errors import ModelError

TOKENS, BATCH = 7, 2
CASES = [
    (TINY_BERT, "classification", "BertForSequenceClassification"),
    (TINY_BERT, "span", "BertForQuestionAnswering"),
    (TINY_BERT, "masked_lm", "BertForMaskedLM"),
    (TINY_ROBERTA, "masked_lm", "RobertaForMaskedLM"),
    (TINY_ROBERTA, "classification", "RobertaForSequenceClassification"),
    (TINY_ROBERTA, "span", "RobertaForQuestionAnswering"),
    (TINY_GPT2, "generation", "GPT2LMHeadModel"),
    (TINY_GPT2, "classification", "GPT2ForSequenceClassification"),
    (TINY_GPT2, "span", "GPT2ForQuestionAnswering"),
    (TINY_DISTILBERT, "classification", "DistilBertForSequenceClassification"),
    (TINY_DISTILBERT, "span", "DistilBertForQuestionAnswering"),
    (TINY_DISTILBERT, "masked_lm", "DistilBertForMaskedLM"),
    (TINY_ELECTRA, "classification", "ElectraForSequenceClassification"),
    (TINY_ELECTRA, "masked_lm", "ElectraForMaskedLM"),
    (TINY_LLAMA, "generation", "LlamaForCausalLM"),
    (TINY_LLAMA, "classification", "LlamaForSequenceClassification"),
    (TINY_LLAMA, "span", "LlamaForQuestionAnswering"),
]


def bert_base(heads=12, neurons=3072):
    shape = ModelShape.dense(BERT_BASE, "classification", 2)
    return shape.with_kept([range(heads)] * 12, [range(neurons)] * 12)


def build(config, auto):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(
        config["model_type"], **values, num_labels=2, pad_token_id=1
    )
    model = getattr(transformers, auto)._from_config(settings, attn_implementation="eager")
    ids = torch.arange(2, 2 + BATCH * TOKENS).reshape(BATCH, TOKENS)
    return SimpleNamespace(model=model, ids=ids)


def counted(built, backward=False):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        output = built.model(input_ids=built.ids)
        if backward:
            sum(value.sum() for value in output.values() if hasattr(value, "sum")).backward()
    return counter.get_total_flops() // 2 // BATCH


@pytest.mark.parametrize(("config", "head", "auto"), CASES)
def test_forward_equals_torchs_counter(config, head, auto):
    shape = ModelShape.dense(config, head, 2)
    assert total(macs_by_module(shape, TOKENS)) == counted(build(config, auto))


@pytest.mark.parametrize(("config", "head", "auto"), CASES)
def test_full_training_equals_torchs_counter(config, head, auto):
    shape = ModelShape.dense(config, head, 2)
    macs = total(training_macs(shape, TOKENS))
    assert macs == 3 * total(macs_by_module(shape, TOKENS))
    assert macs == counted(build(config, auto), backward=True)


def add_branches(built, targets, rank):
    torch = pytest.importorskip("torch")

    class Branch(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.v = torch.nn.Linear(base.in_features, rank, bias=False)
            self.u = torch.nn.Linear(rank, base.out_features, bias=False)

        def forward(self, x):
            return self.base(x) + self.u(self.v(x))

    built.model.requires_grad_(False)
    built.model.classifier.requires_grad_(True)
    for layer in built.model.bert.encoder.layer:
        for target in targets:
            base = getattr(layer.attention.self, target)
            setattr(layer.attention.self, target, Branch(base))


def test_low_rank_branches_equal_torchs_counter():
    built = build(TINY_BERT, "BertForSequenceClassification")
    add_branches(built, ["query", "value"], rank=2)
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    update = lora(shape, 2, ["query", "value"])
    assert total(macs_by_module(shape, TOKENS, update)) == counted(built)


def test_ranks_that_fall_train_at_the_first_and_run_at_the_last_ones():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    # One rank of a 24 x 24 matrix is 48 MACs a token; a branch in training costs three times.
    update = UpdateCount(
        (Branch("layer.0.query", 1 * 48), Branch("layer.1.query", 2 * 48)),
        in_training=(Branch("layer.0.query", 4 * 48), Branch("layer.1.query", 4 * 48)),
    )
    assert macs_by_module(shape, 5, update)["update"] == 5 * 3 * 48
    assert training_macs(shape, 5, update)["update"] == 3 * 5 * 8 * 48


def test_scaling_and_biases_are_free_and_leave_the_backbone_frozen():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    for update in (UpdateCount(own=7), UpdateCount((Branch("layer.0.key", 0, vectors=24),))):
        assert macs_by_module(shape, 5, update) == macs_by_module(shape, 5)
        training = training_macs(shape, 5, update)
        assert training["query"] == 2 * macs_by_module(shape, 5)["query"]
        assert training["head"] == 3 * macs_by_module(shape, 5)["head"]


def test_frozen_training_differs_from_torchs_counter_by_the_first_layer_alone():
    # The first layer's input needs no gradient: torch skips that of query, key and value, of
    # both V, and of the scores' key side.
    built = build(TINY_BERT, "BertForSequenceClassification")
    add_branches(built, ["query", "value"], rank=2)
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    ours = total(training_macs(shape, TOKENS, lora(shape, 2, ["query", "value"])))
    skipped = 3 * TOKENS * 24 * 24 + 2 * TOKENS * 2 * 24 + TOKENS * TOKENS * 24
    assert ours == counted(built, backward=True) + skipped


def test_bert_base_by_hand():
    # Per layer 7,077,888 weights x 128 tokens + 2 x 128^2 x 768; pooler 768^2; head 1536.
    by_hand = 12 * (7_077_888 * 128 + 2 * 128**2 * 768) + 768**2 + 1536
    assert total(macs_by_module(bert_base(), 128)) == by_hand
    assert by_hand / 1e9 == pytest.approx(11.17, abs=0.005)
    assert 277 * by_hand == pytest.approx(3.10e12, rel=2e-3)


@pytest.mark.parametrize(
    ("heads", "neurons", "saved_percent"),
    [
        (9, 3072, 8.8),
        (8, 3072, 11.7),
        (9, 2304, 25.0),
        (9, 1843, 34.7),
        (8, 2048, 33.3),
        (8, 1843, 37.7),
    ],
)
def test_removal_saves_the_published_share(heads, neurons, saved_percent):
    dense = total(macs_by_module(bert_base(), 128))
    smaller = total(macs_by_module(bert_base(heads, neurons), 128))
    assert 100 * (1 - smaller / dense) == pytest.approx(saved_percent, abs=0.06)


@pytest.mark.parametrize(("ratio", "saved_percent"), [(0.2, 19.5), (0.3, 29.2), (0.5, 48.6)])
def test_zeros_save_macs_by_module_only(ratio, saved_percent):
    shape = bert_base()
    zeros = {key: round(ratio * rows * columns) for key, _, rows, columns in shape.sites()}
    dense = total(macs_by_module(shape, 128))
    effective = macs_by_module(shape, 128, zeros=zeros)
    assert 100 * (1 - total(effective) / dense) == pytest.approx(saved_percent, abs=0.06)
    assert effective["scores"] == macs_by_module(shape, 128)["scores"]


def test_branches_count_in_both_kinds():
    # 589,824 values of U and V and 24 * 64 sparse entries, each once per token.
    update = dsee(bert_base(), 16, 64, ["query", "value"])
    for zeros in (None, {"layer.0.query": 9}):
        macs = macs_by_module(bert_base(), 128, update, zeros)
        assert macs["update"] == 128 * (589_824 + 24 * 64)


def test_modules_are_complete_and_ordered():
    macs = macs_by_module(ModelShape.dense(TINY_ROBERTA, "classification", 3), 5)
    assert tuple(macs) == MODULES
    assert macs["embeddings"] == macs["pooler"] == macs["update"] == 0
    assert macs["head"] == 24 * 24 + 24 * 3


def test_mean_length_gives_whole_numbers_near_the_exact_ones():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    macs = macs_by_module(shape, 6.5)
    assert all(isinstance(value, int) for value in macs.values())
    assert macs["query"] == 6.5 * 2 * 24 * 24
    assert macs_by_module(shape, 6)["scores"] < macs["scores"] < macs_by_module(shape, 7)["scores"]


def test_frozen_backbone_trains_cheaper_by_its_frozen_matrices():
    shape = ModelShape.dense(TINY_GPT2, "generation", 1)
    update = lora(shape, 2, ["query"])
    forward, training = macs_by_module(shape, 5, update), training_macs(shape, 5, update)
    ratios = {name: training[name] / forward[name] for name in MODULES if forward[name]}
    assert {name for name, ratio in ratios.items() if ratio == 3} == {"scores", "context", "update"}
    assert set(ratios.values()) == {2, 3}


def test_whole_life_adds_search_training_and_use():
    dense = ModelShape.dense(TINY_BERT, "classification", 2)
    small = dense.with_kept([[0, 1]] * 2, [range(20)] * 2)
    update = dsee(small, 2, 4, ["query"])
    phases = [
        TrainingPhase("search", 10, 6, dense),
        TrainingPhase("train", 30, 6, small, update),
        TrainingPhase("train", 30, 6, small, update),
    ]
    life = whole_life_macs(phases, inference_macs=1000, inference_examples=50)
    assert life["search"] == 10 * 3 * total(macs_by_module(dense, 6))
    assert life["train"] == 60 * total(training_macs(small, 6, update))
    assert life["inference"] == 50_000
    assert life["total"] == life["search"] + life["train"] + 50_000


def test_impossible_counts_are_refused():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    with pytest.raises(ModelError, match="tokens: received 0"):
        macs_by_module(shape, 0)
    for count in (macs_by_module, macs_by_layer, macs_by_operator):
        with pytest.raises(ModelError, match="unknown site"):
            count(shape, 4, zeros={"layer.0.pooler": 1})
    phase = TrainingPhase("total", 1, 4, shape)
    with pytest.raises(ModelError, match="phase 'total'"):
        whole_life_macs([phase], inference_macs=0, inference_examples=0)
    with pytest.raises(ModelError, match="allowed: both >= 0"):
        whole_life_macs([], inference_macs=-1, inference_examples=0)


ZEROS = {"layer.0.query": 100, "layer.1.ffn_out": 30}
UPDATES = {
    "none": lambda shape: UpdateCount(),
    "dsee": lambda shape: dsee(shape, 2, 5, ["query", "value"]),
    "vectors": lambda shape: UpdateCount((Branch("layer.0.key", 0, vectors=8),)),
}


def small(config=TINY_BERT, head="classification"):
    dense = ModelShape.dense(config, head, 2)
    return dense.with_kept([[0], [0, 2]], [range(10), range(7)])


def test_one_layer_by_hand():
    # Layer 0 keeps one head of 8 features and 10 neurons of D = 24; T = 5, 100 zeros in its query.
    layers = macs_by_layer(small(), 5, dsee(small(), 2, 5, ["query"]), ZEROS)
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
    update = UPDATES[update](shape)
    for zeros in (None, ZEROS):
        modules = macs_by_module(shape, 9, update, zeros)
        layers = macs_by_layer(shape, 9, update, zeros)
        assert {name: sum(values) for name, values in layers.items()} == {
            name: modules[name] for name in LAYER_MODULES
        }
        operators = macs_by_operator(shape, 9, update, zeros)
        assert sum(operators.values()) == sum(modules.values())
        assert min(operators.values()) >= 0


def test_operators_of_bert_base_by_hand():
    update = dsee(bert_base(), 16, 64, ["query", "value"])
    found = macs_by_operator(bert_base(), 128, update)
    assert found == {
        "linear": 12 * 7_077_888 * 128 + 768**2 + 1536,
        "attention": 12 * 2 * 128**2 * 768,
        "low_rank": 128 * 589_824,
        "single_entries": 128 * 24 * 64,
    }


def test_a_third_of_the_layers_saves_a_third_of_them():
    whole, dense = bert_base(), total(macs_by_module(bert_base(), 128))
    third = whole.with_layers([0, 1, 3, 4, 6, 7, 9, 10])
    # All but pooler and classifier are in the layers, which are alike.
    rest = 768 * 768 + 768 * 2
    assert total(macs_by_module(third, 128)) == rest + (dense - rest) * 8 // 12
    assert whole.with_layers(None) == whole


@pytest.mark.parametrize("kept", [[], [0, 0], [12], [-1]])
def test_layers_that_do_not_exist_are_refused(kept):
    with pytest.raises(ModelError, match="kept_layers: received"):
        bert_base().with_layers(kept)


def test_gpt2_has_no_masked_language_model():
    with pytest.raises(ModelError, match="head: received 'masked_lm' for 'gpt2'"):
        ModelShape.dense(TINY_GPT2, "masked_lm", 1)


def test_grouped_queries_and_gated_neurons_by_hand():
    # T = 5, D = 24: queries are 24 wide, keys and values 3 x 4 = 12; 40 neurons, two layers.
    macs = macs_by_module(ModelShape.dense(TINY_LLAMA, "generation", 1), 5)
    assert list(macs)[7:10] == ["ffn_in", "ffn_gate", "ffn_out"]
    assert macs["query"] == macs["attention_output"] == 2 * 5 * 24 * 24
    assert macs["key"] == macs["value"] == 2 * 5 * 12 * 24
    assert macs["scores"] == macs["context"] == 2 * 25 * 24
    assert macs["ffn_in"] == macs["ffn_gate"] == macs["ffn_out"] == 2 * 5 * 40 * 24
    assert macs["head"] == 5 * 24 * 61


def test_relative_positions_by_hand():
    # T = 5, D = 24, two layers, buckets of 4: 8 relative positions beside the tokens.
    config = TINY | {
        "model_type": "deberta-v2", "relative_attention": True, "position_buckets": 4,
        "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
    }  # fmt: skip
    shape = ModelShape.dense(config, "classification", 2)
    macs = macs_by_module(shape, 5)
    assert macs["query"] == macs["key"] == 2 * (5 + 8) * 24 * 24
    assert macs["value"] == macs["attention_output"] == 2 * 5 * 24 * 24
    assert macs["scores"] == 2 * 5 * (5 + 8 + 8) * 24
    assert macs["context"] == 2 * 5 * 5 * 24
    zeros = {"layer.0.query": 10, "layer.1.value": 10}
    less = macs_by_module(shape, 5, zeros=zeros)
    assert (macs["query"] - less["query"], macs["value"] - less["value"]) == (130, 50)
    # Rank 2 beside the query of each layer goes where the query goes.
    assert macs_by_module(shape, 5, lora(shape, 2, ["query"]))["update"] == 2 * 13 * 2 * 48
    assert macs_by_module(shape, 5, lora(shape, 2, ["value"]))["update"] == 2 * 5 * 2 * 48
    # Matrices of their own cost as much, and lose nothing with the zeros of the tokens' ones.
    own = ModelShape.dense(config | {"share_att_key": False}, "classification", 2)
    assert macs_by_module(own, 5) == macs
    assert macs["query"] - macs_by_module(own, 5, zeros=zeros)["query"] == 50

from types import SimpleNamespace

import pytest
from unit.cost.configs import BERT_BASE, TINY_BERT, TINY_GPT2, TINY_ROBERTA

from sparsetune.cost.macs import (
    MODULES,
    TrainingPhase,
    effective_macs,
    executed_macs,
    training_macs,
    whole_life_macs,
)
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import Update
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
]


def bert_base(heads=12, neurons=3072):
    shape = ModelShape.dense(BERT_BASE, "classification", 2)
    return shape.with_kept([range(heads)] * 12, [range(neurons)] * 12)


def total(macs):
    return sum(macs.values())


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
    assert total(executed_macs(shape, TOKENS)) == counted(build(config, auto))


@pytest.mark.parametrize(("config", "head", "auto"), CASES)
def test_full_training_equals_torchs_counter(config, head, auto):
    shape = ModelShape.dense(config, head, 2)
    macs = total(training_macs(shape, TOKENS))
    assert macs == 3 * total(executed_macs(shape, TOKENS))
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
    update = Update.lora(2, ["query", "value"])
    assert total(executed_macs(shape, TOKENS, update)) == counted(built)


PEFT_CASES = [
    (TINY_BERT, "classification", "BertForSequenceClassification"),
    (TINY_ROBERTA, "span", "RobertaForQuestionAnswering"),
    (TINY_GPT2, "generation", "GPT2LMHeadModel"),
]
SETTINGS = {
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["query", "value"]},
    "ia3": {"targets": ["key", "value", "ffn_out"], "feedforward": ["ffn_out"]},
    "adalora": {
        "rank": 2, "initial_rank": 3, "alpha": 4, "dropout": 0.0, "targets": ["query", "value"],
        "orthogonality_weight": 0.1, "interval_steps": 1, "sensitivity_smoothing": 0.85,
        "uncertainty_smoothing": 0.85,
    },
    "supra": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["query"], "n_sparse": 5},
}  # fmt: skip


# PEFT refuses Supra on GPT-2.
WRAPPED = [
    (name, *case) for case in PEFT_CASES for name in SETTINGS
    if (name, case[0]) != ("supra", TINY_GPT2)
]  # fmt: skip


@pytest.mark.parametrize(("name", "config", "head", "auto"), WRAPPED)
def test_wrapped_models_equal_torchs_counter(name, config, head, auto):
    from sparsetune.methods.updates import attach_update
    from sparsetune.stages.cost import update_of

    settings = {"kind": "peft", "type": name, **SETTINGS[name]}
    sites = list(ModelShape.dense(config, head, 2).matrices(settings["targets"], fused=True))
    if name == "adalora":  # as left by training: one matrix keeps all ranks, the others one
        settings["ranks"] = {key: 3 if n == 0 else 1 for n, (key, *_) in enumerate(sites)}
    built = build(config, auto)
    attached = attach_update(built.model, settings, supports={}, seed=0)
    supports = {key: len(positions) for key, positions in attached.supports.items()}
    shape = ModelShape.dense(config, head, 2)
    ours = executed_macs(shape, TOKENS, update_of(settings, supports))
    # PEFT adds Supra's single entries into the matrix: no product of their own to count.
    assert total(ours) == counted(built) + TOKENS * sum(supports.values())
    assert (ours["update"] == 0) == (name == "ia3")


def test_adalora_trains_at_its_first_rank_and_runs_at_its_last_ones():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    ranks = {"layer.0.query": 1, "layer.1.query": 2}
    update = Update.adalora(4, ["query"], ranks=ranks)
    # One rank of a 24 x 24 matrix is 48 MACs a token; a branch in training costs three times.
    assert executed_macs(shape, 5, update)["update"] == 5 * 3 * 48
    assert training_macs(shape, 5, update)["update"] == 3 * 5 * 8 * 48


def test_scaling_and_biases_are_free_and_leave_the_backbone_frozen():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    for update in (Update.bitfit(), Update.ia3(["key"], [])):
        assert executed_macs(shape, 5, update) == executed_macs(shape, 5)
        training = training_macs(shape, 5, update)
        assert training["query"] == 2 * executed_macs(shape, 5)["query"]
        assert training["head"] == 3 * executed_macs(shape, 5)["head"]


def test_frozen_training_differs_from_torchs_counter_by_the_first_layer_alone():
    # The first layer's input needs no gradient: torch skips that of query, key and value, of
    # both V, and of the scores' key side.
    built = build(TINY_BERT, "BertForSequenceClassification")
    add_branches(built, ["query", "value"], rank=2)
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    ours = total(training_macs(shape, TOKENS, Update.lora(2, ["query", "value"])))
    skipped = 3 * TOKENS * 24 * 24 + 2 * TOKENS * 2 * 24 + TOKENS * TOKENS * 24
    assert ours == counted(built, backward=True) + skipped


def test_bert_base_by_hand():
    # Per layer 7,077,888 weights x 128 tokens + 2 x 128^2 x 768; pooler 768^2; head 1536.
    by_hand = 12 * (7_077_888 * 128 + 2 * 128**2 * 768) + 768**2 + 1536
    assert total(executed_macs(bert_base(), 128)) == by_hand
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
    dense = total(executed_macs(bert_base(), 128))
    smaller = total(executed_macs(bert_base(heads, neurons), 128))
    assert 100 * (1 - smaller / dense) == pytest.approx(saved_percent, abs=0.06)


@pytest.mark.parametrize(("ratio", "saved_percent"), [(0.2, 19.5), (0.3, 29.2), (0.5, 48.6)])
def test_zeros_save_effective_macs_only(ratio, saved_percent):
    shape = bert_base()
    zeros = {key: round(ratio * rows * columns) for key, _, rows, columns in shape.sites()}
    dense = total(executed_macs(shape, 128))
    effective = effective_macs(shape, 128, zeros=zeros)
    assert 100 * (1 - total(effective) / dense) == pytest.approx(saved_percent, abs=0.06)
    assert effective["scores"] == executed_macs(shape, 128)["scores"]


def test_branches_count_in_both_kinds():
    # 589,824 values of U and V and 24 * 64 sparse entries, each once per token.
    update = Update.dsee(16, 64, ["query", "value"])
    for count in (executed_macs, effective_macs):
        assert count(bert_base(), 128, update)["update"] == 128 * (589_824 + 24 * 64)


def test_modules_are_complete_and_ordered():
    macs = executed_macs(ModelShape.dense(TINY_ROBERTA, "classification", 3), 5)
    assert tuple(macs) == MODULES
    assert macs["embeddings"] == macs["pooler"] == macs["update"] == 0
    assert macs["head"] == 24 * 24 + 24 * 3


def test_mean_length_gives_whole_numbers_near_the_exact_ones():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    macs = executed_macs(shape, 6.5)
    assert all(isinstance(value, int) for value in macs.values())
    assert macs["query"] == 6.5 * 2 * 24 * 24
    assert executed_macs(shape, 6)["scores"] < macs["scores"] < executed_macs(shape, 7)["scores"]


def test_frozen_backbone_trains_cheaper_by_its_frozen_matrices():
    shape = ModelShape.dense(TINY_GPT2, "generation", 1)
    update = Update.lora(2, ["query"])
    forward, training = executed_macs(shape, 5, update), training_macs(shape, 5, update)
    ratios = {name: training[name] / forward[name] for name in MODULES if forward[name]}
    assert {name for name, ratio in ratios.items() if ratio == 3} == {"scores", "context", "update"}
    assert set(ratios.values()) == {2, 3}


def test_whole_life_adds_search_training_and_use():
    dense = ModelShape.dense(TINY_BERT, "classification", 2)
    small = dense.with_kept([[0, 1]] * 2, [range(20)] * 2)
    update = Update.dsee(2, 4, ["query"])
    phases = [
        TrainingPhase("search", 10, 6, dense, Update.full()),
        TrainingPhase("train", 30, 6, small, update),
        TrainingPhase("train", 30, 6, small, update),
    ]
    life = whole_life_macs(phases, inference_macs=1000, inference_examples=50)
    assert life["search"] == 10 * 3 * total(executed_macs(dense, 6))
    assert life["train"] == 60 * total(training_macs(small, 6, update))
    assert life["inference"] == 50_000
    assert life["total"] == life["search"] + life["train"] + 50_000


def test_impossible_counts_are_refused():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    with pytest.raises(ModelError, match="tokens: got 0"):
        executed_macs(shape, 0)
    with pytest.raises(ModelError, match="unknown site"):
        effective_macs(shape, 4, zeros={"layer.0.pooler": 1})
    phase = TrainingPhase("total", 1, 4, shape, Update.full())
    with pytest.raises(ModelError, match="phase 'total'"):
        whole_life_macs([phase], inference_macs=0, inference_examples=0)
    with pytest.raises(ModelError, match="need both >= 0"):
        whole_life_macs([], inference_macs=-1, inference_examples=0)


def test_a_third_of_the_layers_saves_a_third_of_them():
    whole, dense = bert_base(), total(executed_macs(bert_base(), 128))
    third = whole.with_layers([0, 1, 3, 4, 6, 7, 9, 10])
    # All but pooler and classifier are in the layers, which are alike.
    rest = 768 * 768 + 768 * 2
    assert total(executed_macs(third, 128)) == rest + (dense - rest) * 8 // 12
    assert whole.with_layers(None) == whole


@pytest.mark.parametrize("kept", [[], [0, 0], [12], [-1]])
def test_layers_that_do_not_exist_are_refused(kept):
    with pytest.raises(ModelError, match="kept_layers: got"):
        bert_base().with_layers(kept)


def test_gpt2_has_no_masked_language_model():
    with pytest.raises(ModelError, match="head: got 'masked_lm' for 'gpt2'"):
        ModelShape.dense(TINY_GPT2, "masked_lm", 1)

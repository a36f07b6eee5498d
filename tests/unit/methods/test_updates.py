import pytest
import torch
from unit.tiny import KINDS, tiny_batch
from unit.training.tiny_jobs import KEPT, build_tiny, save_backbone

from sparsetune.architectures.anatomy import Anatomy, task_head_parameters
from sparsetune.cost.params import count_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import Update

# LoRA's V and U of rank 3 on query and value of two layers of width 24; DSEE has 11 values more.
LORA_PARAMETERS = 2 * 2 * (24 * 3 + 3 * 24)
DSEE_PARAMETERS = LORA_PARAMETERS + 2 * 2 * 11


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {kind: save_backbone(root, kind) for kind in KINDS}


def trained_outside_head(tuned):
    heads = task_head_parameters(tuned.model)
    return {name: p for name, p in tuned.trained_parameters().items() if name not in heads}


@pytest.mark.parametrize("kind", KINDS)
def test_full_trains_everything(backbones, kind):
    tuned = build_tiny(backbones[kind], "full")
    assert tuned.trained_parameters().keys() == dict(tuned.model.named_parameters()).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_its_two_factors_and_the_head(backbones, kind):
    tuned = build_tiny(backbones[kind], "lora")
    trained = trained_outside_head(tuned)
    assert trained
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert task_head_parameters(tuned.model).keys() <= tuned.trained_parameters().keys()
    if kind != "gpt2":  # GPT-2's query, key and value are one matrix for PEFT
        assert sum(p.numel() for p in trained.values()) == LORA_PARAMETERS


def test_lora_knows_that_gpt2_stores_weights_transposed(backbones):
    for kind in KINDS:
        model = build_tiny(backbones[kind], "lora").model
        wrapped = [part for part in model.modules() if hasattr(part, "lora_A")]
        assert wrapped
        assert all(part.fan_in_fan_out == (kind == "gpt2") for part in wrapped)


@pytest.mark.parametrize("kind", KINDS)
def test_dsee_trains_exactly_its_branches_and_the_head(backbones, kind):
    tuned = build_tiny(backbones[kind], "dsee")
    trained = trained_outside_head(tuned)
    assert {name.rpartition(".")[2] for name in trained} == {"U", "V", "S2"}
    assert sum(p.numel() for p in trained.values()) == DSEE_PARAMETERS
    assert task_head_parameters(tuned.model).keys() <= tuned.trained_parameters().keys()


@pytest.mark.parametrize("update", ["lora", "dsee"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_update_changes_nothing(backbones, kind, update):
    # U (LoRA's B) and S2 begin at zero, so the logits are the dense model's.
    batch = tiny_batch()
    with torch.no_grad():
        plain = build_tiny(backbones[kind], "full").model.eval()(**batch).logits
        found = build_tiny(backbones[kind], update).model.eval()(**batch).logits
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("update", ["full", "lora", "dsee"])
def test_the_seed_fixes_head_and_update_and_leaves_the_generators_alone(backbones, update):
    before = torch.random.get_rng_state()
    one, two, other = (build_tiny(backbones["bert"], update, seed=seed).state()
                       for seed in (1, 1, 2))  # fmt: skip
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("kind", "update", "kept"),
    [
        *((kind, update, None) for kind in KINDS for update in ("full", "dsee")),
        ("bert", "lora", None), ("roberta", "lora", None), ("gpt2", "lora", None),
        ("bert", "full", KEPT), ("roberta", "dsee", KEPT), ("gpt2", "dsee", KEPT),
        ("gpt2", "full", KEPT), ("bert", "lora", KEPT),
    ],
)  # fmt: skip
def test_trained_parameters_are_those_that_cost_counts(backbones, kind, update, kept):
    tuned = build_tiny(backbones[kind], update, kept=kept)
    shape = ModelShape.dense(tuned.model.config.to_dict(), "classification", 3)
    if kept:
        shape = shape.with_kept(kept["kept_heads"], kept["kept_neurons"])
    counted = count_parameters(
        shape,
        {
            "full": Update.full(),
            "lora": Update.lora(3, ["query", "value"]),
            "dsee": Update.dsee(
                3,
                11,
                ["query", "value"],
                counts={key: len(positions) for key, positions in tuned.supports.items()},
            ),
        }[update],
    )
    trained = sum(p.numel() for p in tuned.trained_parameters().values())
    assert counted.trained_with_head == trained


def test_positions_of_removed_heads_go_with_them(backbones):
    dense = build_tiny(backbones["bert"], "dsee").supports
    smaller = build_tiny(backbones["bert"], "dsee", kept=KEPT).supports
    for key, positions in smaller.items():
        site = Anatomy.of(build_tiny(backbones["bert"], "full", kept=KEPT).model).site_of(key)
        assert 0 < len(positions) < len(dense[key])
        assert int(positions.max()) < site.shape[0] * site.shape[1]


def test_heads_and_neurons_are_removed_before_the_update_is_attached(backbones):
    for kind in KINDS:
        anatomy = Anatomy.of(build_tiny(backbones[kind], "dsee", kept=KEPT).model)
        assert [anatomy.heads(layer) for layer in (0, 1)] == [3, 3]
        assert [anatomy.ffn_width(layer) for layer in (0, 1)] == [30, 35]

import pytest
import torch
from unit.tiny import adapted
from unit.training.tiny_jobs import MASK

from sparsetune.errors import ModelError
from sparsetune.methods.pruning import masks_for
from sparsetune.models.anatomy import Anatomy
from sparsetune.sparsity.dsee import dsee_branches

TOTAL = 8 * 576 + 4 * 960  # two layers: 4 matrices of 24 x 24 and 2 of 24 x 40 each


def zeros(masks, projections):
    return sum(int((~m).sum()) for key, m in masks.items() if key.split(".")[-1] in projections)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_two_pools_are_pruned_apart_with_exact_counts(kind):
    masks = masks_for(adapted(kind), MASK, seed=0)
    assert len(masks) == 12
    assert zeros(masks, ("query", "value")) == 576  # a quarter of 4 x 576
    assert zeros(masks, ("key", "attention_output", "ffn_in", "ffn_out")) == (TOTAL - 2304) // 2


def test_one_pool_shares_its_ratio_over_all_matrices():
    masks = masks_for(adapted("bert"), {**MASK, "pools": "one"}, seed=0)
    assert zeros(masks, ("query", "value", "key", "attention_output", "ffn_in", "ffn_out")) == (
        TOTAL // 2
    )


def test_the_adapted_pool_drops_the_smallest_updates():
    model = adapted("bert")
    masks = masks_for(model, MASK, seed=0)
    deltas = {branch.key: branch.dense(layer.scale).abs() for layer, branch in dsee_branches(model)}
    kept = torch.cat([deltas[key][masks[key]] for key in deltas])
    dropped = torch.cat([deltas[key][~masks[key]] for key in deltas])
    assert dropped.max() <= kept.min()


def test_the_other_pool_drops_the_smallest_weights():
    model = adapted("bert")
    masks = masks_for(model, MASK, seed=0)
    sites = [s for s in Anatomy.of(model).sites() if s.projection not in ("query", "value")]
    kept = torch.cat([site.weight_view()[masks[site.key]].abs() for site in sites])
    dropped = torch.cat([site.weight_view()[~masks[site.key]].abs() for site in sites])
    assert dropped.max() <= kept.min()


def test_random_scores_follow_the_seed():
    random = {**MASK, "score": "random"}
    one, two, other = (masks_for(adapted("bert"), random, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_model_without_an_update_has_no_delta_scores():
    from unit.tiny import tiny_model

    with pytest.raises(ModelError, match="needs an update"):
        masks_for(tiny_model("bert"), MASK, seed=0)

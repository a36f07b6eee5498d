import pytest
import torch
from unit.tiny import KINDS, adapted, attach, tiny_model
from unit.training.tiny_jobs import MASK, changed

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.config.method import HeadsMask, NOfMMask
from sparsetune.dsee.config import DseeConfig
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ModelError
from sparsetune.methods.pruning import check_mask, heads_for, masks_for

ALL = ("query", "value", "key", "attention_output", "ffn_in", "ffn_out")
N_OF_M = NOfMMask(kind="n-of-m", n=2, m=4, score="delta")
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
    masks = masks_for(adapted("bert"), changed(MASK, pools="one"), seed=0)
    assert zeros(masks, ALL) == TOTAL // 2


def test_the_adapted_pool_drops_the_smallest_updates():
    model = adapted("bert")
    masks = masks_for(model, MASK, seed=0)
    deltas = {branch.key: branch.dense().abs() for _, branch in dsee_branches(model)}
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
    random = changed(MASK, score="random")
    one, two, other = (masks_for(adapted("bert"), random, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_model_without_an_update_has_no_delta_scores():
    with pytest.raises(ModelError, match="needs an update"):
        masks_for(tiny_model("bert"), MASK, seed=0)


def test_each_matrix_by_itself_loses_its_own_share():
    masks = masks_for(adapted("bert"), changed(MASK, pools="matrix"), seed=0)
    for key, mask in masks.items():
        ratio = 4 if key.endswith(("query", "value")) else 2
        assert int((~mask).sum()) == mask.numel() // ratio


@pytest.mark.parametrize("pools", ["two", "one", "matrix"])
@pytest.mark.parametrize("score", ["delta", "random", "inverse"])
def test_shares_are_nested_and_end_at_the_exact_counts(pools, score):
    mask = changed(MASK, pools=pools, score=score, adapted_sparsity=0.3, rest_sparsity=0.3)
    model, earlier = adapted("bert"), {}
    for share in (0.25, 0.7, 1.0):
        masks = masks_for(model, mask, seed=0, share=share, earlier=earlier)
        assert all(not (masks[key] & ~earlier[key]).any() for key in earlier)
        with torch.no_grad():  # scores move between phases, as training moves them
            for _, branch in dsee_branches(model):
                branch.U.copy_(branch.U.flip(0))
        earlier = masks
    at_once = masks_for(model, mask, seed=0)
    assert zeros(masks, ALL) == zeros(at_once, ALL)


def test_a_share_prunes_that_part_of_the_final_count():
    masks = masks_for(adapted("bert"), changed(MASK, pools="one"), seed=0, share=0.2)
    assert zeros(masks, ALL) == round(0.2 * 0.5 * TOTAL)  # 844.8 -> 845


@pytest.mark.parametrize("kind", KINDS)
def test_two_of_every_four_inputs_are_kept_and_they_are_the_largest(kind):
    model = adapted(kind)
    masks = masks_for(model, N_OF_M, seed=0)
    deltas = {branch.key: branch.dense().abs() for _, branch in dsee_branches(model)}
    for site in Anatomy.of(model).sites():
        scores = deltas.get(site.key, site.weight_view().detach().abs())
        kept = masks[site.key].view(-1, 4)
        assert (kept.sum(1) == 2).all()
        groups = scores.reshape(-1, 4)
        smallest = groups.masked_fill(~kept, float("inf")).amin(1)
        assert (groups.masked_fill(kept, 0.0).amax(1) <= smallest).all()


def test_shares_of_n_of_m_keep_more_first():
    model = adapted("bert")
    first = masks_for(model, N_OF_M, seed=0, share=0.5)
    last = masks_for(model, changed(N_OF_M, score="random"), seed=0, earlier=first)
    assert all((mask.view(-1, 4).sum(1) == 3).all() for mask in first.values())
    assert all((mask.view(-1, 4).sum(1) == 2).all() for mask in last.values())
    assert all(not (last[key] & ~first[key]).any() for key in last)


def test_a_pattern_that_does_not_divide_a_matrix_is_refused_by_name():
    model = adapted("bert")
    check_mask(model, N_OF_M)
    check_mask(model, MASK)
    with pytest.raises(ModelError, match=r"mask 2:5: layer\.0\.query has 24 inputs; needed: a mul"):
        check_mask(model, changed(N_OF_M, m=5))


@pytest.mark.parametrize("kind", KINDS)
def test_heads_may_not_go_until_fewer_rows_than_the_rank_are_left(kind):
    heads = HeadsMask(kind="heads", score="delta", head_sparsity=0.9)
    check_mask(adapted(kind), heads)  # of rank 3
    rows = Anatomy.of(tiny_model(kind)).head_size  # of the one head that always stays
    model = attach(tiny_model(kind), DseeConfig(rows + 1, 6.0, 11, ("query", "value"), "normal"))
    check_mask(model, changed(heads, head_sparsity=0.3))
    told = rf"layer\.0\.query keeps {rows} rows of 24; dsee rank: received {rows + 1}, allowed"
    with pytest.raises(ModelError, match=told):
        check_mask(model, heads)


def test_full_training_is_pruned_by_magnitude():
    model = tiny_model("bert")
    mask = changed(MASK, pools="one", adapted_sparsity=0.5, score="weight")
    masks = masks_for(model, mask, seed=0)
    weights = {site.key: site.weight_view().detach().abs() for site in Anatomy.of(model).sites()}
    dropped = torch.cat([weights[key][~masks[key]] for key in masks])
    assert dropped.numel() == TOTAL // 2
    assert dropped.max() <= torch.cat([weights[key][masks[key]] for key in masks]).min()


def test_heads_are_chosen_in_each_layer_by_the_seed_or_the_update():
    model = adapted("bert")
    heads = HeadsMask(kind="heads", score="delta", head_sparsity=0.25)
    assert [len(kept) for kept in heads_for(model, heads, seed=0)] == [3, 3]
    with torch.no_grad():
        for _, branch in dsee_branches(model):
            branch.U[6:12] = 0.0  # head 1 is moved by S2 alone
            branch.S2.zero_()
    assert heads_for(model, heads, seed=0) == [[0, 2, 3], [0, 2, 3]]
    random = changed(heads, score="random")
    drawn = [heads_for(model, random, seed=seed) for seed in range(6)]
    assert drawn[0] == heads_for(model, random, seed=0)
    assert any(one != drawn[0] for one in drawn)

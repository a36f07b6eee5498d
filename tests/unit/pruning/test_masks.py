import numpy as np
import pytest
import torch
from unit.tiny import KINDS, adapted, tiny_batch, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import (
    ADAPTED_POOL,
    SCORES,
    apply_masks_,
    demote,
    exact_top_k,
    gate_gradients,
    mask_n_of_m,
    mask_per_layer,
    mask_pool,
    pack_mask,
    pruned_count,
    site_scores,
    two_pool_masks,
    unpack_mask,
)
from sparsetune.pruning.zeros import check_zeros, zero_counts


def test_top_k_keeps_lower_index_when_scores_tie():
    # 2 is kept, then the first two of the three ones
    scores = torch.tensor([[1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    assert exact_top_k(scores, 3).tolist() == [[True, False, True], [True, False, False]]


@pytest.mark.parametrize("kept", range(13))
def test_top_k_equals_a_stable_sort(kept):
    scores = torch.randint(0, 4, (12,), generator=torch.Generator().manual_seed(kept)).float()
    order = np.argsort(-scores.numpy(), kind="stable")[:kept]
    assert exact_top_k(scores, kept).nonzero().squeeze(1).tolist() == sorted(order.tolist())


@pytest.mark.parametrize(
    ("ratio", "total", "count"),
    [(1 / 3, 12, 4), (0.375, 16, 6), (0.4, 36864, 14746), (0.5, 5, 3), (0.0, 7, 0), (1.0, 7, 7)],
)
def test_pruned_count_rounds_half_up(ratio, total, count):
    assert pruned_count(ratio, total) == count


def test_pool_takes_the_smallest_anywhere_and_the_earlier_key_wins_ties():
    scores = {"a": torch.tensor([[5.0, 1.0]]), "b": torch.tensor([1.0, 9.0])}
    masks = mask_pool(scores, 0.25)
    assert masks["a"].tolist() == [[True, True]]
    assert masks["b"].tolist() == [False, True]


@pytest.mark.parametrize("ratio", [0.0, 0.123, 0.5, 0.777, 1.0])
def test_pool_and_per_layer_counts_are_exact(ratio):
    generator = torch.Generator().manual_seed(0)
    scores = {key: torch.rand(7, 9, generator=generator).round(decimals=1) for key in "abc"}
    pool = mask_pool(scores, ratio)
    assert sum(int((~mask).sum()) for mask in pool.values()) == pruned_count(ratio, 189)
    for mask in mask_per_layer(scores, ratio).values():
        assert int((~mask).sum()) == pruned_count(ratio, 63)


def test_two_of_four_keeps_the_two_largest_of_each_group():
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0]])
    # second group: all tie, the lower inputs stay
    expected = [[True, False, True, False, True, True, False, False]]
    assert mask_n_of_m(scores).tolist() == expected
    big = mask_n_of_m(torch.rand(6, 32, generator=torch.Generator().manual_seed(0)), 1, 8)
    assert (big.view(6, 4, 8).sum(2) == 1).all()


def test_scores_are_their_formulas():
    model = adapted("gpt2")
    layer, branch = next(dsee_branches(model))
    weight = Anatomy.of(model).site_of(branch.key).weight_view().detach()
    delta = layer.delta("query")
    scores = {
        choice: site_scores(
            model, ADAPTED_POOL, choice=choice, generator=torch.Generator().manual_seed(0)
        )[branch.key]
        for choice in SCORES
    }
    assert torch.equal(scores["delta"], delta.abs())
    assert torch.equal(scores["weight"], weight.abs())
    assert torch.equal(scores["weight+delta"], (weight + delta).abs())
    assert torch.equal(scores["inverse"], -delta.abs())
    assert 0 <= scores["random"].min() < 0.1 < 0.9 < scores["random"].max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_kept_weights_stay_bit_for_bit(kind):
    model, untouched = adapted(kind), Anatomy.of(tiny_model(kind))
    masks = two_pool_masks(model, 0.5)
    apply_masks_(model, masks)
    for key, mask in masks.items():
        now = Anatomy.of(model).site_of(key).weight_view().detach()
        before = untouched.site_of(key).weight_view().detach()
        assert torch.equal(now[mask], before[mask])
        assert not now[~mask].any()


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 7), (16, 24), (0,)])
def test_packed_mask_comes_back(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    packed = pack_mask(mask)
    assert packed.numel() == (mask.numel() + 7) // 8
    assert torch.equal(unpack_mask(packed, shape), mask)


def test_packing_by_hand():
    # 1010 0000 1 -> 160, then 1 in the highest bit of a padded byte: 128
    bits = torch.tensor([1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=torch.bool)
    assert pack_mask(bits).tolist() == [160, 128]


def test_mask_that_does_not_fit_is_refused_and_nothing_changes():
    model = tiny_model("bert")
    good = torch.zeros(24, 24, dtype=torch.bool)
    with pytest.raises(ModelError, match=r"mask of layer.0.key: received torch.bool \(3, 3\)"):
        apply_masks_(model, {"layer.0.query": good, "layer.0.key": good[:3, :3]})
    with pytest.raises(ModelError, match="layer 9 does not exist"):
        apply_masks_(model, {"layer.0.query": good, "layer.9.key": good})
    assert zero_counts(model)["layer.0.query"][0] == 0


def test_bad_requests_are_named():
    with pytest.raises(ModelError, match="NaN"):
        mask_pool({"a": torch.tensor([1.0, float("nan")])}, 0.5)
    for ratio in (-0.1, 1.5, float("nan")):
        with pytest.raises(ModelError, match=f"pruning ratio: received {ratio}, allowed: 0 to 1"):
            mask_pool({"a": torch.ones(2)}, ratio)
    with pytest.raises(ModelError, match="empty pool"):
        mask_pool({}, 0.5)
    with pytest.raises(ModelError, match="6 inputs are not divisible by 4"):
        mask_n_of_m(torch.ones(2, 6))
    with pytest.raises(ModelError, match=r"needs an update on layer.0.query"):
        site_scores(tiny_model("bert"), choice="delta")
    with pytest.raises(ModelError, match="needs a generator"):
        site_scores(tiny_model("bert"), choice="random")
    with pytest.raises(ModelError, match="known: delta, weight"):
        site_scores(tiny_model("bert"), choice="largest")
    with pytest.raises(ModelError, match=r"needed: 2 of torch.uint8"):
        unpack_mask(torch.zeros(1, dtype=torch.uint8), (9,))


def test_what_is_pruned_already_scores_below_everything():
    scores = {"a": torch.tensor([3.0, -5.0]), "b": torch.tensor([1.0])}
    low = demote(scores, {"a": torch.tensor([False, True])})
    assert low["a"].tolist() == [float("-inf"), -5.0]
    assert low["b"].tolist() == [1.0]
    assert scores["a"].tolist() == [3.0, -5.0]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_train_stay_zero_under_momentum_and_decay(kind):
    model = tiny_model(kind)
    masks = two_pool_masks(model, 0.5, choice="weight")
    apply_masks_(model, masks)
    gate_gradients(model, masks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    before = {s.key: s.weight_view().detach().clone() for s in Anatomy.of(model).sites()}
    for _ in range(4):
        optimizer.zero_grad()
        for _ in range(2):  # gradients add up over two batches
            model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    check_zeros(model)
    for site in Anatomy.of(model).sites():
        moved = site.weight_view().detach() != before[site.key]
        assert not moved[~masks[site.key]].any()
        assert moved[masks[site.key]].float().mean() > 0.9


def test_without_its_gate_a_zero_would_come_back():
    model = tiny_model("bert")
    masks = two_pool_masks(model, 0.5, choice="weight")
    apply_masks_(model, masks)
    for gate in gate_gradients(model, masks):
        gate.remove()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()
    with pytest.raises(ModelError, match=r"layer\.0\.query: \d+ of its \d+ masked weights"):
        check_zeros(model)


def test_a_gate_stays_when_values_are_replaced():
    model = tiny_model("bert")
    masks = two_pool_masks(model, 0.5, choice="weight")
    apply_masks_(model, masks)
    gate_gradients(model, masks)
    model.double()  # as a move to another device: the parameters stay, their values are new
    model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    for site in Anatomy.of(model).sites():
        gradient = site.weight_view(site.module.weight.grad)
        assert not gradient[~masks[site.key]].any()
        assert gradient[masks[site.key]].any()


def test_frozen_weights_get_no_gate():
    model = adapted("bert")
    assert gate_gradients(model, two_pool_masks(model, 0.5)) == []

import numpy as np
import pytest
import torch

from sparsetune.earlybert.drawing import DrawConfig, draw_masks, evenly_dropped
from sparsetune.errors import ConfigError, ModelError

HALF = DrawConfig(head_ratio=0.5, neuron_ratio=0.5)


def counts_of(heads, neurons, **settings):
    masks = draw_masks(heads, neurons, DrawConfig(**settings))
    return [mask.sum(1).tolist() for mask in masks]


def random_scores(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("heads", "ratio", "dropped"),
    [
        (12, 3 / 12, 3), (12, 0.3333333333, 4), (12, 0.4166666667, 5), (12, 6 / 12, 6),
        (16, 6 / 16, 6),
        (16, 1 / 3, 5),  # 5.33 rounds down
        (16, 0.333333, 5),
    ],
)  # fmt: skip
def test_head_counts_of_the_paper_are_exact_in_every_layer(heads, ratio, dropped):
    kept, _ = counts_of(random_scores(4, heads), torch.ones(4, 8), head_ratio=ratio)
    assert kept == [heads - dropped] * 4


@pytest.mark.parametrize(
    ("total", "ratio", "dropped"),
    [
        (36_864, 0.4, 14_746),  # 14,745.6
        (36_864, 0.3, 11_059),  # 11,059.2
        (36_864, 0.5, 18_432), (36_864, 0.25, 9_216),
        (98_304, 0.4, 39_322),  # 39,321.6
        (98_304, 0.3, 29_491),  # 29,491.2
    ],
)  # fmt: skip
def test_neuron_counts_of_the_paper_are_exact_over_all_layers(total, ratio, dropped):
    layers = 12 if total == 36_864 else 24
    scores = random_scores(layers, total // layers)
    _, kept = counts_of(torch.ones(layers, 4), scores, head_ratio=0.0, neuron_ratio=ratio)
    assert sum(kept) == total - dropped


def test_neurons_by_layer_round_in_each():
    # 30 % of 3,072 is 921.6, so 922 go in each of the two layers
    _, kept = counts_of(
        torch.ones(2, 4), random_scores(2, 3072), neuron_ratio=0.3, neuron_scope="layer"
    )
    assert kept == [3072 - 922] * 2


def quantile_dropped(scores, ratio):
    """How many the published cut drops: all that are not above the quantile."""
    return int((scores <= np.quantile(scores, ratio)).sum())


def test_the_cut_at_a_quantile_is_avoided():
    scores = np.linspace(0.99, 1.01, 16)
    # 15 * 0.333333 = 4.999995 and 15 / 3 = 5: one digit more, one head more
    assert [quantile_dropped(scores, ratio) for ratio in (0.333333, 1 / 3)] == [5, 6]
    tied = np.ones(16)
    assert quantile_dropped(tied, 0.375) == 16
    for values in (scores, tied):
        for ratio in (0.333333, 1 / 3):
            kept, _ = counts_of(values[None], np.ones((1, 4)), head_ratio=ratio)
            assert kept == [11]


def test_global_heads_by_hand_and_never_an_emptied_layer():
    heads = torch.tensor([[5.0, 6.0, 7.0, 8.0], [0.1, 0.4, 0.3, 0.2]])
    masks, _ = draw_masks(heads, torch.ones(2, 4), DrawConfig(0.5, 0.5, head_scope="global"))
    # plain top-k takes all four of layer 0; the guard leaves layer 1 its best
    assert masks.tolist() == [[False, True, True, True], [False, True, False, False]]
    with pytest.raises(ModelError, match="keeping 1 of 8 heads empties some of 2 layers"):
        draw_masks(heads, torch.ones(2, 4), DrawConfig(0.9, 0.5, head_scope="global"))


def test_global_heads_are_the_largest_of_all_where_no_layer_is_empty():
    heads = random_scores(6, 12)
    mask, _ = draw_masks(heads, torch.ones(6, 4), DrawConfig(1 / 3, 0.5, head_scope="global"))
    assert int(mask.sum()) == 72 - 24
    assert heads[mask].min() > heads[~mask].max()


def test_without_neuron_sparsity_every_neuron_stays():
    for scope in ("global", "layer"):
        _, mask = draw_masks(
            random_scores(3, 12), random_scores(3, 30), DrawConfig(1 / 3, 0.0, neuron_scope=scope)
        )
        assert mask.all()


@pytest.mark.parametrize(
    ("drawn", "multiple", "expected"),
    [
        (19, 8, 16), (20, 8, 24), (21, 8, 24),  # a half goes up
        (3, 8, 8),   # at least one multiple
        (39, 8, 40), (40, 8, 40), (39, 16, 32),  # 48 is more than there are
        (40, 16, 40),  # nothing dropped: left whole
        (5, 64, 5),  # no multiple fits
    ],
)  # fmt: skip
def test_neurons_kept_are_rounded_to_a_multiple(drawn, multiple, expected):
    scores = random_scores(1, 40)
    config = DrawConfig(0.5, (40 - drawn) / 40, neuron_multiple=multiple)
    _, mask = draw_masks(torch.ones(1, 4), scores, config)
    assert int(mask.sum()) == expected
    assert mask.all() or scores[mask].min() > scores[~mask].max()


@pytest.mark.parametrize(
    ("layers", "ratio", "kept"),
    [
        (12, 0.3333333333, (0, 1, 3, 4, 6, 7, 9, 10)),  # the 3rd, 6th, 9th and 12th go
        (3, 1 / 3, (0, 1)), (2, 1 / 3, (0,)), (6, 0.5, (0, 2, 4)),
        (12, 0.25, (0, 1, 2, 4, 5, 6, 8, 9, 10)),
        (5, 0.0, (0, 1, 2, 3, 4)), (1, 0.4, (0,)), (5, 0.4, (0, 1, 3)),
    ],
)  # fmt: skip
def test_layers_are_dropped_evenly(layers, ratio, kept):
    assert evenly_dropped(layers, ratio) == kept


@pytest.mark.parametrize("divisor", [2, 3, 4, 6])
def test_layers_dropped_are_those_of_the_published_rule_where_it_is_exact(divisor):
    depths = [depth for depth in range(1, 25) if depth % divisor]
    assert evenly_dropped(24, 1 / divisor) == tuple(depth - 1 for depth in depths)


def test_bad_draws_are_named():
    with pytest.raises(ConfigError, match="head_scope: received 'all', allowed: global, layer"):
        DrawConfig(head_scope="all")
    with pytest.raises(ConfigError, match="neuron_multiple: received 0, allowed: 1 or more"):
        DrawConfig(neuron_multiple=0)
    with pytest.raises(ModelError, match=r"dropping 0\.5 of 1 layers leaves none"):
        evenly_dropped(1, 0.5)

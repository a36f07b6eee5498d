import json

import numpy as np
import pytest
import torch
from unit.tiny import KINDS, tiny_model

from sparsetune.earlybert.gates import Gates
from sparsetune.earlybert.ticket import (
    DrawConfig,
    SearchEnd,
    Ticket,
    TicketLabel,
    draw_masks,
    draw_ticket,
    evenly_dropped,
    layer_ticket,
    random_ticket,
)
from sparsetune.errors import ConfigError, ModelError
from sparsetune.pruning.structured import remove, sizes_of

LABEL = TicketLabel("tiny", "rte", "gates", 3)
HALF = DrawConfig(head_ratio=0.5, neuron_ratio=0.5)


def small_ticket(**changes):
    fields = {
        "backbone": "tiny",
        "task": "rte",
        "recipe": "gates",
        "seed": 3,
        "heads": 4,
        "neurons": 5,
        "kept_heads": ((0, 2), (1, 3)),
        "kept_neurons": ((0, 1, 4), (2,)),
        "origin": "search",
    }
    return Ticket(**(fields | changes))


def test_draw_by_hand():
    # heads: two largest magnitudes of each layer; neurons: three largest of six together
    heads = torch.tensor([[1.0, -3.0, 2.0, 0.5], [0.1, 0.4, 0.3, 0.2]])
    neurons = torch.tensor([[9.0, 8.0, 0.1], [0.5, -0.6, 0.2]])
    ticket = draw_ticket(heads, neurons, HALF, label=LABEL)
    assert ticket.kept_heads == ((1, 2), (1, 2))
    assert ticket.kept_neurons == ((0, 1), (1,))
    assert (ticket.backbone, ticket.seed, ticket.origin) == ("tiny", 3, "search")


def test_draw_keeps_lower_index_when_all_tie():
    ticket = draw_ticket(torch.ones(2, 4), torch.ones(2, 4), HALF, label=LABEL)
    assert ticket.kept_heads == ((0, 1), (0, 1))
    # plain top-k would take all four of layer 0; the guard leaves layer 1 its first neuron
    assert ticket.kept_neurons == ((0, 1, 2), (0,))


def test_global_draw_empties_no_layer():
    neurons = torch.cat([torch.full((1, 10), 5.0), torch.arange(10.0)[None] / 100])
    _, mask = draw_masks(torch.ones(2, 4), neurons, HALF)
    assert mask.sum(1).tolist() == [9, 1]
    assert mask[1, 9]


def test_random_ticket_has_the_size_of_a_searched_one():
    generator = torch.Generator().manual_seed(0)
    searched = draw_ticket(
        torch.rand(3, 12, generator=generator),
        torch.rand(3, 50, generator=generator),
        DrawConfig(),
        label=LABEL,
    )
    tickets = [
        random_ticket((3, 12, 50), DrawConfig(), label=TicketLabel("tiny", "rte", "random", seed))
        for seed in (1, 1, 2)
    ]
    assert tickets[0] == tickets[1] != tickets[2]
    for ticket in tickets:
        assert ticket.origin == "random"
        for mine, other in zip(ticket.masks(), searched.masks(), strict=True):
            assert mine.sum() == other.sum()
        assert [len(row) for row in ticket.kept_heads] == [8, 8, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_ticket_from_gates_removes_what_it_says(kind):
    model = tiny_model(kind)
    gates = Gates(model)
    snapshot = gates.snapshot()
    gates.detach_hooks()
    ticket = draw_ticket(*snapshot, HALF, label=LABEL)
    ticket.check_fits(model)
    remove(model, ticket.kept_heads, ticket.kept_neurons)
    assert sizes_of(model).heads == [2, 2]
    assert sum(sizes_of(model).ffn_width) == 40
    with pytest.raises(
        ModelError, match=r"rte/gates is for 2 layers of 4 heads .*; layer 0 .* has 2 heads"
    ):
        ticket.check_fits(model)


def test_saved_ticket_comes_back_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "seed-3" / "ticket.json"
    small_ticket().save(path)
    small_ticket().save(path)
    assert Ticket.load(path) == small_ticket()
    assert [file.name for file in path.parent.iterdir()] == ["ticket.json"]


def test_masks_show_the_ticket():
    heads, neurons = small_ticket().masks()
    assert heads.tolist() == [[True, False, True, False], [False, True, False, True]]
    assert neurons.sum(1).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept_heads": ((0,),)}, "heads for 1 layers but neurons for 2"),
        ({"kept_heads": ((0,), (4,))}, r"layer 1: kept heads 4..4; the layer has 0..3"),
        ({"kept_heads": ((0,), ())}, "layer 1: no head kept"),
        ({"kept_neurons": ((0,), (2, 2))}, "not strictly increasing"),
        ({"kept_layers": (1, 0)}, "at least one, strictly increasing"),
        ({"kept_layers": (0, 2)}, r"kept layers 0..2; the model has 0..1"),
    ],
)
def test_bad_ticket_is_refused_also_from_a_file(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        small_ticket(**changes)
    path = tmp_path / "ticket.json"
    small_ticket().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=rf"ticket\.json: .*{message}"):
        Ticket.load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"seed": 1}', json.dumps({"kept_heads": [["a"]]})]
)
def test_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "ticket.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"ticket\.json: "):
        Ticket.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="cannot read the ticket"):
        Ticket.load(tmp_path / "ticket.json")


def test_bad_draws_are_named():
    ones = torch.ones(2, 4)
    for name in ("head_ratio", "neuron_ratio"):
        for ratio in (-0.1, 1.0, float("nan")):
            with pytest.raises(ConfigError, match=rf"{name}: received {ratio}, allowed: \[0, 1\)"):
                DrawConfig(**{name: ratio})
    with pytest.raises(ConfigError, match="neuron_scope"):
        DrawConfig(neuron_scope="model")
    with pytest.raises(ConfigError, match="head_scope: received 'all', allowed: global, layer"):
        DrawConfig(head_scope="all")
    with pytest.raises(ConfigError, match="neuron_multiple: received 0, allowed: 1 or more"):
        DrawConfig(neuron_multiple=0)
    with pytest.raises(ModelError, match=r"dropping 0\.5 of 1 layers leaves none"):
        evenly_dropped(1, 0.5)
    with pytest.raises(ModelError, match="empties every layer"):
        draw_masks(ones, ones, DrawConfig(head_ratio=0.9))
    with pytest.raises(ModelError, match="keeping 1 of 8 neurons empties some of 2 layers"):
        draw_masks(ones, ones, DrawConfig(neuron_ratio=0.9))
    with pytest.raises(ModelError, match="NaN"):
        draw_masks(ones * float("nan"), ones, HALF)
    with pytest.raises(ModelError, match=r"needed: \(L, H\) and \(L, F\)"):
        draw_masks(ones[:1], ones, HALF)


END = SearchEnd(
    steps=12,
    rule="settled",
    fixed_step=10,
    settled_step=12,
    head_distance=0.05,
    neuron_distance=None,
)


def test_provenance_of_a_search_travels_with_the_ticket(tmp_path):
    ones = torch.ones(2, 4)
    config = DrawConfig(0.5, 0.5, neuron_multiple=2)
    ticket = draw_ticket(ones, ones, config, label=LABEL, search=END)
    ticket.save(tmp_path / "ticket.json")
    assert Ticket.load(tmp_path / "ticket.json") == ticket
    written = json.loads((tmp_path / "ticket.json").read_text())
    assert written["search"]["settled_step"] == 12
    assert written["neuron_multiple"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"steps": 3}}, "ticket: search: missing key 'rule'"),
        ({"kept_layers": ["a"]}, "kept_layers.0: received"),
        ({"neuron_multiple": "8"}, "neuron_multiple: received '?\"?8"),
        ({"seed": "3"}, "seed: received"),
        ({"origni": "random"}, "unknown key 'origni'; .*did you mean 'origin'"),
        ({"origin": "guess"}, "origin: .*allowed: search, random"),
    ],
)
def test_wrong_keys_and_types_in_a_file_are_named(tmp_path, changes, message):
    path = tmp_path / "ticket.json"
    small_ticket().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=message):
        Ticket.load(path)


def test_layer_ticket_drops_layers_and_nothing_inside_one():
    ticket = layer_ticket((6, 4, 10), 1 / 3, label=LABEL)
    assert (ticket.origin, ticket.kept_layers) == ("layers", (0, 1, 3, 4))
    assert all(mask.all() for mask in ticket.masks())
    assert ticket == layer_ticket((6, 4, 10), 1 / 3, label=LABEL)


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

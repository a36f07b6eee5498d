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
    layer_ticket,
    random_ticket,
)
from sparsetune.errors import ConfigError, ModelError
from sparsetune.pruning.structured import remove, shapes

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


@pytest.mark.parametrize(
    ("heads", "ratio", "kept"), [(12, 1 / 3, 8), (16, 0.375, 10), (16, 1 / 3, 11), (12, 0.25, 9)]
)
def test_published_head_counts_are_exact(heads, ratio, kept):
    config = DrawConfig(head_ratio=ratio)
    mask, _ = draw_masks(torch.ones(3, heads), torch.ones(3, 20), config)
    assert mask.sum(1).tolist() == [kept] * 3


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_published_neuron_counts_are_exact(scope):
    neurons = np.random.default_rng(0).normal(1.0, 0.01, (12, 3072)).astype(np.float32)
    _, mask = draw_masks(np.ones((12, 12)), neurons, DrawConfig(neuron_scope=scope))
    # 40 % of 36,864 is 14,745.6; of 3,072 is 1,228.8
    kept = 36_864 - 14_746 if scope == "global" else 12 * (3072 - 1229)
    assert int(mask.sum()) == kept
    if scope == "global":
        threshold = np.sort(neurons.ravel())[-kept]
        assert np.array_equal(mask.numpy(), neurons >= threshold)


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
    assert shapes(model)["heads"] == [2, 2]
    assert sum(shapes(model)["ffn_width"]) == 40
    with pytest.raises(ModelError, match="ticket tiny/rte/gates is for 2 layers of 4 heads"):
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
        ({"origin": "guess"}, "allowed: search, random, layers"),
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


def test_missing_file_and_wrong_types_are_named(tmp_path):
    path = tmp_path / "ticket.json"
    with pytest.raises(ModelError, match="cannot read the ticket"):
        Ticket.load(path)
    small_ticket().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": "3"}))
    with pytest.raises(ModelError, match="ticket seed: received '3', needed int"):
        Ticket.load(path)


def test_bad_draws_are_named():
    ones = torch.ones(2, 4)
    with pytest.raises(ConfigError, match=r"head_ratio: received 1.0, allowed: \[0, 1\)"):
        DrawConfig(head_ratio=1.0)
    with pytest.raises(ConfigError, match="neuron_scope"):
        DrawConfig(neuron_scope="model")
    with pytest.raises(ModelError, match="empties every layer"):
        draw_masks(ones, ones, DrawConfig(head_ratio=0.9))
    with pytest.raises(ModelError, match="keeping 1 of 8 neurons empties some of 2 layers"):
        draw_masks(ones, ones, DrawConfig(neuron_ratio=0.9))
    with pytest.raises(ModelError, match="NaN"):
        draw_masks(ones * float("nan"), ones, HALF)
    with pytest.raises(ModelError, match=r"needed: \(L, H\) and \(L, F\)"):
        draw_masks(ones[:1], ones, HALF)


END = SearchEnd(12, "settled", 10, 12, 0.05, None)


def test_provenance_of_a_search_travels_with_the_ticket(tmp_path):
    ones = torch.ones(2, 4)
    config = DrawConfig(0.5, 0.5, neuron_multiple=2)
    ticket = draw_ticket(ones, ones, config, label=LABEL, search=END)
    ticket.save(tmp_path / "ticket.json")
    assert Ticket.load(tmp_path / "ticket.json") == ticket
    written = json.loads((tmp_path / "ticket.json").read_text())
    assert written["search"]["settled_step"] == 12
    assert written["neuron_multiple"] == 2


def test_a_ticket_without_the_newer_keys_still_loads(tmp_path):
    path = tmp_path / "ticket.json"
    small_ticket().save(path)
    content = json.loads(path.read_text())
    for key in ("kept_layers", "neuron_multiple", "search"):
        del content[key]
    path.write_text(json.dumps(content))
    assert Ticket.load(path) == small_ticket()
    for changes, message in (
        ({"search": {"steps": 3}}, "ticket search: received"),
        ({"kept_layers": ["a"]}, "kept_layers: needed a list of whole numbers"),
        ({"neuron_multiple": "8"}, "neuron_multiple: received '8', needed int"),
        ({"other": 1}, "ticket keys: received"),
    ):
        path.write_text(json.dumps(content | changes))
        with pytest.raises(ModelError, match=message):
            Ticket.load(path)


def test_layer_ticket_drops_layers_and_nothing_inside_one():
    ticket = layer_ticket((6, 4, 10), 1 / 3, label=LABEL)
    assert (ticket.origin, ticket.kept_layers) == ("layers", (0, 1, 3, 4))
    assert all(mask.all() for mask in ticket.masks())
    assert ticket == layer_ticket((6, 4, 10), 1 / 3, label=LABEL)

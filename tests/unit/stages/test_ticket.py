import json
import shutil

import numpy as np
import pytest
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import SHAPE, small_catalogue
from unit.stages.tiny_project import LIMITS, TinyProject

from sparsetune.earlybert.ticket import Ticket
from sparsetune.errors import ConfigError
from sparsetune.records import read_json, write_json
from sparsetune.stages.ticket import TicketJob

pytestmark = pytest.mark.slow


class Place(TinyProject):
    """Tickets drawn for a tiny backbone of three layers."""

    def ticket(self, name, *, folder=None, seed=1):
        output = self.root / (folder or name)
        self.draw(name, output, seed=seed)
        ticket = Ticket.load(output / "ticket.json")
        return output, ticket, measured_of(output / "record.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    return Place(root, small_catalogue(root / "config", shape={**SHAPE, "layers": 3}))


def test_same_seed_same_ticket_and_another_seed_another(place):
    first, ticket, _ = place.ticket("earlybert")
    again, _, _ = place.ticket("earlybert", folder="again")
    _, other, _ = place.ticket("earlybert", folder="other", seed=2)
    assert (first / "ticket.json").read_bytes() == (again / "ticket.json").read_bytes()
    with np.load(first / "gates.npz") as one, np.load(again / "gates.npz") as two:
        assert all(np.array_equal(one[name], two[name]) for name in ("steps", "heads", "neurons"))
    assert (other.kept_heads, other.kept_neurons) != (ticket.kept_heads, ticket.kept_neurons)


def test_record_and_ticket_tell_where_each_rule_stops(place):
    _, ticket, measured = place.ticket("earlybert", folder="told")
    told = measured["stopping"]
    steps = measured["search"]["steps"]
    assert (told["rule"], told["fixed_step"], told["check_steps"][-1]) == ("fixed", steps, steps)
    assert told["settled_step"] is None or told["settled_step"] <= steps
    assert len(told["head_distances"]) == len(told["neuron_distances"]) == len(told["check_steps"])
    assert (ticket.search.steps, ticket.search.rule) == (steps, "fixed")
    assert ticket.search.neuron_distance == told["neuron_distances"][-1]


def test_masked_language_modelling_searches_with_the_checkpoints_own_head(place):
    _, ticket, measured = place.ticket("earlybert-mlm")
    search = measured["search"]
    assert (search["objective"], search["language_head_from_checkpoint"]) == ("mlm", True)
    assert ticket.origin == "search"
    # Hardly trained: about as wrong as a guess among the 300 words of the vocabulary.
    assert 3.0 < search["final_loss"] < 8.0


def test_head_only_tickets_leave_the_feed_forward_part_alone(place):
    for name in ("earlybert-heads", "earlybert-random-heads"):
        *_, measured = place.ticket(name)
        assert measured["kept_heads"] == [3, 3, 3]  # of 4, a third is 1
        assert measured["kept_neurons"] == [40, 40, 40]


@pytest.fixture(scope="module")
def shallow(place):
    """A run of the method layerdrop."""
    (spec,) = place.suite_of("layerdrop").runs
    place.finish(spec)
    return spec


def test_a_ticket_of_layers_drops_them_from_the_tuned_model_and_its_cost(place, shallow):
    path = place.ticket_file(shallow)
    assert Ticket.load(path).kept_layers == (0, 1)
    assert measured_of(path.parent / "record.json")["kept_layers"] == [0, 1]
    cost = measured_of(place.run("layerdrop") / "cost.json")
    assert cost["sparsity"] == pytest.approx(1 / 3)
    tokens = cost["tokens_per_example_mean"]
    assert cost["breakdown"]["executed"]["ffn_in"] == pytest.approx(2 * 40 * 24 * tokens, rel=1e-3)
    assert "search" not in cost["breakdown"]["whole_life"]


def test_a_search_by_language_modelling_pays_for_its_own_head(place, shallow):
    output, _, measured = place.ticket("earlybert-mlm", folder="paid")
    by_task = place.root / "by-task"
    shutil.copytree(output, by_task)
    record = read_json(by_task / "record.json")
    record["measured"]["search"]["objective"] = "task"
    write_json(by_task / "record.json", record)
    macs = []
    for folder in (output, by_task):
        place.count(shallow, ticket=folder / "ticket.json", output=folder)
        macs.append(measured_of(folder / "cost.json")["breakdown"]["whole_life"]["search"])
    mlm, task = macs
    vocabulary = read_json(place.backbone / "config.json", what="configuration")["vocab_size"]
    tokens, examples = (measured["search"][name] for name in ("tokens_seen", "examples_seen"))
    # Three times forward: a square and the vocabulary for each token, not pooler and two classes.
    expected = 3 * (tokens * 24 * (24 + vocabulary) - examples * (24 * 24 + 24 * 2))
    assert mlm - task == pytest.approx(expected, rel=1e-3)


def test_masked_language_modelling_on_gpt2_is_refused_before_anything_is_read(place):
    with pytest.raises(ConfigError, match="received mlm for a gpt2 backbone"):
        TicketJob.of(
            place.catalogue, "earlybert-mlm", suite="tiny", ids=("mini-gpt2", "mini-e2e", 1),
            limits=LIMITS,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["earlybert-settled", "earlybert-multiple-8"])
def test_other_recipes_reach_the_search_and_the_draw(place, name):
    output, ticket, measured = place.ticket(name)
    rule = "settled" if name == "earlybert-settled" else "fixed"
    assert measured["stopping"]["rule"] == ticket.search.rule == rule
    assert all(count % 8 == 0 for count in measured["kept_neurons"]) == (ticket.neuron_multiple > 1)
    assert json.loads((output / "ticket.json").read_text())["recipe"] == name

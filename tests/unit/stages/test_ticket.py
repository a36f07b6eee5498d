import json
import shutil

import numpy as np
import pytest
from unit.stages.tiny_catalogue import edit, small_catalogue, suite_config

from sparsetune.config.load import Catalogue
from sparsetune.earlybert.ticket import Ticket
from sparsetune.errors import ConfigError
from sparsetune.records import read_json, read_record, write_json
from sparsetune.stages.backbone import make_backbone
from sparsetune.stages.context import Context
from sparsetune.stages.cost import count_cost
from sparsetune.stages.dataset import make_dataset
from sparsetune.stages.evaluate import evaluate
from sparsetune.stages.ticket import TicketJob, make_ticket
from sparsetune.stages.tune import TunePaths, tune

LIMITS = {"train_examples": None, "evaluation_examples": None}


class Place:
    """A tiny backbone and task, and tickets drawn for them."""

    def __init__(self, root):
        self.root, self.config = root, small_catalogue(root / "config")
        shape = {"layers": 3}
        edit(self.config / "backbones" / "mini-bert.yaml",
             lambda content: content["pretraining"]["shape"].update(shape))  # fmt: skip
        self.catalogue = Catalogue(self.config)
        self.dataset, self.backbone = root / "dataset", root / "backbone"
        lock = root / "lock.yaml"
        make_dataset(self.catalogue.task("mini-sst2"), self.dataset, Context(), lock_file=lock)
        context = Context("cpu", checkpoints=root / "pretraining")
        make_backbone(self.catalogue.backbone("mini-bert"), self.backbone, context, lock_file=lock)

    def draw(self, ticket, *, name=None, seed=1):
        output = self.root / (name or ticket)
        job = TicketJob.of(
            self.catalogue, ticket, suite="tiny", ids=("mini-bert", "mini-sst2", seed),
            limits=LIMITS,
        )  # fmt: skip
        context = Context("cpu", checkpoints=self.root / "search")
        make_ticket(job, context, inputs=(self.dataset, self.backbone), output=output)
        measured = read_record(output / "record.json", "ticket")["measured"]
        return output, Ticket.load(output / "ticket.json"), measured


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


def test_same_seed_same_ticket_and_another_seed_another(place):
    first, ticket, _ = place.draw("earlybert")
    again, _, _ = place.draw("earlybert", name="again")
    _, other, _ = place.draw("earlybert", name="other", seed=2)
    assert (first / "ticket.json").read_bytes() == (again / "ticket.json").read_bytes()
    with np.load(first / "gates.npz") as one, np.load(again / "gates.npz") as two:
        assert all(np.array_equal(one[name], two[name]) for name in ("steps", "heads", "neurons"))
    assert (other.kept_heads, other.kept_neurons) != (ticket.kept_heads, ticket.kept_neurons)


def test_record_and_ticket_tell_where_each_rule_stops(place):
    _, ticket, measured = place.draw("earlybert", name="told")
    told = measured["stopping"]
    steps = measured["search"]["steps"]
    assert (told["rule"], told["fixed_step"], told["check_steps"][-1]) == ("fixed", steps, steps)
    assert told["settled_step"] is None or told["settled_step"] <= steps
    assert len(told["head_distances"]) == len(told["neuron_distances"]) == len(told["check_steps"])
    assert (ticket.search.steps, ticket.search.rule) == (steps, "fixed")
    assert ticket.search.neuron_distance == told["neuron_distances"][-1]


def test_masked_language_modelling_searches_with_the_checkpoints_own_head(place):
    _, ticket, measured = place.draw("earlybert-mlm")
    search = measured["search"]
    assert (search["objective"], search["language_head_from_checkpoint"]) == ("mlm", True)
    assert ticket.origin == "search"
    # Hardly trained: about as wrong as a guess among the 300 words of the vocabulary.
    assert 3.0 < search["final_loss"] < 8.0


def test_head_only_tickets_leave_the_feed_forward_part_alone(place):
    for name in ("earlybert-heads", "earlybert-random-heads"):
        *_, measured = place.draw(name)
        assert measured["kept_heads"] == [3, 3, 3]  # of 4, a third is 1
        assert measured["kept_neurons"] == [40, 40, 40]


@pytest.fixture(scope="module")
def shallow(place):
    """A run of the method layerdrop: its settings, its folder and its ticket."""
    output, _, _ = place.draw("layerdrop")
    spec = place.catalogue.suite(suite_config("layerdrop"), origin="test").runs[0]
    run = place.root / "run"
    paths = TunePaths(
        dataset=place.dataset, backbone=place.backbone, output=run, ticket=output / "ticket.json"
    )  # fmt: skip
    tune(spec, paths, Context("cpu", checkpoints=place.root / "tuning"))
    evaluate(spec, Context(), dataset=place.dataset, backbone=place.backbone, run=run, output=run)
    return spec, run, paths.ticket


def cost_of(place, spec, run, ticket, *, name):
    place_named = place.root / name
    count_cost(spec, Context(), backbone=place.backbone, run=run, ticket=ticket, output=place_named)
    return read_record(place.root / name / "cost.json", "cost")["measured"]


def test_a_ticket_of_layers_drops_them_from_the_tuned_model_and_its_cost(place, shallow):
    ticket = Ticket.load(shallow[2])
    assert ticket.kept_layers == (0, 1)
    record = read_record(shallow[2].parent / "record.json", "ticket")
    assert record["measured"]["kept_layers"] == [0, 1]
    cost = cost_of(place, *shallow, name="cost")
    assert cost["sparsity"] == pytest.approx(1 / 3)
    tokens = cost["tokens_per_example_mean"]
    assert cost["breakdown"]["executed"]["ffn_in"] == pytest.approx(2 * 40 * 24 * tokens, rel=1e-3)
    assert "search" not in cost["breakdown"]["whole_life"]


def test_a_search_by_language_modelling_pays_for_its_own_head(place, shallow):
    spec, run, _ = shallow
    output, _, measured = place.draw("earlybert-mlm", name="paid")
    by_task = place.root / "by-task"
    shutil.copytree(output, by_task)
    record = read_json(by_task / "record.json")
    record["measured"]["search"]["objective"] = "task"
    write_json(by_task / "record.json", record)
    macs = [
        cost_of(place, spec, run, folder / "ticket.json", name=f"cost-{folder.name}")
        for folder in (output, by_task)
    ]
    mlm, task = (found["breakdown"]["whole_life"]["search"] for found in macs)
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
    output, ticket, measured = place.draw(name)
    rule = "settled" if name == "earlybert-settled" else "fixed"
    assert measured["stopping"]["rule"] == ticket.search.rule == rule
    assert all(count % 8 == 0 for count in measured["kept_neurons"]) == (ticket.neuron_multiple > 1)
    assert json.loads((output / "ticket.json").read_text())["recipe"] == name

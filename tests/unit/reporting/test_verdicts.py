from dataclasses import replace

import numpy as np
import pytest
from unit.reporting.runs import changing, claim, scoring, suite_of, write_run

from sparsetune.config.claim import Requirement
from sparsetune.reporting.intervals import Interval
from sparsetune.reporting.tickets import KeptUnits
from sparsetune.reporting.verdicts import Cell, Evidence, _cells_of, _decide, judge


def number(quantity, right, relation="at-least", tolerance=0.0, **changes):
    return claim(quantity=quantity, right=right, relation=relation, tolerance=tolerance, **changes)


@pytest.fixture
def suite(tmp_path):
    """Evidence from runs: (backbone, task, method) -> one edit or score per seed."""

    def suite(runs, **more):
        folders = [
            write_run(
                tmp_path, method, backbone=backbone, task=task, seed=seed,
                edit=value if callable(value) else scoring(value),
            )
            for (backbone, task, method), values in runs.items()
            for seed, value in enumerate(values)
        ]  # fmt: skip
        given = {
            "groups": suite_of(folders, list(runs)).groups,
            "architectures": {backbone: "bert" for backbone, *_ in runs},
            "tickets": [], "pretraining_macs": {}, "over_examples": lambda cells: None,
        }  # fmt: skip
        return Evidence(**{**given, **more})

    return suite


def pair(left, right, *, backbone="mini-bert", task="mini-sst2"):
    return {(backbone, task, "earlybert"): left, (backbone, task, "full"): right}


@pytest.mark.parametrize(
    ("relation", "tolerance", "low", "high", "verdict"),
    [
        ("above", 0, 0.1, 2, "holds"), ("above", 0, 0, 2, "within noise"),
        ("above", 0, -1, 0, "fails"), ("above", 0, 0, 0, "fails"),
        ("at-least", 1, -1, 3, "holds"), ("at-least", 1, -1.1, 3, "within noise"),
        ("at-least", 1, -3, -1.1, "fails"),
        ("at-most", 1, -5, 1, "holds"), ("at-most", 1, 0, 1.1, "within noise"),
        ("at-most", 1, 1.1, 2, "fails"),
        ("within", 0.5, -0.5, 0.5, "holds"), ("within", 0.5, -0.6, 0.1, "within noise"),
        ("within", 0.5, -2, 2, "within noise"), ("within", 0.5, 0.6, 2, "fails"),
    ],
)  # fmt: skip
def test_the_interval_decides(relation, tolerance, low, high, verdict):
    interval = Interval((low + high) / 2, low, high, "seeds", 3.0)
    cell = Cell("mini-bert", "mini-sst2", "generated", (1, 2), (1.0, 1.0), (1.0, 1.0))
    assert _decide(claim(relation=relation, tolerance=tolerance), interval, [cell])[0] == verdict


def test_seeds_are_paired_and_decide_where_each_place_has_two(suite):
    # Seed 1 has no value, seed 4 no partner.
    found = judge(claim(), suite(pair([0.82, None, 0.83, 0.84, 0.9], [0.80] * 4)))
    assert found.cells[0].seeds == (0, 2, 3)
    # Differences 2, 3, 4 points: mean 3, error 1 / sqrt 3, t(2) = 4.303.
    assert found.verdict == "holds"
    assert found.interval.mean == pytest.approx(3.0)
    assert found.interval.low == pytest.approx(3 - 4.30265 / 3**0.5, abs=1e-4)
    assert (found.interval.over, found.over_tasks) == ("seeds", None)


def test_places_decide_where_seeds_are_missing(suite):
    found = judge(claim(), suite({**pair([0.85], [0.8]), **pair([0.85], [0.8], task="mini-rte")}))
    assert (found.interval.over, found.verdict) == ("tasks", "holds")
    assert "2 places, 1 seed each" in found.reason


def told_by_examples(low, high):
    """Of any pairs that they are this far apart, and which pairs were asked for."""
    asked = []

    def over_examples(cells):
        asked.extend([(left.method, right.method, left.seed, right.seed) for left, right in cell]
                     for cell in cells)  # fmt: skip
        return Interval((low + high) / 2, low, high, "examples")

    return over_examples, asked


def test_one_pair_is_decided_by_its_examples_alone(suite):
    assert judge(claim(), suite(pair([0.9], [0.5]))).verdict == "within noise"
    over_examples, asked = told_by_examples(5.0, 15.0)
    runs = pair([0.90], [0.80], task="mini-rte")
    found = judge(claim(), suite(runs, over_examples=over_examples))
    assert (found.interval.low, found.interval.high) == (5.0, 15.0)
    assert (found.verdict, found.interval.over) == ("holds", "examples")
    assert asked == [[("earlybert", "full", 0, 0)]]


def test_places_that_agree_by_chance_are_as_noisy_as_their_examples(suite):
    places = [pair([0.85, 0.85], [None, 0.80], task=task) for task in ("mini-a", "mini-b")]
    over_examples, asked = told_by_examples(2.0, 8.0)
    found = judge(claim(), suite({**places[0], **places[1]}, over_examples=over_examples))
    assert (found.interval.low, found.interval.high) == (2.0, 8.0)
    assert found.reason == "spread of 2 places, 1 seed each, widened to the noise of the examples"
    # Seed 0 has no score on one side, and is no pair.
    assert asked == [[("earlybert", "full", 1, 1)]] * 2


def test_examples_are_asked_for_scores_beside_a_methods_alone(suite):
    over_examples, asked = told_by_examples(-50.0, 50.0)
    evidence = suite(pair([0.85, 0.85], [0.80, 0.80]), over_examples=over_examples)
    for one in (number("score", {"value": 80}), number("seconds-saved", "full")):
        assert judge(one, evidence).interval.over in ("seeds", "tasks", "nothing")
    assert asked == []


def test_published_places_decide_alone_and_generated_ones_never_beside_real_ones(suite):
    generated = pair([0.9, 0.9], [0.8, 0.8])
    real = pair([0.7, 0.7], [0.8, 0.8], backbone="minilm", task="qnli")
    published = pair([0.8, 0.9], [0.8, 0.9], backbone="bert-base", task="qnli")
    found = judge(claim(), suite({**generated, **real, **published}))
    assert (found.scale, len(found.cells)) == ("published", 1)
    assert found.left_out == {
        "a smaller scale than what decides": ["mini-bert/mini-sst2", "minilm/qnli"]
    }


def test_what_only_the_papers_scale_can_tell_is_measured_and_not_judged(suite):
    found = judge(claim(only_there="too small"), suite(pair([0.9], [0.8])))
    assert (found.verdict, found.reason) == ("not tested at this scale", "too small")
    assert (found.interval, len(found.cells)) == (None, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"right": "layerdrop"}, "no run of layerdrop in this suite"),
        ({"left": "imp", "right": "layerdrop"}, "no run of imp or layerdrop in this suite"),
        ({"architectures": ("gpt2",)}, "no run of earlybert on gpt2 in this suite"),
        ({"twins": {"bert-large": "bert-base"}}, "no run on bert-large in this suite"),
    ],
)
def test_what_is_not_there_is_named(suite, changes, reason):
    found = judge(claim(**changes), suite(pair([0.9], [0.8])))
    assert (found.verdict, found.reason) == ("not tested at this scale", reason)


def test_runs_with_other_settings_are_left_out_with_their_value(suite):
    def searched(epochs):
        def edit(records):
            records["tune"]["asked"]["settings"]["ticket"] = {"search": {"stop_epochs": epochs}}

        return edit

    need = Requirement(
        method="earlybert", setting="ticket.search.stop_epochs", value=0.2,
        otherwise="another search",
    )  # fmt: skip
    runs = {**pair([searched(0.2)], [0.8]), **pair([searched(1.0)], [0.8], task="mini-rte")}
    cells, left_out = _cells_of(claim(requires=(need,)), suite(runs))
    assert [cell.task for cell in cells] == ["mini-sst2"]
    reason = "another search (ticket.search.stop_epochs is 1.0, not 0.2)"
    assert left_out == {reason: ["mini-bert/mini-rte"]}


def effort(seconds, device="cpu"):
    def edit(records):
        records["tune"]["measured"].update(train_seconds=seconds, loading_seconds=0.0)
        records["tune"]["where"]["device"] = {"kind": "cpu", "name": device}

    return edit


def test_time_saved_is_against_the_dense_run_on_the_same_device(suite):
    evidence = suite(pair([effort(5.5), effort(6.5)], [effort(10.0), effort(10.0)]))
    found = judge(number("seconds-saved", 35.0), evidence)
    # 45 and 35 % saved: mean 40, error 5, t(1) = 12.7: noise.
    assert found.cells[0].left == pytest.approx((45.0, 35.0))
    assert found.verdict == "within noise"
    elsewhere = suite(pair([effort(5.5, "H200")], [effort(10.0)], task="mini-rte"))
    reason = judge(number("seconds-saved", 35.0), elsewhere).reason
    assert reason == "timed on different devices: H200, cpu"


def test_counted_quantities_have_no_noise(suite):
    modules = {"query": 750, "update": 50}
    breakdown = {"executed": modules, "effective": modules, "whole_life": {}}
    edit = changing(
        "cost", macs_effective_per_example=800, parameters_trained=5_000, breakdown=breakdown
    )
    evidence = suite(pair([edit], [0.8]))
    # Of 1,000: 800 done, 50 of them the update's; 5,000 of 1,000,000 parameters trained.
    for quantity, value in (
        ("inference-macs-saved", 20.0), ("backbone-macs-saved", 25.0), ("trained-share", 0.5),
    ):  # fmt: skip
        found = judge(number(quantity, value, "within", 0.1), evidence)
        assert found.interval.mean == pytest.approx(0.0), quantity
        assert (found.verdict, found.interval.over) == ("holds", "nothing")
    assert judge(number("inference-macs-saved", 25.0), evidence).verdict == "fails"


def test_pretraining_is_compared_between_twins(suite):
    runs = {
        ("mini-bert-early", "mini-rte", "full"): [0.8],
        ("mini-bert", "mini-rte", "full"): [0.8],
    }
    twins = {"mini-bert-early": "mini-bert"}
    wanted = number("pretraining-macs-saved", 30.0, left="full", twins=twins)
    macs = {"mini-bert-early": 65, "mini-bert": 100}
    evidence = suite(runs, pretraining_macs=macs)
    assert judge(wanted, evidence).interval.mean == pytest.approx(5.0)
    found = judge(wanted, replace(evidence, pretraining_macs={"mini-bert": 100}))
    assert found.reason == "mini-bert-early is not pre-trained in this suite"


def test_tickets_are_compared_between_tasks_seed_by_seed(suite):
    def with_ticket(records):
        records["tune"]["asked"]["ticket"] = "earlybert"

    runs = {
        ("mini-bert", task, "earlybert"): [with_ticket] * 2 for task in ("mini-rte", "mini-cola")
    }
    first, second = np.eye(2, dtype=bool), ~np.eye(2, dtype=bool)
    tickets = [
        KeptUnits("mini-bert", task, "earlybert", seed, "search", heads, heads)
        for seed, pairs in enumerate([(first, first), (first, second)])
        for task, heads in zip(("mini-rte", "mini-cola"), pairs, strict=True)
    ]
    found = judge(number("heads-in-common", 0.0, "above"), suite(runs, tickets=tickets))
    # Two of four heads each: chance is one half; all in common, then none.
    assert found.cells[0].left == (50.0, -50.0)
    assert found.verdict == "within noise"

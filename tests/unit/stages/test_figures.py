import pytest
from unit.stages.tiny_catalogue import ROOT, suite_config

from sparsetune.config.load import Catalogue
from sparsetune.records.parts import Stopping
from sparsetune.stages.figures import _stops_reached, figure_names

# The search looked at its masks up to step 40.
STOPPING = {
    "rule": "fixed", "steps_per_epoch": 10, "last_step_allowed": 40, "window": 5, "epsilon": 0.1,
    "head_distances": [], "neuron_distances": [],
    "fixed_step": 20, "settled_step": 30, "check_steps": [10, 20, 30, 40],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "stops"),
    [
        ({}, {"fixed": 20, "converged": 30}),
        ({"settled_step": None}, {"fixed": 20}),
        ({"settled_step": None, "fixed_step": 40}, {"fixed": 40}),
        # Settled before the published length was over: that rule stopped nothing.
        ({"fixed_step": 50}, {"converged": 30}),
    ],
)
def test_only_rules_that_the_search_came_to_are_drawn(change, stops):
    assert _stops_reached(Stopping.model_validate({**STOPPING, **change})) == stops


def names_of(*methods, seeds=(1,)):
    config = {**suite_config(*methods), "seeds": list(seeds)}
    return figure_names(Catalogue(ROOT / "config").suite(config, origin="test"))


def test_a_suite_without_the_dense_run_compares_nothing():
    names = names_of("dsee")
    assert names == ["layers-mini-bert.svg", "curves/mini-bert/mini-sst2.svg"]


def test_every_search_is_drawn_until_they_are_many():
    few = names_of("full", "earlybert", seeds=range(1, 4))
    assert [name for name in few if name.startswith("masks/")] == [
        f"masks/mini-bert/mini-sst2/earlybert/seed-{seed}.svg" for seed in (1, 2, 3)
    ]
    many = names_of("full", "earlybert", seeds=range(1, 62))
    assert [name for name in many if name.startswith("masks/")] == [
        "masks/mini-bert/mini-sst2/earlybert/seed-1.svg"
    ]
    assert set(many) - set(few) == set()

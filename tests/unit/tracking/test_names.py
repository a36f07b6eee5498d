import json

import pytest
from unit.tracking.runs import MEASURED

from sparsetune.tracking.names import as_finals, as_params, flatten


def test_nested_settings_become_dotted_names_that_mlflow_takes():
    assert flatten({"a": {"b": 1, "c d": {"e?": 2}}}) == {"a.b": 1, "a.c d.e_": 2}


def test_params_of_a_record_are_those_of_the_live_run():
    phases = ({"name": "search", "epochs": 1.0}, {"name": "train", "epochs": 3.0})
    live = {"method": {"phases": phases, "not_for": ({"b": 2, "a": 1},)}, "seed": 1}
    recorded = json.loads(json.dumps(live, sort_keys=True))
    assert as_params(recorded) == as_params(live)
    assert as_params(live) == {
        "method.phases.names": "search, train",
        "method.phases.search.epochs": "1.0",
        "method.phases.train.epochs": "3.0",
        "method.not_for": '[{"a": 1, "b": 2}]',
        "seed": "1",
    }


def test_settings_without_a_value_are_no_params():
    assert as_params({"limits": {"train_examples": None}, "rate": 0}) == {"rate": "0"}


@pytest.mark.parametrize("listed", [[], [{"name": "a"}, {"name": "a"}], [{"x": 1}], ["name"]])
def test_list_without_names_of_its_own_stays_whole(listed):
    assert as_params({"list": listed}) == {"list": json.dumps(listed)}


def test_final_metrics_are_numbers_in_a_section_of_their_stage():
    measured = {**MEASURED, "loss": 2, "per_layer": [1, 2], "intervals_from": {"resamples": 9}}
    finals = as_finals("tune", measured)
    assert finals == {"tune/train_seconds": 2.5, "tune/spread/low": 1.0, "tune/loss": 2.0}

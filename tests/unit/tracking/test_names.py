import json

from unit.tracking.runs import MEASURED

from sparsetune.tracking.names import as_finals, as_params, flatten


def test_nested_settings_become_dotted_names_that_mlflow_takes():
    assert flatten({"a": {"b": 1, "c d": {"e?": 2}}}) == {"a.b": 1, "a.c d.e_": 2}


def test_params_of_a_record_are_those_of_the_live_run():
    live = {"method": {"phases": ({"name": "train", "epochs": 3.0},)}, "seed": 1}
    recorded = json.loads(json.dumps(live, sort_keys=True))
    assert as_params(recorded) == as_params(live)
    assert as_params(live) == {"method.phases": '[{"epochs": 3.0, "name": "train"}]', "seed": "1"}


def test_final_metrics_are_numbers_in_a_section_of_their_stage():
    measured = {**MEASURED, "loss": 2, "per_layer": [1, 2], "intervals_from": {"resamples": 9}}
    finals = as_finals("tune", measured)
    assert finals == {"tune/train_seconds": 2.5, "tune/spread/low": 1.0, "tune/loss": 2.0}

import pytest
from unit.tracking.runs import KEY, client_of

from sparsetune.errors import ConfigError
from sparsetune.tracking import RunKey, prepare, store_uri
from sparsetune.tracking.store import one_line


def test_key_names_the_run_and_other_stages_begin_with_the_stage():
    assert KEY.text == "tiny/rte/lora/seed-1"
    assert RunKey("support", "mini", "tiny", label="grebsmo").text == "support/tiny/grebsmo"
    ticket = RunKey("ticket", "mini", "tiny", "rte", seed=0, label="heads")
    assert ticket.text == "ticket/tiny/rte/heads/seed-0"
    assert KEY.tags()["sparsetune.run_key"] == KEY.text
    assert KEY.tags()["seed"] == "1"


@pytest.mark.parametrize(
    ("field", "value"), [("stage", "train"), ("task", "x'y"), ("label", "A b")]
)
def test_key_refuses_what_would_not_be_an_id(field, value):
    fields = {"stage": "tune", "suite": "mini", "backbone": "tiny", field: value}
    with pytest.raises(ConfigError, match=rf"{field} is .*allowed"):
        RunKey(**fields)


def test_environment_chooses_the_store(monkeypatch, tmp_path):
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store_uri(tmp_path) == "http://127.0.0.1:5000"


def test_problem_is_one_line_without_password():
    told = one_line(OSError("no\n  http://me:secret@host/ " + "x" * 999))
    assert told.startswith("OSError: no http://***@host/")
    assert len(told) <= 300


def test_prepare_twice_makes_one_experiment_and_one_finished_parent_per_group(results):
    for _ in range(2):
        prepare(results, "mini", [("tiny", "rte"), ("tiny", "cola"), ("tiny", "rte")])
    client = client_of(results)
    experiment = client.get_experiment_by_name("mini")
    assert experiment.artifact_location == (results / "mlartifacts/mini").resolve().as_uri()
    parents = client.search_runs([experiment.experiment_id], "tags.`sparsetune.parent` = 'true'")
    assert sorted(p.info.run_name for p in parents) == ["tiny/cola", "tiny/rte"]
    assert {p.info.status for p in parents} == {"FINISHED"}

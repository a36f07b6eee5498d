"""Who a run is and what its values are called; whether a store can be opened, and its making."""

import json
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from unit.tracking.runs import KEY, client_of

from sparsetune.errors import ConfigError, DataError
from sparsetune.tracking.client import (
    RunKey,
    as_finals,
    as_params,
    experiments,
    flatten,
    is_ready,
    make_ready,
    one_line,
    prepare,
    store_uri,
)

KILLED_IN_MID_WRITE = """
    import os, sqlite3, sys
    store = sqlite3.connect(sys.argv[1], isolation_level=None)
    store.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
    store.execute("BEGIN IMMEDIATE")
    store.execute("UPDATE experiments SET name = name || '-half'")
    store.execute("CREATE TABLE junk (text)")
    for _ in range(100):
        store.execute("INSERT INTO junk VALUES (?)", ("x" * 5000,))
    os.kill(os.getpid(), 9)
"""


def test_key_names_the_run_and_other_stages_begin_with_the_stage():
    assert KEY.text == KEY.tags()["sparsetune.run_key"] == "tiny/rte/lora/seed-1"
    assert RunKey("support", "mini", "tiny", label="grebsmo").text == "support/tiny/grebsmo"
    ticket = RunKey("ticket", "mini", "tiny", "rte", seed=0, label="heads")
    assert ticket.text == "ticket/tiny/rte/heads/seed-0"


@pytest.mark.parametrize(
    ("field", "value"), [("stage", "train me"), ("task", "x'y"), ("label", "A b")]
)
def test_key_refuses_what_would_not_be_an_id(field, value):
    fields = {"stage": "tune", "suite": "mini", "backbone": "tiny", field: value}
    with pytest.raises(ConfigError, match=rf"{field}: received .*allowed"):
        RunKey(**fields)


def test_nested_settings_become_dotted_names_that_mlflow_takes():
    assert flatten({"a": {"b": 1, "c d": {"e?": 2}}}) == {"a.b": 1, "a.c d.e_": 2}


def test_params_of_a_record_are_those_of_the_live_run():
    phases = ({"name": "search", "epochs": 1.0}, {"name": "train", "epochs": 3.0, "rate": None})
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


@pytest.mark.parametrize("listed", [[], [{"name": "a"}, {"name": "a"}], [{"x": 1}], ["name"]])
def test_list_without_names_of_its_own_stays_whole(listed):
    assert as_params({"list": listed}) == {"list": json.dumps(listed)}


def test_final_metrics_are_numbers_in_a_section_of_their_stage():
    measured = {
        "train_seconds": 2.5, "spread": {"low": 1}, "policy": "dense", "whole": True, "loss": 2,
        "per_layer": [1, 2], "intervals_from": {"resamples": 9},
    }  # fmt: skip
    finals = as_finals("tune", measured)
    assert finals == {"tune/train_seconds": 2.5, "tune/spread/low": 1.0, "tune/loss": 2.0}


def test_environment_chooses_the_store_and_what_is_no_database_is_left_to_mlflow(
    monkeypatch, tmp_path
):
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store_uri(tmp_path) == "http://127.0.0.1:5000"
    assert is_ready("http://127.0.0.1:9")
    assert is_ready(str(tmp_path / "a-folder"))


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


def test_file_without_content_is_not_ready_until_its_schema_is_made(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(DataError, match=r"mlflow.db: not made yet; .*make reproduce"):
        experiments(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    assert not is_ready(uri)
    (tmp_path / "mlflow.db").touch()
    assert not is_ready(uri)
    make_ready(uri)
    assert is_ready(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_what_a_process_killed_in_mid_write_left_is_rolled_back(results):
    program = [sys.executable, "-c", textwrap.dedent(KILLED_IN_MID_WRITE), results / "mlflow.db"]
    assert subprocess.run(program).returncode == -9
    assert (results / "mlflow.db-journal").stat().st_size > 0
    prepare(results, "mini", [])
    names = sqlite3.connect(results / "mlflow.db").execute("SELECT name FROM experiments")
    assert sorted(names) == [("Default",), ("mini",), ("template",)]


def test_database_that_is_down_is_told(tmp_path, monkeypatch):
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/runs")
    with pytest.raises(DataError, match=r"postgresql://\*\*\*@127.0.0.1:9/runs: .*refused"):
        prepare(tmp_path, "mini", [])


def test_missing_driver_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(DataError, match=r"pip install 'sparsetune\[postgresql\]'"):
        is_ready("postgresql://127.0.0.1:9/runs")

import hashlib
import json
import shutil

import pytest
from unit.made_records import write_made
from unit.reporting.runs import scoring, write_run
from unit.stages.tiny_catalogue import ROOT, suite_config

from sparsetune.config.load import Catalogue
from sparsetune.records import sha256_of
from sparsetune.stages.track import prepare_store, track_suite

pytestmark = pytest.mark.slow

METHODS = ("full", "lora")
SUMS = {"train.parquet": "a" * 64, "evaluation.parquet": "b" * 64}


@pytest.fixture
def places(tmp_path, fresh_database):
    """Folders of results, with a store, and of resources."""
    results, resources = tmp_path / "results", tmp_path / "resources"
    results.mkdir()
    shutil.copy(fresh_database, results / "mlflow.db")
    return results, resources


@pytest.fixture
def suite():
    return Catalogue(ROOT / "config").suite(suite_config(*METHODS), origin="test")


def write_shared(resources):
    """Records of the backbone and the data set, as their stages write them."""
    write_made(resources / "backbones" / "mini-bert" / "record.json", "backbone")
    folder = resources / "datasets" / "mini-sst2"
    measured = {"files": SUMS, "train_examples": 7, "evaluation_examples": 3}
    write_made(folder / "record.json", "dataset", measured=measured)
    for name in SUMS:
        (folder / name).write_text("sentence\tlabel\n")
    return sha256_of(folder / "record.json")


def finish(results, data, score=0.8):
    """All that the suite's runs leave, but their models."""
    for method in METHODS:

        def edit(records):
            scoring(score)(records)
            records["tune"]["inputs"] = {"resources/datasets/mini-sst2/record.json": data}

        folder = write_run(results / "tiny", method, seed=1, edit=edit)
        (folder / "history.csv").write_text("step,phase,loss\n0,train,1.0\n")
        (folder / "predictions.parquet").write_bytes(b"PAR1")


def runs_of(results):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def test_runs_arrive_with_headline_description_and_data(places, suite):
    results, resources = places
    assert prepare_store(suite, results=results) is None
    finish(results, write_shared(resources))
    report = track_suite(suite, results=results, resources=resources)
    assert (report.published, report.problems) == (3, ())
    run = runs_of(results)["mini-bert/mini-sst2/lora/seed-1"]
    assert run.data.metrics["score_percent"] == 80.0
    assert run.data.metrics["time_saved_percent"] == 0.0
    assert run.data.tags["metric"] == "accuracy"
    assert suite.runs[1].method.description in run.data.tags["mlflow.note.content"]
    data = {one.tags[0].value: one.dataset.digest for one in run.inputs.dataset_inputs}
    assert data == {"training": "a" * 36, "validation": "b" * 36}
    assert track_suite(suite, results=results, resources=resources).published == 0


def test_parent_has_a_line_for_each_method_and_the_suite_its_claims(places, suite):
    results, resources = places
    finish(results, write_shared(resources))
    measured = {"verdicts": {"holds": 2, "within noise": 1}}
    write_made(results / "tiny/claims.json", "claims", measured=measured)
    track_suite(suite, results=results, resources=resources)
    runs = runs_of(results)
    parent = runs["mini-bert/mini-sst2"]
    assert parent.data.metrics["score_percent_mean/lora"] == 80.0
    assert parent.data.metrics["seeds_count/full"] == 1.0
    table = parent.data.tags["mlflow.note.content"].splitlines()
    assert [line.split("|")[1].strip() for line in table[2:4]] == list(METHODS)
    overview = runs["suite tiny"]
    assert overview.data.metrics == {"claims/holds": 2.0, "claims/within_noise": 1.0}
    assert "- claims, holds: 2" in overview.data.tags["mlflow.note.content"]


def test_run_made_from_other_data_names_none_and_a_broken_run_has_no_headline(places, suite):
    results, resources = places
    write_shared(resources)
    finish(results, hashlib.sha256(b"older data").hexdigest())
    cost = results / "tiny/runs/mini-bert/mini-sst2/lora/seed-1/cost.json"
    record = json.loads(cost.read_text())
    record["asked"]["digest"] = "b" * 16
    cost.write_text(json.dumps(record))
    assert track_suite(suite, results=results, resources=resources).problems == ()
    runs = runs_of(results)
    assert "score_percent" not in runs["mini-bert/mini-sst2/lora/seed-1"].data.metrics
    whole = runs["mini-bert/mini-sst2/full/seed-1"]
    assert whole.data.metrics["score_percent"] == 80.0
    assert whole.inputs.dataset_inputs == []
    assert "seeds_count/lora" not in runs["mini-bert/mini-sst2"].data.metrics


def test_store_that_cannot_be_opened_is_told_once(places, suite):
    results, resources = places
    finish(results, write_shared(resources))
    (results / "mlflow.db").write_bytes(b"not a database" * 99)
    report = track_suite(suite, results=results, resources=resources)
    assert (report.published, len(report.problems)) == (0, 1)
    assert json.loads((results / "tiny/track.json").read_text())["measured"]["problems"]


def test_ticket_tells_what_it_keeps_and_which_data_it_was_searched_on(places):
    results, resources = places
    suite = Catalogue(ROOT / "config").suite(suite_config("earlybert"), origin="test")
    data = write_shared(resources)
    folder = results / "tiny/tickets/mini-bert/mini-sst2/earlybert/seed-1"
    inputs = {"resources/datasets/mini-sst2/record.json": data}
    measured = {"search_seconds": 1.5}
    write_made(folder / "record.json", "ticket", measured=measured, inputs=inputs)
    for name in ("ticket.json", "gates.npz"):
        (folder / name).write_bytes(b"{}")
    (problem,) = track_suite(suite, results=results, resources=resources).problems
    assert problem.startswith("mini-bert/mini-sst2/earlybert/seed-1: ")  # it was not trained yet
    ticket = runs_of(results)["ticket/mini-bert/mini-sst2/earlybert/seed-1"]
    assert ticket.data.metrics == {
        "heads_kept": 7.0, "neurons_kept": 50.0, "ticket/search_seconds": 1.5
    }  # fmt: skip
    assert len(ticket.inputs.dataset_inputs) == 2

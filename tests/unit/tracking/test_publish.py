import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from unit.tracking.runs import (
    CURVES,
    KEY,
    MEASURED,
    SETTINGS,
    client_of,
    curve,
    live,
    runs_of,
    write_entry,
)

from sparsetune.tracking import publish as module
from sparsetune.tracking.client import RunKey, prepare
from sparsetune.tracking.publish import (
    DataInput,
    Entry,
    PublishReport,
    Summary,
    publish,
    publish_suite,
)

pytestmark = pytest.mark.slow

GROUP = ("tiny", "rte")
OTHER = RunKey("tune", "mini", *GROUP, "lora", 2)
SUM = "0123456789abcdef" * 4
DATA = (
    DataInput("rte", "training", SUM, {"kind": "hub", "subset": "rte"}, 9),
    DataInput("rte", "validation", SUM[::-1], {"kind": "hub"}, 4),
)


def test_publish_makes_the_run_from_records_and_then_changes_nothing(results, tmp_path):
    entry = write_entry(tmp_path / "run")
    assert publish(results, "mini", [entry]) == PublishReport(1, 0, ())
    (run,) = runs_of(results)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.rate"] == "2e-05"
    assert curve(results, run, "accuracy_fraction") == [(10, 0.75)]
    finals = {"tune/train_seconds": 2.5, "evaluate/metrics/f1_fraction": 0.75}
    assert finals.items() <= run.data.metrics.items()
    assert run.data.tags["mlflow.source.git.commit"] == "c" * 40
    attached = client_of(results).list_artifacts(run.info.run_id)
    assert [a.path for a in attached] == ["evaluate.json", "history.csv", "tune.json"]
    assert publish(results, "mini", [entry]) == PublishReport(0, 1, ())
    assert [r.info.run_id for r in runs_of(results)] == [run.info.run_id]


def test_a_live_run_that_arrived_whole_is_kept_and_gains_what_came_later(results, tmp_path):
    outcome = live(results, metrics=MEASURED)
    entry = write_entry(tmp_path / "run", run_id=outcome.run_id)
    assert publish(results, "mini", [entry]) == PublishReport(1, 0, ())
    (run,) = runs_of(results)
    assert (run.info.run_id, run.info.status) == (outcome.run_id, "FINISHED")
    assert curve(results, run, "loss") == [(0, 1.0), (10, 0.5)]
    assert curve(results, run, "tune/train_seconds") == [(0, 2.5)]
    assert run.data.metrics["evaluate/metrics/f1_fraction"] == 0.75
    assert "mlflow.parentRunId" in run.data.tags
    assert publish(results, "mini", [entry]) == PublishReport(0, 1, ())


@pytest.mark.parametrize("case", ["lost a step", "failed", "other record", "other settings"])
def test_a_live_run_that_is_not_its_records_is_written_anew(results, tmp_path, case):
    status = "FAILED" if case == "failed" else "FINISHED"
    curves = [*CURVES, (20, {"loss": "x"})] if case == "lost a step" else CURVES
    outcome = live(results, curves=curves, status=status)
    assert (outcome.run_id is None) == (case == "lost a step")
    (older,) = runs_of(results)
    named = None if case == "other record" else outcome.run_id
    settings = {"rank": 9} if case == "other settings" else SETTINGS
    publish(results, "mini", [write_entry(tmp_path / "run", run_id=named, settings=settings)])
    (run,) = runs_of(results)
    assert run.info.run_id != older.info.run_id
    assert curve(results, run, "loss") == [(0, 1.0), (10, 0.5)]
    assert run.data.metrics["tune/train_seconds"] == 2.5


def test_publish_follows_a_changed_record_and_leaves_other_keys_alone(results, tmp_path):
    live(results, key=OTHER)
    publish(results, "mini", [write_entry(tmp_path / "run")])
    report = publish(results, "mini", [write_entry(tmp_path / "run", measured={"final_loss": 7})])
    assert (report.published, report.unchanged) == (1, 0)
    runs = {run.data.tags["sparsetune.run_key"]: run for run in runs_of(results)}
    assert len(runs_of(results)) == len(runs) == 2
    assert runs[KEY.text].data.metrics["tune/final_loss"] == 7.0
    assert OTHER.text in runs


def test_publish_tells_bad_entries_and_publishes_the_good_one(results, tmp_path):
    keys = [RunKey("tune", "mini", "tiny", "rte", "lora", seed) for seed in range(4)]
    entries = [write_entry(tmp_path / key.text, key=key) for key in keys]
    entries[1].records[1].unlink()
    entries[2].history.write_text("step,loss\n0,1.0\n5,much\n")
    entries[3].records[0].write_text("{}")
    report = publish(results, "mini", entries)
    assert report.published == 1
    assert [p.split(": ")[0] for p in report.problems] == [key.text for key in keys[1:]]
    assert "evaluate.json" in report.problems[0]
    assert "history.csv: row 3: received loss 'much' at step '5'; need a" in report.problems[1]
    assert len(runs_of(results)) == 1


def test_store_that_fails_for_long_is_not_asked_for_every_entry(results, monkeypatch):
    asked = []

    def refuse(store, entry, *_):
        asked.append(entry)
        raise OSError("no answer")

    monkeypatch.setattr(module, "_publish_one", refuse)
    entries = [Entry(RunKey("tune", "mini", *GROUP, "lora", n), ()) for n in range(100)]
    assert len(publish(results, "mini", entries).problems) == len(asked) == 100
    asked.clear()
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    first, last = publish(results, "mini", entries).problems
    assert first == f"{entries[0].key.text}: OSError: no answer"
    assert last.endswith("/mlflow.db: failed for 0 s, 99 entries not tried")
    assert len(asked) == 1


def test_run_that_fails_half_way_is_failed_and_replaced_by_the_next_attempt(
    results, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError("disk is full")

    entry = write_entry(tmp_path / "run")
    monkeypatch.setattr(type(client_of(results)), "log_artifact", full)
    assert publish(results, "mini", [entry]).problems == (f"{KEY.text}: OSError: disk is full",)
    assert [run.info.status for run in runs_of(results)] == ["FAILED"]
    monkeypatch.undo()
    assert publish(results, "mini", [entry]) == PublishReport(1, 0, ())
    assert [run.info.status for run in runs_of(results)] == ["FINISHED"]


def test_headline_and_description_follow_a_change_in_place(results, tmp_path):
    entry, seen = write_entry(tmp_path / "run"), []
    for score in (80.0, 81.5, 80.5):
        shown = replace(entry, headline={"score_percent": score}, note=f"score {score}")
        publish(results, "mini", [shown])
        (run,) = runs_of(results)
        seen.append(run.info.run_id)
        assert run.data.metrics["score_percent"] == score
        assert run.data.tags["mlflow.note.content"] == f"score {score}"
    assert len(set(seen)) == 1  # tables link to it
    assert run.data.tags["mlflow.source.name"] == "sparsetune tune"
    assert curve(results, run, "loss") == [(0, 1.0), (10, 0.5)]
    assert publish(results, "mini", [shown]).unchanged == 1


def test_data_sets_are_inputs_of_each_run_once(results, tmp_path):
    entries = [
        replace(write_entry(tmp_path / "live", run_id=live(results).run_id), data=DATA),
        replace(write_entry(tmp_path / "other", key=OTHER), data=DATA),
    ]
    for _ in range(2):
        assert publish(results, "mini", entries).problems == ()
    runs = runs_of(results)
    assert len(runs) == 2
    for run in runs:
        told = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
        assert len(run.inputs.dataset_inputs) == 2
        assert (told["training"].name, told["training"].digest) == ("rte", SUM[:36])
        assert json.loads(told["training"].source) == {"kind": "hub", "subset": "rte"}
        assert json.loads(told["validation"].profile) == {
            "examples": 4, "sha256": SUM[::-1]
        }  # fmt: skip


@pytest.fixture
def suite(results, tmp_path):
    """A prepared suite with files, and how it is published."""
    prepare(results, "mini", [GROUP])
    (tmp_path / "tables/tiny").mkdir(parents=True)
    for name in ("tables/headline.md", "tables/tiny/rte.md", "claims.md"):
        (tmp_path / name).write_text("| all |")
    files = {"tables": [tmp_path / "tables"], "": [tmp_path / "claims.md", tmp_path / "page.html"]}

    def show(score=80.0, overview=""):
        parent = Summary({"score_percent_mean/lora": score}, f"mean {score}", {"methods.md": "|"})
        told = Summary(note=overview, files=files)
        methods = [(*GROUP, "lora")]
        return publish_suite(
            results, "mini", "", methods, parents={GROUP: parent}, overview=told
        )  # fmt: skip

    def run(tag):
        client = client_of(results)
        found = client.search_runs([client.get_experiment_by_name("mini").experiment_id])
        (one,) = [run for run in found if tag in run.data.tags]
        return one

    def attached(tag, folder=None):
        return [one.path for one in client_of(results).list_artifacts(run(tag).info.run_id, folder)]

    return SimpleNamespace(show=show, run=run, attached=attached, folder=tmp_path)


def test_parent_shows_the_last_means_and_keeps_its_children(results, suite):
    live(results)
    for score in (80.0, 82.0, 81.0):
        assert suite.show(score) == ()
    parent = suite.run("sparsetune.parent")
    assert parent.data.metrics == {"score_percent_mean/lora": 81.0}
    assert parent.data.tags["mlflow.note.content"] == "mean 81.0"
    assert suite.attached("sparsetune.parent") == ["methods.md"]
    (child,) = [run for run in runs_of(results) if run.info.run_name == KEY.text]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_suite_has_one_run_with_what_is_there_and_gains_what_comes_later(suite):
    suite.show()
    first, tag = suite.run("sparsetune.suite_run"), "sparsetune.suite_run"
    assert suite.attached(tag) == ["claims.md", "tables"]
    assert suite.attached(tag, "tables") == ["tables/headline.md", "tables/tiny"]
    (suite.folder / "page.html").write_text("<p>")
    suite.show(overview="all in one")
    again = suite.run(tag)
    assert again.info.run_id == first.info.run_id
    assert suite.attached(tag) == ["claims.md", "page.html", "tables"]
    assert (again.info.run_name, again.info.status) == ("suite mini", "FINISHED")
    assert again.data.tags["mlflow.note.content"] == "all in one"


def test_same_suite_is_written_once(results, suite, monkeypatch):
    suite.show()
    written, client = [], type(client_of(results))
    for name in ("log_artifact", "log_artifacts", "log_batch", "set_tag", "create_run"):
        monkeypatch.setattr(client, name, lambda *given, name=name, **more: written.append(name))
    assert suite.show() == ()
    assert written == []


def test_trouble_with_one_thing_stops_no_other(results, suite, monkeypatch):
    def full(*_, **__):
        raise OSError("disk is full")

    monkeypatch.setattr(type(client_of(results)), "log_text", full)
    assert suite.show() == ("tiny/rte: OSError: disk is full",)
    assert suite.attached("sparsetune.suite_run") == ["claims.md", "tables"]
    monkeypatch.undo()
    assert suite.show() == ()
    assert suite.attached("sparsetune.parent") == ["methods.md"]

from dataclasses import replace

import pytest
from unit.tracking.runs import CURVES, KEY, MEASURED, client_of, curve, live, runs_of, write_entry

from sparsetune.tracking import PublishReport, RunKey, publish


def test_publish_makes_the_run_from_records_and_then_changes_nothing(results, tmp_path):
    entry = write_entry(tmp_path / "run")
    assert publish(results, "mini", [entry]) == PublishReport(1, 0, ())
    (run,) = runs_of(results)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.rate"] == "2e-05"
    assert curve(results, run, "accuracy_fraction") == [(10, 0.75)]
    finals = {"tune/train_seconds": 2.5, "tune/spread/low": 1.0, "evaluate/f1_fraction": 0.8}
    assert finals.items() <= run.data.metrics.items()
    assert run.data.tags["mlflow.source.git.commit"] == "c" * 40
    attached = client_of(results).list_artifacts(run.info.run_id)
    assert [a.path for a in attached] == ["evaluate.json", "history.csv", "tune.json"]
    assert publish(results, "mini", [entry]) == PublishReport(0, 1, ())
    assert [r.info.run_id for r in runs_of(results)] == [run.info.run_id]


def test_publish_completes_a_whole_live_run_without_doubling_its_curves(results, tmp_path):
    run_id = live(results, metrics=MEASURED).run_id
    entry = write_entry(tmp_path / "run", run_id=run_id)
    assert publish(results, "mini", [entry]).published == 1
    (run,) = runs_of(results)
    assert run.info.run_id == run_id
    assert curve(results, run, "loss") == [(0, 1.0), (10, 0.5)]
    assert curve(results, run, "tune/train_seconds") == [(0, 2.5)]
    assert run.data.metrics["evaluate/f1_fraction"] == 0.8
    assert "mlflow.parentRunId" in run.data.tags


BROKEN_OFF = {"nothing": [], "half": CURVES[:1], "the end": CURVES[1:], "all": CURVES}


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "FINISHED"])
@pytest.mark.parametrize("arrived", BROKEN_OFF)
def test_publish_completes_a_broken_off_live_run_in_place(results, tmp_path, arrived, status):
    run_id = live(results, curves=BROKEN_OFF[arrived], status=status).run_id
    entry = write_entry(tmp_path / "run", run_id=run_id)
    assert publish(results, "mini", [entry]) == PublishReport(1, 0, ())
    (run,) = runs_of(results)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert sorted(curve(results, run, "loss")) == [(0, 1.0), (10, 0.5)]
    assert curve(results, run, "accuracy_fraction") == [(10, 0.75)]
    assert run.data.metrics["tune/train_seconds"] == 2.5
    assert publish(results, "mini", [entry]) == PublishReport(0, 1, ())


@pytest.mark.parametrize(
    "broken", ["other steps", "a point too many", "another record's", "other value"]
)
def test_publish_replaces_a_live_run_that_is_not_this_records(results, tmp_path, broken):
    other = {
        "other steps": [(5, CURVES[0][1]), CURVES[1]],
        "a point too many": [*CURVES, (20, CURVES[1][1])],
    }
    outcome = live(
        results,
        curves=other.get(broken, CURVES),
        metrics={"train_seconds": 9.0 if broken == "other value" else 2.5},
    )
    named = "f" * 32 if broken == "another record's" else outcome.run_id
    publish(results, "mini", [write_entry(tmp_path / "run", run_id=named)])
    (run,) = runs_of(results)
    assert run.info.run_id != outcome.run_id
    assert curve(results, run, "loss") == [(0, 1.0), (10, 0.5)]
    assert run.data.metrics["tune/train_seconds"] == 2.5


def test_publish_follows_a_changed_record_and_leaves_other_keys_alone(results, tmp_path):
    other = RunKey("tune", "mini", "tiny", "rte", "lora", 2)
    live(results, key=other)
    publish(results, "mini", [write_entry(tmp_path / "run")])
    report = publish(results, "mini", [write_entry(tmp_path / "run", measured={"loss": 7})])
    assert (report.published, report.unchanged) == (1, 0)
    runs = {run.data.tags["sparsetune.run_key"]: run for run in runs_of(results)}
    assert len(runs_of(results)) == len(runs) == 2
    assert runs[KEY.text].data.metrics["tune/loss"] == 7.0
    assert other.text in runs


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
    assert "history.csv: row 3: loss is 'much', need a number" in report.problems[1]
    assert len(runs_of(results)) == 1


def headlined(entry, **numbers):
    return replace(entry, headline=numbers, note=f"score {numbers['score_percent']}")


def test_headline_and_description_come_with_the_run_and_follow_a_change_in_place(results, tmp_path):
    entry = write_entry(tmp_path / "run")
    seen = []
    for score in (80.0, 81.5, 80.5):
        publish(results, "mini", [headlined(entry, score_percent=score)])
        (run,) = runs_of(results)
        seen.append(run.info.run_id)
        assert run.data.metrics["score_percent"] == score
        assert run.data.tags["mlflow.note.content"] == f"score {score}"
    assert len(set(seen)) == 1  # tables link to it
    assert run.data.tags["mlflow.source.name"] == "sparsetune tune"
    assert curve(results, run, "loss") == [(0, 1.0), (10, 0.5)]
    assert publish(results, "mini", [headlined(entry, score_percent=80.5)]).unchanged == 1

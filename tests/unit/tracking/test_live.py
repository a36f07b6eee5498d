import socket
import sys

import pytest
from unit.tracking.runs import CURVES, KEY, MEASURED, client_of, curve, live, locked, runs_of

from sparsetune.errors import DataError
from sparsetune.tracking.client import RunKey, Store, prepare
from sparsetune.tracking.live import LiveRun, Pace, TrackingOutcome
from sparsetune.tracking.publish import publish

pytestmark = pytest.mark.slow


def test_live_run_arrives_whole_under_its_parent(results):
    prepare(results, "mini", [("tiny", "rte")])
    outcome = live(results, metrics=MEASURED)
    (run,) = runs_of(results)
    assert outcome == TrackingOutcome(run.info.run_id, None)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny/rte/lora/seed-1")
    assert run.data.params == {"train.rate": "2e-05", "train.epochs": "3", "rank": "8"}
    assert curve(results, run, "loss") == [(0, 1.0), (10, 0.5)]
    assert run.data.metrics["tune/train_seconds"] == 2.5
    parent = client_of(results).get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == "tiny/rte"


def test_rerun_replaces_finished_and_stale_runs_of_its_key_only(results):
    other = RunKey("tune", "mini", "tiny", "rte", "lora", 2)
    live(results), live(results, key=other)
    client = client_of(results)
    experiment = client.get_experiment_by_name("mini").experiment_id
    client.create_run(experiment, tags=KEY.tags())  # what a killed job leaves: RUNNING
    outcome = live(results, curves=CURVES[1:])
    mine = [r for r in runs_of(results) if r.data.tags["sparsetune.run_key"] == KEY.text]
    assert [run.info.run_id for run in mine] == [outcome.run_id]
    assert curve(results, mine[0], "loss") == [(10, 0.5)]
    assert len(runs_of(results)) == 2


def test_full_queue_drops_counts_and_never_waits(results):
    prepare(results, "mini", [])
    with locked(results / "mlflow.db"):
        run = LiveRun(results, KEY, {}, tags={}, pace=Pace(queue_rows=5, flush_seconds=0.01))
        for step in range(5000):
            run.log(step, {"loss": 1.0})
    assert "4995 logged steps dropped" in run.finish().problem
    assert len(curve(results, runs_of(results)[0], "loss")) == 5


def test_value_that_is_no_number_is_told_and_the_rest_arrives(results):
    outcome = live(results, curves=[(1, {"loss": 2.0, "bad": "x"})])
    assert "1 values were not numbers" in outcome.problem
    assert curve(results, runs_of(results)[0], "loss") == [(1, 2.0)]


def test_locked_database_costs_finish_no_more_than_its_limit(results):
    prepare(results, "mini", [])
    run = LiveRun(results, KEY, {}, tags={}, pace=Pace(finish_seconds=0.5))
    with locked(results / "mlflow.db"):
        run.log(0, {"loss": 1.0})
        outcome = run.finish()
    assert "gave up after 0.5 s" in outcome.problem
    run._thread.join(30)  # the lock is gone: what was given up still arrives
    assert [run.info.status for run in runs_of(results)] == ["FINISHED"]


def unreachable(path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://me:secret@127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)


AWAY = {
    "a folder": lambda path, _: path.mkdir(),
    "rubbish": lambda path, _: path.write_bytes(b"not a database" * 99),
    "truncated": lambda path, _: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000),
    "unreachable": unreachable,
    "no mlflow": lambda _, monkeypatch: monkeypatch.setitem(sys.modules, "mlflow", None),
}


@pytest.mark.parametrize("case", AWAY)
def test_unusable_store_is_a_problem_for_live_prepare_and_publish(tmp_path, monkeypatch, case):
    AWAY[case](tmp_path / "mlflow.db", monkeypatch)
    outcome, report = live(tmp_path), publish(tmp_path, "mini", [])
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, "mini", [])
    assert (outcome.run_id, report.published, len(report.problems)) == (None, 0, 1)
    where = "http://***@127.0.0.1:" if case == "unreachable" else "mlflow.db: "
    for told in (outcome.problem, *report.problems, str(caught.value)):
        assert where in told or case == "no mlflow"
        assert "mlflow cannot be imported" in told or case != "no mlflow"
        assert "secret" not in told
        assert "\n" not in told


def test_writing_goes_on_after_a_passing_failure(results, monkeypatch):
    real, answers = Store.send, iter([OSError("disk is busy")])

    def send_after_trouble(self, run_id, **what):
        if "params" not in what and (trouble := next(answers, None)):
            raise trouble
        real(self, run_id, **what)

    monkeypatch.setattr(Store, "send", send_after_trouble)
    curves = [(step, {"loss": 1.0 + step}) for step in range(3000)]
    outcome = live(results, curves=curves, pace=Pace(0.0, 0.02))
    assert outcome.problem is None
    (run,) = runs_of(results)
    assert [step for step, _ in curve(results, run, "loss")] == list(range(3000))


def test_server_that_never_answers_costs_no_more_than_the_limit(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        outcome = live(tmp_path, pace=Pace(finish_seconds=0.5))
    assert (outcome.run_id, "gave up after 0.5 s" in outcome.problem) == (None, True)


def test_live_run_makes_what_it_needs_and_a_deleted_experiment_is_told(results):
    assert live(results, status="FAILED").problem is None
    assert [run.info.status for run in runs_of(results)] == ["FAILED"]
    client = client_of(results)
    client.delete_experiment(client.get_experiment_by_name("mini").experiment_id)
    assert "mlflow experiments restore" in live(results).problem

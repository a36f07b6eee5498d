"""Eight jobs at once while MLflow's store is away: nothing waits, and nothing is lost."""

import os
import subprocess
import sys
import time
from operator import eq
from pathlib import Path

import pytest
from e2e import parallel_jobs
from e2e.outages import OUTAGES
from e2e.parallel_jobs import JOBS, PACE, SUITE, curve_of, entry_of, key_of

from sparsetune.records import TuneRecord, read_json, read_record
from sparsetune.tracking.client import client_of, is_ready, store_uri
from sparsetune.tracking.publish import PublishReport, publish

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 120


@pytest.fixture(params=OUTAGES, ids=lambda name: name.replace(" ", "-"))
def store(request, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # of the test, which may wait
    opened = OUTAGES[request.param](tmp_path)
    for name, value in opened.variables.items():
        monkeypatch.setenv(name, value)
    yield opened
    opened.close()


@pytest.fixture
def jobs(store, tmp_path):
    """The eight jobs, on a store that nobody has prepared."""
    program = [sys.executable, parallel_jobs.__file__, tmp_path]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    with (tmp_path / "jobs.log").open("w") as log:
        process = subprocess.Popen(program, env=environment, stdout=log, stderr=log)
    yield process
    for name in ("end-early", "end-late"):
        (tmp_path / name).touch()
    process.wait(LIMIT_SECONDS)


def active_runs(store):
    """Run key -> active runs, without the parents."""
    if not is_ready(uri := store_uri(store.results)):
        return {}  # looking in would make the database, at the same time as the jobs
    client = client_of(uri)
    experiment = client.get_experiment_by_name(SUITE)
    found = {}
    for run in client.search_runs([experiment.experiment_id]) if experiment else ():
        if "sparsetune.parent" not in run.data.tags:
            found.setdefault(run.data.tags["sparsetune.run_key"], []).append(run)
    return found


def wait_until(condition, what):
    give_up = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.1)


def all_have_begun(store):
    runs = [run for found in active_runs(store).values() for run in found]
    return sum("loss" in run.data.metrics for run in runs) == JOBS


def losses(store, numbers):
    """The last loss that the store has of each of some jobs; it changes with every step."""
    runs = active_runs(store)
    return [runs[key_of(number).text][0].data.metrics["loss"] for number in numbers]


def record(folder, number):
    return read_record(entry_of(folder, number).records[0], TuneRecord)


def written(folder, numbers):
    return all(entry_of(folder, number).records[0].exists() for number in numbers)


def assert_complete(store, folder):
    """One finished run for each job, with exactly the curve that its history has."""
    client, runs = client_of(store_uri(store.results)), active_runs(store)
    assert sorted(runs) == sorted(key_of(number).text for number in range(JOBS))
    for number in range(JOBS):
        (run,) = runs[key_of(number).text]
        assert run.info.status == "FINISHED"
        # A run that arrived whole was kept: the id in its record stays true.
        tracking = record(folder, number).where.tracking
        assert tracking.mlflow_run_id in (run.info.run_id, None)
        assert (tracking.mlflow_run_id is None) == bool(tracking.problem)
        steps = record(folder, number).measured.steps
        points = client.get_metric_history(run.info.run_id, "loss")
        expected = [(step, curve_of(number, step)) for step in range(steps)]
        assert sorted((p.step, p.value) for p in points) == expected
        assert [v for name, v in run.data.metrics.items() if name.endswith("steps")] == [steps]
        assert len(client.list_artifacts(run.info.run_id)) == 2


def test_every_run_is_there_once_and_whole_after_an_outage(store, jobs, tmp_path):
    early, late = range(0, JOBS, 2), range(1, JOBS, 2)
    wait_until(lambda: all_have_begun(store), "not all jobs reached the store")
    store.begin()
    (tmp_path / "end-early").touch()
    wait_until(lambda: written(tmp_path, early), "a job waits for the store")
    assert publish(store.results, SUITE, [entry_of(tmp_path, 0)]).problems
    store.end()
    reached = losses(store, late)
    wait_until(lambda: not any(map(eq, losses(store, late), reached)), "not all jobs came back")
    (tmp_path / "end-late").touch()
    assert jobs.wait(LIMIT_SECONDS) == 0, (tmp_path / "jobs.log").read_text()
    for number in range(JOBS):
        times = read_json(entry_of(tmp_path, number).records[0].with_name("times.json"))
        assert times["longest_log_seconds"] < 0.5
        assert times["finish_seconds"] < PACE.finish_seconds + 1
    assert all(record(tmp_path, one).where.tracking.problem for one in early)
    assert not any(record(tmp_path, one).where.tracking.problem for one in late)
    entries = [entry_of(tmp_path, number) for number in range(JOBS)]
    assert publish(store.results, SUITE, entries) == PublishReport(JOBS, 0, ())
    assert_complete(store, tmp_path)
    assert publish(store.results, SUITE, entries) == PublishReport(0, JOBS, ())

"""A real suite whose MLflow server dies in the middle; the next run completes MLflow."""

import subprocess
import time

import pytest
import yaml
from e2e.outages import KilledServer
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import suite_config

from sparsetune.records import TuneRecord, read_record
from sparsetune.tracking.client import client_of

EPOCHS = 120.0  # many times what curves wait before they are sent: the server dies in the middle
TARGET = "results/small/track.json"
KEY = "mini-bert/mini-sst2/full/seed-1"


@pytest.fixture
def server(tmp_path, monkeypatch):
    opened = KilledServer(tmp_path)
    for name, value in opened.variables.items():
        monkeypatch.setenv(name, value)
    yield opened
    opened.close()


def start(project, server):
    suite = suite_config("full", suite="small")
    (project.folder / "config" / "config.yaml").write_text(yaml.safe_dump(suite))
    return subprocess.Popen(
        ["snakemake", "--cores", "2", TARGET], cwd=project.folder,
        env={**project.environment(), **server.variables},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def runs_of(client):
    experiment = client.get_experiment_by_name("small")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def tuned(client):
    return [run for run in runs_of(client) if run.info.run_name == KEY]


def wait_for_curve(client, process):
    while not any("loss" in run.data.metrics for run in tuned(client)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def test_next_run_completes_mlflow_and_trains_nothing_again(project, server):
    client = client_of(server.variables["MLFLOW_TRACKING_URI"])
    process = start(project, server)
    wait_for_curve(client, process)
    server.begin()
    assert "MLflow lacks some of the runs" in finish(process)
    run = project.folder / "results/small/runs" / KEY
    assert read_record(run / "tune.json", TuneRecord).where.tracking.problem
    server.end()
    again = finish(start(project, server))
    assert "rule track:" in again
    assert "rule tune:" not in again
    assert "MLflow lacks" not in again
    assert measured_of(project.folder / TARGET)["problems"] == []
    (found,) = tuned(client)
    assert {one.info.status for one in runs_of(client)} == {"FINISHED"}
    steps = [line.split(",")[0] for line in (run / "history.csv").read_text().splitlines()[1:]]
    points = client.get_metric_history(found.info.run_id, "loss")
    assert sorted(point.step for point in points) == sorted(map(int, steps))
    assert "Nothing to be done" in finish(start(project, server))

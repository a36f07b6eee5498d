"""The store we write, seen through a real MLflow server: its REST API and its page."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from sparsetune.tracking import LiveRun, Pace, RunKey, prepare, store_uri

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
KEYS = [RunKey("tune", "mini", "tiny", "rte", method, 1) for method in ("full", "lora")]
START_SECONDS = 90


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fill(results):
    prepare(results, "mini", [("tiny", "rte")])
    for key in KEYS:
        run = LiveRun(results, key, {"rank": 8}, tags={}, pace=Pace(flush_seconds=0.05))
        for step in range(5):
            run.log(step, {"loss": 1.0 / (step + 1)})
        assert run.finish(metrics={"accuracy_fraction": 0.5}).problem is None


def wait_until_up(address, server, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)  # another process starts: there is nothing to wait on but the clock
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of an MLflow server over a store that our code made."""
    results = tmp_path_factory.mktemp("results")
    fill(results)
    address, log = f"http://127.0.0.1:{(port := free_port())}", results / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", store_uri(results)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=results, env=environment, stdout=output, stderr=output, process_group=0
        )
    try:
        wait_until_up(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)


def ask(address, path, body=None):
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def experiment_id(address):
    found = ask(address, "experiments/get-by-name?experiment_name=mini")
    return found["experiment"]["experiment_id"]


def as_dict(pairs):
    return {pair["key"]: pair["value"] for pair in pairs}


def test_server_shows_one_finished_run_per_key_with_its_curve(server):
    chosen = "attributes.status = 'FINISHED' AND tags.stage = 'tune'"
    body = {"experiment_ids": [experiment_id(server)], "filter": chosen}
    runs = ask(server, "runs/search", body)["runs"]
    assert sorted(run["info"]["run_name"] for run in runs) == sorted(key.text for key in KEYS)
    for run in runs:
        assert as_dict(run["data"]["params"]) == {"rank": "8"}
        assert as_dict(run["data"]["metrics"])["tune/accuracy_fraction"] == 0.5
        run_id = run["info"]["run_id"]
        history = ask(server, f"metrics/get-history?run_id={run_id}&metric_key=loss")["metrics"]
        assert [(p["step"], p["value"]) for p in history] == [(n, 1 / (n + 1)) for n in range(5)]
        parent = ask(
            server, f"runs/get?run_id={as_dict(run['data']['tags'])['mlflow.parentRunId']}"
        )
        assert parent["run"]["info"]["run_name"] == "tiny/rte"


def test_live_run_through_the_server_replaces_the_one_in_the_file(
    server, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run = LiveRun(tmp_path, KEYS[0], {"rank": 8}, tags={}, pace=Pace(flush_seconds=0.05))
    for step in range(5):
        run.log(step, {"loss": 1.0 / (step + 1)})
    outcome = run.finish(metrics={"accuracy_fraction": 0.5})
    assert outcome.problem is None
    assert capfd.readouterr() == ("", "")  # MLflow would print addresses into the job's output
    body = {"experiment_ids": [experiment_id(server)]}
    body["filter"] = f"tags.`sparsetune.run_key` = '{KEYS[0].text}'"
    runs = ask(server, "runs/search", body)["runs"]
    assert [found["info"]["run_id"] for found in runs] == [outcome.run_id]
    assert as_dict(runs[0]["data"]["tags"])["sparsetune.curves"].startswith("5-")
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")
def test_runs_page_can_be_drawn(server, tmp_path):
    picture = tmp_path / "runs.png"
    page = f"{server}/#/experiments/{experiment_id(server)}/runs"
    command = [str(CHROMIUM), *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,900", "--virtual-time-budget=20000"]
    command += [f"--screenshot={picture}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")

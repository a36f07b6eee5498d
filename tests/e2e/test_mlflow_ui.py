"""The store we write, seen through a real MLflow server: its REST API and its page."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from e2e.browser import CHROMIUM, opened
from unit.tracking.runs import write_entry

from sparsetune.cli import main
from sparsetune.tracking.client import RunKey, prepare, store_uri
from sparsetune.tracking.live import LiveRun, Pace
from sparsetune.tracking.publish import publish, publish_experiment
from sparsetune.tracking.views import VIEWS_HERE

KEYS = [RunKey("tune", "mini", "tiny", "rte", method, 1) for method in ("full", "lora")]
SCORES = {"full": 81.5, "lora": 79.25}
START_SECONDS = 90
# As they stand on the page, whatever their order in its code.
HEADERS = """
[...document.querySelectorAll('.ag-header-cell')]
  .sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)
  .map(cell => cell.innerText.trim())
"""
TEXT = "document.body.innerText"
ROWS = "document.querySelectorAll('.ag-center-cols-container .ag-row').length"


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


def fill_with_views(results):
    """A suite as `track` leaves it, where the pages that `make ui` prints can be opened."""
    keys = [RunKey("tune", "seen", "tiny", "rte", method, 1) for method in SCORES]
    entries = [
        replace(
            write_entry(results / key.text, key=key),
            headline={
                "score_percent": SCORES[key.method], "macs_effective_percent": 75.5,
                "parameters_trained": 12345.0, "time_saved_percent": 30.25,
            },
            tags={"metric": "accuracy"},
        )
        for key in keys
    ]  # fmt: skip
    assert publish(results, "seen", entries).problems == ()
    methods = [(key.backbone, key.task, key.method) for key in keys]
    publish_experiment(results, "seen", f"2 runs. Open: {VIEWS_HERE}", methods)


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
    fill_with_views(results)
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
    asked = f"metrics/get-history?run_id={outcome.run_id}&metric_key=loss"
    assert len(ask(server, asked)["metrics"]) == 5
    assert not (tmp_path / "mlflow.db").exists()


@pytest.fixture
def pages(server, tmp_path, monkeypatch, capsys):
    """Name -> address, as `make ui` prints them."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert main(["links", "--results", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["Suite", "seen:"]
    return {line[0].rstrip(":"): line[1] for line in lines[1:] if line[1].startswith(server)}


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")
def test_printed_links_open_runs_methods_and_charts(pages, tmp_path):
    async def visit():
        told = {}
        async with opened("about:blank", tmp_path / "profile") as browser:
            await browser.resize(2400, 1000)
            await browser.go(pages["Runs"])
            await browser.until(f"{TEXT}.includes('79.25')")
            told["headers"] = await browser.value(HEADERS)
            told["runs"] = await browser.value(TEXT)
            await browser.go(pages["Methods"])
            await browser.until(f"{TEXT}.includes('task: rte, method: lora')")
            told["lines"] = await browser.value(ROWS)
            await browser.go(pages["Charts"])
            await browser.until(rf"/Score against cost\s*\(3\)/.test({TEXT})")
            await browser.picture(tmp_path / "charts.png")
        return told

    told = asyncio.run(visit())
    assert [name for name in told["headers"] if name] == [
        "Run Name", "Created", "backbone", "task", "method", "score_percent",
        "macs_effective_percent", "parameters_trained", "time_saved_percent", "metric", "seed",
        "Duration",
    ]  # fmt: skip
    for part in ("2 runs. Open: Runs · Methods · Charts", "81.5", "75.5", "12345", "30.25"):
        assert part in told["runs"]
    assert told["lines"] == len(SCORES)  # folded: no line for a single seed
    assert (tmp_path / "charts.png").read_bytes().startswith(b"\x89PNG")

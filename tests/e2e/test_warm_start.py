"""Jobs forked from the warm process leave what jobs of their own processes leave."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import time

import pytest
from e2e.outcomes import without_clock

EPOCHS = 4.0
METHODS = ("full", "dsee-unstructured")
RUNS = "results/small/runs/mini-bert/mini-sst2"
FILES = ("model.safetensors", "history.csv", "predictions.parquet")
TARGETS = [f"{RUNS}/{method}/seed-1/evaluate.json" for method in METHODS]


def outcome(project):
    """Every byte that the runs' jobs left, and their records without the clock."""
    found = {}
    for method in METHODS:
        folder = project.folder / RUNS / method / "seed-1"
        found |= {(method, name): (folder / name).read_bytes() for name in FILES}
        for name in ("tune.json", "evaluate.json"):
            record = json.loads((folder / name).read_text())
            del record["where"]
            found[method, name] = without_clock(record)
    return found


def log_of(project):
    path = project.folder / "logs" / "warm.log"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def warm(project):
    """What the workflow leaves by default; everything that the runs need is made as well."""
    done = project.snakemake(*TARGETS)
    assert done.returncode == 0, done.stdout
    told = log_of(project)
    # Backbone and support, and two jobs of each run.
    assert told.count("ended with 0\n") == 2 + 2 * len(METHODS), told
    return outcome(project)


def test_cold_jobs_leave_the_same_bytes(project, warm, monkeypatch):
    monkeypatch.setenv("SPARSETUNE_WARM", "off")
    shutil.rmtree(project.folder / RUNS)
    (project.folder / "logs" / "warm.log").unlink()
    done = project.snakemake(*TARGETS)
    assert done.returncode == 0, done.stdout
    assert log_of(project) == ""
    assert outcome(project) == warm


@pytest.fixture
def training(project, warm):
    """A running workflow, in a group of its own, whose training jobs are forks."""
    shutil.rmtree(project.folder / RUNS, ignore_errors=True)
    (project.folder / "logs" / "warm.log").unlink(missing_ok=True)
    process = subprocess.Popen(
        ["snakemake", "--cores", "2", *TARGETS], cwd=project.folder, env=project.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while " is tune --run" not in log_of(project) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert " is tune --run" in log_of(project)
    return process


def processes_of(project):
    """Numbers that the log names: the warm process, then its forks."""
    told = re.findall(r"^\S+ (\d+) (?:is|has)", log_of(project), re.MULTILINE)
    return [int(number) for number in told]


def wait_for_end(number):
    try:
        watched = os.pidfd_open(number)
    except ProcessLookupError:
        return
    select.select([watched], [], [])
    os.close(watched)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_snakemake_takes_everything_along_and_goes_on_later(project, warm, training, number):
    if number == signal.SIGINT:
        os.killpg(training.pid, number)  # as a terminal does
    else:
        os.kill(training.pid, number)
    training.communicate(timeout=60)  # to the end of everything that holds its output
    for process in processes_of(project):
        wait_for_end(process)
    assert project.snakemake("--unlock").returncode == 0
    done = project.snakemake(*TARGETS)
    assert done.returncode == 0, done.stdout
    assert outcome(project) == warm


def test_killed_warm_process_costs_no_job(project, warm, training):
    process = training
    os.kill(processes_of(project)[0], signal.SIGKILL)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    logs = [path.read_text() for path in (project.folder / "logs/small/tune").rglob("*.log")]
    assert any("starts again, cold" in text for text in logs)
    assert outcome(project) == warm

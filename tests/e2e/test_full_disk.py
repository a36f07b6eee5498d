"""A disk that fills up: one line, an exit code, nothing half-written."""

import subprocess
import sys
import time

import pytest
from e2e.outages import FullDisk
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import small_catalogue

from sparsetune.training.checkpoints import checkpoint_step

EPOCHS = 8.0  # long enough for the disk to fill up in the middle
STARTED_STEPS = 3


@pytest.fixture
def disk(tmp_path):
    opened = FullDisk(tmp_path)
    yield opened
    opened.close()


def dataset(folder, output):
    command = [sys.executable, "-m", "sparsetune.cli", "dataset", "--task", "mini-sst2"]
    return subprocess.run(
        [*command, "--output", output], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_stage_that_finds_no_room_says_so_and_succeeds_once_there_is(disk, tmp_path):
    small_catalogue(tmp_path / "config")
    output = disk.results / "dataset"
    disk.begin()
    done = dataset(tmp_path, output)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sparsetune dataset: ")
    assert "room" in done.stderr or "No space left" in done.stderr
    assert not (output / "record.json").exists()
    assert not list(disk.results.rglob("*.partial"))
    disk.end()
    assert dataset(tmp_path, output).returncode == 0
    assert measured_of(output / "record.json")


def tune(project, disk):
    return project.start(
        "tune", "--run", "mini-bert/mini-sst2/full/seed-1", "--dataset-dir", "resources/dataset",
        "--backbone-dir", "resources/backbone", "--output", disk.results / "run",
        "--checkpoints", disk.results / "work", "--results", disk.results,
        "--checkpoint-seconds", "0", "--device", "cpu", "--threads", "1",
    )  # fmt: skip


def steps_kept(disk):
    return max(map(checkpoint_step, disk.results.glob("work/*/phase-0")), default=0)


def test_training_that_runs_out_of_room_goes_on_from_its_checkpoint(project, disk):
    project.sparsetune("dataset", "--task", "mini-sst2", "--output", "resources/dataset")
    project.sparsetune(
        "backbone", "--backbone", "mini-bert", "--output", "resources/backbone",
        "--checkpoints", "work/backbone", "--device", "cpu", "--threads", "1",
    )  # fmt: skip
    process = tune(project, disk)
    while steps_kept(disk) < STARTED_STEPS and process.poll() is None:
        time.sleep(0.01)
    disk.begin()
    assert process.wait(timeout=120) == 3
    told = (project.folder / "tune.log").read_text()
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("sparsetune tune: ")
    kept = steps_kept(disk)
    assert kept >= STARTED_STEPS
    assert not list((disk.results / "run").glob("*"))
    disk.end()
    assert tune(project, disk).wait(timeout=120) == 0
    (phase,) = measured_of(disk.results / "run" / "tune.json")["phases"]
    assert phase["resumed_at_step"] == kept

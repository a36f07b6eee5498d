"""A disk that fills up: one line, an exit code, nothing half-written."""

import subprocess
import sys

import pytest
from e2e.outages import FullDisk
from unit.jobs.tiny_catalogue import small_catalogue

from sparsetune.records import read_record

pytestmark = pytest.mark.slow


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
    assert read_record(output / "record.json", "dataset")["measured"]

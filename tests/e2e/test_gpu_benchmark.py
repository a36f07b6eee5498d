"""The benchmark for GPUs, on the CPU and small: every part runs, whatever its numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--out"]


@pytest.mark.timeout(300)
def test_every_part_of_the_benchmark_runs_and_is_written(tmp_path):
    told = tmp_path / "gpu.json"
    done = subprocess.run(
        [*COMMAND, told, "--device", "cpu", "--small"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads(told.read_text(encoding="utf-8"))
    assert content["problems"] == {}
    rows = content["rows"]
    # One table, one line a row below its two lines of heading.
    assert len(done.stdout.splitlines()) == 2 + len(rows)
    for part in ("start of 2 jobs", "jobs at once: 2", "peft lora", "plain full", "dsee", "ticket",
                 "structured dsee", "DSEE / PEFT LoRA", "answers, dense"):  # fmt: skip
        assert any(name.startswith(part) for name in rows), part
    assert all(row["value"] > 0 for name, row in rows.items() if not name.startswith("losses"))
    # Nothing can be captured here: the reason is in the row, and the losses are the eager ones.
    assert rows["dsee, captured, 4 x 16"]["engine"].startswith("eager: ")
    assert rows["losses of dsee, captured - eager, float32"]["value"] == 0
    assert not list(tmp_path.glob("*.part"))


def test_without_a_gpu_the_benchmark_says_so_and_writes_nothing(tmp_path):
    told = tmp_path / "gpu.json"
    done = subprocess.run(
        [*COMMAND, told],
        capture_output=True, text=True, timeout=120, check=True,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith("gpu.py: no CUDA device here")
    assert not told.exists()

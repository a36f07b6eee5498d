"""EarlyBERT pre-training, killed in its search or its training, ends as if nothing had been."""

import signal
import subprocess
import time

import pytest
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import edit

from sparsetune.training.checkpoints import checkpoint_step

DEVICE = ("--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0")
FILES = ("model.safetensors", "ticket.json", "curve.json", "config.json")


@pytest.fixture(scope="module")
def whole(project):
    folder = project.folder / "config" / "backbones"
    edit(folder / "mini-bert.yaml",
         lambda content: content["pretraining"]["phases"][0].update(batch_size=4))  # fmt: skip
    edit(folder / "mini-bert-early.yaml",
         lambda content: content["pretraining"]["early"].update(stop_steps=20))  # fmt: skip
    project.sparsetune(*command("whole"))
    return outcome(project.folder / "resources" / "whole")


def command(name):
    return (
        "backbone", "--backbone", "mini-bert-early", "--output", f"resources/{name}",
        "--checkpoints", f"work/{name}", *DEVICE,
    )  # fmt: skip


def outcome(folder):
    told = measured_of(folder / "record.json")["pretraining"]
    exact = {key: told[key] for key in ("steps", "tokens_seen", "final_loss", "macs_total")}
    return {name: (folder / name).read_bytes() for name in FILES}, exact


def kill_in(project, name, part):
    """Start pre-training and kill it, hard, once this part has written its third checkpoint."""
    process = project.start(*command(name))
    deadline, steps = time.monotonic() + 120, 0
    while steps < 3 and time.monotonic() < deadline:
        found = project.folder.glob(f"work/{name}/*/{part}")
        steps = max(map(checkpoint_step, found), default=0)
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"it ended before it was killed, with code {process.returncode}")
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert steps >= 3, "no checkpoint appeared"


@pytest.mark.parametrize("part", ["search", "phase-0"])
def test_a_killed_pretraining_resumes_and_ends_bit_identical(project, whole, part):
    kill_in(project, part, part)
    assert not (project.folder / "resources" / part).exists()
    project.sparsetune(*command(part))
    folder = project.folder / "resources" / part
    told = measured_of(folder / "record.json")["pretraining"]
    resumed = {"search": told["search"], "phase-0": told["phases"][0]}[part]["resumed_at_step"]
    assert resumed >= 3
    assert outcome(folder) == whole
    assert not list((project.folder / "work" / part).glob("*"))

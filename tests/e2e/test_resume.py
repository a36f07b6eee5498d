"""A run killed without warning goes on where it was, and ends as if nothing had happened."""

import signal
import subprocess
import time

import pytest
from unit.made_records import measured_of

from sparsetune.training.checkpoints import checkpoint_step

EPOCHS = 8.0  # long enough to be killed in the middle
METHODS = ("dsee-unstructured", "dsee-structured-delta")
SCORED = ("dsee-unstructured",)  # after every epoch
PLACES = ("--dataset-dir", "resources/dataset", "--backbone-dir", "resources/backbone")
DEVICE = ("--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def inputs(project):
    project.sparsetune("dataset", "--task", "mini-sst2", "--output", "resources/dataset")
    project.sparsetune(
        "backbone", "--backbone", "mini-bert", "--output", "resources/backbone",
        "--checkpoints", "work/backbone", *DEVICE,
    )  # fmt: skip
    project.sparsetune(
        "support", "--support", "grebsmo-64", "--backbone", "mini-bert", "--output", "support",
        "--backbone-dir", "resources/backbone", "--threads", "1",
    )  # fmt: skip
    return project


@pytest.fixture(scope="module")
def whole(inputs):
    """Method -> what it gives when nothing breaks it off."""
    made = {}
    for method in METHODS:
        inputs.sparsetune(*command(method, "whole"))
        made[method] = outcome(inputs, method, "whole")
    return made


def run_of(method):
    return f"mini-bert/mini-sst2/{method}/seed-1"


def command(method, name):
    name = f"{method}/{name}"
    return (
        "tune", "--run", run_of(method), *PLACES, "--support-file", "support/support.safetensors",
        "--output", f"results/{name}", "--checkpoints", f"work/{name}", "--results", "results",
        "--checkpoint-seconds", "0", *DEVICE, *(["--score-epochs"] if method in SCORED else []),
    )  # fmt: skip


def outcome(project, method, name):
    """What training gave: weights, curves, measured values without times, and scores."""
    folder = project.folder / "results" / method / name
    project.sparsetune(
        "evaluate", "--run", run_of(method), *PLACES, "--run-dir", folder, "--output", folder,
        *DEVICE,
    )  # fmt: skip
    tuned = measured_of(folder / "tune.json")
    exact = ("steps", "examples_seen", "tokens_seen", "final_loss", "model_sha256")
    return {
        "model": (folder / "model.safetensors").read_bytes(),
        "history": (folder / "history.csv").read_bytes(),
        "measured": {name: tuned[name] for name in exact},
        "epoch_scores": tuned.get("epoch_scores"),
        "metrics": measured_of(folder / "evaluate.json")["metrics"],
    }


def kill_in_phase(project, method, name, phase):
    """Start training and kill it, hard, once this phase has written its third checkpoint."""
    process = project.start(*command(method, name))
    deadline = time.monotonic() + 120
    pattern = f"work/{method}/{name}/*/phase-{phase}"
    steps = 0
    while steps < 3 and time.monotonic() < deadline:
        steps = max(map(checkpoint_step, project.folder.glob(pattern)), default=0)
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"training ended before it was killed, with code {process.returncode}")
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert steps >= 3, "no checkpoint appeared"


@pytest.mark.parametrize(
    ("method", "phase"),
    # The third phase trains after weights, or heads, are gone.
    [("dsee-unstructured", 0), ("dsee-unstructured", 2), ("dsee-structured-delta", 2)],
)
def test_a_killed_run_resumes_and_ends_bit_identical(inputs, whole, method, phase):
    name = f"killed-{phase}"
    kill_in_phase(inputs, method, name, phase)
    folder = inputs.folder / "results" / method / name
    assert not (folder / "tune.json").exists()
    assert not (folder / "model.safetensors").exists()
    inputs.sparsetune(*command(method, name))
    phases = measured_of(folder / "tune.json")["phases"]
    assert phases[phase]["resumed_at_step"] >= 3
    assert outcome(inputs, method, name) == whole[method]
    assert not list((inputs.folder / "work" / method / name).glob("*"))

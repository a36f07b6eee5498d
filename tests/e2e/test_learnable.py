"""The default suite is no mock: tasks can be learned, are not trivial, and need pre-training."""

import shutil
from pathlib import Path

import pytest
from e2e.commands import Commands
from unit.made_records import measured_of

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("mini-sst2", "mini-rte")


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """(task, method) -> accuracy, and (task, "majority"), with the catalogue as it is shipped."""
    folder = tmp_path_factory.mktemp("learnable")
    shutil.copytree(ROOT / "config", folder / "config")
    commands = Commands(folder)
    commands.run("backbone", backbone="mini-bert", output="backbone", checkpoints="ck")
    measured = {}
    for task in TASKS:
        commands.run("dataset", task=task, output=task)
        for method in ("full", "scratch"):
            place = {"run": f"mini-bert/{task}/{method}/seed-1", "dataset-dir": task,
                     "backbone-dir": "backbone", "output": f"{task}-{method}"}  # fmt: skip
            commands.run("tune", checkpoints="ck", **place)
            commands.run("evaluate", **place, **{"run-dir": place["output"]})
            record = measured_of(folder / place["output"] / "evaluate.json")
            measured[task, method] = record["metrics"]["accuracy_fraction"]
            measured[task, "majority"] = record["baseline"]["majority_accuracy_fraction"]
    return measured


@pytest.mark.parametrize("task", TASKS)
def test_full_tuning_beats_the_majority_but_is_not_perfect(scores, task):
    assert scores[task, "majority"] + 0.15 <= scores[task, "full"] < 0.99


@pytest.mark.parametrize("task", TASKS)
def test_the_same_training_from_random_weights_is_clearly_worse(scores, task):
    assert scores[task, "scratch"] + 0.05 <= scores[task, "full"]

"""The project's own catalogue, copied and made so small that whole runs fit in a test."""

import shutil
from pathlib import Path

import yaml

from sparsetune.config.reading import read_yaml

ROOT = Path(__file__).resolve().parents[3]
SHAPE = {"hidden_size": 24, "layers": 2, "heads": 4, "feed_forward_size": 40,
         "maximum_positions": 64, "dropout": 0.1}  # fmt: skip


def edit(path, change):
    """Let ``change`` alter the content of a YAML file."""
    content = read_yaml(path)
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def small_catalogue(
    folder, *, documents=60, pretraining_epochs=0.1, train_examples=40, epochs=1.0, shape=SHAPE
):
    """Copy ``config/`` to ``folder`` and shrink everything that the tiny suites use."""
    shutil.copytree(ROOT / "config", folder)

    def backbone(content):
        content["source"]["documents"] = documents
        for phase in content["pretraining"]["phases"]:
            phase["epochs"] = pretraining_epochs
        content["pretraining"]["tokenizer"]["vocabulary_size"] = 300
        content["pretraining"]["shape"].update(shape)

    def task(content):
        content["source"]["sizes"] = {"train": train_examples, "evaluation": 30, "test": 2}

    def recipe(content):
        phases = [phase["name"] for phase in content.get("phases", ()) if "epochs" in phase]
        change = {"where": {"backbones": ["mini-bert"]}}
        if phases:
            change["phases"] = {name: {"epochs": epochs} for name in phases}
        if content.get("update", {}).get("type") == "adalora":
            change["phases"]["train"]["batch_size"] = 8  # its ranks need some steps to fall
        if "search" in content:
            change["search"] = {"stop_epochs": epochs / 2, "train": {"epochs": epochs}}
        if len(change) > 1:
            content.setdefault("overrides", []).append(change)

    edit(folder / "backbones" / "mini-bert.yaml", backbone)
    edit(folder / "tasks" / "mini-sst2.yaml", task)
    for room in ("methods", "tickets"):
        for path in (folder / room).glob("*.yaml"):
            edit(path, recipe)
    edit(folder / "supports" / "grebsmo-64.yaml", lambda content: content.update(rounds=3))
    return folder


def suite_config(*methods, suite="tiny"):
    """A suite of mini-bert on mini-sst2 with these methods."""
    return {
        "suite": suite,
        "description": "A few runs for a test.",
        "device": "cpu",
        "mirror": None,
        "limits": {"train_examples": None, "evaluation_examples": None},
        "seeds": [1],
        "runs": [{"backbones": ["mini-bert"], "tasks": ["mini-sst2"], "methods": list(methods)}],
    }

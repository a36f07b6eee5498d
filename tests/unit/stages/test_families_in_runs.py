"""Somebody's folder of each family through the stages of a run, by the command line."""

import pytest
import yaml
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import edit, small_catalogue
from unit.stages.tiny_folders import (
    make_folder,
)

from sparsetune.cli import main

# What a family's run shows: task, method.
RUNS = {
    "distilbert": ("mini-rte", "dsee-structured"),
    "deberta-v2": ("mini-rte", "dsee-structured"),
    "modernbert": ("mini-rte", "earlybert-mlm"),
    "llama": ("mini-rte", "dsee-structured"),
    "qwen3": ("mini-e2e", "earlybert"),
    "mistral": ("mini-e2e", "dsee-unstructured"),
    "gpt2": ("mini-squad", "ia3"),
    "qwen2": ("mini-squad", "lora"),
    "electra": ("mini-rte", "earlybert-mlm"),
    "roberta-prelayernorm": ("mini-rte", "dsee-structured"),
    "xlm-roberta-xl": ("mini-rte", "earlybert"),
    "ernie": ("mini-squad", "lora"),
    "megatron-bert": ("mini-squad", "bitfit"),
}
TASKS = {
    "mini-rte": {"train": 24, "evaluation": 8},
    "mini-e2e": {"train": 6, "evaluation": 3},
    "mini-squad": {"train": 6, "evaluation": 4},
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    folder = small_catalogue(root / "config")

    def small(content):
        content["source"]["sizes"] = {**TASKS[path.stem], "test": 3}
        if "generation" in content:
            content["generation"] |= {"maximum_new_tokens": 5, "beams": 2}

    for path in (folder / "methods").glob("dsee*.yaml"):
        edit(path, lambda content: content["update"].update(rank=2))  # matrices are small
    for name in TASKS:
        path = folder / "tasks" / f"{name}.yaml"
        edit(path, small)
    return folder


@pytest.fixture
def call(catalogue, monkeypatch, capsys):
    """Run one sub-command; its last line of complaint, if it has one."""
    monkeypatch.setattr("gc.disable", lambda: None)  # the command line turns it off for good

    def run(name, **options):
        words = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
        code = main([name, "--catalogue", str(catalogue), *words])
        told = capsys.readouterr().err.splitlines()
        assert code in (0, 2), told
        return told[-1] if code else None

    return run


def entry(catalogue, name, architecture, folder, **more):
    told = {
        "description": "Somebody's own.",
        "architecture": architecture,
        "source": {"kind": "mirror", "path": str(folder)},
        "tuned_as": "mini-bert",
        **more,
    }
    (catalogue / "backbones" / f"{name}.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")


def finish(call, root, backbone, task, method):
    """Every stage of one run; the folder with its records."""
    made, run = root / "backbone", root / "run"
    data = root / "data"
    assert call("dataset", task=task, output=data) is None
    assert call("backbone", backbone=backbone, output=made, checkpoints=root / "c") is None
    at = {"run": f"{backbone}/{task}/{method}/seed-1", "backbone_dir": made}
    recipes = {}
    if method.startswith("dsee"):
        given = {"support": "grebsmo-64", "backbone": backbone, "backbone_dir": made}
        assert call("support", **given, output=root / "support") is None
        recipes["support_file"] = root / "support" / "support.safetensors"
    if method.startswith("earlybert") or method == "dsee-structured":
        given = {"ticket": method, "backbone": backbone, "task": task, "seed": 1}
        places = {"dataset_dir": data, "backbone_dir": made, "checkpoints": root / "s"}
        assert call("ticket", **given, **places, output=root / "ticket") is None
        recipes["ticket_file"] = root / "ticket" / "ticket.json"
    places = {"dataset_dir": data, "checkpoints": root / "t", "output": run}
    assert call("tune", **at, **places, **recipes) is None
    assert call("evaluate", **at, dataset_dir=data, run_dir=run, output=run) is None
    recipes.pop("support_file", None)
    assert call("cost", **at, run_dir=run, output=run, **recipes) is None
    return run


@pytest.mark.parametrize("family", RUNS)
def test_a_folder_of_a_family_goes_through_every_stage(family, catalogue, call, tmp_path):
    task, method = RUNS[family]
    entry(catalogue, f"own-{family}", family, make_folder(tmp_path / "own", family))
    run = finish(call, tmp_path, f"own-{family}", task, method)
    cost, told = (measured_of(run / f"{stage}.json") for stage in ("cost", "evaluate"))
    # What is counted from shapes is compared with the model by the stage itself.
    assert cost["macs_executed_per_example"] > 0
    assert told["n_examples"] == (3 if task == "mini-e2e" else TASKS[task]["evaluation"])
    smaller = method in ("earlybert", "earlybert-mlm", "dsee-structured")
    assert (cost["macs_executed_per_example"] < cost["macs_dense_per_example"]) == smaller
    assert ("decoding" in told) == (task == "mini-e2e")

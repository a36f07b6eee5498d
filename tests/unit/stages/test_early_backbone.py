"""A backbone that was made smaller in pre-training, through every stage that reads one."""

import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import edit, small_catalogue, suite_config
from unit.stages.tiny_project import TinyProject

from sparsetune.architectures.loading import load_model, load_tokenizer
from sparsetune.cli import main
from sparsetune.config.backbone import MirrorSource
from sparsetune.data.sources import fetch_backbone
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import sizes_of

pytestmark = pytest.mark.slow

BACKBONE = "mini-bert-early"
METHODS = ("full", "lora", "dsee-unstructured")


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    root = tmp_path_factory.mktemp("early")
    config = small_catalogue(root / "config", pretraining_epochs=1.0)
    edit(config / "backbones" / "mini-bert.yaml",
         lambda content: content["pretraining"]["phases"][0].update(batch_size=4))  # fmt: skip
    edit(config / "backbones" / f"{BACKBONE}.yaml",
         lambda content: content["pretraining"]["early"].update(
             stop_steps=2, head_sparsity=0.25))  # fmt: skip
    # Two heads of six features are left in the end: no matrix may have fewer rows than that.
    edit(config / "methods" / "dsee-unstructured.yaml",
         lambda content: content["update"].update(rank=8))  # fmt: skip
    return TinyProject(root, config, backbone=BACKBONE)


@pytest.mark.parametrize("method", METHODS)
def test_every_stage_of_a_run_works_on_the_smaller_shape(early, method):
    # The cost is counted from shapes alone, and refused if it trained other parameters.
    early.finish(*early.suite_of(method).runs)
    run = early.run(method)
    cost = measured_of(run / "cost.json")
    # Beside layers as narrow as these, the branches of an update are not small.
    executed = cost["macs_executed_per_example"] - cost["breakdown"]["executed"]["update"]
    assert executed < cost["macs_dense_per_example"]
    assert cost["sparsity"] > 0.25
    assert measured_of(run / "evaluate.json")["n_examples"] == 30


def test_heads_lost_in_between_are_counted_from_the_smaller_shape_on(early):
    lives = []
    for spec in early.suite_of("dsee-unstructured", "dsee-structured-delta").runs:
        early.finish(spec)
        cost = measured_of(early.run(spec.method.id) / "cost.json")
        lives.append(cost["breakdown"]["whole_life"])
    whole, fewer = lives
    # Both begin with the same phase, on the backbone as it is and not as its shape was planned.
    assert fewer["train"] == whole["train"]
    assert fewer["recover"] < whole["recover"]


def test_the_record_tells_what_pretraining_cost(early):
    measured = measured_of(early.backbone / "record.json")
    told = measured["pretraining"]
    assert told["search"]["steps"] == 2
    assert told["phases"][0]["steps"] == round(0.8 * 15)  # 60 documents, 4 in a batch
    assert told["macs_total"] < told["macs_dense_plan"]
    assert all(told[name] > 0 for name in ("search_seconds", "train_seconds", "tokens_seen"))
    assert set(measured["files"]) >= {"ticket.json", "gates.npz"}


@pytest.mark.parametrize("kind", ["classification", "regression", "span"])
def test_layers_are_loaded_bit_for_bit_under_every_head(early, kind):
    model = load_model(early.backbone, kind=kind, label_count=1, seed=3)
    ticket = json.loads((early.backbone / "ticket.json").read_text())
    assert sizes_of(model).heads == [len(heads) for heads in ticket["kept_heads"]]
    own = model.state_dict()
    with safe_open(early.backbone / "model.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    layers = {name for name in stored if name.startswith("bert.")}
    assert len(layers) > 30
    assert all(torch.equal(own[name], stored[name]) for name in layers)
    again = load_model(early.backbone, kind=kind, label_count=1, seed=3)
    assert all(torch.equal(own[name], one) for name, one in again.state_dict().items())


def test_random_weights_get_the_smaller_shape_too(early):
    model = load_model(
        early.backbone, kind="classification", label_count=2, seed=0, random_weights=True
    )
    loaded = load_model(early.backbone, kind="classification", label_count=2, seed=0)
    assert sizes_of(model) == sizes_of(loaded)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(model.state_dict()[name], loaded.state_dict()[name])


def test_a_mirror_may_hold_such_a_folder(early, tmp_path):
    mirrored = early.catalogue.backbone("bert-base")
    source = MirrorSource(kind="mirror", path=str(early.backbone))
    backbone = mirrored.model_copy(update={"source": source})
    fetch_backbone(backbone, tmp_path / "copy", lock_file=tmp_path / "lock.yaml")
    one, two = (load_model(path, kind="regression", label_count=1, seed=0)
                for path in (early.backbone, tmp_path / "copy"))  # fmt: skip
    assert all(torch.equal(t, two.state_dict()[name]) for name, t in one.state_dict().items())
    assert load_tokenizer(tmp_path / "copy").mask_token == "[MASK]"


def test_damaged_sizes_are_named(early, tmp_path):
    folder = shutil.copytree(early.backbone, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"heads_by_layer": [9, 1]}))
    with pytest.raises(ModelError, match=r"config\.json: heads_by_layer: received \[9, 1\]"):
        load_model(folder, kind="regression", label_count=1, seed=0)


def test_a_ticket_is_refused_before_anything_runs(early, capsys, monkeypatch):
    monkeypatch.setattr("gc.disable", lambda: None)  # the command line turns it off for good
    config = suite_config("earlybert")
    config["runs"][0]["backbones"] = [BACKBONE]
    code = main(["check", "--catalogue", str(early.catalogue.root), "--config", json.dumps(config)])
    assert code == 2
    assert f"mask.ticket does not fit backbone {BACKBONE}" in capsys.readouterr().err


def test_the_final_loss_is_a_number_and_below_chance(early):
    told = measured_of(early.backbone / "record.json")
    assert told["pretraining"]["final_loss"] < math.log(told["vocabulary_tokens"]) + 0.5

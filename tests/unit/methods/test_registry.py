"""A new kind of update is one file and one YAML: found, trained, saved, loaded, counted."""

import importlib
import shutil
import sys

import pytest
import torch
from unit.tiny import tiny_batch
from unit.training.tiny_jobs import COLLATE, features, save_backbone, workplace

from sparsetune.config.load import Catalogue
from sparsetune.config.method import UpdateSettings
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.parameters import count_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ConfigError, ModelError
from sparsetune.methods import kinds, registry
from sparsetune.methods.operators import multiplied_weights
from sparsetune.methods.registry import update_of
from sparsetune.methods.tuned import Structure, build, load_tuned
from sparsetune.pruning.manifest import read_counts
from sparsetune.training.phases import run_phases

FILE = '''
"""A square matrix of our own beside every query, from zero."""

from typing import Literal

from sparsetune.config.settings import Count
from sparsetune.cost.updates import Branch, UpdateCount
from sparsetune.methods.kind import Attached, UpdateKind


class SquareUpdate(UpdateKind):
    """A product of the size of the matrix, in ``blocks`` equal parts."""

    products = frozenset({"square"})
    kind: Literal["square"]
    blocks: Count

    def attach(self, model, supports, seed):
        from torch import nn

        from sparsetune.architectures.anatomy import Anatomy, task_head_parameters

        heads = task_head_parameters(model)
        model.requires_grad_(False)
        for head in heads.values():
            head.requires_grad_(True)
        for site in Anatomy.of(model).sites(["query"]):
            out, into = site.shape
            square = nn.Linear(into, out, bias=False)
            nn.init.zeros_(square.weight)
            site.module.add_module("square", square)
            site.module.register_forward_hook(lambda one, given, out: out + one.square(given[0]))
        return Attached()

    def count(self, shape, entries):
        sites = shape.matrices(["query"], fused=False)
        return UpdateCount(tuple(Branch(key, rows * cols) for key, _, rows, cols in sites))
'''
YAML = """
description: A kind of update that no other file knows.
start: pretrained
update: {kind: square, blocks: 1}
mask: {kind: none}
phases:
  - {name: train, kind: train, epochs: 1.0, learning_rate: 1e-2, batch_size: 4,
     gradient_accumulation: 1, weight_decay: 0.0, warmup_fraction: 0.0, schedule: linear,
     maximum_gradient_norm: 1.0}
"""


@pytest.fixture
def square(tmp_path, monkeypatch):
    """The file, found as one that lies in ``methods/kinds``."""
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "square.py").write_text(FILE)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path / "kinds")])
    importlib.reload(registry)
    yield
    del UpdateSettings.known["square", None], sys.modules["sparsetune.methods.kinds.square"]


def test_a_new_kind_is_one_file_and_one_yaml(square, repository, tmp_path):
    shutil.copytree(repository / "config", tmp_path / "config")
    (tmp_path / "config" / "methods" / "square.yaml").write_text(YAML)
    method = Catalogue(tmp_path / "config").method(
        "square", backbone_id="mini-bert", task_id="mini-sst2"
    )
    backbone = save_backbone(tmp_path, "bert")
    tuned = build(backbone, Structure("classification", 3, 1, False, method.update), {})
    run_phases(
        tuned, method.phases, features=features(), collate=COLLATE, mask=method.mask,
        workplace=workplace(tmp_path / "work"),
    )  # fmt: skip
    assert all(p.any() for name, p in tuned.trained_parameters().items() if "square" in name)
    path = tmp_path / "run" / "model.safetensors"
    tuned.save(path)
    loaded = load_tuned(path, backbone)
    tuned.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded.model(**tiny_batch()).logits, tuned.model(**tiny_batch()).logits)
    manifest, counts = read_counts(path)
    shape = ModelShape.dense(tuned.model.config.to_dict(), "classification", 3)
    update = update_of(manifest.update).count(shape, counts.supports)
    trained = sum(p.numel() for p in tuned.trained_parameters().values())
    assert count_parameters(shape, update).trained_with_head == trained
    macs = macs_by_module(shape, 1, update)
    weights = multiplied_weights(loaded.model, loaded.structure.update)
    assert weights["update"] == macs["update"] == 2 * 24 * 24


def test_a_kind_that_is_not_there_is_refused_by_name(repository, tmp_path):
    shutil.copytree(repository / "config", tmp_path / "config")
    (tmp_path / "config" / "methods" / "square.yaml").write_text(YAML)
    ids = {"backbone_id": "mini-bert", "task_id": "mini-sst2"}
    with pytest.raises(ConfigError, match=r"square\.yaml: update\.kind: received 'square'"):
        Catalogue(tmp_path / "config").method("square", **ids)
    with pytest.raises(ModelError, match=r"saved run: update\.kind: received 'square'"):
        update_of({"kind": "square", "blocks": 1})


@pytest.mark.parametrize(
    "update",
    [{"kind": "full", "rank": 3}, {"kind": "peft", "type": "lora", "targets": ["pooler"]}],
)
def test_settings_of_a_run_s_file_are_checked(update):
    with pytest.raises(ModelError, match=r"^saved run: update[.:][^\n]*$"):
        update_of(update)

"""Pairs of things that are each valid alone, and do not fit: told before any job."""

import json

import pytest
import yaml
from unit.config.asking import refused, rewritten, run_of, suite_of

from sparsetune.config.load import Catalogue


def own_backbone(catalogue, tmp_path, **config):
    """A backbone that only its own files tell of."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    told = {
        "description": "Own.", "architecture": config["model_type"],
        "source": {"kind": "mirror", "path": str(folder)},
    }  # fmt: skip
    (catalogue / "backbones" / "own.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")


SIZES = [
    ({"model_type": "bert", "max_position_embeddings": 63}, 63),
    ({"model_type": "roberta", "max_position_embeddings": 65}, 63),
]


@pytest.mark.parametrize(("config", "longest"), SIZES, ids=["bert", "roberta"])
def test_tokens_and_the_positions_of_ones_own_files(catalogue, tmp_path, config, longest):
    own_backbone(catalogue, tmp_path, **config)
    place = ("own", "mini-rte", "full")
    told = f"maximum_tokens: received 64; allowed on backbone own: up to {longest}"
    with refused(told, start=catalogue / "tasks" / "mini-rte.yaml"):
        run_of(catalogue, *place)
    block = {"backbones": ["own"], "tasks": ["mini-rte"], "methods": ["full"]}
    with refused(told):
        suite_of(catalogue, runs=[block])
    path = tmp_path / "own" / "config.json"
    enough = {**config, "max_position_embeddings": config["max_position_embeddings"] + 1}
    path.write_text(json.dumps(enough), encoding="utf-8")
    assert run_of(catalogue, *place).backbone.id == "own"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"model_type": "none"}', "\x00"])
def test_files_that_tell_no_positions_are_left_to_the_stage_that_reads_them(
    catalogue, tmp_path, damage
):
    own_backbone(catalogue, tmp_path, model_type="bert")
    (tmp_path / "own" / "config.json").write_text(damage, encoding="utf-8")
    assert run_of(catalogue, "own", "mini-rte", "full").backbone.id == "own"


def test_generated_texts_and_positions(catalogue, tmp_path):
    own_backbone(catalogue, tmp_path, model_type="gpt2", n_positions=40)
    with refused(
        "generation.maximum_new_tokens: received 40; allowed on backbone own: less than 40"
    ):
        run_of(catalogue, "own", "mini-e2e", "full")


@pytest.mark.parametrize(("backbone", "room"), [("mini-bert", 45), ("mini-roberta", 44)])
def test_windows_and_their_stride(catalogue, backbone, room):
    path = catalogue / "tasks" / "mini-squad.yaml"
    # 96 tokens less 48 for the question and three or four special ones.
    rewritten(path, window_stride_tokens=room)
    with refused(
        f"window_stride_tokens: received {room}; allowed on backbone {backbone}: less than {room}"
    ):
        run_of(catalogue, backbone, "mini-squad", "full")
    rewritten(path, window_stride_tokens=room - 1)
    assert run_of(catalogue, backbone, "mini-squad", "full").task.id == "mini-squad"


def test_labels_and_metrics(catalogue):
    path = catalogue / "tasks" / "mini-rte.yaml"
    rewritten(path, labels=["a", "b", "c"], metrics=["f1_fraction"])
    with refused("metrics.0: received 'f1_fraction'; allowed for kind classification of 3 labels"):
        Catalogue(catalogue).task("mini-rte")


def test_metrics_are_what_evaluate_alone_depends_on(catalogue):
    place = ("mini-bert", "mini-cola", "earlybert")
    before = run_of(catalogue, *place)
    scored = run_of(catalogue, *place, score_epochs=True)
    rewritten(catalogue / "tasks" / "mini-cola.yaml", metrics=["accuracy_fraction"])
    after = run_of(catalogue, *place)
    assert (after.digest, after.ticket_digest) == (before.digest, before.ticket_digest)
    assert before.evaluation_settings() != after.evaluation_settings()
    assert after.evaluation_settings()["metrics"] == ["accuracy_fraction"]
    # Where epochs are scored in training, its record has them too.
    assert run_of(catalogue, *place, score_epochs=True).digest != scored.digest


@pytest.mark.parametrize("key", ["backbones", "tasks", "methods"])
def test_a_block_that_names_a_thing_twice(catalogue, key):
    block = {"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["full"]}
    with refused(f"runs.0.{key}: received ", "allowed: each only once"):
        suite_of(catalogue, runs=[{**block, key: block[key] * 2}])
    # Blocks may overlap: their runs are one.
    assert len(suite_of(catalogue, runs=[block, block], seeds=[1]).runs) == 1

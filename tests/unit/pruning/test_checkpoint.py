"""Whole models in the one save format; updates are in ``unit/test_api.py``."""

import itertools
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
from unit.tiny import HEADS, KINDS, WIDTH, adapted, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune.errors import ModelError
from sparsetune.pruning.checkpoint import load_whole, read_file, save_whole
from sparsetune.pruning.manifest import read_counts
from sparsetune.pruning.structured import keep_layers, remove, sizes_of

KEPT = ([[0, 2], [1, 2, 3]], [[1, 3, 5], list(range(10, 30))])


def reload(folder):
    return load_whole(folder / "model.safetensors", *read_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("kind", "task"),
    [*itertools.product(KINDS, ("classification", "qa", "bare")), ("gpt2", "lm")],
)
def test_a_smaller_model_comes_back_bit_for_bit(kind, task, tmp_path):
    model = tiny_model(kind, task=task)
    remove(model, *KEPT)
    if task == "qa":
        keep_layers(model, [1])
    if task == "classification":
        adapt = sparsetune.DseeConfig(rank=3, n_sparse=11, init="normal", support="random")
        sparsetune.merge(sparsetune.apply_dsee(model, adapt), "dense")
    save_whole(model, tmp_path)
    random_state = torch.random.get_rng_state()
    loaded = sparsetune.load(str(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert (type(loaded), sizes_of(loaded)) == (type(model), sizes_of(model))
    assert not loaded.training
    assert torch.equal(output_of(loaded, tiny_batch()), output_of(model, tiny_batch()))
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert stored == sum(parameter.numel() for parameter in model.parameters())
    trained = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (loaded, model)]
    assert trained[0] == trained[1]


def test_dtype_and_labels_are_kept_and_the_bytes_are_the_same_each_time(tmp_path):
    model = tiny_model("bert").to(torch.bfloat16)
    model.config.id2label = {0: "no", 1: "perhaps", 2: "yes"}
    save_whole(model, tmp_path / "one")
    save_whole(model, tmp_path / "two")
    loaded = reload(tmp_path / "one")
    assert loaded.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    before = model.state_dict()
    assert all(torch.equal(one, before[name]) for name, one in loaded.state_dict().items())
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_whole_model_that_lost_nothing_is_loaded_by_transformers_too(tmp_path):
    model = tiny_model("bert")
    save_whole(model, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(output_of(loaded, tiny_batch()), output_of(model, tiny_batch()))


def test_what_is_attached_or_of_another_class_is_not_saved_whole(tmp_path):
    with pytest.raises(ModelError, match=r"DseeLinear.* merge it first"):
        save_whole(adapted("gpt2"), tmp_path)
    model = tiny_model("bert")
    model.classifier.to(torch.float64)
    with pytest.raises(ModelError, match=r"torch.float32, torch.float64; needed: one dtype"):
        save_whole(model, tmp_path)
    own = type("Own", (type(model),), {})
    with pytest.raises(ModelError, match="Own is not one of transformers' own"):
        save_whole(own(model.config), tmp_path)
    assert list(tmp_path.iterdir()) == []


SIZES = {"model_type": "bert", "layers": 2, "head_size": 6, "heads": [2, 3], "ffn_width": [3, 20]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": {**SIZES, "heads": [2, HEADS + 1]}}, f"heads of layer 1: .* 1 to {HEADS} heads"),
        ({"sizes": {**SIZES, "ffn_width": [0, 20]}}, f"layer 0: .* 1 to {WIDTH} neurons"),
        ({"sizes": {**SIZES, "heads": [True, 3]}}, "sizes.heads.0: received True"),
        ({"sizes": {**SIZES, "heads": [2]}}, "one for each layer"),
        ({"sizes": {**SIZES, "heads": [3, 3]}}, r"is \(24, 12\) in the file, .*\(24, 18\)"),
        ({"sizes": {**SIZES, "head_size": 7}}, "sizes.head_size: received 7; allowed: 6"),
        ({"format": None}, "manifest: format: received None"),
        ({"config": {"model_type": "t5"}}, "model_type: received 't5'; allowed: bert"),
        ({"config": None}, "model_type: received None"),
        ({"model_class": "BertNothing"}, "'BertNothing' is no model of type bert"),
        ({"model_class": "logger"}, "'logger' is no model of type bert"),
        ({"sizes": {**SIZES, "model_type": "t5"}, "config": {"model_type": "t5"}}, "received 't5'"),
    ],
)
def test_a_damaged_manifest_is_refused(changes, message, tmp_path):
    model = tiny_model("bert")
    remove(model, *KEPT)
    save_whole(model, tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["sparsetune"])
    save_file(load_file(path), path, metadata={"sparsetune": json.dumps({**manifest, **changes})})
    with pytest.raises(ModelError, match=message):
        reload(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("num_attention_heads", 5), ("dtype", "save")])
def test_a_configuration_that_builds_no_model_is_refused(key, value, tmp_path):
    save_whole(tiny_model("bert"), tmp_path)
    manifest, state = read_file(tmp_path / "model.safetensors")
    damaged = manifest.model_copy(update={"config": {**manifest.config, key: value}})
    with pytest.raises(ModelError, match="config: unusable"):
        load_whole(tmp_path / "model.safetensors", damaged, state)


def test_supports_and_masks_are_counted_without_loading_the_model(tmp_path):
    model = adapted("bert")
    masks = {"layer.1.key": torch.ones(24, 24, dtype=torch.bool)}
    masks["layer.1.key"][:3] = False
    sparsetune.pruning.masks.apply_masks_(model, masks)
    sparsetune.save(model, tmp_path)
    manifest, counts = read_counts(tmp_path / "model.safetensors")
    assert manifest.update["rank"] == 3
    assert counts.kept == {"layer.1.key": 21 * 24}
    assert counts.supports == {f"layer.{n}.{p}": 11 for n in (0, 1) for p in ("query", "value")}

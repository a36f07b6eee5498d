"""Models used without this package: by transformers alone, and by onnxruntime."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from unit.tiny import KINDS, adapted, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune.pruning.masks import apply_masks_, two_pool_masks
from sparsetune.pruning.structured import remove
from sparsetune.pruning.zeros import zero_counts

KEPT = ([[0, 2], [1, 2, 3]], [[1, 3, 5], list(range(10, 30))])
# For each form of model, the head of each architecture: every kind of output is met once.
HEADS = {
    "unmerged": dict.fromkeys(KINDS, "classification"),
    "dense": {"bert": "qa", "roberta": "bare", "gpt2": "lm"},
    "smaller": dict.fromkeys(KINDS, "classification"),
}
CONFIG = sparsetune.DseeConfig(rank=3, n_sparse=11, init="normal", support="random")


def shaped(kind, form):
    if form == "unmerged":
        model = adapted(kind)
        apply_masks_(model, two_pool_masks(model, 0.5))
        return model
    model = tiny_model(kind, task=HEADS[form][kind])
    if form == "smaller":
        remove(model, *KEPT)
    sparsetune.merge(sparsetune.apply_dsee(model, CONFIG), "dense")
    return model


def run(path, batch):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}
    given = {name: tensor.numpy() for name, tensor in batch.items() if name in wanted}
    for name in wanted - given.keys():
        given[name] = torch.zeros_like(batch["input_ids"]).numpy()
    return torch.from_numpy(session.run(None, given)[0])


def zeros_in(path):
    arrays = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    return sum(int((array == 0).sum()) for array in arrays if array.ndim == 2)


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_file_gives_the_models_outputs(kind, form, tmp_path):
    model = shaped(kind, form)
    path = tmp_path / "model.onnx"
    report = sparsetune.export_onnx(model, path)
    for batch, length in ((1, 3), (5, 12), (2, 33)):
        sample = tiny_batch(seed=length, batch=batch, length=length)
        # Rounding of float32 in another order; the logits are of size one.
        torch.testing.assert_close(
            run(path, sample), output_of(model, sample), rtol=1e-4, atol=1e-5
        )
    assert report.file_bytes == path.stat().st_size
    assert report.outputs[0] == {"qa": "start_logits", "bare": "last_hidden_state"}.get(
        HEADS[form][kind], "logits"
    )
    masked = sum(zeros for zeros, _ in zero_counts(model).values())
    if form == "unmerged":  # the zeros of W are still there for a runtime that can use them
        assert masked > 0.4 * sum(total for _, total in zero_counts(model).values())
        assert zeros_in(path) >= masked


def shorter(kind):
    """Without its last layer, and no other part removed."""
    kept = (tuple(range(4)),), (tuple(range(40)),)
    ticket = sparsetune.Ticket(
        kept_heads=kept[0] * 2, kept_neurons=kept[1] * 2, kept_layers=(0,), heads=4, neurons=40,
        origin="random",
    )  # fmt: skip
    return sparsetune.shrink(tiny_model(kind), ticket)


def test_the_adapter_in_use_is_exported_and_one_that_is_merged_can_be_taken_back(tmp_path):
    model, batch, expected = shorter("gpt2"), tiny_batch(seed=1), {}
    for number, name in enumerate(("mrpc", "sst2")):
        told = replace(CONFIG, seed=number, rank_pattern={"query": 5})
        alone = sparsetune.apply_dsee(shorter("gpt2"), told)
        expected[name] = output_of(alone, batch)
        sparsetune.save(alone, tmp_path / name)
        sparsetune.load(tmp_path / name, model, name=name)
    for name in expected:
        sparsetune.use(model, name)
        sparsetune.export_onnx(model, tmp_path / "model.onnx")
        # Rounding of float32 in another order, as above.
        found = run(tmp_path / "model.onnx", batch)
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*expected.values(), rtol=1e-2)
    alone = sparsetune.apply_dsee(shorter("gpt2"), told)
    before = {name: one.clone() for name, one in alone.state_dict().items()}
    sparsetune.merge(alone, "dense", reversible=True)
    sparsetune.export_onnx(alone, tmp_path / "model.onnx")
    found = run(tmp_path / "model.onnx", batch)
    torch.testing.assert_close(found, expected["sst2"], rtol=1e-4, atol=1e-5)
    sparsetune.unmerge(alone)
    after = alone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())


LOADED_ELSEWHERE = """
import json, sys
sys.modules["sparsetune"] = None  # importing it would fail
import torch, transformers
from safetensors.torch import load_file, save_file
batch, logits = load_file("batch.safetensors"), {}
for folder, kind in json.loads(sys.argv[1]):
    model = getattr(transformers, kind).from_pretrained(folder)
    with torch.no_grad():
        logits[folder] = model(**batch).logits
save_file(logits, "logits.safetensors")
"""


def test_merged_models_are_loaded_by_a_process_without_this_package(tmp_path):
    classifier, expected, folders = "AutoModelForSequenceClassification", {}, []
    for kind, task in [*((kind, "classification") for kind in KINDS), ("gpt2", "lm")]:
        model, folder = tiny_model(kind, task=task), f"{kind}-{task}"
        sparsetune.apply_dsee(model, CONFIG)
        apply_masks_(model, two_pool_masks(model, 0.5))
        sparsetune.merge(model, "dense")
        model.save_pretrained(tmp_path / folder)
        expected[folder] = output_of(model, tiny_batch())
        folders.append((folder, "AutoModelForCausalLM" if task == "lm" else classifier))
    save_file(tiny_batch(), tmp_path / "batch.safetensors")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", LOADED_ELSEWHERE, json.dumps(folders)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    received = load_file(tmp_path / "logits.safetensors")
    assert received.keys() == expected.keys()
    # The same weights in the same product; only the number of threads may differ.
    for folder, logits in expected.items():
        torch.testing.assert_close(received[folder], logits, rtol=1e-5, atol=1e-6)

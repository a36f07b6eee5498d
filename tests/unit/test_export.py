"""What is refused, and that a wrong file is not left; real exports are in ``tests/e2e``."""

import importlib.util

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import AlbertConfig, AlbertModel
from unit.tiny import tiny_model

import sparsetune
from sparsetune import export
from sparsetune.errors import ConfigError, ModelError


class Program:
    """Stands in for the exporter: a graph that multiplies the first ids by a matrix."""

    def __init__(self, width):
        names = ("input_ids", "attention_mask")
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in names]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", width])
        constants = {"one": torch.tensor([1]), "zero": torch.tensor([0])}
        constants["matrix"] = torch.full((1, width), 9.0)
        nodes = [
            helper.make_node("Slice", ["input_ids", "zero", "one", "one"], ["first"]),
            helper.make_node("Cast", ["first"], ["floating"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["floating", "matrix"], ["logits"]),
        ]
        weights = [numpy_helper.from_array(t.numpy(), name) for name, t in constants.items()]
        graph = helper.make_graph(nodes, "g", inputs, [output], weights)
        opset = helper.make_opsetid("", 18)
        self.model = helper.make_model(graph, ir_version=10, opset_imports=[opset])

    def save(self, path, external_data):
        assert external_data is False
        onnx.save(self.model, path)


@pytest.mark.parametrize(
    ("width", "message"),
    [(4, r"logits is \(2, 4\) in the file, \(2, 3\) in the model"), (3, "of the file differs by")],
)
def test_a_file_that_computes_another_thing_is_not_left(width, message, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_traced", lambda *_: Program(width))
    (tmp_path / "model.onnx").write_text("earlier")
    with pytest.raises(ModelError, match=message):
        sparsetune.export_onnx(tiny_model("gpt2"), tmp_path / "model.onnx")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize(("told", "filled"), [(7, 7), (None, None), (-1, None), (10**6, None)])
def test_padding_of_a_sample_is_what_the_model_takes_for_padding(told, filled):
    model = tiny_model("gpt2")
    model.config.pad_token_id = told
    sample = export._sample(model, 2, 8)
    padded = sample["input_ids"][sample["attention_mask"] == 0].tolist()
    assert len(padded) == 2
    assert (set(padded) == {filled}) == (filled is not None)
    assert 0 <= sample["input_ids"].min() <= sample["input_ids"].max() < model.config.vocab_size


def test_the_mode_of_every_module_is_put_back(tmp_path, monkeypatch):
    def refuse(*_):
        raise ModelError("stop")

    monkeypatch.setattr(export, "_traced", refuse)
    model = tiny_model("bert").train()
    model.classifier.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ModelError, match="stop"):
        sparsetune.export_onnx(model, tmp_path / "model.onnx")
    assert [module.training for module in model.modules()] == modes
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_the_way_to_get_them(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "onnxscript" else find(n)
    )
    with pytest.raises(ConfigError, match=r"without onnxscript; .*'sparsetune\[export\]'"):
        sparsetune.export_onnx(tiny_model("bert"), tmp_path / "model.onnx")


def test_models_that_do_not_fit_a_file_are_refused(tmp_path, monkeypatch):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = AlbertModel(AlbertConfig(vocab_size=9, intermediate_size=8, **sizes))
    with pytest.raises(ModelError, match=r"'albert' .* known: bert, roberta, .*gpt2"):
        sparsetune.export_onnx(other, tmp_path / "model.onnx")
    half = tiny_model("bert").to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"weights of torch.bfloat16; needed: torch.float32"):
        sparsetune.export_onnx(half, tmp_path / "model.onnx")
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    with pytest.raises(ModelError, match=r"bytes of weights; allowed: 1000 in one ONNX file"):
        sparsetune.export_onnx(tiny_model("bert"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []

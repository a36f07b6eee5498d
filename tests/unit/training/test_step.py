"""Captured steps: the gradients of eager ones, however the graph is made.

A graph needs CUDA. What is around it does not: here ``capture`` gives back a function that runs
the pass again on the tensors that the graph would read.
"""

import pytest
import torch
from unit.tiny import tiny_model
from unit.training.tiny_jobs import features, interrupt, phase_job, stop_at, train, without_dropout

from sparsetune.training import step as module
from sparsetune.training.losses import step_loss
from sparsetune.training.step import GraphLengths

LOSSES = {"own": None, "smoothed": step_loss("classification", 0.1)}


@pytest.fixture(autouse=True)
def _graphs_without_cuda(monkeypatch):
    monkeypatch.setattr(module, "cuda_graph", lambda function: function)
    monkeypatch.setattr(module, "FEWEST_REPLAYS", 2)


def data():
    """Texts of 3 to 37 tokens."""
    made = features(22)
    for index, one in enumerate(made):
        one["input_ids"] = one["input_ids"] * (1 + index % 4)
        one["attention_mask"] = [1] * len(one["input_ids"])
    return made


def phase(folder, engine, *, dropout=False, model=None, **options):
    model = model or tiny_model("bert", scale=1.0)
    if not dropout:  # its numbers depend on a batch's shape
        without_dropout(model)
    return train(phase_job(folder, data=data(), captured=engine == "captured", **options), model)


def same(found, expected):
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("extra", [False, True])
def test_a_captured_phase_is_an_eager_one(tmp_path, loss, extra, accumulation):
    found = {}
    for engine in ("eager", "captured"):
        model = tiny_model("bert", scale=1.0)
        term = {"extra_loss": lambda m=model: m.classifier.weight.abs().sum()} if extra else {}
        found[engine] = phase(
            tmp_path / engine, engine, model=model, loss=LOSSES[loss],
            changes={"learning_rate": 1e-3, "gradient_accumulation": accumulation}, **term,
        )  # fmt: skip
    (result, parameters), (expected, wanted) = found["captured"], found["eager"]
    assert result["engine"].startswith("captured: lengths ")
    assert expected["engine"] == "eager"
    for name in ("loss", "grad_norm"):
        ours, theirs = ([p[name] for p in one["curve"]] for one in (result, expected))
        assert ours == pytest.approx(theirs, rel=1e-4)
    same(parameters, wanted)


def test_an_interrupted_captured_phase_ends_bit_identical(tmp_path):
    options = {"data": data(), "captured": True}
    whole, expected = train(phase_job(tmp_path / "whole", **options))  # dropout is on
    interrupt(tmp_path / "parts", on_step=stop_at(5), **options)
    parts, found = train(phase_job(tmp_path / "parts", **options))
    assert parts["resumed_at_step"] == 4
    assert whole["engine"].startswith("captured")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert parts["curve"] == whole["curve"]


def wrong(_function):
    return lambda: None


def failing(function):
    function()  # as the warm-up does
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize(
    ("capture", "told"),
    [(wrong, "the replay's loss or gradients are not those"), (failing, "operation not permitted")],
)
def test_where_capturing_fails_steps_run_eagerly_and_the_reason_is_told(
    tmp_path, monkeypatch, capture, told
):
    monkeypatch.setattr(module, "cuda_graph", capture)
    result, found = phase(tmp_path / "captured", "captured", dropout=True)
    expected, wanted = phase(tmp_path / "eager", "eager", dropout=True)
    assert result["engine"].startswith("eager: length ")
    assert told in result["engine"]
    assert "\n" not in result["engine"]
    assert result["curve"] == expected["curve"]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_parameter_that_nothing_uses_stays_without_a_gradient(tmp_path):
    model = tiny_model("bert", scale=1.0)
    model.unused = torch.nn.Parameter(torch.ones(3))
    start = model.unused.detach().clone()
    result, _ = phase(tmp_path, "captured", model=model, changes={"weight_decay": 0.5})
    assert result["engine"].startswith("captured")
    assert model.unused.grad is None
    assert torch.equal(model.unused, start)


def test_lengths_are_chosen_by_the_plan_alone_and_texts_stay_within_the_longest():
    lengths = [10, 16, 17, 60]
    batches = [[0, 1], [1, 1], [0, 2], [2, 2], [3, 3], [3, 0], [2]]
    found = GraphLengths.planned(lengths, batches, rows=2)
    assert found == GraphLengths(frozenset({16, 32, 60}), 60)
    assert [found.of(tokens) for tokens in (1, 16, 17, 33, 49, 60, 61)] == [
        16, 16, 32, None, 60, 60, None,
    ]  # fmt: skip
    assert GraphLengths.planned(lengths, [[2]], rows=2) == GraphLengths(frozenset(), 0)

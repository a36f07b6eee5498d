"""Captured steps on a real device: graphs are made, agree with eager passes and can be resumed."""

import pytest
import torch
from unit.tiny import KINDS, adapted, tiny_model
from unit.training.test_step import data
from unit.training.tiny_jobs import interrupt, phase_job, stop_at, train, without_dropout

from sparsetune.training import step as module
from sparsetune.training.loop import Engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(autouse=True)
def _few_replays(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_REPLAYS", 2)


def phase(folder, *, captured, model, **options):
    job = {"data": data(), "changes": {"learning_rate": 1e-3}, **options}
    return train(phase_job(folder, engine=Engine("cuda", captured, 1e9), **job), model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("update", ["full", "dsee"])
def test_a_captured_phase_is_an_eager_one(tmp_path, kind, update):
    curves = {}
    for captured in (False, True):
        model = tiny_model(kind, scale=1.0) if update == "full" else adapted(kind)
        result, _ = phase(tmp_path / str(captured), captured=captured, model=without_dropout(model))
        assert result["engine"].startswith("captured: lengths 16" if captured else "eager")
        curves[captured] = [point["loss"] for point in result["curve"]]
    # bfloat16 on both sides, padded differently, over 16 steps.
    assert curves[True] == pytest.approx(curves[False], rel=0.02, abs=0.01)


def test_an_interrupted_captured_phase_ends_bit_identical(tmp_path):
    whole, expected = phase(tmp_path / "w", captured=True, model=tiny_model("bert", scale=1.0))
    engine = {"engine": Engine("cuda", True, 0), "data": data(), "changes": {"learning_rate": 1e-3}}
    model = tiny_model("bert", scale=1.0)
    interrupt(tmp_path / "p", model, on_step=stop_at(5), **engine)
    parts, found = phase(tmp_path / "p", captured=True, model=tiny_model("bert", scale=1.0))
    assert (parts["resumed_at_step"], parts["engine"]) == (4, whole["engine"])
    assert all(torch.equal(found[name], expected[name]) for name in expected)

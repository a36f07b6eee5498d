import numpy as np
import pytest
import torch
from unit.tiny import HEADS, LAYERS, WIDTH, tiny_model
from unit.training.tiny_jobs import COLLATE, PHASE, Interrupted, features

from sparsetune.sparsity.gates import Gates
from sparsetune.training.search import SearchPlace, run_search, write_gates

TRAIN = {name: value for name, value in PHASE.items() if name not in ("name", "kind")}
SEARCH = {
    "train": {**TRAIN, "epochs": 4.0}, "head_penalty": 1e-2, "neuron_penalty": 1e-3,
    "stop_epochs": 1.5,
}  # fmt: skip


def search(folder, *, checkpoint_seconds=1e9, **changes):
    model = tiny_model("bert", scale=1.0)
    place = SearchPlace(folder, "cpu", checkpoint_seconds)
    found = run_search(model, {**SEARCH, **changes}, (features(), COLLATE), place=place, seed=5)
    return found, model


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return search(tmp_path_factory.mktemp("whole"))


def test_an_interrupted_search_ends_bit_identical_and_keeps_its_history(
    tmp_path, uninterrupted, monkeypatch
):
    whole, model = uninterrupted
    assert whole.steps.tolist() == [1, 2, 3, 4, 5, 6]  # 4 steps an epoch, 1.5 epochs
    taken = Gates.snapshot

    def interrupted(gates):
        if int(gates.calls) == 3:
            raise Interrupted
        gates.calls += 1
        return taken(gates)

    with monkeypatch.context() as patch:
        patch.setattr(Gates, "calls", 0, raising=False)
        patch.setattr(Gates, "snapshot", interrupted)
        with pytest.raises(Interrupted):
            search(tmp_path, checkpoint_seconds=0)
    parts, again = search(tmp_path)
    assert parts.measured["search"]["resumed_at_step"] == 3
    for name in ("steps", "head_history", "neuron_history"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
    assert torch.equal(parts.heads, whole.heads)
    assert torch.equal(parts.neurons, whole.neurons)
    expected = dict(model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in again.named_parameters())


def test_a_search_returns_the_last_coefficients_and_their_history(uninterrupted):
    found, model = uninterrupted
    assert found.head_history.shape == (6, LAYERS, HEADS)
    assert found.neuron_history.shape == (6, LAYERS, WIDTH)
    assert np.array_equal(found.head_history[-1], found.heads.numpy())
    assert torch.equal(model.early_gates.heads.detach(), found.heads)
    assert torch.equal(model.early_gates.neurons.detach(), found.neurons)
    # Points are copies: each one differs from the next.
    assert all((a != b).any() for a, b in zip(found.head_history, found.head_history[1:]))  # noqa: B905
    assert found.measured["search"]["steps"] == 6
    # Batches 7 an epoch (the last of 2), two a step: 6 steps are 12 of them.
    assert 34 <= found.measured["search"]["examples_seen"] <= 36


def test_the_penalty_makes_coefficients_smaller(tmp_path):
    short = {"stop_epochs": 0.5}
    with_it, _ = search(tmp_path / "with", head_penalty=1.0, neuron_penalty=1.0, **short)
    without, _ = search(tmp_path / "without", head_penalty=0.0, neuron_penalty=0.0, **short)
    assert with_it.heads.mean() < without.heads.mean()
    assert with_it.neurons.mean() < without.neurons.mean()


def test_a_search_never_outlasts_the_full_training(tmp_path):
    found, _ = search(tmp_path, stop_epochs=9.0, train={**TRAIN, "epochs": 1.0})
    assert found.measured["search"]["steps"] == 4


def test_gates_are_written_with_and_without_a_search(tmp_path, uninterrupted):
    found, _ = uninterrupted
    write_gates(tmp_path / "gates.npz", found)
    with np.load(tmp_path / "gates.npz", allow_pickle=False) as file:
        assert np.array_equal(file["heads"], found.head_history)
        assert file["steps"].tolist() == [1, 2, 3, 4, 5, 6]
    write_gates(tmp_path / "gates.npz", None)
    with np.load(tmp_path / "gates.npz", allow_pickle=False) as file:
        assert {name: file[name].shape for name in file.files} == {
            "steps": (0,), "heads": (0,), "neurons": (0,),
        }  # fmt: skip

from functools import partial

import numpy as np
import pytest
import torch
from unit.tiny import HEADS, KINDS, LAYERS, WIDTH, tiny_model
from unit.training.tiny_jobs import COLLATE, PHASE, Interrupted, features

from sparsetune.config.ticket import SearchSettings
from sparsetune.earlybert.convergence import relative_distance
from sparsetune.earlybert.gates import Gates
from sparsetune.earlybert.ticket import DrawConfig, TicketLabel, draw_masks
from sparsetune.training.checkpoints import checkpoint_step
from sparsetune.training.loop import Engine
from sparsetune.training.plan import make_plan
from sparsetune.training.search import SearchPlace, run_search, steps_between_checks, write_gates

pytestmark = pytest.mark.slow

TRAIN = {name: value for name, value in PHASE.items() if name not in ("name", "kind")}
SEARCH = {
    "train": {**TRAIN, "epochs": 4.0}, "head_penalty": 1e-2, "neuron_penalty": 1e-3,
    "stop_epochs": 1.5,
}  # fmt: skip


DRAW = DrawConfig(head_ratio=0.5, neuron_ratio=0.4)
# So wide that any two masks are near enough: converges as soon as the window is full.
EASY = {"stop": "settled", "cap_epochs": 3.0, "settle": {"window": 3, "epsilon": 9.0}}


def settings(**changes):
    return SearchSettings.model_validate({**SEARCH, **changes})


def search(folder, *, kind="bert", checkpoint_seconds=1e9, **changes):
    model = tiny_model(kind, scale=1.0)
    place = SearchPlace(folder, Engine(checkpoint_seconds=checkpoint_seconds))
    data = (features(), COLLATE)
    return run_search(model, settings(**changes), data, place=place, seed=5, draw=DRAW), model


def same(one, other, names=("steps", "head_history", "neuron_history")):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


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
    assert same(parts, whole)
    expected = dict(model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in again.named_parameters())


def test_a_search_returns_the_last_coefficients_and_their_history(uninterrupted):
    found, model = uninterrupted
    assert found.head_history.shape == (6, LAYERS, HEADS)
    assert found.neuron_history.shape == (6, LAYERS, WIDTH)
    for name, history in (("heads", found.head_history), ("neurons", found.neuron_history)):
        assert np.array_equal(getattr(model.early_gates, name).detach().numpy(), history[-1])
    kept = draw_masks(found.head_history[-1], found.neuron_history[-1], DRAW)[0]
    heads = found.ticket(TicketLabel()).kept_heads
    assert [list(one) for one in heads] == [row.nonzero().flatten().tolist() for row in kept]
    # Points are copies: each one differs from the next.
    assert all((a != b).any() for a, b in zip(found.head_history, found.head_history[1:]))  # noqa: B905
    assert found.measured["search"]["steps"] == 6
    # Batches 7 an epoch (the last of 2), two a step: 6 steps are 12 of them.
    assert 34 <= found.measured["search"]["examples_seen"] <= 36


def test_the_penalty_makes_coefficients_smaller(tmp_path):
    short = {"stop_epochs": 0.5}
    with_it, _ = search(tmp_path / "with", head_penalty=1.0, neuron_penalty=1.0, **short)
    without, _ = search(tmp_path / "without", head_penalty=0.0, neuron_penalty=0.0, **short)
    for name in ("head_history", "neuron_history"):
        assert getattr(with_it, name)[-1].mean() < getattr(without, name)[-1].mean()


def test_a_search_never_outlasts_the_full_training(tmp_path):
    found, _ = search(tmp_path, stop_epochs=9.0, train={**TRAIN, "epochs": 1.0})
    assert found.measured["search"]["steps"] == 4


def test_gates_are_written_with_and_without_a_search(tmp_path, uninterrupted):
    found, _ = uninterrupted
    write_gates(tmp_path / "gates.npz", found)
    with np.load(tmp_path / "gates.npz", allow_pickle=False) as file:
        assert np.array_equal(file["heads"], found.head_history)
        assert file["steps"].tolist() == [1, 2, 3, 4, 5, 6]
        assert file["head_masks"].shape == file["heads"].shape
    write_gates(tmp_path / "gates.npz", None)
    with np.load(tmp_path / "gates.npz", allow_pickle=False) as file:
        assert {name: file[name].shape for name in file.files} == {
            "steps": (0,), "heads": (0,), "neurons": (0,), "head_masks": (0,), "neuron_masks": (0,),
        }  # fmt: skip


def test_gates_hold_the_masks_of_every_check(tmp_path):
    found, _ = search(tmp_path, stop_epochs=1.0)
    write_gates(tmp_path / "gates.npz", found)
    with np.load(tmp_path / "gates.npz", allow_pickle=False) as file:
        for name in ("head", "neuron"):
            masks = file[f"{name}_masks"]
            assert (masks.dtype, masks.shape) == (np.dtype(bool), file[f"{name}s"].shape)
        names = ("heads", "neurons", "head_masks", "neuron_masks")
        for heads, neurons, *masks in zip(*(file[name] for name in names), strict=True):
            expected = draw_masks(heads, neurons, DRAW)
            assert all(np.array_equal(*pair) for pair in zip(masks, expected, strict=True))


def test_a_fixed_search_may_be_told_in_steps(tmp_path, uninterrupted):
    length = {"stop_steps": 3, "stop_epochs": None}
    found, _ = search(tmp_path, **length)
    assert found.measured["search"]["steps"] == 3
    assert np.array_equal(found.head_history, uninterrupted[0].head_history[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_converged_search_stops_by_itself_on_every_architecture(tmp_path, kind):
    found, _ = search(tmp_path, kind=kind, **EASY)
    told = found.measured["stopping"]
    # The schedule warms up from 0, so the first step leaves every coefficient at 1.0: no mask.
    assert told["head_distances"][:2] == [None, None]
    assert (told["settled_step"], found.measured["search"]["steps"]) == (4, 4)
    assert (told["fixed_step"], told["last_step_allowed"]) == (6, 12)
    assert found.end.settled_step == found.end.steps == 4
    assert found.steps.tolist() == told["check_steps"] == [1, 2, 3, 4]
    # 7 batches are an epoch of 20; the eighth has 3, or is the next epoch's one of 2
    assert found.measured["search"]["examples_seen"] in (22, 23)


def test_a_converged_search_that_never_converges_ends_at_its_cap(tmp_path):
    strict = {"window": 12, "epsilon": 0.0}
    found, _ = search(tmp_path, **{**EASY, "cap_epochs": 2.0, "settle": strict})
    assert found.measured["stopping"]["settled_step"] is None
    assert found.measured["search"]["steps"] == 8


def test_a_fixed_search_tells_where_it_would_have_converged(tmp_path, uninterrupted):
    found, _ = search(tmp_path, settle=EASY["settle"])
    assert found.measured["stopping"]["settled_step"] == 4
    assert found.end.model_dump() | {"head_distance": 0, "neuron_distance": 0} == {
        "steps": 6, "rule": "fixed", "fixed_step": 6, "settled_step": 4,
        "head_distance": 0, "neuron_distance": 0,
    }  # fmt: skip
    assert same(found, uninterrupted[0])


def test_distances_are_those_of_the_masks_drawn_from_the_history(tmp_path):
    found, _ = search(tmp_path, settle={"window": 3, "epsilon": 0.1})
    pairs = zip(found.head_history, found.neuron_history, strict=True)
    masks = [draw_masks(*pair, DRAW) for pair in pairs]
    told = found.measured["stopping"]
    for index in range(3, 6):
        for unit, name in enumerate(("head_distances", "neuron_distances")):
            older = [masks[index - back][unit] for back in (1, 2)]
            expected = max(relative_distance(old, masks[index][unit]) for old in older)
            assert told[name][index] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("stop", [2, 4])
def test_a_converged_search_killed_and_resumed_ends_the_same(tmp_path, stop, monkeypatch):
    whole, _ = search(tmp_path / "whole", **EASY)
    with monkeypatch.context() as patch:
        patch.setattr("sparsetune.training.search.SearchResult", _killed)
        if stop == 2:
            patch.setattr(Gates, "snapshot", _failing_snapshot(3))
        with pytest.raises(Interrupted):
            search(tmp_path / "parts", checkpoint_seconds=0, **EASY)
    assert checkpoint_step(tmp_path / "parts") == stop
    parts, _ = search(tmp_path / "parts", **EASY)
    assert parts.measured["search"]["resumed_at_step"] == stop
    assert parts.end == whole.end
    assert same(parts, whole)
    for key in ("steps", "examples_seen", "tokens_seen", "final_loss"):
        assert parts.measured["search"][key] == whole.measured["search"][key]
    assert parts.measured["stopping"] == whole.measured["stopping"]


def _killed(*_):
    raise Interrupted


def _failing_snapshot(call):
    taken, calls = Gates.snapshot, []

    def snapshot(gates):
        calls.append(None)
        if len(calls) == call:
            raise Interrupted
        return taken(gates)

    return snapshot


def test_the_history_shares_no_memory(tmp_path, uninterrupted):
    found, model = uninterrupted
    kept = found.head_history.copy(), found.neuron_history.copy()
    with torch.no_grad():
        model.early_gates.heads.add_(1.0)
        model.early_gates.neurons.add_(1.0)
    assert np.array_equal(found.head_history, kept[0])
    assert np.array_equal(found.neuron_history, kept[1])
    found.head_history[0] += 1.0
    assert np.array_equal(found.head_history[1:], kept[0][1:])
    found.head_history[0] -= 1.0
    with torch.no_grad():
        model.early_gates.heads.sub_(1.0)
        model.early_gates.neurons.sub_(1.0)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_penalty_counts_once_per_optimizer_step(tmp_path, accumulation, monkeypatch):
    changes = {"gradient_accumulation": accumulation, "batch_size": 20 // accumulation}
    train = {**TRAIN, **changes, "maximum_gradient_norm": 1e9, "warmup_fraction": 0.0}
    summed = []
    for penalty in (0.0, 0.5):
        with monkeypatch.context() as patch:
            patch.setattr(Gates, "__init__", _adding_gradients_up(Gates.__init__, summed))
            search(tmp_path / f"{penalty}", stop_steps=1, stop_epochs=None, train=train,
                   head_penalty=penalty, neuron_penalty=2 * penalty)  # fmt: skip
    (heads, neurons), (heads_with, neurons_with) = summed
    assert heads.abs().max() > 0
    torch.testing.assert_close(heads_with - heads, torch.full_like(heads, 0.5))
    torch.testing.assert_close(neurons_with - neurons, torch.full_like(neurons, 1.0))


def _adding_gradients_up(init, sums):
    """Gates that add up all the gradients that reach them in a search of one step."""

    def made(gates, model):
        init(gates, model)
        sums.append((torch.zeros_like(gates.heads), torch.zeros_like(gates.neurons)))
        for total, parameter in zip(sums[-1], (gates.heads, gates.neurons), strict=True):
            parameter.register_hook(partial(_add, total))

    return made


def _add(total, grad):
    total.add_(grad)


def test_checks_come_every_hundredth_of_an_epoch_but_never_fewer_than_twenty():
    def every(examples, *, epochs=1.0, **changes):
        plan = make_plan([5] * examples, batch_size=1, epochs=epochs, seed=0)
        return steps_between_checks(settings(**changes), plan)

    assert every(800) == 8
    assert every(800, checks_per_epoch=50) == 16
    assert every(50) == 1
    # 400 steps of an epoch of 8,000 in pre-training
    assert every(8000, epochs=0.05) == 20

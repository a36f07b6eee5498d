import json

import pytest
import torch
from torch import nn
from unit.training.tiny_jobs import PHASE, phases_of

from sparsetune.training.checkpoints import (
    Checkpoint,
    checkpoint_step,
    random_state,
    read_state,
    restore_random_state,
    save_state,
)
from sparsetune.training.optimizers import make_optimizer


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_checkpoint_reads_back_exactly(tmp_path, name):
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(name, model, phases_of(PHASE)[0])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state, trained = optimizer.state_dict(), {"weight": model.weight}
    told = {"curve": [{"loss": 0.1}], "seconds": 1.5}
    Checkpoint(3, trained, state, random_state("cpu"), told).write(tmp_path / "phase")
    Checkpoint(4, trained, state, random_state("cpu"), told).write(tmp_path / "phase")
    expected = torch.rand(3)
    found = Checkpoint.read(tmp_path / "phase")
    assert (found.step, found.told, checkpoint_step(tmp_path / "phase")) == (4, told, 4)
    assert torch.equal(found.trained["weight"], model.weight)
    restore_random_state(found.random)
    assert torch.equal(torch.rand(3), expected)
    again = make_optimizer(name, model, phases_of(PHASE)[0])
    again.load_state_dict(found.optimizer)
    groups = [json.dumps(one["param_groups"]) for one in (again.state_dict(), state)]
    assert groups[0] == groups[1]
    for index, values in state["state"].items():
        for key, value in values.items():
            other = again.state_dict()["state"][index][key]
            assert torch.equal(torch.as_tensor(other), torch.as_tensor(value))
    assert [path.name for path in (tmp_path / "phase").iterdir()] == ["checkpoint.safetensors"]


def test_a_folder_without_a_checkpoint_has_none(tmp_path):
    assert Checkpoint.read(tmp_path / "missing") is None
    assert checkpoint_step(tmp_path / "missing") == 0
    (tmp_path / "checkpoint.safetensors").write_bytes(b"cut off")
    assert Checkpoint.read(tmp_path) is None
    assert checkpoint_step(tmp_path) == 0


def test_a_state_reads_back_exactly_and_leaves_no_partial_file(tmp_path):
    state = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).t(),
             "b": torch.tensor([1, 0, 255], dtype=torch.uint8)}  # fmt: skip
    save_state(state, tmp_path / "deep" / "state.safetensors")
    found = read_state(tmp_path / "deep" / "state.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"half a file", b"\x10\0\0\0\0\0\0\0{"])
def test_a_missing_or_cut_off_state_is_none(tmp_path, content):
    path = tmp_path / "state.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert read_state(path) is None

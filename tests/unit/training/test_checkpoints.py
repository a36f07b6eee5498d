import pytest
import torch

from sparsetune.training.checkpoints import (
    COMPLETE,
    discard_incomplete,
    newest_complete,
    read_state,
    save_state,
)


def checkpoint(folder, step, *, complete=True):
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    (place / "trained.safetensors").write_bytes(b"")
    if complete:
        (place / COMPLETE).write_text("{}")
    return place


def test_the_newest_is_the_highest_step_not_the_last_name(tmp_path):
    for step in (9, 10, 100, 20):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, complete=False)
    assert newest_complete(tmp_path).name == "checkpoint-100"


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert newest_complete(tmp_path) is None
    assert newest_complete(tmp_path / "missing") is None
    discard_incomplete(tmp_path / "missing")


def test_only_incomplete_checkpoints_are_deleted(tmp_path):
    kept, cut = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2, complete=False)
    discard_incomplete(tmp_path)
    assert kept.exists()
    assert not cut.exists()


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

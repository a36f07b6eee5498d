import hashlib
import json

import pytest
from unit.made_records import write_made

from sparsetune.errors import DataError
from sparsetune.records import STAGES
from sparsetune.stages.context import Context, hashes


@pytest.fixture
def inputs(tmp_path):
    folders = []
    for name in ("dataset", "backbone"):
        folder = tmp_path / name
        folder.mkdir()
        _record(folder, content=name)
        folders.append(folder)
    support = tmp_path / "support.safetensors"
    support.write_bytes(b"positions")
    return folders, [support]


def _record(folder, *, content):
    stage = folder.name
    files = {"train.tsv": hashlib.sha256(content.encode()).hexdigest()}
    write_made(folder / "record.json", stage, measured={"files": files})


def folder_for(tmp_path, inputs, digest="d" * 16):
    folders, files = inputs
    context = Context(checkpoints=tmp_path / "checkpoints")
    return context.work_folder(digest, folders=folders, files=files)


def test_the_same_settings_and_inputs_resume_in_the_same_folder(tmp_path, inputs):
    first = folder_for(tmp_path, inputs)
    (first / "phase-0").mkdir(parents=True)
    assert folder_for(tmp_path, inputs) == first
    assert (first / "phase-0").exists()


@pytest.mark.parametrize("changed", ["digest", "dataset", "support", "version"])
def test_other_settings_or_inputs_forget_the_old_checkpoints(
    tmp_path, inputs, changed, monkeypatch
):
    first = folder_for(tmp_path, inputs)
    (first / "phase-0").mkdir(parents=True)
    if changed == "dataset":
        _record(inputs[0][0], content="another file")
    elif changed == "support":
        inputs[1][0].write_bytes(b"other positions")
    elif changed == "version":
        monkeypatch.setitem(STAGES, "tune", STAGES["tune"] + 1)
    second = folder_for(tmp_path, inputs, digest="e" * 16 if changed == "digest" else "d" * 16)
    assert second != first
    assert not first.exists()


def test_an_input_made_again_with_the_same_files_keeps_the_checkpoints(tmp_path, inputs):
    first = folder_for(tmp_path, inputs)
    record = inputs[0][0] / "record.json"
    content = json.loads(record.read_text())
    content["where"]["started"] = "2001-01-01T00:00:00Z"
    record.write_text(json.dumps(content))
    assert folder_for(tmp_path, inputs) == first


def test_a_missing_input_is_named(tmp_path, inputs):
    (inputs[0][1] / "record.json").unlink()
    with pytest.raises(DataError, match=r"backbone/record\.json"):
        folder_for(tmp_path, inputs)


def test_hashes_are_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # The published test vector of SHA-256 for "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashes([path]) == {str(path): expected}

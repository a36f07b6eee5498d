import hashlib
import json
import os
from pathlib import Path

import pytest

from sparsetune import records
from sparsetune.errors import DataError
from sparsetune.records import (
    STAGES,
    Clock,
    digest_of,
    make_record,
    read_json,
    read_record,
    sha256_of,
    write_json,
    write_record,
    write_text_atomically,
)

HASH = "0" * 64


def record(stage="cost", **asked):
    return make_record(
        stage,
        asked={"task": "mini-rte", **asked},
        inputs={"a/record.json": HASH},
        measured={"params_trainable": 3},
        where=Clock().where(),
    )


def test_digest_is_the_start_of_the_canonical_json_hash():
    # printf '{"a":1}' | sha256sum | cut -c1-16
    assert digest_of({"a": 1}) == "015abd7f5cc57a2d"
    whole = hashlib.sha256(b'{"a":[1,2],"b":"\\u00e9"}').hexdigest()
    assert digest_of({"b": "é", "a": (1, 2)}) == whole[:16]


def test_digest_ignores_key_order_but_not_values_or_list_order():
    one = digest_of({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert digest_of({"b": {"d": None, "c": [1, 2]}, "a": 1}) == one
    assert digest_of({"b": {"d": None, "c": [2, 1]}, "a": 1}) != one
    assert digest_of({"b": {"d": None, "c": [1, 2]}, "a": 2}) != one


def test_file_hash_agrees_with_hashlib_over_several_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK_BYTES", 7)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    assert sha256_of(path) == hashlib.sha256(bytes(range(100))).hexdigest()


@pytest.mark.parametrize("stage", STAGES)
def test_record_of_every_stage_carries_its_version_and_survives_a_round_trip(tmp_path, stage):
    path = tmp_path / "deep" / "record.json"
    made = record(stage)
    write_record(path, made)
    assert made["asked"]["stage_version"] == STAGES[stage]
    assert read_record(path, stage) == made
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_json_is_sorted_readable_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "x.json", {"b": "é", "a": 1})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n "a": 1,\n "b": "é"\n}\n'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused_before_writing(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": number})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch, failing):
    path = tmp_path / "record.json"
    write_text_atomically(path, "old")
    write = Path.write_text

    def full_disk(self, *arguments, **options):
        if failing == "write_text":
            write(self, "ne", encoding="utf-8")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, failing, full_disk)
    with pytest.raises(OSError, match="no space"):
        write_text_atomically(path, "new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"notes": 1}, "top level: unknown key 'notes'; allowed: asked, inputs, measured, where"),
        ({"inputs": {"a": "abc"}}, "inputs.a: got 'abc', need text matching"),
        ({"inputs": {"a": HASH.upper().replace("0", "F")}}, "inputs.a: got "),
        ({"asked": {"stage": "cost"}}, "asked: missing key 'stage_version'"),
        ({"asked": {"stage": "cots", "stage_version": 1}}, "did you mean 'cost'?"),
        ({"where": {}}, "where: missing key 'commit'"),
        ({"measured": 3}, "measured: got 3, need object"),
    ],
)
def test_record_that_breaks_the_schema_is_refused_when_written_and_read(tmp_path, change, message):
    path, bad = tmp_path / "record.json", {**record(), **change}
    with pytest.raises(DataError) as written:
        write_record(path, bad)
    assert list(tmp_path.iterdir()) == []
    path.write_text(json.dumps(bad), encoding="utf-8")
    with pytest.raises(DataError) as read:
        read_record(path)
    assert message in str(read.value)
    assert str(read.value) == str(written.value)
    assert str(path) in str(read.value)


def test_record_of_another_stage_is_refused_by_name(tmp_path):
    path = tmp_path / "tune.json"
    write_record(path, record("evaluate"))
    with pytest.raises(DataError, match=r"tune\.json: asked\.stage is 'evaluate', expected 'tune'"):
        read_record(path, "tune")
    assert read_record(path)["asked"]["stage"] == "evaluate"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1,"])
def test_damaged_json_is_a_data_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json: not a readable ticket"):
        read_json(path, what="ticket")


def test_missing_record_says_which_file_and_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no\.json: no such record; run the stage"):
        read_record(tmp_path / "no.json")


def test_clock_measures_start_up_only_after_ready():
    clock = Clock()
    assert clock.where()["start_up_seconds"] is None
    clock.ready()
    where = clock.where({"kind": "cuda", "name": "x"})
    assert where["start_up_seconds"] >= 0
    assert 0 <= where["seconds"] < 60
    assert where["device"] == {"kind": "cuda", "name": "x"}
    assert where["started"] <= where["ended"]


def test_version_of_code_is_unknown_outside_a_checkout(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    records.git_state.cache_clear()
    try:
        assert records.git_state() == {"commit": None, "dirty": None}
    finally:
        records.git_state.cache_clear()

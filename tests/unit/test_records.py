import hashlib
import json
import os
import platform
from pathlib import Path

import pytest
from pydantic import ValidationError
from unit.made_records import IDS, MEASURED, PHASE, made_record, write_made

from sparsetune.errors import DataError
from sparsetune.records import (
    RECORDS,
    STAGES,
    Clock,
    CostRecord,
    TuneRecord,
    clock,
    digest_of,
    files,
    git_state,
    read_any_record,
    read_json,
    read_record,
    sha256_of,
    write_json,
    write_record,
    write_text_atomically,
)
from sparsetune.records.clock import SCHEDULER_JOBS
from sparsetune.records.parts import Device

HASH = "0" * 64


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
    monkeypatch.setattr(files, "_CHUNK_BYTES", 7)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    assert sha256_of(path) == hashlib.sha256(bytes(range(100))).hexdigest()


@pytest.mark.parametrize("stage", RECORDS)
def test_record_of_every_stage_carries_its_version_and_survives_a_round_trip(tmp_path, stage):
    path, kind = tmp_path / "deep" / "record.json", RECORDS[stage]
    plain = made_record(stage, inputs={"a/record.json": HASH})
    asked = {key: value for key, value in plain["asked"].items() if not key.startswith("stage")}
    parts = {"inputs": plain["inputs"], "measured": plain["measured"]}
    made = kind.of(asked, **parts, where=Clock().where())
    write_record(path, made)
    assert made.asked.stage_version == STAGES[stage]
    assert read_record(path, kind) == read_any_record(path) == made
    assert read_json(path)["measured"] == plain["measured"]  # and nothing for what is not there
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


def edited(**given):
    return lambda record: record.update(given)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(notes=1), "top level: unknown key 'notes'; allowed: asked, inputs, "),
        (edited(inputs={"a": "abc"}), "inputs.a: received 'abc'; allowed: text matching"),
        (edited(inputs={"a": "F" * 64}), "inputs.a: received "),
        (edited(asked={"stage": "tune"}), "asked: missing key 'stage_version'"),
        (edited(asked={"stage": "cost"}), "asked.stage: received 'cost'; allowed: tune"),
        (edited(asked={"stage": "tuen"}), "asked.stage: received 'tuen'; allowed: "),
        (edited(where={}), "where: missing key 'commit'"),
        (edited(measured=3), "measured: received 3; allowed: a mapping"),
        (lambda record: record["measured"].update(phases=[{**PHASE, "stpes": 3}]),
         "measured.phases.0: unknown key 'stpes'; allowed: "),
        (lambda record: record["measured"].update(phases=[{**PHASE, "kind": "trian"}]),
         "measured.phases.0.kind: received 'trian'; allowed: train, prune; did you mean 'train'?"),
        (lambda record: record["measured"].update(steps=-3), "measured.steps: received -3; all"),
        (lambda record: record["measured"].update(steps="3"), "measured.steps: received '3'; allo"),
        (lambda record: record["measured"].update(final_loss=float("nan")),
         "measured.final_loss: received nan; allowed: a finite number"),
        (lambda record: (record["asked"].update(stage_version=1), record["measured"].pop("steps")),
         f"version 1 of stage 'tune' wrote it, this is {STAGES['tune']}: rerun"),
    ],
)  # fmt: skip
def test_what_breaks_the_class_is_refused_with_file_and_key(tmp_path, edit, message):
    record = made_record("tune")
    edit(record)
    (tmp_path / "tune.json").write_text(json.dumps(record))
    with pytest.raises(DataError) as caught:
        read_record(tmp_path / "tune.json", TuneRecord)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'tune.json'}: ")
    assert "\n" not in str(caught.value)


def test_a_misspelt_field_fails_where_it_is_written():
    asked = {name: IDS[name] for name in ("suite", "backbone", "task", "method", "seed", "digest")}
    parts = {"inputs": {}, "where": Clock().where()}
    measured = {**MEASURED["cost"], "sparsity_by_layr": {}}
    with pytest.raises(ValidationError, match="sparsity_by_layr"):
        CostRecord.of({**asked, "settings": {}}, measured=measured, **parts)


def test_record_of_another_stage_is_refused_by_name(tmp_path):
    path = tmp_path / "tune.json"
    write_made(path, "evaluate")
    message = r"tune\.json: asked\.stage: received 'evaluate'; allowed: tune"
    with pytest.raises(DataError, match=message):
        read_record(path, TuneRecord)
    assert read_any_record(path).asked.stage == "evaluate"
    write_made(path, "evaluate", stage="evaluates")
    with pytest.raises(DataError, match="did you mean 'evaluate'"):
        read_any_record(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1,"])
def test_damaged_json_is_a_data_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json: not a readable ticket"):
        read_json(path, what="ticket")


def test_missing_record_says_which_file_and_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no\.json: no such record; run the stage"):
        read_record(tmp_path / "no.json", TuneRecord)


def test_clock_measures_start_up_only_after_ready():
    started = Clock()
    assert started.where().start_up_seconds is None
    started.ready()
    where = started.where(Device(kind="cuda", name="x"))
    assert where.start_up_seconds >= 0
    assert 0 <= where.seconds < 60
    assert where.device.name == "x"
    assert where.started <= where.ended


def test_a_record_tells_host_threads_and_the_number_of_the_scheduler(monkeypatch):
    import torch

    for name in SCHEDULER_JOBS:
        monkeypatch.delenv(name, raising=False)
    where = Clock().where()
    assert (where.host, where.threads, where.job) == (
        platform.node(), torch.get_num_threads(), None,
    )  # fmt: skip
    assert "job" not in where.model_dump()
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert Clock().where().job == "4711"


def test_times_of_a_shared_device_are_told_apart_and_no_other_record_changes():
    alone = Device(kind="cuda", name="H100", id="0", slots=1)
    assert alone.timed_on == "H100"
    assert alone.model_copy(update={"slots": 2}).timed_on == "H100, shared by up to 2 jobs"
    assert Device(kind="cpu", name="x").model_dump() == {"kind": "cpu", "name": "x"}


def test_version_of_code_is_unknown_outside_a_checkout(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    clock.git_state.cache_clear()
    try:
        assert git_state() == {"commit": None, "dirty": None}
    finally:
        clock.git_state.cache_clear()

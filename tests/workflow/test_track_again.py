"""MLflow was away while the ``track`` stage ran: the next run repeats that stage, and no other."""

import pytest

from sparsetune.records import Clock, TrackRecord, write_record
from sparsetune.tracking.publish import next_attempt


def write_track(path, *, problems=(), attempt="first", minute=0):
    """What the stage leaves, instead of the stub's file."""
    where = Clock().where().model_copy(update={"ended": f"2026-01-31T12:{minute:02}:00Z"})
    measured = {"published": 0, "unchanged": 0, "problems": list(problems), "attempt": attempt}
    record = TrackRecord.of({"suite": "small"}, inputs={}, measured=measured, where=where)
    write_record(path, record)


@pytest.mark.parametrize("content", [None, "x", "{}"])
def test_without_a_record_the_attempt_is_the_first(tmp_path, content):
    if content is not None:
        (tmp_path / "track.json").write_text(content)
    assert next_attempt(tmp_path / "track.json") == "first"


def test_attempt_has_a_new_name_only_after_one_that_left_something_out(tmp_path):
    path = tmp_path / "track.json"
    write_track(path)
    assert next_attempt(path) == "first"
    write_track(path, problems=["down"], minute=5)
    assert next_attempt(path) == "after 2026-01-31T12:05:00Z"
    write_track(path, problems=["down"], attempt="after 2026-01-31T12:05:00Z", minute=6)
    assert next_attempt(path) == "after 2026-01-31T12:06:00Z"
    write_track(path, attempt="after 2026-01-31T12:06:00Z", minute=7)
    assert next_attempt(path) == "after 2026-01-31T12:06:00Z"


def test_stage_is_repeated_until_nothing_is_left_out_and_then_no_more(finished):
    path = finished.folder / "results" / "small" / "track.json"
    write_track(path, problems=["down"], minute=5)
    for minute in (5, 6):
        name = f"after 2026-01-31T12:{minute:02}:00Z"
        finished.snakemake()
        (call,) = finished.calls()
        assert (call[0], call[call.index("--attempt") + 1]) == ("track", name)
        write_track(path, problems=["down"] if minute == 5 else [], attempt=name, minute=6)
    assert finished.run() == []

"""When the ``track`` stage has to run again although nothing that it reads has changed."""

from pathlib import Path

from sparsetune.errors import DataError
from sparsetune.records import read_record

FIRST = "first"


def next_attempt(record: Path) -> str:
    """Name the next attempt to publish: the last one's name unless that left something out.

    Snakemake compares it with the name it ran the stage with, and so repeats the stage until
    MLflow is complete, and no more.

    Args:
        record: the suite's ``track.json``; may be missing.
    """
    try:
        last = read_record(record, "track")
    except DataError:
        return FIRST
    if last["measured"]["problems"]:
        return f"after {last['where']['ended']}"
    return last["measured"].get("attempt", FIRST)

"""Eight stand-ins for training jobs, each a process of its own that logs until it is told to end.

    python parallel_jobs.py FOLDER

Job N logs a step to MLflow every few milliseconds until ``FOLDER/end-early`` (even N) or
``FOLDER/end-late`` (odd N) exists, then leaves what the ``tune`` stage leaves: ``history.csv`` and
``tune.json``. What logging cost it in time is in the record. ``FOLDER/results`` has the store.
"""

import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from unit.made_records import made_record

from sparsetune.records import TuneRecord, write_json, write_record, write_text_atomically
from sparsetune.tracking.client import RunKey, client_of
from sparsetune.tracking.live import LiveRun, Pace
from sparsetune.tracking.publish import Entry

JOBS = 8
SUITE = "small"
PACE = Pace(flush_seconds=0.5, retry_seconds=0.5, finish_seconds=12.0)
_STEP_SECONDS, _MOST_SECONDS = 0.02, 240


def key_of(number):
    """The identity of one job."""
    return RunKey("tune", SUITE, "tiny", "rte", "lora", number)


def entry_of(folder, number):
    """What ``track`` would publish of one job."""
    place = folder / f"job-{number}"
    record, history = place / "tune.json", place / "history.csv"
    return Entry(key_of(number), (record,), history, (record, history))


def curve_of(number, step):
    """The value that a job logs at a step."""
    return (number + 1) / (step + 1)


def _train(folder, number):
    started = time.time()
    settings = {"rank": 8, "seed": number}
    live = LiveRun(folder / "results", key_of(number), settings, tags={}, pace=PACE)
    end = folder / ("end-late" if number % 2 else "end-early")
    longest, step = 0.0, 0
    while not end.exists() and time.time() < started + _MOST_SECONDS:
        began = time.perf_counter()
        live.log(step, {"loss": curve_of(number, step)})
        longest = max(longest, time.perf_counter() - began)
        step += 1
        time.sleep(_STEP_SECONDS)  # where a real job would train
    began = time.perf_counter()
    outcome = live.finish(metrics={"steps": step})
    finish_seconds = time.perf_counter() - began
    rows = [f"{one},train,{curve_of(number, one)}" for one in range(step)]
    entry = entry_of(folder, number)
    write_text_atomically(entry.history, "\n".join(["step,phase,loss", *rows]) + "\n")
    tracking = {"mlflow_run_id": outcome.run_id, "problem": outcome.problem}
    times = {"longest_log_seconds": longest, "finish_seconds": finish_seconds}
    write_json(entry.records[0].with_name("times.json"), times)
    record = made_record(
        "tune", measured={"steps": step}, where={"tracking": tracking},
        suite=SUITE, seed=number, settings=settings,
    )  # fmt: skip
    write_record(entry.records[0], TuneRecord.model_validate(record))


def _start(folder, number):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _train(folder, number)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)  # as a daemon thread is treated at the end of a process: not waited for
    return child


def main():
    """Start all jobs at once and tell whether every one ended well."""
    folder = Path(sys.argv[1])
    client_of("http://127.0.0.1:9")  # imports MLflow once, here, and not in every child
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    children = [_start(folder, number) for number in range(JOBS)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(codes))


if __name__ == "__main__":
    main()

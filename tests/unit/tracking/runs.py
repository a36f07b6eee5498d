"""Runs as live logging and as finished stages leave them, and how a test looks at the store."""

import json
import sqlite3
from contextlib import closing, contextmanager

from sparsetune.tracking.client import RunKey, store_uri
from sparsetune.tracking.live import LiveRun, Pace
from sparsetune.tracking.publish import Entry

KEY = RunKey("tune", "mini", "tiny", "rte", "lora", 1)
SETTINGS = {"train": {"rate": 2e-5, "epochs": 3}, "rank": 8}
CURVES = [(0, {"loss": 1.0}), (10, {"loss": 0.5, "accuracy_fraction": 0.75})]
MEASURED = {"train_seconds": 2.5, "spread": {"low": 1}, "policy": "dense", "whole": True}
QUICK = Pace(flush_seconds=0.01)


def client_of(results):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_uri(results))


@contextmanager
def locked(database):
    """Hold an exclusive lock on an SQLite file through another connection."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def runs_of(results, suite="mini"):
    client = client_of(results)
    experiment = client.get_experiment_by_name(suite)
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "sparsetune.parent" not in run.data.tags]


def curve(results, run, name):
    points = client_of(results).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in points]


def live(results, *, key=KEY, curves=CURVES, pace=QUICK, status="FINISHED", **final):
    run = LiveRun(results, key, SETTINGS, tags={"digest": "0" * 16}, pace=pace)
    for step, values in curves:
        run.log(step, values)
    return run.finish(status, **final)


def write_entry(folder, *, key=KEY, run_id=None, measured=MEASURED, curves=CURVES):
    """Files that a finished run leaves: tune.json, evaluate.json and history.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    where = {"commit": "c" * 40, "dirty": False, "device": {"kind": "cpu", "name": "cpu"}}
    where |= {"packages": {}, "platform": "x", "python": "3.11", "seconds": 5.0}
    where |= {"start_up_seconds": 1.0, "tracking": {"mlflow_run_id": run_id, "problem": None}}
    where |= {"started": "2026-01-31T12:00:00Z", "ended": "2026-01-31T12:00:05Z"}
    for stage, values in (("tune", measured), ("evaluate", {"f1_fraction": 0.8})):
        asked = {"stage": stage, "stage_version": 1, "settings": SETTINGS, "digest": "0" * 16}
        record = {"asked": asked, "inputs": {}, "measured": values, "where": where}
        (folder / f"{stage}.json").write_text(json.dumps(record))
    names = sorted({name for _, values in curves for name in values})
    rows = [",".join(["step", "phase", *names])]
    rows += [",".join([str(s), "train", *(str(v.get(n, "")) for n in names)]) for s, v in curves]
    (folder / "history.csv").write_text("\n".join(rows) + "\n")
    records = (folder / "tune.json", folder / "evaluate.json")
    return Entry(key, records, folder / "history.csv", (*records, folder / "history.csv"))

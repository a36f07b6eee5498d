"""Runs as live logging and as finished stages leave them, and how a test looks at the store."""

import sqlite3
from contextlib import closing, contextmanager

from unit.made_records import made_record, write_made

from sparsetune.tracking.client import RunKey, store_uri
from sparsetune.tracking.live import LiveRun, Pace
from sparsetune.tracking.publish import Entry

KEY = RunKey("tune", "mini", "tiny", "rte", "lora", 1)
SETTINGS = {"train": {"rate": 2e-5, "epochs": 3}, "rank": 8}
CURVES = [(0, {"loss": 1.0}), (10, {"loss": 0.5, "accuracy_fraction": 0.75})]
MEASURED = {**made_record("tune")["measured"], "train_seconds": 2.5}
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


def write_entry(
    folder, *, key=KEY, run_id=None, measured=MEASURED, curves=CURVES, settings=SETTINGS
):
    """Files that a finished run leaves: tune.json, evaluate.json and history.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    where = {"tracking": {"mlflow_run_id": run_id, "problem": None}}
    given = {"where": where, "settings": settings, "digest": "0" * 16}
    write_made(folder / "tune.json", "tune", measured=measured, **given)
    write_made(folder / "evaluate.json", "evaluate", **given)
    names = sorted({name for _, values in curves for name in values})
    rows = [",".join(["step", "phase", *names])]
    rows += [",".join([str(s), "train", *(str(v.get(n, "")) for n in names)]) for s, v in curves]
    (folder / "history.csv").write_text("\n".join(rows) + "\n")
    records = (folder / "tune.json", folder / "evaluate.json")
    return Entry(key, records, folder / "history.csv", (*records, folder / "history.csv"))

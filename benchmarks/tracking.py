"""What live logging to MLflow costs a run: the same training, with a store and without.

    python benchmarks/tracking.py [--project .] [--rounds 5] [--minutes 2] [--long-rounds 3]

The run is the default suite's mini-bert, fully tuned on mini-sst2 (the Makefile has its inputs
made), each time as the process that the workflow starts, with one thread: once as it is, seconds
of training, and once with so many epochs that it trains for ``--minutes``. Untracked, with SQLite
file and with a server take turns, each round gives one ratio to the untracked run, and the median
of the ratios counts. Processor time is that of all the job's threads and children, not of the
server; where all cores are taken it becomes wall time. Most of what is added is MLflow's import,
the same for a run of any length, so it is told in seconds as well. Prints a table and writes
``benchmarks/results/tracking.json``.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

import yaml
from dsee import ratio, show, verdict

from sparsetune.records import read_record
from sparsetune.tracking.client import prepare

ROOT = Path(__file__).resolve().parent.parent
BACKBONE, TASK, METHOD = "mini-bert", "mini-sst2", "full"
AT_MOST = 1.02
STORES = {"untracked": None, "sqlite": "an SQLite file", "server": "a server"}


class Runs:
    """One run's training, as often as asked, in a folder of its own each time."""

    def __init__(self, project, folder, epochs_factor, uris):
        self._project, self._folder, self._uris = project, folder, uris
        self._catalogue = shutil.copytree(ROOT / "config", folder / "config")
        self._lengthen(self._catalogue / "methods" / f"{METHOD}.yaml", epochs_factor)
        self._made, self.least_training_seconds = 0, float("inf")

    @staticmethod
    def _lengthen(path, factor):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        (epochs,) = (
            override["phases"]["train"]["epochs"]
            for override in content["overrides"]
            if override["where"] == {"tasks": [TASK]}
        )
        where = {"backbones": [BACKBONE], "tasks": [TASK]}
        phases = {"train": {"epochs": epochs * factor}}
        content["overrides"].append({"where": where, "phases": phases})
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def once(self, store):
        """Train; returns wall and processor seconds of the whole process."""
        self._made += 1
        place = self._folder / str(self._made)
        command = [
            sys.executable, "-m", "sparsetune.cli", "tune", "--suite", "bench",
            "--run", f"{BACKBONE}/{TASK}/{METHOD}/seed-1", "--catalogue", self._catalogue,
            "--dataset-dir", self._project / "resources/datasets" / TASK,
            "--backbone-dir", self._project / "resources/backbones" / BACKBONE,
            "--checkpoints", place / "checkpoints", "--output", place / "run",
            "--device", "cpu", "--threads", "1",
        ]  # fmt: skip
        environment = {name: text for name, text in os.environ.items() if "MLFLOW" not in name}
        if store != "untracked":
            command += ["--results", self._folder.parent]
            environment["MLFLOW_TRACKING_URI"] = self._uris[store]
        start = time.perf_counter()
        with (self._folder / "log").open("w") as log:
            process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
        spent = time.perf_counter() - start, used.ru_utime + used.ru_stime
        record = read_record(place / "run" / "tune.json")
        told, training = record["where"]["tracking"], record["measured"]["train_seconds"]
        self.least_training_seconds = min(self.least_training_seconds, training)
        if status or told["problem"] or (told["mlflow_run_id"] is None) != (store == "untracked"):
            raise SystemExit(f"benchmarks/tracking.py: {store}: status {status}, {told}")
        shutil.rmtree(place)
        return spent


@contextlib.contextmanager
def server(folder):
    """An MLflow server on this machine alone; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{(port := probe.getsockname()[1])}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, process_group=0)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health"):
                break
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def rows_of(runs, rounds, length):
    """Ratios to the untracked run, and seconds added, for both stores."""
    taken = {name: [] for name in STORES}
    for turn in range(rounds):
        for name in sorted(STORES, reverse=turn % 2 == 1):
            taken[name].append(runs.once(name))
    rows = {}
    for name, words in STORES.items():
        if words is None:
            continue
        row = ratio(taken, name, "untracked") | {"at most": AT_MOST}
        for clock, kind in enumerate(("wall", "processor")):
            pairs = zip(taken[name], taken["untracked"], strict=True)
            added = statistics.median(one[clock] - other[clock] for one, other in pairs)
            row[f"added_{kind}_seconds"] = round(added, 2)
        rows[f"{length} run, {words} / untracked"] = row
    return rows


def measurements(asked, folder, uris):
    """The run as it is, then the long one."""
    (folder / "short").mkdir()
    short = Runs(asked.project, folder / "short", 1, uris)
    short.once("untracked")  # the first reads files that the others find in memory
    yield rows_of(short, asked.rounds, "short")
    factor = max(1.0, 60 * asked.minutes / short.least_training_seconds)
    (folder / "long").mkdir()
    yield rows_of(Runs(asked.project, folder / "long", factor, uris), asked.long_rounds, "long")


def options():
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=ROOT, help="where resources/ is")
    parser.add_argument("--rounds", type=int, default=5, help="of the run as it is")
    parser.add_argument("--minutes", type=float, default=2.0, help="of the long run, about")
    parser.add_argument("--long-rounds", type=int, default=3, help="of the long run")
    asked = parser.parse_args()
    asked.project = asked.project.resolve()
    for needed in (f"datasets/{TASK}/record.json", f"backbones/{BACKBONE}/record.json"):
        if not (asked.project / "resources" / needed).exists():
            parser.error(f"{asked.project}/resources/{needed}: no such file; snakemake makes it")
    return asked


def main():
    """Measure, print and save."""
    asked = options()
    load = os.getloadavg()[0]
    print(f"{'':52} {'value':>7} {'target':>7}          quartiles  processor")
    rows = {}
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as address:
        folder = Path(name)
        uris = {"sqlite": f"sqlite:///{folder / 'mlflow.db'}", "server": address}
        for uri in uris.values():  # as the workflow does before its jobs
            os.environ["MLFLOW_TRACKING_URI"] = uri
            prepare(folder, "bench", [(BACKBONE, TASK)])
        for measured in measurements(asked, folder, uris):
            show(measured)
            rows |= {name: row | {"met": verdict(row)[2]} for name, row in measured.items()}
    machine = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "load_at_start": round(load, 1),
        "versions": {package: version(package) for package in ("torch", "transformers", "mlflow")},
    }
    target = Path(__file__).parent / "results" / "tracking.json"
    target.write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

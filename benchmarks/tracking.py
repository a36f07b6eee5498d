"""What live logging to MLflow costs a run: the same training, with a store and without.

    python benchmarks/tracking.py [--project .] [--rounds 3] [--factor 1]

The run is the default suite's mini-bert, fully tuned on mini-sst2 (the Makefile has its inputs
made), each time as the process that the workflow starts, with one thread and ``--factor`` times as
many epochs. Untracked, with SQLite file and with a server take turns, and the median of each
round's ratio to the untracked run counts. Processor time is that of all the job's threads and
children, not of the server. Most of what is added is MLflow's import, the same for a run of any
length, so it is told in seconds as well. Writes ``benchmarks/results/tracking.json``.
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
from dsee import ratio

from sparsetune.records import TuneRecord, read_record
from sparsetune.tracking.client import prepare

ROOT = Path(__file__).resolve().parent.parent
BACKBONE, TASK, METHOD = "mini-bert", "mini-sst2", "full"
STORES = {"untracked": None, "sqlite": "an SQLite file", "server": "a server"}


class Runs:
    """One run's training, as often as asked, in a folder of its own each time."""

    def __init__(self, project, folder, epochs_factor, uris):
        self._project, self._folder, self._uris = project, folder, uris
        self._catalogue = shutil.copytree(ROOT / "config", folder / "config")
        self._lengthen(self._catalogue / "methods" / f"{METHOD}.yaml", epochs_factor)
        self._made = 0

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
        record = read_record(place / "run" / "tune.json", TuneRecord)
        told = record.where.tracking
        if status or told.problem or (told.mlflow_run_id is None) != (store == "untracked"):
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


def rows_of(runs, rounds):
    """Ratios to the untracked run, and seconds added, for both stores."""
    runs.once("untracked")  # the first reads files that the others find in memory
    taken = {name: [] for name in STORES}
    for turn in range(rounds):
        for name in sorted(STORES, reverse=turn % 2 == 1):
            taken[name].append(runs.once(name))
    rows = {}
    for name in ("sqlite", "server"):
        row = ratio(taken, name, "untracked")
        for clock, kind in enumerate(("wall", "processor")):
            pairs = zip(taken[name], taken["untracked"], strict=True)
            added = statistics.median(one[clock] - other[clock] for one, other in pairs)
            row[f"added_{kind}_seconds"] = round(added, 2)
        rows[f"{STORES[name]} / untracked"] = row
    return rows


def main():
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=ROOT, help="where resources/ is")
    parser.add_argument("--rounds", type=int, default=3, help="at least 2")
    parser.add_argument("--factor", type=float, default=1.0, help="times as many epochs")
    asked = parser.parse_args()
    project = asked.project.resolve()
    for needed in (f"datasets/{TASK}/record.json", f"backbones/{BACKBONE}/record.json"):
        if not (project / "resources" / needed).exists():
            parser.error(f"{project}/resources/{needed}: no such file; snakemake makes it")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as address:
        folder = Path(name)
        uris = {"sqlite": f"sqlite:///{folder / 'mlflow.db'}", "server": address}
        for uri in uris.values():  # as the workflow does before its jobs
            os.environ["MLFLOW_TRACKING_URI"] = uri
            prepare(folder, "bench", [(BACKBONE, TASK)])
        (folder / "runs").mkdir()
        rows = rows_of(Runs(project, folder / "runs", asked.factor, uris), asked.rounds)
    for name, row in rows.items():
        print(f"{name:30} {row['wall']['median']:.3f}  + {row['added_wall_seconds']} s wall, "
              f"+ {row['added_processor_seconds']} s processor")  # fmt: skip
    machine = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "load_at_start": round(load, 1),
        "versions": {package: version(package) for package in ("torch", "transformers", "mlflow")},
    }
    target = Path(__file__).parent / "results" / "tracking.json"
    target.write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

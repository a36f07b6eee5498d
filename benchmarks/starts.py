"""What a job takes cold, in a process of its own, and warm, forked from one that has imported all.

    python benchmarks/starts.py [--project .] [--rounds 3]

The job is ``evaluate`` of the default suite's mini-bert, fully tuned on mini-sst2 (the Makefile has
its inputs made), as the workflow starts it, with one thread; beside it a job that only prints its
help, which is what a start costs at least. Cold and warm take turns, and the median of each round's
ratio counts. Whole jobs are timed from outside; ``start_up_seconds`` of their records, until the
model is loaded, is told as well. The warm process's own imports are told once: a workflow pays for
them beside its first jobs. Writes ``benchmarks/results/starts.json``.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from sparsetune.records import EvaluateRecord, read_record
from sparsetune.warm.launch import as_of_jobs, launch
from sparsetune.warm.situation import VARIABLE

RUN = "mini-bert/mini-sst2/full/seed-1"


class Jobs:
    """Jobs of one workflow, cold or warm."""

    def __init__(self, project, folder):
        self._project, self._folder = project, folder
        launch([1, 1, 1], log=folder / "warm.log")
        self._environment = {**os.environ, **as_of_jobs(1)}

    def seconds(self, *arguments, warm):
        """Wall-clock seconds of one command."""
        environment = {**self._environment, **({} if warm else {VARIABLE: ""})}
        started = time.perf_counter()
        subprocess.run(
            ["sparsetune", *arguments], cwd=self._project, env=environment, check=True,
            capture_output=True,
        )  # fmt: skip
        return time.perf_counter() - started

    def evaluate(self, *, warm):
        """Seconds of an evaluation, and those before its work started."""
        output = self._folder / "out"
        shutil.rmtree(output, ignore_errors=True)
        backbone, task, _, _ = RUN.split("/")
        seconds = self.seconds(
            "evaluate", "--run", RUN, "--suite", "mini",
            "--dataset-dir", f"resources/datasets/{task}",
            "--backbone-dir", f"resources/backbones/{backbone}",
            "--run-dir", f"results/mini/runs/{RUN}", "--output", str(output),
            "--device", "cpu", "--threads", "1", warm=warm,
        )  # fmt: skip
        where = read_record(output / "evaluate.json", EvaluateRecord).where
        return seconds, where.start_up_seconds

    def help(self, *, warm):
        """Seconds of a job without work."""
        return (self.seconds("evaluate", "--help", warm=warm),)


def compared(job, rounds):
    """Medians of what a job returns, cold and warm, and of each round's ratio."""
    taken = {"cold": [], "warm": []}
    for _ in range(rounds):
        for name, found in taken.items():
            found.append(job(warm=name == "warm"))
    medians = {
        name: [round(statistics.median(values), 3) for values in zip(*found, strict=True)]
        for name, found in taken.items()
    }
    pairs = zip(taken["warm"], taken["cold"], strict=True)
    medians["ratio"] = round(statistics.median(warm[0] / cold[0] for warm, cold in pairs), 3)
    return medians


def main():
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = Jobs(given.project, Path(folder))
        importing = jobs.help(warm=True)[0]  # waits for the warm process
        jobs.evaluate(warm=False)  # once, so that every file is in memory
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "torch": version("torch"),
            "rounds": given.rounds,
            "seconds until the warm process answers": round(importing, 3),
            "evaluate [whole, until work starts]": compared(jobs.evaluate, given.rounds),
            "nothing [whole]": compared(jobs.help, given.rounds),
        }
    for name, value in report.items():
        print(f"{name}: {value}")
    target = Path(__file__).parent / "results" / "starts.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

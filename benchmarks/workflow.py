"""What the workflow itself costs: start-up of each stage, and Snakemake's planning.

    python benchmarks/workflow.py [RESULTS]

Prints a table and writes ``benchmarks/results/workflow.json``. With RESULTS (a suite's results
folder) it adds the start-up seconds that the records of its runs hold.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 3
COMMANDS = {
    "an empty interpreter": [sys.executable, "-c", "pass"],
    "import sparsetune.config.load": [sys.executable, "-c", "import sparsetune.config.load"],
    "import the cost stage": [sys.executable, "-c", "import sparsetune.stages.cost"],
    "import the evaluate stage": [sys.executable, "-c", "import sparsetune.stages.evaluate"],
    "import the tune stage": [sys.executable, "-c", "import sparsetune.stages.tune"],
    "plan the default suite": ["snakemake", "-n", "--quiet", "all", "--cores", "1"],
    "plan the papers' grid": [
        "snakemake", "-n", "--quiet", "all", "--cores", "1", "--configfile", "config/paper.yaml",
    ],
}  # fmt: skip


def seconds_of(command):
    """Median wall-clock seconds of a command, after one warm-up."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    taken = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def start_up_of(results):
    """Stage -> median start-up seconds in the records of a suite."""
    found = {}
    for path in Path(results).glob("runs/*/*/*/*/*.json"):
        where = json.loads(path.read_text())["where"]
        found.setdefault(f"start-up in records: {path.stem}", []).append(where["start_up_seconds"])
    return {stage: statistics.median(values) for stage, values in sorted(found.items())}


def main():
    """Measure, print and save."""
    measured = {name: round(seconds_of(command), 3) for name, command in COMMANDS.items()}
    if len(sys.argv) > 1:
        measured |= start_up_of(sys.argv[1])
    for name, value in measured.items():
        print(f"{value:8.2f} s  {name}")
    report = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "seconds": measured}
    target = Path(__file__).parent / "results" / "workflow.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What tables, claims and figures of 2,585 runs take: seconds and memory, against limits.

    python benchmarks/reporting.py [--keep FOLDER]

The runs are made up (``made_up_suite``); each command runs once, in a process of its own, as its
rule has it. Processor seconds count, since other work on the machine disturbs them least. Prints a
table and writes ``benchmarks/results/reporting.json``. ``--keep`` leaves the files in a folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import made_up_suite

ALLOWED_SECONDS, ALLOWED_BYTES = 300.0, 2 << 30
RESULTS = "results/paper"


def commands(groups):
    """Name -> argument lists of the rules, one for each of their jobs."""
    suite = ["--config", str(made_up_suite.SUITE), "--results", RESULTS]
    suite += ["--catalogue", str(made_up_suite.ROOT / "config")]
    tables = ["tables", *suite, "--output", f"{RESULTS}/tables"]
    return {
        "tables": [tables],
        "claims": [["claims", *suite, "--resources", "resources"]],
        "figures": [["figures", *suite, "--output", f"{RESULTS}/figures"]],
        "tables of backbone and task": [[*tables, "--group", "/".join(pair)] for pair in groups],
    }


def measure(arguments, folder):
    """Run one command to its end.

    Returns:
        Processor seconds, wall seconds, and the most memory it held, in bytes.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    command = [sys.executable, "-m", "sparsetune.cli", *arguments]
    child = subprocess.Popen(command, cwd=folder, env=environment)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"benchmarks/reporting.py: {arguments[0]} failed")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss * 1024


def measure_all(folder):
    """Name -> what its jobs took, in the order of the table."""
    suite = made_up_suite.write_suite(folder / RESULTS)
    rows = {}
    for name, jobs in commands(suite.groups()).items():
        seconds, wall, peaks = zip(*(measure(job, folder) for job in jobs), strict=True)
        rows[name] = {
            "jobs": len(jobs),
            "processor_seconds": round(sum(seconds), 2),
            "wall_seconds": round(sum(wall), 2),
            "peak_memory_bytes": max(peaks),
        }
        print(
            f"{rows[name]['processor_seconds']:>9} s processor {rows[name]['wall_seconds']:>9} s "
            f"wall {max(peaks) / 2**20:>7.0f} MiB  {name} ({len(jobs)} jobs)",
            flush=True,
        )
    return len(suite.runs), rows


def main():
    """Generate, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for the files")
    folder = parser.parse_args().keep
    load = os.getloadavg()[0]
    if folder:
        folder.mkdir(parents=True)
        runs, rows = measure_all(folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            runs, rows = measure_all(Path(temporary))
    counted = [rows[name] for name in ("tables", "claims", "figures")]
    seconds = round(sum(row["processor_seconds"] for row in counted), 2)
    peak = max(row["peak_memory_bytes"] for row in counted)
    print(
        f"tables, claims and figures of {runs} runs: {seconds} s of {ALLOWED_SECONDS:g} s, "
        f"{peak / 2**20:.0f} MiB of {ALLOWED_BYTES / 2**20:.0f} MiB"
    )
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "load_at_start": round(load, 1),
        "runs": runs,
        "evaluation_examples": made_up_suite.EXAMPLES,
        "commands": rows,
        "processor_seconds": seconds,
        "processor_seconds_allowed": ALLOWED_SECONDS,
        "peak_memory_bytes": peak,
        "peak_memory_bytes_allowed": ALLOWED_BYTES,
    }
    target = Path(__file__).parent / "results" / "reporting.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

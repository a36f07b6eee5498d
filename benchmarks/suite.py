"""How long the default suite took, and how much of its jobs' time was work.

    python benchmarks/suite.py [--project .]

Reads what ``make reproduce`` has left: the jobs' wall-clock seconds from Snakemake's
``logs/**/*.tsv``, which see each job from outside, and seconds of training, scoring after epochs,
search and answering from the records. Loading, tokenizing, intervals and the measuring of speed are
not counted as work. Runs nothing. Prints a table and writes ``benchmarks/results/suite.json``.
"""

import argparse
import csv
import json
import os
import platform
from collections import Counter
from datetime import datetime
from pathlib import Path

from sparsetune.records import (
    BackboneRecord,
    EvaluateRecord,
    TicketRecord,
    TuneRecord,
    read_record,
)

STAGES = ("dataset", "backbone", "support", "ticket", "tune", "evaluate", "cost", "tables",
          "claims", "figures", "track")  # fmt: skip
TARGETS = {"seconds": 480, "work_fraction": 0.8}


def job_seconds(logs):
    """Stage -> wall-clock seconds of all its jobs."""
    found = Counter()
    for path in logs.rglob("*.tsv"):
        stage = next(part for part in (*path.parts, path.stem) if part in STAGES)
        with path.open() as file:
            found[stage] += sum(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))
    return found


def work_seconds(project):
    """Stage -> seconds of training, scoring, search and answering; and the records' ``where``."""
    results, places, found = project / "results" / "mini", [], Counter()
    kinds = {
        TuneRecord: results.glob("runs/**/tune.json"),
        EvaluateRecord: results.glob("runs/**/evaluate.json"),
        TicketRecord: results.glob("tickets/**/record.json"),
        BackboneRecord: (project / "resources" / "backbones").glob("*/record.json"),
    }
    for kind, paths in kinds.items():
        for path in paths:
            record = read_record(path, kind)
            places.append(record.where)
            found[kind.stage] += seconds_of(record.measured)
    return found, places


def seconds_of(measured):
    """Of one job's work, by the fields that its record has."""
    told = measured.model_dump()
    told |= told.get("pretraining") or {}
    names = ("train_seconds", "scoring_seconds", "search_seconds", "evaluate_seconds")
    return sum(told.get(name) or 0.0 for name in names)


def main():
    """Read, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path())
    project = parser.parse_args().project
    if not (project / "results" / "mini" / "track.json").exists():
        print("suite: not run here; make reproduce runs it")
        return
    jobs, (work, places) = job_seconds(project / "logs"), work_seconds(project)
    times = [datetime.fromisoformat(str(t)) for w in places for t in (w.started, w.ended)]
    seconds = (max(times) - min(times)).total_seconds()
    share = sum(work.values()) / sum(jobs.values())
    print(f"from the first job to the last: {seconds:.0f} s (target {TARGETS['seconds']} s)")
    print(f"work / job-seconds: {share:.3f} (target {TARGETS['work_fraction']})")
    for stage in STAGES:
        print(f"{stage:10} {jobs[stage]:8.1f} s, of which work {work[stage]:8.1f} s")
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": places[0].commit,
        "seconds": seconds,
        "job_seconds": round(sum(jobs.values()), 1),
        "work_fraction": round(share, 4),
        "targets": TARGETS,
        "stages": {
            stage: {"job_seconds": round(jobs[stage], 1), "work_seconds": round(work[stage], 1)}
            for stage in STAGES
        },
    }
    target = Path(__file__).parent / "results" / "suite.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Tracking with processes of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from unit.tracking.runs import curve, runs_of

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
JOBS = """
    import os, sys, sqlite3
    from pathlib import Path
    from sparsetune.tracking.client import RunKey, prepare
    from sparsetune.tracking.live import LiveRun

    def job(results, seed, killed):
        key = RunKey("tune", "mini", "tiny", "rte", "lora", seed)
        run = LiveRun(results, key, {"seed": seed}, tags={})
        for step in range(20):
            run.log(step, {"loss": 1.0 / (step + 1)})
        while killed:  # until something of ours is in the database
            rows = sqlite3.connect(results / "mlflow.db", timeout=20)
            if rows.execute("select count(*) from metrics").fetchone()[0]:
                os.kill(os.getpid(), 9)
        outcome = run.finish()
        return outcome.problem

    def start(body, *arguments):
        child = os.fork()
        if child == 0:
            problem = "an exception"
            try:
                problem = body(*arguments)
            finally:
                print(problem or "fine", flush=True)
                os._exit(1 if problem else 0)
        return child

    def codes(children):
        return [os.waitpid(child, 0)[1] for child in children]

    results = Path(sys.argv[1])
    groups = [("tiny", "rte")]
    prepare(results / "warm", "warm", [])  # imports what the children would each import
    makers = codes([start(prepare, results, "mini", groups) for _ in range(2)])
    killed = codes([start(job, results, 0, True)])
    loggers = codes([start(job, results, seed, False) for seed in range(8)])
    print(makers, killed, loggers)
"""


def test_eight_processes_at_once_are_all_recorded_one_after_a_kill(tmp_path):
    program = [sys.executable, "-c", textwrap.dedent(JOBS), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
    last = (done.stdout.splitlines() or [""])[-1]
    assert last == f"{[0] * 2} {[9]} {[0] * 8}", done.stdout + done.stderr
    runs = runs_of(tmp_path)
    assert sorted(run.data.tags["seed"] for run in runs) == [str(seed) for seed in range(8)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {len(curve(tmp_path, run, "loss")) for run in runs} == {20}


def test_importing_the_package_does_not_import_mlflow_or_torch():
    imports = "import sys, sparsetune.tracking.live, sparsetune.tracking.publish"
    program = f"{imports}; print({{'mlflow', 'torch'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparsetune.cli import main
from sparsetune.errors import ConfigError
from sparsetune.stages.estimate import (
    ASSUMED_FACTOR,
    PEAK_MACS_PER_SECOND,
    START_UP_SECONDS,
    compare,
    learn,
    wall_seconds,
)
from sparsetune.stages.workload import frame_of

CONFIG = Path(__file__).resolve().parents[3] / "config"
TRUE = (0.02, 1 / 17e9)


def ran(count=40, *, seed=0, task="a", rate=1.0, kind="full/none", start=4.0, stage="tune"):
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        passes, macs = draw.uniform(50, 900), draw.uniform(1e10, 3e12)
        seconds = rate * (TRUE[0] * passes + TRUE[1] * macs)
        rows.append({
            "id": f"{stage}/b/{task}/{number}", "stage": stage, "kind": kind, "task": task,
            "backbone": "b", "passes": passes, "macs": macs, "work_seconds": seconds,
            "job_seconds": seconds + start, "device": "Fast CPU", "device_kind": "cpu",
        })  # fmt: skip
    return frame_of(rows)


def test_a_rate_that_jobs_follow_is_found_and_start_up_is_what_is_not_work():
    jobs = ran()
    speed = learn(jobs, "cpu")
    assert speed.rates[0] == pytest.approx(TRUE, rel=0.01)
    assert speed.start_up == {"tune": pytest.approx(4.0)}
    assert speed.fitted == (40, 0)
    assert speed.rates[1] == speed.rates[0]  # nothing was evaluated
    assert speed.seconds(jobs).to_numpy() == pytest.approx(jobs["job_seconds"].to_numpy(), rel=0.01)
    never = frame_of([{"stage": "cost"}])
    assert speed.seconds(never).tolist() == [START_UP_SECONDS["cost"]]


def test_no_part_of_a_rate_is_negative():
    # Larger batches that took less: least squares would make MACs pay back.
    rows = [(10, 1e9, 2.0), (10, 2e9, 1.5), (20, 1e9, 4.0)] * 2
    jobs = frame_of({"stage": "tune", "passes": p, "macs": m, "work_seconds": s,
                     "device_kind": "cpu"} for p, m, s in rows)  # fmt: skip
    batch, mac = learn(jobs, "cpu").rates[0]
    assert batch > 0
    assert mac >= 0


def test_what_jobs_cannot_tell_apart_stays_near_what_is_assumed():
    # One backbone: every pass has 1e9 MACs, assumed to take 0.02 + 0.05 s; it takes twice that.
    rows = [{"stage": "tune", "passes": n, "macs": n * 1e9, "work_seconds": 0.14 * n,
             "device_kind": "cpu"} for n in range(1, 31)]  # fmt: skip
    batch, mac = learn(frame_of(rows), "cpu").rates[0]
    assert batch + 1e9 * mac == pytest.approx(0.14, rel=0.01)
    assert batch > 0.02
    assert mac > 1 / 20e9


def test_a_kind_of_training_that_takes_longer_is_told():
    jobs = pd.concat([ran(), ran(10, seed=1, rate=2.0, kind="dsee/unstructured")])
    kinds = learn(jobs, "cpu").kinds
    ratio = kinds["dsee/unstructured"] / kinds["full/none"]
    assert ratio == pytest.approx(2.0, rel=0.05)


def test_few_jobs_or_none_leave_the_assumption():
    assert learn(ran(4), "cpu").fitted == (0, 0)
    batch, mac = learn(frame_of([]), "h100").rates[0]
    assert 1 / mac == pytest.approx(0.2 * PEAK_MACS_PER_SECOND["h100"])
    assert batch > 0
    with pytest.raises(ConfigError, match=r"--device: name: received 'tpu'; allowed: cpu, t4, "):
        learn(frame_of([]), "tpu")


def test_no_job_is_predicted_with_records_of_its_own_task():
    # Task a at the true speed, task b twice as slow: each is off by 2 for the other's fit.
    finished = pd.concat([ran(start=0.0), ran(seed=2, task="b", rate=2.0, start=0.0)])
    planned = finished.assign(jobs=1, job_seconds=0.0)
    factor, told = compare(planned, finished, "cpu")
    assert factor == pytest.approx(2.0, rel=0.02)
    (row,) = told
    assert (row["stage"], row["jobs"]) == ("tune", 80)
    assert row["measured"] == pytest.approx(finished["job_seconds"].sum())
    others = finished["work_seconds"] * np.where(finished["task"] == "a", 2.0, 0.5)
    assert row["predicted"] == pytest.approx(others.sum(), rel=0.02)
    stale = finished.assign(digest="old")
    assert compare(planned, stale, "cpu")[1] == []
    assert compare(planned, ran(), "cpu") == (None, [])  # one task: nothing to hold out


def planned(*rows):
    names = ("id", "seconds", "needs", "stage")
    return pd.DataFrame([dict(zip(names, (*row, (), "cost")[:4], strict=True)) for row in rows])


def timed(name, seconds, needs=(), stage="cost"):
    return name, seconds, needs, stage


def test_a_schedule_by_hand():
    # One core: 1 + 2 + 3. Two: a and b side by side, then c after a: 1 + 3.
    jobs = planned(timed("a", 1), timed("b", 2), timed("c", 3, ["a", "made before"]))
    assert wall_seconds(jobs, {"core": 1, "gpu": 0}) == 6
    assert wall_seconds(jobs, {"core": 2, "gpu": 0}) == 4


def test_jobs_of_a_gpu_wait_for_it_and_the_others_do_not():
    jobs = planned(timed("a", 4, (), "tune"), timed("b", 4, (), "tune"), timed("c", 5))
    assert wall_seconds(jobs, {"core": 1, "gpu": 1}) == 8
    assert wall_seconds(jobs, {"core": 1, "gpu": 2}) == 5


@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_list_scheduling_hold(seed):
    generator, rows, path = random.Random(seed), [], {}
    for number in range(40):
        needs = generator.sample(sorted(path), min(len(path), generator.randint(0, 3)))
        seconds = generator.choice([0, 1, 2, 5, 9])
        rows.append(timed(f"{number:02}", seconds, needs))
        path[f"{number:02}"] = seconds + max((path[need] for need in needs), default=0)
    total, longest = sum(row[1] for row in rows), max(path.values())
    for cores in (1, 2, 3, 40):
        length = wall_seconds(planned(*rows), {"core": cores, "gpu": 0})
        assert max(longest, total / cores) <= length <= total / cores + longest


@pytest.fixture
def estimated(monkeypatch, tmp_path, capsys):
    """Run the command where no results are; gives its exit code and what it told."""
    monkeypatch.chdir(tmp_path)

    def run(*options, suite="config.yaml"):
        place = ["--configfile", str(CONFIG / suite), "--catalogue", str(CONFIG)]
        try:
            code = main(["estimate", *place, *options])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr()

    return run


def test_without_any_record_all_is_said_to_be_assumed_and_the_parts_add_up(estimated):
    code, told = estimated("--json", "--cores", "2")
    found = json.loads(told.out)
    assert (code, found["jobs"], found["place"]) == (0, 271, "2 x cpu")
    assert (found["fitted"], found["factor"]) == ([0, 0], ASSUMED_FACTOR)
    assert found["comparison"] == []
    assert any("ASSUMED" in remark for remark in found["remarks"])
    total = found["job_seconds"]
    assert total / 2 <= found["wall_seconds"] <= total
    assert sum(row["seconds"] for row in found["stages"]) == pytest.approx(total)
    per_run = ("ticket", "tune", "evaluate", "cost")
    own = [row["seconds"] for row in found["stages"] if row["stage"] in per_run]
    assert sum(row["seconds"] for row in found["methods"]) == pytest.approx(sum(own))


def test_the_tables_name_every_backbone_and_method(estimated):
    code, told = estimated("--cores", "2")
    assert code == 0
    for word in ("mini-gpt2", "dsee-structured-delta", "wall clock", "tables", "on 2 x cpu"):
        assert word in told.out


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--results", "nowhere"], "--results: received nowhere: no such folder"),
     (["--results", "."], "no finished job"),
     (["--gpus", "2", "--device", "cpu"], "--gpus: received 2, but --device 'cpu' is no GPU"),
     (["--device", "abacus"], "--device: name: received 'abacus'"),
     (["--gpus", "0"], "--gpus: received '0'; allowed: whole number >= 1")],
)  # fmt: skip
def test_a_mistake_is_one_line(estimated, options, message):
    code, told = estimated(*options)
    assert (code, told.out) == (2, "")
    assert message in told.err
    assert told.err.count("\n") == 1


def test_grid_of_the_papers_takes_seconds_and_no_torch(tmp_path):
    program = (
        "import sys; from sparsetune.cli import main\n"
        f"code = main(['estimate', '--configfile', {str(CONFIG / 'paper.yaml')!r}, '--catalogue', "
        f"{str(CONFIG)!r}])\n"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=dict(os.environ),
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 False False"
    assert "on 1 x a100" in done.stdout
    # Of this process alone, so that a busy machine changes nothing.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10

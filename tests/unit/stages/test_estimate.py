import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sparsetune.cli import main

CONFIG = Path(__file__).resolve().parents[3] / "config"


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


def test_without_any_record_everything_is_said_to_be_an_assumption(estimated):
    code, told = estimated("--json", "--cores", "2")
    found = json.loads(told.out)
    assert code == 0
    assert (found["device"], found["totals"]["jobs"]) == ("cpu", 271)
    assert found["speed"]["training_jobs"] == 0
    assert found["comparison"] is None
    assert any("ASSUMED" in remark for remark in found["remarks"])
    wall, total = found["totals"]["wall"], found["totals"]["job_seconds"]
    assert total["seconds"] / 2 <= wall["seconds"] <= total["seconds"]
    assert wall["seconds_low"] < wall["seconds"] < wall["seconds_high"]


def test_the_parts_add_up(estimated):
    found = json.loads(estimated("--json")[1].out)
    total = found["totals"]["job_seconds"]["seconds"]
    assert sum(row["seconds"] for row in found["stages"]) == pytest.approx(total)
    assert sum(row["jobs"] for row in found["stages"]) == found["totals"]["jobs"]
    per_run = [row for row in found["stages"] if row["stage"] in
               ("ticket", "tune", "evaluate", "cost")]  # fmt: skip
    assert sum(row["seconds"] for row in found["methods"]) == pytest.approx(
        sum(row["seconds"] for row in per_run)
    )
    assert sum(row["runs"] for row in found["methods"]) == 74


def test_the_tables_name_every_backbone_and_method(estimated):
    code, told = estimated("--cores", "2")
    assert code == 0
    for word in ("mini-gpt2", "dsee-structured-delta", "wall clock", "mini-squad", "2 x cpu core"):
        assert word in told.out
    assert max(map(len, told.out.split("\n- ")[0].splitlines())) <= 140


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--results", "nowhere"], "--results: nowhere: no such folder"),
     (["--results", "."], "no finished job"),
     (["--gpus", "2", "--device", "cpu"], "--gpus: got 2, but --device 'cpu' is no GPU"),
     (["--device", "abacus"], "--device: got 'abacus'"),
     (["--gpus", "0"], "--gpus: got '0', need a whole number >= 1")],
)  # fmt: skip
def test_a_mistake_is_one_line(estimated, options, message):
    code, told = estimated(*options)
    assert (code, told.out) == (2, "")
    assert message in told.err
    assert told.err.count("\n") == 1


def test_a_task_that_cannot_be_sized_is_named(estimated, monkeypatch):
    import sparsetune.estimating.sizes as sizes

    monkeypatch.setattr(sizes, "_expected_examples", lambda _task: {})
    code, told = estimated()
    assert code == 2
    assert "task mini-sst2: expected.train_examples: missing" in told.err


def test_the_papers_grid_takes_seconds_and_no_torch(tmp_path):
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

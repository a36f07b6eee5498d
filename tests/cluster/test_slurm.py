"""The cluster profile on a real Slurm of one node: queued, cancelled, resumed, and equal to local.

A tier of its own (``make test-cluster``): it needs Debian's packages, and minutes.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from cluster.slurm import Slurm, missing_programs
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import small_catalogue, suite_config

from sparsetune.training.checkpoints import checkpoint_step

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("SPARSETUNE_TEST_CLUSTER"),
        reason="a tier of its own: make test-cluster",
    ),
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"needs Slurm (Debian: slurm-wlm, munge): no {', '.join(missing_programs())}",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
        reason="needs snakemake-executor-plugin-slurm: pip install 'sparsetune[slurm]'",
    ),
]
ROOT = Path(__file__).resolve().parents[2]
METHODS = ("full", "dsee-unstructured", "earlybert")
SHAPE = {"hidden_size": 48, "layers": 2, "heads": 12, "feed_forward_size": 96,
         "maximum_positions": 64, "dropout": 0.1}  # fmt: skip
TABLE = "results/small/tables/mini-bert/mini-sst2.md"
RUN = "mini-bert/mini-sst2"
WAIT_SECONDS = 400


class Project:
    """A folder that looks like the repository to Snakemake, with a small catalogue."""

    def __init__(self, folder, environment, *, device="cpu"):
        self.folder = folder
        folder.mkdir(parents=True)
        for name in ("rules", "profiles", "workflow"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("Snakefile", "environment.yml"):
            shutil.copy(ROOT / name, folder / name)
        small_catalogue(
            folder / "config", documents=200, pretraining_epochs=0.5, train_examples=100,
            epochs=8.0, shape=SHAPE,
        )  # fmt: skip
        suite = suite_config(*METHODS, suite="small") | {"device": device}
        (folder / "config" / "config.yaml").write_text(yaml.safe_dump(suite))
        kept = {name: value for name, value in environment.items() if "MLFLOW" not in name}
        tools = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        python = f"{ROOT}{os.pathsep}{kept.get('PYTHONPATH', '')}"
        self.environment = {
            **kept, "PATH": tools, "PYTHONPATH": python, "XDG_CACHE_HOME": str(folder / ".cache"),
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self, *arguments):
        """Start Snakemake; what it says goes to ``said.log``."""
        with (self.folder / "said.log").open("w") as log:
            return subprocess.Popen(
                ["snakemake", *arguments, "--nocolor"], cwd=self.folder, env=self.environment,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def said(self):
        return (self.folder / "said.log").read_text(errors="replace")

    def run(self, *arguments, **changes):
        """Run Snakemake, which must succeed."""
        self.environment |= changes
        code = self.start(*arguments).wait(WAIT_SECONDS)
        assert code == 0, self.said()[-4000:]

    def result(self, name):
        return (self.folder / "results" / "small" / name).read_bytes()


def until(true, what):
    """Look until something is true; what it waits for ends by itself or not at all."""
    give_up = time.monotonic() + WAIT_SECONDS
    while not (found := true()):
        assert time.monotonic() < give_up, what
        time.sleep(0.05)
    return found


def ended(process):
    """End Snakemake as Ctrl-C does; it cancels what it has in the queue."""
    process.send_signal(signal.SIGINT)
    process.wait(WAIT_SECONDS)


@pytest.fixture(scope="module")
def slurm():
    folder = Path(tempfile.mkdtemp(prefix="sparsetune-slurm-"))  # short: it holds sockets
    try:
        with Slurm(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same suite, run on this machine."""
    project = Project(tmp_path_factory.mktemp("local") / "work", dict(os.environ))
    project.run("--cores", "2", TABLE)
    return project


@pytest.fixture(scope="module")
def on_slurm(tmp_path_factory, slurm, local):
    """The project whose jobs go to Slurm; tests may find there what those before them made."""
    return Project(tmp_path_factory.mktemp("slurm") / "work", slurm.environment)


def command(*more):
    return ("--profile", "profiles/slurm", *more)


def test_a_controller_that_is_away_at_submission_costs_an_attempt(slurm, on_slurm):
    slurm.stop_controller()
    process = on_slurm.start("resources/backbones/mini-bert/record.json", *command())
    until(lambda: "Unable to contact slurm controller" in on_slurm.said(), "a refused submission")
    slurm.start_controller()
    assert process.wait(WAIT_SECONDS) == 0, on_slurm.said()[-4000:]
    assert "Trying to restart" in on_slurm.said()


def test_a_cancelled_job_goes_on_from_its_checkpoint(slurm, on_slurm, local, edit):
    path = f"{RUN}/full/seed-1"
    # So short a training would end without a checkpoint.
    edit(on_slurm.folder / "rules/tune.smk", "tune {", "tune --checkpoint-seconds 0 {")
    process = on_slurm.start(f"results/small/runs/{path}/cost.json", *command())
    places = on_slurm.folder / "results/small/checkpoints"

    def training():
        return [one for one in places.glob(f"{path}/*/phase-*") if checkpoint_step(one)]

    until(training, "a checkpoint")
    (job,) = slurm.queue("%i")
    slurm.ask("scancel", job)
    assert process.wait(WAIT_SECONDS) == 0, on_slurm.said()[-4000:]
    assert "CANCELLED" in on_slurm.said()
    tuned = measured_of(on_slurm.folder / f"results/small/runs/{path}/tune.json")
    assert max(phase["resumed_at_step"] for phase in tuned["phases"]) > 0
    for name in ("model.safetensors", "history.csv", "predictions.parquet"):
        assert on_slurm.result(f"runs/{path}/{name}") == local.result(f"runs/{path}/{name}")


def test_a_group_gives_what_it_gives_on_one_machine(slurm, on_slurm, local):
    on_slurm.run(TABLE, *command())
    jobs = re.findall(r"submitted with SLURM jobid (\d+)", on_slurm.said())
    # The support, the ticket, and two runs, each trained, scored and counted in one job.
    assert len(jobs) == 4
    for method in METHODS:
        for name in ("model.safetensors", "history.csv", "predictions.parquet"):
            path = f"runs/{RUN}/{method}/seed-1/{name}"
            assert on_slurm.result(path) == local.result(path), path
    for form in ("md", "csv"):
        path = f"tables/{RUN}.{form}"
        assert on_slurm.result(path) == local.result(path)
    where = yaml.safe_load(on_slurm.result(f"runs/{RUN}/earlybert/seed-1/tune.json"))["where"]
    assert where["job"] in jobs
    assert where["threads"] == 1


def test_all_jobs_that_want_a_gpu_are_in_the_queue_at_once(slurm, on_slurm):
    targets = [f"results/small/runs/{RUN}/{method}/seed-1/cost.json" for method in METHODS]
    on_slurm.run("--cores", "2", TABLE)  # what training reads is there, whatever ran before
    slurm.partition("DOWN")
    try:
        process = on_slurm.start(
            *targets, "--forcerun", "tune", *command("--config", "device=cuda")
        )
        asked = until(lambda: len(told := slurm.gpus()) == len(METHODS) and told, "three jobs")
        ended(process)
    finally:
        slurm.ask("scancel", "--user", str(os.getuid()))
        slurm.partition("UP")
    assert asked == ["gres:gpu:1"] * len(METHODS)

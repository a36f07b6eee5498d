"""A copy of the workflow with a catalogue small enough to run from nothing in a test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from unit.stages.tiny_catalogue import small_catalogue, suite_config

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("full", "dsee-unstructured", "earlybert")
SHAPE = {"hidden_size": 48, "layers": 2, "heads": 12, "feed_forward_size": 96,
         "maximum_positions": 64, "dropout": 0.1}  # fmt: skip


class Project:
    """A folder that looks like the repository to Snakemake and to the command line."""

    def __init__(self, folder, *, epochs):
        self.folder = folder
        for name in ("rules", "profiles", "workflow"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("Snakefile", "environment.yml"):
            shutil.copy(ROOT / name, folder / name)
        small_catalogue(
            folder / "config", documents=300, pretraining_epochs=1.0, train_examples=100,
            epochs=epochs, shape=SHAPE,
        )  # fmt: skip
        suite = suite_config(*METHODS, suite="small")
        (folder / "config" / "config.yaml").write_text(yaml.safe_dump(suite))

    def environment(self):
        """The process's own, with our commands first and no store but the folder's."""
        kept = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        cache = str(self.folder / ".cache")
        return {**kept, "PATH": path, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}

    def snakemake(self, *arguments):
        """Run Snakemake on two cores; returns the finished process with its output."""
        return subprocess.run(
            ["snakemake", "--cores", "2", *arguments], cwd=self.folder, env=self.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
        )  # fmt: skip

    def start(self, *arguments):
        """Start a ``sparsetune`` command without waiting for it."""
        log = (self.folder / f"{arguments[0]}.log").open("w")
        return subprocess.Popen(
            ["sparsetune", *map(str, arguments)], cwd=self.folder, env=self.environment(),
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def sparsetune(self, *arguments):
        """Run one ``sparsetune`` command that must succeed."""
        process = self.start(*arguments)
        code = process.wait(timeout=300)
        assert code == 0, (self.folder / f"{arguments[0]}.log").read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory, request):
    epochs = getattr(request.module, "EPOCHS", 1.0)
    return Project(tmp_path_factory.mktemp("project") / "work", epochs=epochs)

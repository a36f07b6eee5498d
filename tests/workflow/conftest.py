"""Real Snakemake on the real Snakefile, in a folder of its own; a stub plays the stages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SMALL_SUITE = {
    "suite": "small",
    "description": "For tests of reruns.",
    "device": "cpu",
    "mirror": None,
    "limits": {"train_examples": 8, "evaluation_examples": None},
    "seeds": [1],
    "runs": [
        {
            "backbones": ["mini-bert", "mini-roberta"],
            "tasks": ["mini-sst2", "mini-rte"],
            "methods": ["full", "earlybert", "dsee"],
        }
    ],
}
# Plays every stage: writes what the stage would leave, and notes how it was called.
STUB = r"""
import json, os, sys
from pathlib import Path

command, words = sys.argv[1], sys.argv[2:]
given = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\n")
if os.environ.get("STUB_FAILS") == f"{command} {given.get('--run')}":
    sys.exit(f"sparsetune {command}: told to fail")
suite_tables = ["headline", "paired", "timings", "savings", "savings-time", "tickets"]
suite_tables += ["costs", "costs-by-module"]
if Path("config/tables/own.yaml").exists():
    suite_tables += ["published/own"]
stems = [given["--group"]] if "--group" in given else suite_tables
names = {
    "dataset": ["record.json"],
    "backbone": ["record.json"],
    "support": ["support.safetensors", "record.json"],
    "ticket": ["ticket.json", "gates.npz", "record.json"],
    "tune": ["model.safetensors", "history.csv", "tune.json"],
    "evaluate": ["predictions.parquet", "evaluate.json"],
    "cost": ["cost.json"],
    "tables": [stem + form for stem in stems for form in (".md", ".csv", ".tex", ".html")],
    "claims": ["claims.md", "claims.csv", "claims.html", "claims.json", "claims-forest.svg"],
    "figures": [],
    "track": [],
}[command]
folder = Path(given.get("--output", "."))
if command == "figures":
    suite = json.loads(given["--config"])
    groups = [
        (backbone, task)
        for block in suite["runs"] for backbone in block["backbones"] for task in block["tasks"]
    ]
    kinds = ("layers", "pareto", "saved")
    names = ["pareto.html"]
    names += [f"{kind}-{backbone}.svg" for kind in kinds for backbone, _ in groups]
    names += [f"curves/{backbone}/{task}.svg" for backbone, task in groups]
    names += [
        f"masks/{backbone}/{task}/earlybert/seed-{seed}.svg"
        for block in suite["runs"] if "earlybert" in block["methods"]
        for backbone in block["backbones"] for task in block["tasks"] for seed in suite["seeds"]
    ]
if command == "claims":
    folder = Path(given["--results"])
if command == "track" and "--prepare" not in words:
    folder = Path(given["--results"]) / json.loads(given["--config"])["suite"]
    names = ["track.json"]
for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
"""
JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)


class Workplace:
    """A folder with a catalogue and a small suite, where Snakemake runs."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        self.config = folder / "config"
        self._repository = repository
        self._log = folder / "stub.log"

    def snakemake(self, *arguments, suite="config/small.yaml", **environment):
        """Run Snakemake; with environment variables of its own."""
        stub = self.folder / "bin"
        path = os.pathsep.join([str(stub), str(Path(sys.executable).parent), os.environ["PATH"]])
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", self._repository / "Snakefile",
            "--directory", self.folder, "--cores", "1", "--nocolor", *arguments,
            "--configfile", self.folder / suite,
        ]  # fmt: skip
        own = {"PATH": path, "STUB_LOG": str(self._log), "SPARSETUNE_WARM": "off"}
        surroundings = {**os.environ, **own, **environment}
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=120,
            cwd=self.folder, env=surroundings,
        )  # fmt: skip

    def calls(self):
        """Calls of stages since the last time this was asked, each a list of words."""
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="utf-8").splitlines()
        self._log.unlink()
        calls = [yaml.safe_load(line) for line in lines]
        return [call for call in calls if "--prepare" not in call]

    def run(self, **environment):
        """Run the suite; the stages that ran, as ``stage of-what``, sorted."""
        done = self.snakemake(**environment)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        return sorted(named(call) for call in self.calls())

    def planned(self, *arguments, suite="config/small.yaml", **environment):
        """Jobs of a dry run: ``(rule, wildcards)`` pairs."""
        done = self.snakemake("--dry-run", *arguments, suite=suite, **environment)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        found = []
        for rule, body in JOB.findall(done.stdout + done.stderr):
            wildcards = re.search(r"wildcards: (.*)", body)
            pairs = wildcards[1].split(", ") if wildcards else []
            found.append((rule, dict(pair.split("=") for pair in pairs)))
        return found


def named(call):
    """What a call of a stage was for: ``tune mini-bert/mini-rte/full``."""
    command, words = call[0], call[1:]
    given = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
    if "--run" in given:
        return f"{command} {given['--run'].removesuffix('/seed-1')}"
    if command == "tables":
        return f"tables {given.get('--group', 'suite')}"
    keys = ("--backbone", "--task", "--support", "--ticket")
    return " ".join([command, "/".join(given[key] for key in keys if key in given)]).strip()


def make_workplace(folder, repository):
    """Lay out a workplace: the catalogue, the small suite, and the stub in ``bin``."""
    ignored = shutil.ignore_patterns("revisions.lock.yaml")
    shutil.copytree(repository / "config", folder / "config", ignore=ignored)
    (folder / "config" / "small.yaml").write_text(yaml.safe_dump(SMALL_SUITE), encoding="utf-8")
    stub = folder / "bin" / "sparsetune"
    stub.parent.mkdir()
    stub.write_text(f"#!{sys.executable} -IS{STUB}", encoding="utf-8")
    stub.chmod(0o755)
    return Workplace(folder, repository)


@pytest.fixture
def workplace(tmp_path, repository):
    """A fresh workplace, nothing computed."""
    return make_workplace(tmp_path / "work", repository)


@pytest.fixture(scope="session")
def finished_calls(tmp_path_factory, repository):
    """A workplace where the small suite was run, the calls that it took, and what was printed."""
    work = make_workplace(tmp_path_factory.mktemp("finished") / "work", repository)
    done = work.snakemake("--verbose")
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return work, work.calls(), done.stderr


@pytest.fixture
def finished(tmp_path, repository, finished_calls):
    """A copy, with its times, of a workplace where the small suite was run."""
    shutil.copytree(finished_calls[0].folder, tmp_path / "work", copy_function=shutil.copy2)
    return Workplace(tmp_path / "work", repository)

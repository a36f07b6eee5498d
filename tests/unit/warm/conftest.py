"""A workflow with a warm process, and jobs of it, all of them stand-ins."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

STAND_IN = Path(__file__).with_name("stand_in.py")


class Job:
    """A job that has begun: what it told, and the process that was started for it."""

    def __init__(self, process):
        self.process, self.told = process, json.loads(process.stdout.readline())

    @property
    def warm(self):
        return self.told["process"] != self.process.pid

    @property
    def server(self):
        """The warm process; a job that runs cold has none, and its parent is the test itself."""
        assert self.warm, self.finish()
        return self.told["parent"]

    def finish(self, words=""):
        """Let it go on; returns its exit code, and what it wrote since."""
        output, errors = self.process.communicate(words + "\n")
        return self.process.returncode, output, errors

    def wait(self):
        """Exit code, once every process that has its output has ended."""
        self.process.stdout.read()
        return self.process.wait()


class Workflow:
    """A process that has started a warm one."""

    def __init__(self, folder, commands):
        self.folder, self.log = folder, folder / "logs" / "warm.log"
        self.process = subprocess.Popen(
            [commands / "sparsetune", "workflow", self.log], text=True, env=environment(commands),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.environment = json.loads(self.process.stdout.readline())
        self.socket = Path(self.environment["SPARSETUNE_WARM_SOCKET"])
        self.jobs = []

    def start(self, *arguments, changes=None, **options):
        """Start a job that tells when it has begun."""
        process = subprocess.Popen(
            ["sparsetune", *arguments], text=True, env={**self.environment, **(changes or {})},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            **{"cwd": self.folder, "executable": self.environment["COMMAND"], **options},
        )  # fmt: skip
        self.jobs.append(process)
        return Job(process)

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        for job in self.jobs:
            job.kill()
            job.communicate()


def environment(commands):
    root = str(STAND_IN.parents[3])
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    command = str(commands / "sparsetune")
    return {**os.environ, "PATH": path, "PYTHONPATH": root, "NAME": "one", "COMMAND": command}


def ended(process):
    """Wait until a process that need not be ours has ended."""
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return
    select.select([watched], [], [])
    os.close(watched)


def kill(process, number=signal.SIGKILL):
    os.kill(process, number)


@pytest.fixture
def commands(tmp_path):
    """A folder with a ``sparsetune`` command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "sparsetune"
    command.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
    command.chmod(0o755)
    return folder


@pytest.fixture
def workflow(tmp_path, commands, monkeypatch):
    """A running workflow."""
    # A socket's path holds some hundred characters, and pytest's folders are long.
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("TMPDIR", short)
        found = Workflow(tmp_path, commands)
        yield found
        found.end()

"""MLflow stores that can be taken away in the middle of work and given back.

Each has ``results``, the folder of all results, ``variables`` for the processes that use it,
``begin()`` and ``end()`` of an outage, and ``close()``.
"""

import contextlib
import errno
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

_START_SECONDS = 180
_MLFLOW_WAITS_SECONDS = 20  # for a locked SQLite file
_FULL_DISK_BYTES = 8 << 20


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class KilledServer:
    """An MLflow server over an SQLite file; killed without warning, started again."""

    def __init__(self, folder):
        self.results = folder / "results"
        self.results.mkdir()
        self._port, self._home, self._process = free_port(), folder, None
        self.variables = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self._port}"}
        self.end()

    def begin(self):
        """Kill the server with all its workers."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def end(self):
        """Start it and wait until it answers."""
        log = self._home / "server.log"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._home / 'server.db'}"]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command, cwd=self._home, env=environment, stdout=output, stderr=output,
                process_group=0,
            )  # fmt: skip
        give_up = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up and self._process.poll() is None:
            try:
                health = f"{self.variables['MLFLOW_TRACKING_URI']}/health"
                with urllib.request.urlopen(health, timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        self.close()
        pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")

    def close(self):
        """Stop it for good."""
        if self._process.poll() is None:
            self.begin()


def lock(results, kind):
    """A connection that has the SQLite file's lock: nobody else writes until it is closed."""
    connection = sqlite3.connect(results / "mlflow.db", isolation_level=None, timeout=30)
    connection.execute(f"BEGIN {kind}")
    return connection


class LockedFile:
    """An SQLite file; another connection locks it for longer than MLflow waits."""

    variables = {}  # noqa: RUF012

    def __init__(self, folder):
        self.results = folder / "results"
        self._connection, self._began = None, 0.0

    def begin(self):
        """Lock the file against readers and writers."""
        self._connection = lock(self.results, "EXCLUSIVE")
        self._began = time.monotonic()

    def end(self):
        """Let go, once everybody who waits has lost patience."""
        left = self._began + _MLFLOW_WAITS_SECONDS + 1 - time.monotonic()
        time.sleep(max(0.0, left))
        self.close()

    def close(self):
        """Let go at once."""
        if self._connection:
            self._connection.close()


class FullDisk:
    """An SQLite file on a small file system that somebody else fills."""

    variables = {}  # noqa: RUF012

    def __init__(self, folder, size_bytes=_FULL_DISK_BYTES):
        self.results = folder / "results"
        self.results.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs"]
        done = subprocess.run([*mount, self.results], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
        self._filler = self.results / "filler"

    def begin(self):
        """Write until there is no room."""
        # Not while a job writes: the end of its journal would make room again.
        with contextlib.closing(lock(self.results, "IMMEDIATE")):
            try:
                with self._filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def end(self):
        """Make room."""
        self._filler.unlink()

    def close(self):
        """Give the file system back."""
        subprocess.run(["umount", "--lazy", self.results], check=True)


class KilledPostgres:
    """A PostgreSQL server on this machine alone; it crashes and is started again."""

    def __init__(self, folder):
        pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
        self._programs = self._found_programs()
        self.results = folder / "results"
        # Not below the test's folder, which is its owner's alone.
        self._home = Path(tempfile.mkdtemp(prefix="postgres-"))
        port = free_port()
        self.variables = {"MLFLOW_TRACKING_URI": f"postgresql://us@127.0.0.1:{port}/postgres"}
        if os.geteuid() == 0:  # as which it refuses to run
            shutil.chown(self._home, "nobody")
        data = self._home / "data"
        self._run(
            "initdb", "-D", data, "-U", "us", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"
        )
        options = f"-p {port} -h 127.0.0.1 -k {self._home} -c fsync=off"
        self._start = ("-D", data, "-w", "-l", self._home / "log", "-o", options, "start")
        self._stop = ("-D", data, "-w", "-m", "immediate", "stop")
        self.end()

    @staticmethod
    def _found_programs():
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        search = os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])
        found = {name: shutil.which(name, path=search) for name in ("initdb", "pg_ctl")}
        if None in found.values():
            pytest.skip("no PostgreSQL: apt-get install postgresql")
        return found

    def _run(self, program, *arguments):
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        with (self._home / "output").open("a+") as output:
            code = subprocess.run(
                [self._programs[program], *arguments], cwd=self._home, stdout=output,
                stderr=output, timeout=60, **(user if os.geteuid() == 0 else {}),
            ).returncode  # fmt: skip
            output.seek(0)
            assert code == 0, output.read()

    def begin(self):
        """Stop it without letting it tidy up."""
        self._run("pg_ctl", *self._stop)

    def end(self):
        """Start it."""
        self._run("pg_ctl", *self._start)

    def close(self):
        """Stop it for good."""
        try:
            if (self._home / "data" / "postmaster.pid").exists():
                self.begin()
        finally:
            shutil.rmtree(self._home)


OUTAGES = {
    "a killed server": KilledServer,
    "a locked file": LockedFile,
    "a full disk": FullDisk,
    "a killed PostgreSQL": KilledPostgres,
}

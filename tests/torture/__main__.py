"""Hard days for a small suite: ``make torture`` disturbs it and compares what it leaves.

Prints one line a disturbance: how often, seconds, runs lost, files that differ from those of an
undisturbed run, and what was told. Nothing may be lost and nothing may differ.
"""

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from e2e.conftest import METHODS, Project  # noqa: E402
from e2e.outages import FullDisk, KilledServer, lock  # noqa: E402
from e2e.outcomes import runs_outcome  # noqa: E402

EPOCHS = 6.0  # long enough to be hit in the middle
LIMIT_SECONDS = 400
_DISK_BYTES = 64 << 20
FAKED = "libfaketime.so.1"


@dataclass
class Told:
    """What one disturbance came to; a row of the table."""

    name: str
    times: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def held(self) -> bool:
        """Whether nothing was lost and nothing differs."""
        return not self.lost and not self.differing


class Days:
    """The undisturbed suite, and fresh copies of its project to disturb."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.project = Project(home / "undisturbed", epochs=EPOCHS)
        began = time.monotonic()
        done = self.project.snakemake()
        if done.returncode:
            raise SystemExit(f"the undisturbed suite failed:\n{done.stdout[-3000:]}")
        self.seconds = time.monotonic() - began
        self.expected = runs_outcome(self.project.folder / "results" / "small")

    def fresh(self, name: str, *, made: bool = False, results: Path | None = None) -> Project:
        """A project of its own; with data set and backbone already there, where ``made``."""
        project = Project(self._home / name, epochs=EPOCHS)
        if results:
            (project.folder / "results").symlink_to(results)
        if made:
            for folder in ("resources", ".snakemake"):
                shutil.copytree(self.project.folder / folder, project.folder / folder)
        return project

    def compare(self, told: Told, project: Project) -> Told:
        """Note what is lost and what differs."""
        found = runs_outcome(project.folder / "results" / "small")
        told.lost += sorted(self.expected.keys() - found.keys())
        told.differing += sorted(
            name for name in self.expected.keys() & found.keys()
            if self.expected[name] != found[name]
        )  # fmt: skip
        return told


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """The workflow in a group of its own, writing into ``workflow.log``."""
    with (project.folder / "workflow.log").open("a") as log:
        return subprocess.Popen(
            ["snakemake", "--cores", "2", "--keep-going", *arguments], cwd=project.folder,
            env=project.environment(), stdout=log, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip


def finish(project: Project, told: Told) -> None:
    """Unlock and run to the end, which must succeed."""
    for process in processes(project):  # orphans end by themselves or are in the way
        with contextlib.suppress(psutil.NoSuchProcess):
            process.wait(LIMIT_SECONDS)
    project.snakemake("--unlock")
    done = project.snakemake()
    if done.returncode:
        (project.folder.parent / f"{project.folder.name}.log").write_text(done.stdout)
        told.lost.append("the suite, which did not finish: " + last_error(done.stdout))


def processes(project: Project) -> list[psutil.Process]:
    """Everything that works in the project's folder: workflow, jobs, warm process, tracker."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            inside = Path(process.cwd()).is_relative_to(project.folder)
            if inside and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found


def role(process: psutil.Process) -> str:
    """Which part of the workflow a process is."""
    with contextlib.suppress(psutil.Error):
        line = " ".join(process.cmdline())
        for name in ("sparsetune warm", "sparsetune track", "snakemake", "sparsetune"):
            if name in line:
                return {"sparsetune": "job"}.get(name, name.removeprefix("sparsetune "))
    return "shell"


def kills(days: Days, *, instants: int, seed: int) -> Iterator[Told]:
    """Kill a random process of a running workflow, at random instants, until it is finished."""
    draws = random.Random(seed)
    counts: dict[str, int] = {}
    cycle = 0
    while sum(counts.values()) < instants:
        project = days.fresh(f"killed-{cycle}", made=cycle % 2 == 1)
        told = Told(f"kill -9, suite {cycle + 1}")
        began = time.monotonic()
        hit: list[str] = []
        while len(hit) < 10 and sum(counts.values()) < instants:
            running = start(project)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(draws.uniform(1.0, 1.0 + 0.5 * days.seconds))
            if running.poll() is not None:
                break
            wanted = draws.choice(("snakemake", "job", "job", "warm", "track"))
            targets = processes(project)
            chosen = [one for one in targets if role(one) == wanted] or targets
            victim = draws.choice(chosen)
            name = role(victim)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                hit.append(name)
                counts[name] = counts.get(name, 0) + 1
            if name == "snakemake" and draws.random() < 0.5:
                time.sleep(0.5)  # its jobs live on for a moment
            elif running.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(draws.uniform(0.5, 3))
                running.send_signal(signal.SIGKILL)
            running.wait()
            project.snakemake("--unlock")
        told.times = len(hit)
        finish(project, told)
        told.seconds = time.monotonic() - began
        told = days.compare(told, project)
        told.said = ", ".join(f"{hit.count(one)} {one}" for one in sorted(set(hit)))
        yield told
        cycle += 1


def full_disk(days: Days) -> Told:
    """No room for results in the middle of the suite; then there is room again."""
    told = Told("full disk", times=1)
    outside = Path(tempfile.mkdtemp(prefix="disk-"))
    disk = FullDisk(outside, _DISK_BYTES)
    try:
        project = days.fresh("full-disk", made=True, results=disk.results)
        running = start(project)
        until(lambda: list(disk.results.glob("small/checkpoints/**/*.safetensors")))
        disk.begin()
        running.wait(LIMIT_SECONDS)
        told.said = one_line(project, "room") if running.returncode else "the suite had room enough"
        disk.end()
        finish(project, told)
        return days.compare(told, project)
    finally:
        disk.close()


def dead_server(days: Days) -> Told:
    """The MLflow server is killed in the middle and stays dead until the suite has ended."""
    outside = Path(tempfile.mkdtemp(prefix="server-"))
    server = KilledServer(outside)
    project = days.fresh("dead-server", made=True)
    project.environment = with_variables(project, server.variables)
    told = Told("dead MLflow server", times=1)
    try:
        running = start(project)
        until(lambda: list(project.folder.glob("results/small/checkpoints/**/*.safetensors")))
        server.begin()
        running.wait(LIMIT_SECONDS)
        told.said = "the suite ended with " + str(running.returncode)
        server.end()
        finish(project, told)
    finally:
        server.close()
    return days.compare(told, project)


def locked_file(days: Days) -> Told:
    """Another process has the lock of MLflow's file while the suite runs."""
    project = days.fresh("locked-mlflow", made=True)
    told = Told("locked MLflow file", times=1)
    running = start(project)
    until((project.folder / "results" / "mlflow.db").exists)
    until(lambda: list(project.folder.glob("results/small/checkpoints/**/*.safetensors")))
    with contextlib.closing(lock(project.folder / "results", "EXCLUSIVE")):
        until(lambda: len(list(project.folder.glob("results/small/runs/**/evaluate.json"))) == 3)
        time.sleep(3)
    running.wait(LIMIT_SECONDS)
    told.said = f"the suite ended with {running.returncode}"
    finish(project, told)
    return days.compare(told, project)


def two_workflows(days: Days) -> Told:
    """Two workflows on one folder: one of them refuses, none spoils the other."""
    project = days.fresh("two-workflows", made=True)
    told = Told("two workflows, one folder", times=1)
    both = [start(project), start(project)]
    codes = [one.wait(LIMIT_SECONDS) for one in both]
    told.said = f"exit codes {codes[0]} and {codes[1]}"
    finish(project, told)
    if codes.count(0) == 0:
        told.lost.append("both workflows failed")
    return days.compare(told, project)


def clock_back(days: Days) -> Told:
    """The clock goes back a day in the middle of the suite, and is set right again.

    Snakemake refuses what a job writes if it looks older than what the job read; it says so.
    """
    project = days.fresh("clock-back", made=True)
    told = Told("clock set back a day", times=1)
    running = start(project)
    until(lambda: list(project.folder.glob("results/small/runs/**/tune.json")))
    running.send_signal(signal.SIGKILL)
    running.wait()
    for process in processes(project):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    project.snakemake("--unlock")
    faked = next(iter(Path("/usr/lib").glob(f"*/faketime/{FAKED}")), None)
    real = project.environment
    if faked:
        variables = {"LD_PRELOAD": str(faked), "FAKETIME": "-1d", "DONT_FAKE_MONOTONIC": "1"}
        project.environment = with_variables(project, variables)
        done = project.snakemake()
        project.environment = real
        told.said = one_line(project, "older modification time", done.stdout)
    else:  # the same picture from the other side: what is there is of tomorrow
        tomorrow = time.time() + 86400
        made = [*project.folder.glob("results/**/*"), *project.folder.glob("resources/**/*")]
        for path in made:
            os.utime(path, (tomorrow, tomorrow))
        told.said = one_line(project, "older modification time", project.snakemake().stdout)
        for path in made:
            if path.exists():
                os.utime(path)
    finish(project, told)
    return days.compare(told, project)


def read_only(days: Days) -> Told:
    """Results lie where nobody may write; then one may."""
    told = Told("read-only results", times=1)
    outside = Path(tempfile.mkdtemp(prefix="read-only-"))
    disk = FullDisk(outside, _DISK_BYTES)  # for its small file system
    try:
        project = days.fresh("read-only", made=True, results=disk.results)
        subprocess.run(["mount", "-o", "remount,ro", disk.results], check=True)
        done = project.snakemake()
        if done.returncode == 0:
            told.lost.append("it said that it could write")
        told.said = one_line(project, os.strerror(errno.EROFS), done.stdout)
        subprocess.run(["mount", "-o", "remount,rw", disk.results], check=True)
        finish(project, told)
        return days.compare(told, project)
    finally:
        disk.close()


def little_memory(days: Days) -> Told:
    """Tune gets less memory than it needs; the next time it has enough."""
    project = days.fresh("little-memory", made=True)
    told = Told("memory limit in tune", times=1)
    run = "mini-bert/mini-sst2/full/seed-1"
    command = (
        f"ulimit -v {1000 << 10}; exec sparsetune tune --run {run} --dataset-dir "
        "resources/datasets/mini-sst2 --backbone-dir resources/backbones/mini-bert "
        "--output elsewhere --checkpoints elsewhere-work --device cpu --threads 1"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=project.folder, env=project.environment(),
        capture_output=True, text=True, timeout=LIMIT_SECONDS,
    )  # fmt: skip
    lines = done.stderr.strip().splitlines()
    if done.returncode == 0 or len(lines) > 1:
        told.differing.append(f"tune: {len(lines)} lines, exit code {done.returncode}")
    told.said = lines[-1][:120] if lines else f"exit code {done.returncode}"
    finish(project, told)
    return days.compare(told, project)


def until(happens, seconds: float = 240) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return
        time.sleep(0.05)
    raise SystemExit("what was to be disturbed did not begin")


def with_variables(project: Project, variables: dict[str, str]):
    """The project's environment with these variables."""
    own = project.environment
    return lambda: {**own(), **variables}


def last_error(output: str) -> str:
    """The line that says why, of Snakemake's output."""
    lines = [line for line in output.splitlines() if "rror" in line]
    return lines[-1].strip()[:200] if lines else output[-200:]


def one_line(project: Project, word: str, told: str = "") -> str:
    """The line of ours, or of Snakemake, that names a reason."""
    logs = [told, (project.folder / "workflow.log").read_text() if not told else ""]
    logs += [path.read_text(errors="replace") for path in project.folder.glob("logs/**/*.log")]
    lines = [line for log in logs for line in log.splitlines() if word in line]
    return lines[0].strip()[:120] if lines else f"no line with {word!r}"


ALL = (full_disk, dead_server, locked_file, two_workflows, clock_back, read_only, little_memory)


def main() -> None:
    """Disturb, print the table, and fail if anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instants", type=int, default=30, help="how often a process is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the instants and the victims")
    parser.add_argument("--only", choices=[one.__name__ for one in (*ALL, kills)], help="one alone")
    parser.add_argument("--output", type=Path, help="write the table's rows as JSON there")
    parser.add_argument("--keep", action="store_true", help="leave the folders to be looked at")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="torture-"))
    rows: list[Told] = []
    try:
        days = Days(home)
        print(
            f"undisturbed: {days.seconds:.0f} s, {len(days.expected)} files of {len(METHODS)} runs"
        )
        print(f"{'disturbance':28} {'times':>5} {'seconds':>7} {'lost':>4} {'differing':>9}  told")
        for one in ALL:
            if given.only in (None, one.__name__):
                began = time.monotonic()
                told = one(days)
                told.seconds = time.monotonic() - began
                rows.append(show(told))
        if given.only in (None, "kills"):
            rows += [show(told) for told in kills(days, instants=given.instants, seed=given.seed)]
    finally:
        if not given.keep:
            shutil.rmtree(home, ignore_errors=True)
    if given.output:
        given.output.write_text(json.dumps([vars(row) for row in rows], indent=1))
    print(f"{sum(row.held for row in rows)} of {len(rows)} held")
    raise SystemExit(0 if all(row.held for row in rows) else 1)


def show(told: Told) -> Told:
    """Print one row."""
    said = " ".join(told.said.split())[:160]
    print(
        f"{told.name:28} {told.times:5} {told.seconds:7.0f} {len(told.lost):4} "
        f"{len(told.differing):9}  {said}",
        flush=True,
    )
    for name in (told.lost + told.differing)[:6]:
        print(f"    {name}", flush=True)
    return told


if __name__ == "__main__":
    main()

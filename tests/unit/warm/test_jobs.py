"""A fork is what the job's own process would have been, or the job runs there."""

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from unit.warm.conftest import Workflow

from sparsetune.warm import client, server
from sparsetune.warm.client import hand_over
from sparsetune.warm.situation import VARIABLE, difference, situation


def test_fork_has_arguments_folder_umask_and_variables_of_the_job(workflow):
    place = workflow.folder / "elsewhere"
    place.mkdir()
    changes = {"PWD": str(place)}
    job = workflow.start("tune", "--run", "a/b", cwd=place, umask=0o27, changes=changes)
    told = job.told
    assert job.warm
    assert told["arguments"] == ["tune", "--run", "a/b"]
    assert told["argv"] == [workflow.environment["COMMAND"], "tune", "--run", "a/b"]
    assert (told["folder"], told["pwd"], told["umask"]) == (str(place), str(place), 0o27)
    assert told["name"] == "one"
    assert told["session"] == told["process"]


@pytest.mark.parametrize(
    ("words", "code", "output", "error"),
    [
        ("", 0, "", ""),
        ("code 3", 3, "", ""),
        ("exit 2", 2, "", ""),
        ("exit -1", 255, "", ""),
        ("complain badly", 1, "", "badly\n"),
        ("raise trouble", 1, "", "ValueError: trouble"),
        ("buffered text", 0, "text\n", ""),
    ],
)
def test_fork_ends_as_the_job_would(workflow, words, code, output, error):
    warm = workflow.start("evaluate")
    cold = workflow.start("evaluate", changes={VARIABLE: ""})
    assert (warm.warm, cold.warm) == (True, False)
    for job in (warm, cold):
        found = job.finish(words)
        assert found[:2] == (code, output)
        assert error in found[2]


def test_fork_cleans_up_after_itself_and_only_that(workflow):
    job = workflow.start("evaluate")
    code, output, _ = job.finish("temporary")
    folder, *rest = output.splitlines()
    assert (code, rest) == (0, ["own"])
    assert not Path(folder).exists()
    left = [path for path in Path(folder).parent.iterdir() if path.name.startswith("tmp")]
    assert len(left) == 1  # the warm process's


def test_jobs_run_side_by_side(workflow):
    jobs = [workflow.start("evaluate", str(number)) for number in range(4)]
    assert all(job.warm for job in jobs)
    assert [job.finish(f"code {code}")[0] for code, job in enumerate(jobs)] == [0, 1, 2, 3]


def test_two_workflows_do_not_meet(workflow, commands):
    other = Workflow(workflow.folder, commands)
    one, two = workflow.start("evaluate"), other.start("evaluate")
    assert one.told["parent"] != two.told["parent"]
    other.end()
    assert one.finish()[0] == 0
    assert workflow.start("evaluate").warm


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"changes": {"NAME": "two", "HF_HOME": "x"}}, "other environment: HF_HOME, NAME"),
        ({"changes": {"OMP_NUM_THREADS": "2"}}, "other environment: OMP_NUM_THREADS"),
        ({"preexec_fn": lambda: os.nice(1)}, "other niceness"),
        ({"changes": {VARIABLE: "/nowhere/socket"}}, "No such file"),
    ],
)
def test_job_that_does_not_fit_runs_cold_and_says_why(workflow, options, told):
    job = workflow.start("evaluate", **options)
    assert not job.warm
    code, _, errors = job.finish("code 3")
    assert code == 3
    assert told in errors


def test_only_the_user_may_enter_the_folder(workflow):
    assert stat.S_IMODE(workflow.socket.parent.stat().st_mode) == 0o700


def test_changed_code_is_another_situation(tmp_path, monkeypatch):
    module = tmp_path / "module.py"
    module.write_text("A = 1")
    monkeypatch.setattr("sparsetune.warm.situation._PACKAGE", tmp_path)
    before = situation()
    assert difference(before, situation()) is None
    os.utime(module, ns=(1, 1))
    assert difference(before, situation()) == "code"


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as found:
        found.bind(str(tmp_path / "s"))
        found.listen()
        yield found


def test_job_trusts_no_socket_of_another_user(listener, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, listener.getsockname())
    monkeypatch.setattr(client.os, "getuid", lambda: 12345)
    assert hand_over(["sparsetune", "evaluate"]) is None
    assert "another user's" in capsys.readouterr().err


def test_socket_that_nobody_serves_is_no_hindrance(listener, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, listener.getsockname())
    listener.close()
    assert hand_over(["sparsetune", "evaluate"]) is None
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize(("ended", "code"), [(True, -15), (False, None)])
def test_waiting_job_starts_cold_only_if_its_workflow_goes_on(listener, monkeypatch, ended, code):
    workflow = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    if ended:
        workflow.communicate()
    monkeypatch.setenv(VARIABLE, listener.getsockname())
    monkeypatch.setattr(client, "peer_of", lambda _: (workflow.pid, os.getuid()))
    monkeypatch.setattr(client, "_unfit", lambda _: "it has ended")
    monkeypatch.setattr(client, "_end_by", lambda number: -number)
    assert hand_over(["sparsetune", "evaluate"]) == code
    workflow.communicate()


def test_another_user_is_told_nothing(listener, monkeypatch):
    monkeypatch.setattr(server.os, "getuid", lambda: 12345)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.connect(listener.getsockname())
        server.Server(listener, 0, b"secret")._greet()
        assert caller.recv(100) == b""

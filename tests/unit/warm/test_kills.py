"""Whatever is killed first, nothing goes on running and no job is lost."""

import signal

import pytest
from unit.warm.conftest import Workflow, ended, kill


def test_killed_job_takes_its_fork_along(workflow):
    job = workflow.start("evaluate")
    assert job.warm
    kill(job.process.pid)
    assert job.wait() == -signal.SIGKILL
    ended(job.told["process"])
    assert workflow.start("evaluate").warm


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_to_a_job_reaches_its_fork(workflow, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the signal is ignored here, as under nohup, and so by every job")
    job = workflow.start("evaluate")
    kill(job.process.pid, number)
    assert job.wait() == -number
    ended(job.told["process"])


def test_stopped_job_goes_on_when_it_is_told_to(workflow):
    job = workflow.start("evaluate")
    kill(job.process.pid, signal.SIGTSTP)
    kill(job.process.pid, signal.SIGCONT)
    assert job.finish()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_job_ends_by_the_signal_that_ended_its_fork(workflow, number):
    job = workflow.start("evaluate")
    kill(job.told["process"], number)
    assert job.wait() == -number


def test_fork_takes_along_what_it_has_started(workflow):
    job = workflow.start("evaluate")
    job.process.stdin.write("child\n")
    job.process.stdin.flush()
    assert job.wait() == 0  # after the end of everything that holds its output


def test_job_runs_anew_in_its_own_process_if_the_warm_one_is_killed(workflow):
    job = workflow.start("evaluate")
    kill(job.server)
    ended(job.told["process"])
    again = type(job)(job.process)
    assert not again.warm
    code, _, errors = again.finish("code 3")
    assert code == 3
    assert "starts again, cold" in errors
    later = workflow.start("evaluate")
    assert not later.warm
    assert later.finish()[0] == 0


def test_killed_workflow_takes_everything_along(workflow):
    jobs = [workflow.start("evaluate") for _ in range(2)]
    server = jobs[0].server
    kill(workflow.process.pid)
    assert [job.wait() for job in jobs] == [-signal.SIGKILL] * 2
    for process in (server, *(job.told["process"] for job in jobs)):
        ended(process)
    assert not workflow.socket.parent.exists()


def test_job_that_began_as_a_fork_ends_with_the_workflow(workflow):
    job = workflow.start("evaluate")
    kill(job.server)
    again = type(job)(job.process)
    assert not again.warm
    kill(workflow.process.pid)
    assert job.wait() == -signal.SIGTERM


def test_job_does_not_start_again_without_its_workflow(workflow, commands):
    job = workflow.start("evaluate")
    server = job.server
    kill(server, signal.SIGSTOP)
    kill(workflow.process.pid)
    workflow.process.wait()
    kill(server)
    assert job.wait() == -signal.SIGTERM
    ended(job.told["process"])
    assert workflow.socket.exists()  # nobody was left to remove it
    later = Workflow(workflow.folder, commands)
    assert not workflow.socket.parent.exists()
    later.end()


def test_workflow_that_ends_leaves_nothing(workflow):
    job = workflow.start("evaluate")
    assert job.finish()[0] == 0
    server = job.server
    workflow.end()
    ended(server)
    assert not workflow.socket.parent.exists()
    assert "ended with 0" in workflow.log.read_text()

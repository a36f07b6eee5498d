"""One job at a time in a folder: held, waited for, refused by name, taken over from the dead."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from unit.made_records import write_made

from sparsetune.errors import DiskError, TrainingError
from sparsetune.records import TuneRecord, digest_of
from sparsetune.stages import folder_lock
from sparsetune.stages.context import Context, hashes
from sparsetune.stages.folder_lock import FolderLock, Owner

HOLDER = """
import sys, time
from pathlib import Path
from sparsetune.stages.folder_lock import FolderLock

lock = FolderLock(Path(sys.argv[1]))
lock.take()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "seed-1"


def locks(folder):
    return sorted(path.name for path in folder.parent.glob("*.lock"))


def beside(folder, monkeypatch, **changes):
    """A lock as a job of another machine took it; that machine's clock does not matter."""
    owner = {**vars(Owner.this()), "host": "node-7", "machine": "another boot", **changes}
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f"{folder.name}.1.lock")
    path.write_text(json.dumps(owner))
    os.utime(path, (10**9, 10**9))
    return path


def test_a_second_job_is_refused_in_a_line_that_names_the_first(folder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    first = FolderLock(folder)
    assert first.take() is False
    with pytest.raises(TrainingError) as refused:
        FolderLock(folder).take(wait_seconds=0)
    told = str(refused.value)
    assert told.startswith(f"{folder}: held by process {os.getpid()} on ")
    assert ", job 4711, since 2" in told
    assert "allowed: one job of a run at a time" in told
    assert "\n" not in told
    first.release()
    assert locks(folder) == []


def test_a_second_job_waits_and_goes_on_once_the_first_is_done(folder, caplog):
    first, second = FolderLock(folder), FolderLock(folder)
    first.take()
    threading.Timer(0.2, first.release).start()
    with caplog.at_level("INFO"):
        assert second.take(wait_seconds=60) is True
    assert caplog.text.count("waiting: ") == 1
    assert second.is_held()
    second.release()


def test_a_killed_job_of_this_machine_holds_nothing(folder, caplog):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=f"held by process {holder.pid} on "):
            FolderLock(folder).take(wait_seconds=0)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock = FolderLock(folder)
    lock.take(wait_seconds=0)
    assert f"was held by process {holder.pid}" in caplog.text
    assert "which has ended: taken over" in caplog.text
    assert locks(folder) == ["seed-1.2.lock"]
    lock.release()


def test_a_process_number_that_was_used_again_is_another_process(folder, monkeypatch):
    path = beside(folder, monkeypatch, machine=folder_lock._machine(), process="1")
    assert Owner(**json.loads(path.read_text())).is_dead()
    lock = FolderLock(folder)
    lock.take(wait_seconds=0)
    lock.release()


def test_a_job_of_another_machine_is_believed_until_it_is_silent(folder, monkeypatch, caplog):
    beside(folder, monkeypatch, job="17")
    with pytest.raises(TrainingError, match=r"on node-7, job 17, since"):
        FolderLock(folder).take(wait_seconds=0)
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 0.3)
    lock = FolderLock(folder)
    assert lock.take(wait_seconds=60) is True
    assert "on node-7, job 17" in caplog.text
    assert "silent for 1 s: taken over" in caplog.text  # it looks twice a second
    lock.release()


def test_a_touch_from_another_machine_ends_its_silence(folder, monkeypatch):
    path = beside(folder, monkeypatch)
    now = [0.0]
    monkeypatch.setattr(folder_lock.time, "monotonic", lambda: now[0])
    lock, silences = FolderLock(folder), {}
    for second, touched in ((0, 1), (100, 2), (219, 2)):
        now[0] = float(second)
        os.utime(path, (touched, touched))
        assert not lock._taken(silences), second
    now[0] = 220.0  # 120 s after the touch was first seen
    assert lock._taken(silences)
    assert lock.is_held()


def test_a_lock_that_is_being_written_holds(folder):
    folder.parent.mkdir(parents=True)
    folder.with_name("seed-1.3.lock").touch()
    with pytest.raises(TrainingError, match="held by another job; allowed"):
        FolderLock(folder).take(wait_seconds=0)


def test_a_lock_that_cannot_be_written_is_told_in_a_line_and_leaves_nothing(
    folder, monkeypatch, tmp_path
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder_lock.json, "dump", full)
    with pytest.raises(DiskError, match=r"seed-1\.1\.lock: cannot be written: No space left"):
        FolderLock(folder).take()
    assert locks(folder) == []
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"file/run: cannot be written: Not a directory"):
        FolderLock(tmp_path / "file" / "run" / "seed-1").take()


def test_of_many_at_once_only_one_holds(folder, monkeypatch):
    beside(folder, monkeypatch, machine=folder_lock._machine(), process="1")  # dead
    contenders = [FolderLock(folder) for _ in range(8)]
    start = threading.Barrier(len(contenders))
    held = []

    def contend(lock):
        start.wait()
        held.append(lock._taken({}))

    threads = [threading.Thread(target=contend, args=(lock,)) for lock in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(held) == sum(lock.is_held() for lock in contenders) == 1


def test_a_job_whose_lock_was_taken_over_ends_and_says_so(folder):
    code = HOLDER.replace(
        "lock = ",
        "from sparsetune.stages import folder_lock\nfolder_lock.BEAT_SECONDS = 0.05\nlock = ",
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        other = {**vars(Owner.this()), "host": "node-7"}
        folder.with_name("seed-1.2.lock").write_text(json.dumps(other))
        told = holder.stderr.read()
        assert holder.wait(60) == TrainingError.exit_code
    assert told.startswith(f"sparsetune: {folder}: taken over by process {os.getpid()} on node-7")
    assert told.count("\n") == 1


def test_the_job_that_waited_takes_what_the_other_left(tmp_path):
    read = tmp_path / "record.json"
    write_made(read, "dataset")
    path = tmp_path / "tune.json"
    record = write_made(path, "tune", inputs=hashes([read]))
    asked = {"digest": record["asked"]["digest"], "inputs": [read]}
    context = Context(checkpoints=tmp_path / "seed-1")
    with context:
        assert not context.done_meanwhile(path, TuneRecord, **asked)  # it waited for nobody
        context._waited = True
        assert context.done_meanwhile(path, TuneRecord, **asked)
        other = {**asked, "digest": digest_of("other settings")}
        assert not context.done_meanwhile(path, TuneRecord, **other)
        assert not context.done_meanwhile(tmp_path / "none.json", TuneRecord, **asked)
        read.write_text("other")
        assert not context.done_meanwhile(path, TuneRecord, **asked)

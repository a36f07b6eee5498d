"""When a workflow starts a warm process."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sparsetune.errors import ConfigError
from sparsetune.warm.launch import launch, wanted
from sparsetune.warm.situation import VARIABLE


@pytest.mark.parametrize(("given", "found"), [(None, True), ("on", True), ("off", False)])
def test_warm_starts_can_be_switched_off(monkeypatch, given, found):
    monkeypatch.delenv("SPARSETUNE_WARM", raising=False)
    if given:
        monkeypatch.setenv("SPARSETUNE_WARM", given)
    assert wanted() is found


def test_unknown_switch_is_refused(monkeypatch):
    monkeypatch.setenv("SPARSETUNE_WARM", "false")
    with pytest.raises(ConfigError, match="SPARSETUNE_WARM: received 'false'; allowed: on, off"):
        wanted()


def test_few_jobs_start_no_warm_process(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    log = tmp_path / "logs" / "warm.log"
    assert not launch([1, 1], log=log)
    assert not log.exists()
    assert VARIABLE not in os.environ


def test_without_the_command_there_is_no_warm_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not launch([1, 1, 1], log=tmp_path / "warm.log")


@pytest.mark.parametrize("characters", [110, 200])  # of the socket's path; some 107 are possible
def test_where_a_socket_cannot_be_jobs_start_cold(tmp_path, monkeypatch, capsys, characters):
    command = tmp_path / "sparsetune"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    below = f"/sparsetune-warm-{os.getuid()}-12345678/socket"
    short = Path(tempfile.mkdtemp())
    folder = short / ("x" * (characters - len(f"{short}/{below}")))
    folder.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert not launch([1, 1, 1], log=tmp_path / "warm.log")
    assert "no warm starts: AF_UNIX path too long" in capsys.readouterr().err
    assert not list(folder.iterdir())
    shutil.rmtree(short)


@pytest.mark.slow
def test_imports_touch_no_device_and_start_no_threads_of_python():
    code = (
        "import pathlib, threading, torch\n"
        "from sparsetune.warm.server import _devices, import_all\n"
        "asked = []\n"
        "for name in ('is_available', 'device_count', '_lazy_init', 'get_device_capability'):\n"
        "    setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))\n"
        "import_all()\n"
        "assert not asked, asked\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert not _devices()\n"
        "assert threading.active_count() == 1\n"
        # Arrow's allocator has a thread, which it looks after when a process forks.
        "tasks = pathlib.Path('/proc/self/task').glob('*/comm')\n"
        "names = sorted(task.read_text().strip() for task in tasks)\n"
        "assert names in (['jemalloc_bg_thd', 'python'], ['python']), names\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

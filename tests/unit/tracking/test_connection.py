"""Whether a store can be opened, asked before MLflow is; and what publishing does when it fails."""

import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from sparsetune.errors import DataError
from sparsetune.tracking import Entry, RunKey, prepare, publish
from sparsetune.tracking.connection import is_ready, make_ready

KILLED_IN_MID_WRITE = """
    import os, sqlite3, sys
    store = sqlite3.connect(sys.argv[1], isolation_level=None)
    store.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
    store.execute("BEGIN IMMEDIATE")
    store.execute("UPDATE experiments SET name = 'half'")
    store.execute("CREATE TABLE junk (text)")
    for _ in range(100):
        store.execute("INSERT INTO junk VALUES (?)", ("x" * 5000,))
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory):
    """One without any experiment but MLflow's own: what is broken here is a list of one."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    make_ready(f"sqlite:///{path}")
    return path


def test_file_without_content_is_not_ready_until_its_schema_is_made(tmp_path, fresh_database):
    assert not is_ready(f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "mlflow.db").touch()
    assert not is_ready(f"sqlite:///{tmp_path}/mlflow.db")
    assert is_ready(f"sqlite:///{fresh_database}")


def test_what_a_process_killed_in_mid_write_left_is_rolled_back(results):
    program = [sys.executable, "-c", textwrap.dedent(KILLED_IN_MID_WRITE), results / "mlflow.db"]
    assert subprocess.run(program).returncode == -9
    assert (results / "mlflow.db-journal").stat().st_size > 0
    prepare(results, "mini", [])
    names = sqlite3.connect(results / "mlflow.db").execute("SELECT name FROM experiments")
    assert sorted(names) == [("Default",), ("mini",)]


def test_servers_and_what_is_no_database_are_left_to_mlflow(tmp_path):
    assert is_ready("http://127.0.0.1:9")
    assert is_ready(str(tmp_path / "a-folder"))


def test_database_that_is_down_is_told_at_once(tmp_path, monkeypatch):
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/runs")
    began = time.monotonic()
    with pytest.raises(DataError, match=r"postgresql://\*\*\*@127.0.0.1:9/runs: .*refused"):
        prepare(tmp_path, "mini", [])
    assert time.monotonic() - began < 10


def test_missing_driver_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(DataError, match=r"pip install 'sparsetune\[postgresql\]'"):
        is_ready("postgresql://127.0.0.1:9/runs")


def test_store_that_fails_for_long_is_not_asked_for_every_entry(results, monkeypatch):
    asked = []

    def refuse(store, entry, *_):
        asked.append(entry)
        raise OSError("no answer")

    module = sys.modules["sparsetune.tracking.publish"]  # the package has a function of that name
    monkeypatch.setattr(module, "_publish_one", refuse)
    entries = [Entry(RunKey("tune", "mini", "tiny", "rte", "lora", n), ()) for n in range(100)]
    assert len(publish(results, "mini", entries).problems) == len(asked) == 100
    asked.clear()
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    first, last = publish(results, "mini", entries).problems
    assert first == f"{entries[0].key.text}: OSError: no answer"
    assert last.endswith("/mlflow.db: failed for 0 s, 99 entries not tried")
    assert len(asked) == 1

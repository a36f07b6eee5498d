"""Every test of tracking has a store of its own."""

import shutil

import pytest

from sparsetune.tracking import prepare


@pytest.fixture(autouse=True)
def _own_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory):
    """A database with schema and no experiment: making one takes a second, copying it nothing."""
    folder = tmp_path_factory.mktemp("template")
    prepare(folder, "template", [])
    return folder / "mlflow.db"


@pytest.fixture
def results(tmp_path, fresh_database):
    shutil.copy(fresh_database, tmp_path / "mlflow.db")
    return tmp_path

import shutil

import pytest


@pytest.fixture
def results(tmp_path, fresh_database):
    """A folder of results with a store."""
    shutil.copy(fresh_database, tmp_path / "mlflow.db")
    return tmp_path

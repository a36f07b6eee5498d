"""How MLflow is reached: its client, its patience, and whether its database is ready.

A database is asked directly first: MLflow itself tries one that cannot be opened again and again
for minutes, and processes that build its schema at the same time break each other.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sparsetune.errors import DataError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
_SERVED = ("http://", "https://", "databricks")
_LOCK_SECONDS = 10.0

# An unreachable server must cost seconds, not the quarter of an hour MLflow would retry for; its
# own log would put tracebacks on stderr for trouble that is reported in one line here.
_ENVIRONMENT_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "5",
}


def client_of(uri: str) -> "MlflowClient":
    """A client of the store at ``uri``; nothing is asked of the store yet.

    Raises:
        DataError: MLflow is not installed.
    """
    _set_patience()
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise DataError(f"mlflow cannot be imported: {error}; is it installed?") from error
    return MlflowClient(tracking_uri=uri)


def is_served(uri: str) -> bool:
    """Whether a server stands between us and the database, and so looks after it."""
    return uri.startswith(_SERVED)


def is_ready(uri: str) -> bool:
    """Whether the store can be opened by many processes at once: its schema is there.

    Args:
        uri: the store's address.

    Returns:
        True for a server, whatever its state.

    Raises:
        DataError: the database is something else, or its driver is not installed.
        Exception: it cannot be reached now, in the driver's own words; it may be later.
    """
    if is_served(uri):
        return True
    file = _sqlite_file(uri)
    if file is None:
        return _has_experiment(uri)
    _refuse_damaged(file)
    return _has_content(file)


def make_ready(uri: str) -> None:
    """Make the database's schema; only one process may be here at a time.

    Args:
        uri: address of a store that is not ready.
    """
    database = _sqlite_file(uri)
    if database is None:
        client_of(uri).get_experiment_by_name("Default")
        return
    # Built aside and renamed: a job killed half-way would leave a schema MLflow cannot mend.
    database.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in database.parent.glob(f".{database.name}.*.partial*"):
        abandoned.unlink(missing_ok=True)
    partial = database.with_name(f".{database.name}.{os.getpid()}.partial")
    client_of(f"{SQLITE}{partial.resolve()}").get_experiment_by_name("Default")
    partial.replace(database)


def _set_patience() -> None:
    for name, value in _ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)


def _sqlite_file(uri: str) -> Path | None:
    path = uri.removeprefix(SQLITE)
    return Path(path) if path not in (uri, "", ":memory:") else None


def _has_content(database: Path) -> bool:
    return database.exists() and database.stat().st_size > 0


def _refuse_damaged(database: Path) -> None:
    if not database.exists():
        return
    if not database.is_file():
        raise DataError(f"{database}: not a file, need an SQLite database; move it away")
    # Writable, or SQLite could not roll back what a process killed in mid-write has left.
    address = f"{database.resolve().as_uri()}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, timeout=_LOCK_SECONDS)) as connection:
        try:
            connection.execute("PRAGMA schema_version")
        except sqlite3.OperationalError:
            raise  # locked by somebody else, who may let go
        except sqlite3.DatabaseError as error:
            raise DataError(f"{database}: not a usable SQLite database: {error}") from error


def _has_experiment(uri: str) -> bool:
    """Whether MLflow has made its first experiment, the last thing it does to a new database."""
    _set_patience()
    try:
        from sqlalchemy import create_engine, exc, inspect, pool, text

        engine = create_engine(uri, poolclass=pool.NullPool)
    except ImportError as error:
        raise DataError(
            f"the database's driver cannot be imported: {error}; "
            "for PostgreSQL: pip install 'sparsetune[postgresql]'"
        ) from error
    except exc.ArgumentError:
        return True  # no database at all: MLflow knows what it is, or says so
    with engine.connect() as connection:
        if not inspect(connection).has_table("experiments"):
            return False
        return connection.execute(text("SELECT 1 FROM experiments")).first() is not None

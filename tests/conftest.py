"""Fixtures of every tier: where the repository is, and a catalogue that a test may edit."""

import os
import shutil
import signal
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]


_MINUTES = {"e2e": 15, "workflow": 5}
"""Folder -> how long one test of it may take; all of them are slow."""


def pytest_collection_modifyitems(items):
    """Whole commands and whole workflows are slow wherever they stand in these folders."""
    for item in items:
        room = item.path.relative_to(_REPOSITORY / "tests").parts[0]
        if room in _MINUTES:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(60 * _MINUTES[room]))


@pytest.fixture(scope="session")
def repository():
    """The folder that holds the Snakefile."""
    return _REPOSITORY


@pytest.fixture
def catalogue(tmp_path, repository):
    """A copy of ``config/``, without the commits that this checkout has resolved."""
    ignored = shutil.ignore_patterns("revisions.lock.yaml")
    return Path(shutil.copytree(repository / "config", tmp_path / "config", ignore=ignored))


@pytest.fixture(scope="session")
def edit():
    """Replace a text that must stand in a file: ``edit(path, old, new)``."""

    def replace(path, old, new):
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{path} does not hold {old!r}")
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace


def pytest_sessionstart():
    """Take interrupts, which a shell lets its background jobs ignore, and those what they start.

    What is kept between processes is nobody's here: a test that wants it says where.
    """
    os.environ["SPARSETUNE_CACHE"] = "off"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

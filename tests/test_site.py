"""The site of the documents is built strictly, and a reader's browser fetches nothing for it."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("material") is None,
        reason="mkdocs-material is not installed: pip install 'sparsetune[docs]'",
    ),
]


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


def test_every_page_is_there_and_fetches_nothing(site, repository):
    docs = repository / "docs"
    pages = {path.relative_to(docs).with_suffix("") for path in docs.rglob("*.md")}
    built = {
        path.relative_to(site).with_suffix(""): path.read_text(encoding="utf-8")
        for path in site.rglob("*.html")
    }
    assert pages <= built.keys()
    fetched = r'<(?:script|img|iframe|source)[^>]* src="?(?:https?:)?//|<link[^>]*href="?https?://'
    for name, text in built.items():
        assert not re.search(fetched, text), name


@pytest.mark.parametrize("folder", ["results", "studies"])
def test_the_results_of_every_suite_and_all_studies_are_in_the_menu(site, repository, folder):
    text = (site / "index.html").read_text(encoding="utf-8")
    for path in (repository / "docs" / folder).glob("*.md"):
        assert f'href="{folder}/{path.stem}.html"' in text, path.name


def test_the_reference_is_made_from_docstrings(site):
    text = (site / "api.html").read_text(encoding="utf-8")
    assert "Find which heads and neurons of a model matter" in text
    assert "<strong>Differs.</strong>" in text


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs headless Chromium")
def test_search_works_in_pages_that_are_opened_as_files(site, tmp_path):
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options = [f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom"]
    page = f"file://{site / 'index.html'}?q=ticket"
    done = subprocess.run([*browser, *options, page], capture_output=True, text=True, timeout=60)
    assert re.search(r"\d+ matching documents", done.stdout)

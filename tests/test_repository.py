"""The files that others find a project by agree with each other, and with what make runs."""

import re
import tomllib

import pytest
import yaml

import sparsetune


@pytest.fixture(scope="module")
def text(repository):
    return lambda name: (repository / name).read_text(encoding="utf-8")


def test_one_version_is_told_everywhere(text):
    citation = yaml.safe_load(text("CITATION.cff"))
    newest = re.search(r"^## (\d+\.\d+\.\d+)", text("CHANGELOG.md"), flags=re.M)[1]
    assert sparsetune.__version__ == citation["version"] == newest
    project = tomllib.loads(text("pyproject.toml"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sparsetune.__version__"}


def test_the_changelog_is_short_and_has_its_entries_in_sections(text):
    # A merge of two branches brings back what one of them took out.
    lines = text("CHANGELOG.md").splitlines()
    assert len(lines) < 150
    version = lines.index(f"## {sparsetune.__version__}")
    section = next(n for n, line in enumerate(lines) if line.startswith("### "))
    assert not [line for line in lines[version:section] if line.startswith("- ")]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_top_folder_lead_somewhere(name, text, repository):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text(name)):
        assert (repository / target).exists(), target


def test_both_kinds_of_continuous_integration_run_the_same_targets(text):
    (job,) = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"].values()
    targets = job["strategy"]["matrix"]["target"]
    assert re.findall(r"^make (\w+)$", text(".ci/run"), flags=re.M) == targets
    assert {"run": "make ${{ matrix.target }}"} in job["steps"]


def test_hooks_run_what_lint_runs(text):
    (own,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert own["repo"] == "local"
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in own["hooks"]}
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", text("Makefile"), flags=re.M)[1]
    assert tools <= set(re.findall(r"^\t(\w+)", lint, flags=re.M))


def test_the_catalogue_of_workflows_is_told_what_is_there(text, repository):
    usage = yaml.safe_load(text(".snakemake-workflow-catalog.yml"))["usage"]
    assert usage["report"] is True
    for name in ("Snakefile", "config/README.md", "LICENSE", "README.md"):
        assert (repository / name).is_file()


def test_addresses_are_real_ones(text):
    # A placeholder would lie; what has no public address yet is left out.
    for name in ("pyproject.toml", "CITATION.cff", "mkdocs.yml", "README.md", "CONTRIBUTING.md"):
        assert not re.findall(r"https?://[^\s\"')]*(?:example|your|TODO|<)", text(name)), name


def test_every_target_that_is_told_of_is_made(text, repository):
    made = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.M))
    names = [".ci/run", "README.md", "CONTRIBUTING.md", *map(str, repository.glob("docs/*.md"))]
    told = {
        word
        for name in names
        for word in re.findall(r"(?:^|`)make ([a-z-]+)", text(name), flags=re.M)
    }
    assert told <= made
    phony = re.search(r"^\.PHONY: (.*)$", text("Makefile"), flags=re.M)[1]
    assert set(phony.split()) == made

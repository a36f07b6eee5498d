import ast
import re
import sys
import tomllib

import pytest
import yaml
from unit.test_architecture import ALLOWED

from sparsetune.cli import WORKFLOW_MODULES

PIN = re.compile(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def locked(repository):
    lines = (repository / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


ROOMS = ("sparsetune", "rules", "config", "profiles", "benchmarks", "workflow")
ENDINGS = {".py", ".smk", ".yaml", ".yml", ".json", ".rst"}


def sources(repository):
    """Every text file of the project outside the tests, with its content."""
    paths = [repository / name for name in ("Snakefile", "Makefile", "environment.yml")]
    for room in ROOMS:
        paths += [path for path in (repository / room).rglob("*") if path.suffix in ENDINGS]
    return {path: path.read_text(encoding="utf-8") for path in sorted(paths)}


def test_conda_door_leads_to_the_locked_versions(repository):
    environment = yaml.safe_load((repository / "environment.yml").read_text(encoding="utf-8"))
    pip = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert pip == [["-r requirements.lock", "-e ."]]
    assert "pip" in environment["dependencies"]


def test_conda_python_is_one_that_the_package_accepts(repository, project):
    environment = yaml.safe_load((repository / "environment.yml").read_text(encoding="utf-8"))
    python = next(part for part in environment["dependencies"] if str(part).startswith("python="))
    lowest = project["project"]["requires-python"].removeprefix(">=")
    as_numbers = [tuple(map(int, text.split("."))) for text in (python[len("python=") :], lowest)]
    assert as_numbers[0] >= as_numbers[1]


def test_every_locked_line_is_one_exact_public_version(locked):
    # A URL, a path or a local version such as +cpu could not be installed elsewhere.
    assert [line for line in locked if not PIN.fullmatch(line)] == []


def test_no_package_is_locked_twice(locked):
    names = [normal(line.split("==")[0]) for line in locked]
    assert sorted(names) == sorted(set(names))


def test_every_dependency_is_locked(project, locked):
    names = {normal(line.split("==")[0]) for line in locked}
    asked = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    needed = {normal(re.split(r"[<>=!~\[; ]", one)[0]) for one in asked}
    assert needed - names == set()


def test_locked_version_satisfies_a_lower_bound(project, locked):
    versions = dict(line.split("==") for line in locked)
    bounds = [one.split(">=") for one in project["project"]["dependencies"] if ">=" in one]
    assert bounds
    for name, bound in bounds:
        assert int(versions[name].split(".")[0]) >= int(bound.split(".")[0])


def test_tools_of_the_checks_are_locked_too(locked):
    names = {normal(line.split("==")[0]) for line in locked}
    assert {"ruff", "mypy", "pytest", "pytest-xdist", "snakefmt", "setuptools"} - names == set()


# What is imported under a name that is not its distribution's.
DISTRIBUTIONS = {"pydantic_core": "pydantic", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# The rooms behind `import sparsetune`, which must do with the core, and what else each may use.
FRONT = dict.fromkeys(("__init__", "api", *sorted(ALLOWED["api"])), ()) | {"export": ("export",)}


def third_parties(path):
    """Distributions that a module imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in {name.split(".")[0] for name in names}:
            if name not in sys.stdlib_module_names and name != "sparsetune":
                yield normal(DISTRIBUTIONS.get(name, name))


def asked_for(project, *extras):
    known = project["project"]["optional-dependencies"]
    asked = [
        *project["project"]["dependencies"],
        *(one for extra in extras for one in known[extra]),
    ]
    return {normal(re.split(r"[<>=!~\[; ]", one)[0]) for one in asked}


def test_the_front_imports_what_the_core_requires(repository, project):
    package = repository / "sparsetune"
    for room, extras in FRONT.items():
        places = package.glob(f"{room}/**/*.py") if (package / room).is_dir() else ()
        for path in places or [package / f"{room}.py"]:
            allowed = asked_for(project, *extras)
            assert set(third_parties(path)) <= allowed, path


def test_the_package_imports_what_its_extras_bring(repository, project):
    known = asked_for(project, "workflow", "export", "nlg")
    for path in (repository / "sparsetune").rglob("*.py"):
        assert set(third_parties(path)) <= known, path


def test_commands_ask_for_what_the_extra_workflow_brings(project):
    extra = {normal(one) for one in project["project"]["optional-dependencies"]["workflow"]}
    assert {normal(DISTRIBUTIONS.get(name, name)) for name in WORKFLOW_MODULES} == extra


def test_packages_listed_for_the_wheel_are_the_ones_there(repository, project):
    there = {
        ".".join(path.relative_to(repository).parts)
        for path in [repository / "sparsetune", *(repository / "sparsetune").rglob("*")]
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert set(project["tool"]["setuptools"]["packages"]) == there


@pytest.mark.parametrize(
    "forbidden",
    [r"torch\.load\(", r"\bimport pickle|\bpickle\.", r"trust_remote_code\s*=\s*True",
     r"allow_pickle\s*=\s*True", r"yaml\.(unsafe_|full_)?load\((?!.*_StrictLoader)"],
)  # fmt: skip
def test_nothing_that_runs_code_from_a_file_is_used(repository, forbidden):
    found = sources(repository)
    assert len(found) > 100
    guilty = [str(path) for path, text in found.items() if re.search(forbidden, text)]
    assert guilty == []

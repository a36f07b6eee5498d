"""The wheel holds the package, and its front works where only the core's packages are there."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

JOURNEY = """
import torch, sparsetune as st
from transformers import BertConfig, BertForSequenceClassification

for name in st.__all__:
    getattr(st, name)
sizes = dict(num_hidden_layers=2, num_attention_heads=4, vocab_size=50, hidden_dropout_prob=0.0)
sizes |= dict(hidden_size=32, intermediate_size=48, attention_probs_dropout_prob=0.0)
torch.manual_seed(1)
BertForSequenceClassification(BertConfig(**sizes)).save_pretrained("base")
model = BertForSequenceClassification.from_pretrained("base").eval()
ids = torch.arange(24).reshape(3, 8)
batches = [{"input_ids": ids, "labels": torch.tensor([0, 1, 0])}] * 2
ticket = st.search_ticket(model, batches, heads=0.5, neurons=0.5, stop=2)
st.prune(st.shrink(model, ticket), 0.5)
st.apply_dsee(model, st.DseeConfig(rank=2, n_sparse=4))
model(**batches[0]).loss.backward()
st.save(model, "folder")
again = st.load("folder")
assert torch.equal(again.eval()(ids).logits, model(ids).logits)
print(st.merge(model, "masked"), st.summary(again, tokens=8))
try:
    st.export_onnx(model, "model.onnx")
except st.ConfigError as error:
    assert "pip install 'sparsetune[export]'" in str(error), error
else:
    raise AssertionError("onnx is there")
"""


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements):
    """Distributions that these requirements bring, as the environment of the tests has them."""
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        one = waiting.pop()
        name = normal(one.name)
        if name in found and one.extras <= found[name]:
            continue
        found[name] = found.get(name, set()) | one.extras
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            extras = ("", *found[name])
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return set(found)


def link(name, folder):
    """Let a folder show what one installed distribution brought, and nothing beside it."""
    installed = metadata.distribution(name)
    for part in {Path(file).parts[0] for file in installed.files or []}:
        here, there = folder / part, Path(str(installed.locate_file(part)))
        if part not in ("..", "__pycache__") and not here.exists():
            here.symlink_to(there)


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """Built from a copy: setuptools leaves folders beside what it builds, and reads old ones."""
    copy = tmp_path_factory.mktemp("source")
    ignored = ignore_patterns("__pycache__")
    copytree(repository / "sparsetune", copy / "sparsetune", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((repository / name).read_bytes())
    built = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(built), str(copy)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(built.glob("sparsetune-*.whl"))


@pytest.fixture(scope="module")
def core(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        told = archive.read(name).decode()
    needed = [Requirement(text) for text in re.findall(r"^Requires-Dist: (.*)$", told, re.M)]
    return closure(str(one) for one in needed if "extra" not in str(one.marker))


@pytest.fixture(scope="module")
def empty(wheel, core, tmp_path_factory):
    """An environment that holds the wheel and what its core requires; gives its ``bin``."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    packages = next(place.glob("lib*/python3*/site-packages"))
    for name in core:
        link(name, packages)
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    python = str(place / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", *options, str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return place / "bin"


@pytest.fixture
def run(empty, tmp_path):
    def run(program, *arguments):
        environment = {"PATH": f"{empty}:/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [empty / program, *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    return run


def test_the_wheel_holds_every_file_of_the_package(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("sparsetune/")}
    there = {
        str(path.relative_to(repository))
        for path in (repository / "sparsetune").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there


def test_the_core_is_less_than_a_third_of_the_distributions(core, repository):
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    workflow = project["dependencies"] + project["optional-dependencies"]["workflow"]
    assert core < closure(workflow)
    assert len(core) < len(closure(workflow)) / 3
    assert not core & {"datasets", "mlflow", "pandas", "peft", "pyarrow", "scipy", "snakemake"}


def test_every_name_works_with_the_core_alone(run):
    done = run("python", "-I", "-c", JOURNEY)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout


def test_commands_that_read_settings_work_with_the_core_alone(run, repository):
    assert run("sparsetune", "--version").returncode == 0
    assert run("sparsetune", "schema", "--thing", "method").returncode == 0
    folder = str(repository / "config")
    done = run("sparsetune", "check", "--config", f"{folder}/config.yaml", "--catalogue", folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_of_the_workflow_says_in_one_line_what_to_install(run):
    done = run("sparsetune", "links", "--results", "results")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "mlflow" in done.stderr
    assert "pip install 'sparsetune[workflow]'" in done.stderr

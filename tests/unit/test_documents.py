"""What the documents show is true: their Python runs, in order, their commands are understood.

Files that a page shows whole have a title, their path: they are written there and checked.
"""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import torch
import yaml
from snakemake.cli import get_argument_parser
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel
from unit.tiny import output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune.cli import _parser, main

SHOWN = ("README.md", "docs/in-your-own-work.md")
NAMED = (*SHOWN, "config/README.md")
WITH_FILES = {
    "docs/tutorial.md", "docs/own-data.md", "docs/own-backbone.md", "docs/own-method.md",
}  # fmt: skip


def snippets(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)


def examples(count):
    drawn = torch.Generator().manual_seed(4)
    labels = torch.randint(3, (count, 3), generator=drawn)
    return [{**tiny_batch(seed=n), "labels": labels[n]} for n in range(count)]


def rows(batches):
    return [{name: tensor[n] for name, tensor in one.items()} for one in batches for n in range(3)]


def run_in_order(path, names):
    """Each snippet with the line that it has in its file, so that an error names the place."""
    text = path.read_text(encoding="utf-8")
    for snippet in snippets(text):
        above = text[: text.index(snippet)].count("\n")
        exec(compile("\n" * above + snippet, str(path), "exec"), names)
    return names


def documents(repository):
    """Path in the repository -> text, of every document."""
    found = [
        *repository.glob("*.md"),
        *repository.glob("docs/**/*.md"),
        *repository.glob("config/*.md"),
    ]
    return {str(path.relative_to(repository)): path.read_text("utf-8") for path in found}


def files_of(text):
    """Path -> content, of the files that a page shows whole."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, flags=re.M | re.S))


def commands_of(text):
    """The command lines of a page, as words; comments are left out."""
    for block in re.findall(r"^ *```(?:sh|bash)\n(.*?)^ *```", text, flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def test_every_document_with_python_is_run(repository):
    texts = documents(repository)
    assert {path for path, text in texts.items() if snippets(text)} == set(SHOWN)
    assert {path for path, text in texts.items() if files_of(text)} == WITH_FILES


FOREIGN = {"export", "mlflow", "scancel", "squeue", "tmux"}
"""Programs that are none of the project's."""


class Commands:
    """Whether a command of a page is one that exists, with options that it has."""

    def __init__(self, repository, shown):
        self.repository, self.shown = repository, shown

    def check(self, words):
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        program = words[0].rsplit("/", 1)[-1].replace("-", "_")
        if program in FOREIGN:
            return
        getattr(self, program)(words[1:])

    def there(self, path):
        assert (self.repository / path).exists() or path in self.shown, path

    def make(self, words):
        targets = (self.repository / "Makefile").read_text(encoding="utf-8")
        for word in words:
            assert "=" in word or re.search(rf"^{re.escape(word)}:", targets, re.M), word

    def sparsetune(self, words):
        given = vars(_parser().parse_args(words))
        for option in ("config", "configfile"):
            if given.get(option):
                self.there(given[option])

    def snakemake(self, words):
        given, unknown = get_argument_parser().parse_known_args(words)
        assert not unknown, unknown
        for path in [*(given.configfile or []), *(given.profile or [])]:
            self.there(str(path))

    def pip(self, words):
        text = (self.repository / "pyproject.toml").read_text(encoding="utf-8")
        known = tomllib.loads(text)["project"]["optional-dependencies"]
        for extras in re.findall(r"\[(.*?)\]", " ".join(words)):
            assert set(extras.split(",")) <= known.keys()
        for name in re.findall(r"--requirement (\S+)", " ".join(words)):
            self.there(name)

    def python(self, words):
        if words[:2] == ["-m", "pip"]:
            self.pip(words[2:])
        elif not words[0].startswith("-"):
            self.there(words[0])

    def pytest(self, words):
        self.there(next(word for word in words if not word.startswith("-")))

    def pre_commit(self, words):
        self.there(".pre-commit-config.yaml")

    def source(self, words):
        assert words == [".venv/bin/activate"]

    def touch(self, words):
        assert words == [".venv/.ready"]  # what the Makefile looks at


def test_every_command_of_the_documents_is_understood(repository):
    seen = 0
    for path, text in documents(repository).items():
        commands = Commands(repository, files_of(text))
        for words in commands_of(text):
            try:
                commands.check(words)
            except (AssertionError, AttributeError, SystemExit) as error:
                pytest.fail(f"{path}: {shlex.join(words)}: {error}")
            seen += 1
    assert seen > 30


ADDED_KIND = """
import importlib.util, sys, pathlib
import sparsetune.methods.registry
from sparsetune.architectures.anatomy import task_head_parameters
from sparsetune.cli import main
from sparsetune.config.load import Catalogue
from sparsetune.cost.shapes import ModelShape
from unit.tiny import tiny_model

path = "sparsetune/methods/kinds/outputs.py"
spec = importlib.util.spec_from_file_location("sparsetune.methods.kinds.outputs", path)
spec.loader.exec_module(importlib.util.module_from_spec(spec))
code = main(["check", "--config", "config/outputs.yaml"])
where = {"backbone_id": "mini-bert", "task_id": "mini-sst2"}
update = Catalogue(pathlib.Path("config")).method("outputs", **where).update
for kind in ("bert", "roberta", "gpt2"):
    model = tiny_model(kind)
    update.attach(model, {}, 0)
    head = {id(one) for one in task_head_parameters(model).values()}
    own = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in head)
    shape = ModelShape.dense(model.config.to_dict(), "classification", 3)
    assert update.count(shape, {}).own == own > 0, kind
sys.exit(code)
"""


@pytest.mark.parametrize("page", sorted(WITH_FILES))
def test_the_files_of_a_page_are_valid(page, repository, catalogue, monkeypatch, capsys):
    folder = catalogue.parent
    monkeypatch.chdir(folder)
    text = (repository / page).read_text(encoding="utf-8")
    for path, content in files_of(text).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    config = BertConfig(hidden_size=48, num_hidden_layers=2, intermediate_size=60, vocab_size=50)
    BertModel(config).save_pretrained("models/my-bert")
    if page == "docs/own-method.md":  # in a process of its own: a kind is known from then on
        environment = {"PYTHONPATH": f"{repository}:{repository / 'tests'}"}
        command = [sys.executable, "-c", ADDED_KIND]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    suites = [path for path in files_of(text) if re.fullmatch(r"config/[^/]+\.yaml", path)]
    assert suites
    for path in suites:
        assert main(["check", "--config", path]) == 0, capsys.readouterr().err


def test_the_data_that_a_page_shows_are_read(repository, catalogue, monkeypatch):
    folder = catalogue.parent
    monkeypatch.chdir(folder)
    text = (repository / "docs/own-data.md").read_text(encoding="utf-8")
    for path, content in files_of(text).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    assert main(["dataset", "--task", "reviews", "--output", "made"]) == 0
    assert (folder / "made" / "record.json").exists()


def test_fragments_of_yaml_are_yaml(repository):
    for text in documents(repository).values():
        for block in re.findall(r"^```yaml\n(.*?)^```", text, flags=re.M | re.S):
            yaml.safe_load(block)


def test_the_reference_has_every_public_name_once(repository):
    text = (repository / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: sparsetune\.(\w+)$", text, flags=re.M)
    assert sorted(listed) == sorted(set(sparsetune.__all__) - {"__version__"})


def test_pages_speak_of_no_machine(repository):
    for path, text in documents(repository).items():
        assert not re.findall(r"(?<!\w)/(?:home|root|tmp|work|Users)/\S*", text), path


@pytest.mark.slow
@pytest.mark.parametrize("path", SHOWN)
def test_the_python_of_a_document_runs_from_top_to_bottom(path, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    tiny_model("bert").save_pretrained("your/model")
    given = examples(6)
    names = {"batches": given, "examples": rows(given), "train": lambda model: None}
    names |= {"model": tiny_model("bert")} if path == "README.md" else {}
    names = run_in_order(repository / path, names)
    if path == "README.md":
        plain = sparsetune.load("update", sparsetune.load("small"))
        merged = names["model"]
    else:
        plain = sparsetune.shrink(names["fresh"](), sparsetune.Ticket.load("ticket.json"))
        plain = sparsetune.load("tuned", plain)
        merged = names["model"]
        AutoModelForSequenceClassification.from_pretrained("merged")
    expected = output_of(plain.eval(), tiny_batch())
    torch.testing.assert_close(
        output_of(merged.eval(), tiny_batch()), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("path", NAMED)
def test_names_of_the_package_that_a_document_tells_exist(path, repository):
    text = (repository / path).read_text(encoding="utf-8")
    for name in set(re.findall(r"\bsparsetune((?:\.[A-Za-z_]\w*)+)", text)):
        parts = name.strip(".").split(".")
        if parts[-1] == "py":
            continue
        found = sparsetune
        for number, part in enumerate(parts):
            if not hasattr(found, part):
                importlib.import_module("sparsetune." + ".".join(parts[: number + 1]))
            found = getattr(found, part)
    for name in set(re.findall(r"\bst\.([A-Za-z_]\w*)", text)):
        assert name in sparsetune.__all__, name

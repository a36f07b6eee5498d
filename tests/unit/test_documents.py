"""What the documents show is true: their Python runs, in order, and what they name exists."""

import importlib
import re

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from unit.tiny import output_of, tiny_batch, tiny_model

import sparsetune

SHOWN = ("README.md", "docs/in-your-own-work.md")
NAMED = (*SHOWN, "config/README.md")


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


def test_every_document_with_python_is_run(repository):
    found = [
        *repository.glob("*.md"),
        *repository.glob("docs/**/*.md"),
        *repository.glob("config/*.md"),
    ]
    with_python = {
        str(path.relative_to(repository)) for path in found if snippets(path.read_text("utf-8"))
    }
    assert with_python == set(SHOWN)


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

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sparsetune.evaluation import split as module
from sparsetune.evaluation.split import EvaluationSplit

SPAN = SimpleNamespace(
    id="1", context="a red barn", answers=[("red", 2), ("a red barn", 0)], label=None
)
OFFSETS = [None, (0, 1), (2, 5), (6, 10)]


def split_of(kind, *examples, metrics=("accuracy_fraction",)):
    task = SimpleNamespace(kind=kind, metrics=metrics, generation={"beams": 1})
    return EvaluationSplit(task, list(examples), SimpleNamespace(pad_token_id=0))


def putting_out(monkeypatch, *outputs, features=({}, {})):
    """Replace encoding and forward passes; gives what was asked of them."""
    asked = []
    monkeypatch.setattr(module, "encode", lambda *_args, **_options: list(features))

    def forward(model, given, **options):
        asked.append((model, given, options))
        return list(outputs), 0.5

    monkeypatch.setattr(module, "forward_all", forward)
    return asked


@pytest.mark.parametrize(
    ("kind", "example", "expected"),
    [
        ("classification", SimpleNamespace(label=2), 2),
        ("regression", SimpleNamespace(label=2.5), 2.5),
        ("span", SPAN, ["red", "a red barn"]),
        ("generation", SimpleNamespace(references=("one", "two")), ["one", "two"]),
    ],
)
def test_references_are_what_the_metrics_of_the_kind_take(kind, example, expected):
    assert split_of(kind, example).references == [expected]


def test_the_split_is_cut_to_the_limit_and_encoded_only_when_needed(monkeypatch):
    read = []
    monkeypatch.setattr(module, "read_examples", lambda *asked: read.append(asked) or [1, 2, 3])
    monkeypatch.setattr(module, "encode", None)  # not called
    for limit, count in ((2, 2), (None, 3)):
        made = EvaluationSplit.read("task", Path("folder"), None, {"evaluation_examples": limit})
        assert len(made.examples) == count
    assert set(read) == {(Path("folder"), "task", "evaluation")}


def test_labels_are_predicted_and_scored(monkeypatch):
    given = [SimpleNamespace(label=label) for label in (1, 0)]
    outputs = [(torch.tensor([0.0, 1.0]),), (torch.tensor([0.0, 2.0]),)]
    asked = putting_out(monkeypatch, *outputs)
    split = split_of("classification", *given)
    assert split.predict("model", "cpu") == ([1, 1], 0.5, None)
    assert split.score("model", "cpu") == {"accuracy_fraction": 0.5}
    model, features, options = asked[0]
    assert (model, features, options["device"]) == ("model", [{}, {}], "cpu")


def test_spans_are_cut_from_the_context(monkeypatch):
    feature = {"example_index": 0, "offset_mapping": OFFSETS}
    logits = (torch.tensor([9.0, 0.0, 5.0, 0.0]), torch.tensor([9.0, 0.0, 5.0, 0.0]))
    putting_out(monkeypatch, logits, features=[feature])
    split = split_of("span", SPAN, metrics=("exact_match_fraction",))
    assert split.predict("model", "cpu")[0] == ["red"]
    assert split.score("model", "cpu") == {"exact_match_fraction": 1.0}

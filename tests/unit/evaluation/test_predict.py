from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from unit.tiny import tiny_model

from sparsetune.config.suite import Limits
from sparsetune.config.task import Generation
from sparsetune.evaluation import predict
from sparsetune.evaluation.predict import EvaluationSplit, _generate_all

SETTINGS = Generation(beams=3, maximum_new_tokens=6, length_penalty=0.8, no_repeat_ngram=2)
SPAN = SimpleNamespace(
    id="1", context="a red barn", answers=[("red", 2), ("a red barn", 0)], label=None
)
OFFSETS = [None, (0, 1), (2, 5), (6, 10)]


class Tokenizer:
    """Shows token ids as words."""

    pad_token_id = eos_token_id = 0

    def batch_decode(self, rows, *, skip_special_tokens):
        return [" " + " ".join(map(str, row)) for row in rows]


def prompts():
    rows = [[n] * (1 + n % 5) for n in range(2, 13)]
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]


def generated(**options):
    model = tiny_model("gpt2", task="lm")
    return _generate_all(
        model, prompts(), Tokenizer(), settings=SETTINGS, device="cpu", **options
    )  # fmt: skip


def test_texts_come_in_the_order_of_the_prompts_whatever_the_batches():
    texts, seconds, steps = generated()
    assert seconds > 0
    assert len(set(texts)) > 5
    for size in (1, 4):
        found = generated(batch_size=size)
        assert (found.values, found.decoding_steps) == (texts, steps)


def test_a_batch_holds_as_many_prompts_as_its_hypotheses_allow(monkeypatch):
    sizes, inner = [], predict.continue_prompts
    monkeypatch.setattr(predict, "_HYPOTHESES", 13)  # 13 // 3 beams = 4 prompts

    def watched(model, batch, *args, **kwargs):
        sizes.append(tuple(batch["input_ids"].shape))
        return inner(model, batch, *args, **kwargs)

    monkeypatch.setattr(predict, "continue_prompts", watched)
    generated()
    assert sizes == [(4, 5), (4, 3), (3, 2)]  # the longest first


def split_of(kind, *examples, metrics=("accuracy_fraction",)):
    task = SimpleNamespace(kind=kind, metrics=metrics, generation=None)
    return EvaluationSplit(task, list(examples), SimpleNamespace(pad_token_id=0))


def putting_out(monkeypatch, *outputs, features=({}, {})):
    """Replace encoding and forward passes; gives what was asked of them."""
    asked = []
    monkeypatch.setattr(predict, "encode", lambda *_args, **_options: list(features))

    def forward(model, given, **options):
        asked.append((model, given, options["device"]))
        return list(outputs), 0.5

    monkeypatch.setattr(predict, "_forward_all", forward)
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
    monkeypatch.setattr(predict, "read_examples", lambda *asked: [asked])
    monkeypatch.setattr(predict, "encode", None)  # not called
    for limit in (2, None):
        limits = Limits(train_examples=None, evaluation_examples=limit)
        made = EvaluationSplit.read("task", Path("folder"), None, limits)
        assert made.examples == [(Path("folder"), "task", "evaluation", limit)]


def test_labels_are_predicted_and_scored(monkeypatch):
    given = [SimpleNamespace(label=label) for label in (1, 0)]
    outputs = [(torch.tensor([0.0, 1.0]),), (torch.tensor([0.0, 2.0]),)]
    asked = putting_out(monkeypatch, *outputs)
    split = split_of("classification", *given)
    assert split.predict("model", "cpu") == ([1, 1], 0.5, None)
    assert split.score("model", "cpu") == {"accuracy_fraction": 0.5}
    assert asked[0] == ("model", [{}, {}], "cpu")


def test_spans_are_cut_from_the_context(monkeypatch):
    feature = {"example_index": 0, "offset_mapping": OFFSETS}
    logits = (torch.tensor([9.0, 0.0, 5.0, 0.0]), torch.tensor([9.0, 0.0, 5.0, 0.0]))
    putting_out(monkeypatch, logits, features=[feature])
    split = split_of("span", SPAN, metrics=("exact_match_fraction",))
    assert split.predict("model", "cpu").values == ["red"]
    assert split.score("model", "cpu") == {"exact_match_fraction": 1.0}

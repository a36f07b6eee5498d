import logging
import sys

import pytest
from unit.tiny import tiny_model

from sparsetune.evaluation import inference
from sparsetune.evaluation.inference import generate_all

SETTINGS = {"beams": 3, "maximum_new_tokens": 6, "length_penalty": 0.8, "no_repeat_ngram": 2}


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
    return generate_all(
        model, prompts(), Tokenizer(), settings=SETTINGS, device="cpu", **options
    )  # fmt: skip


def test_texts_come_in_the_order_of_the_prompts_whatever_the_batches():
    texts, seconds, steps = generated()
    assert seconds > 0
    assert len(steps) == len(texts)
    assert len(set(texts)) > 5
    assert texts == generated(batch_size=1)[0] == generated(batch_size=4)[0]


def test_a_batch_holds_as_many_prompts_as_its_hypotheses_allow(monkeypatch):
    sizes, inner = [], inference.search
    monkeypatch.setattr(inference, "_HYPOTHESES", 13)  # 13 // 3 beams = 4 prompts

    def watched(model, batch, *args, **kwargs):
        sizes.append(len(batch["input_ids"]))
        return inner(model, batch, *args, **kwargs)

    monkeypatch.setattr(inference, "search", watched)
    generated()
    assert sizes == [4, 4, 3]


def test_steps_are_the_passes_after_the_prompt_s_own(monkeypatch):
    calls, inner = [], inference.search

    def watched(model, batch, *args, **kwargs):
        found = inner(model, batch, *args, **kwargs)
        calls.append((len(batch["input_ids"][0]), found.steps))
        return found

    monkeypatch.setattr(inference, "search", watched)
    steps = generated(batch_size=1).steps
    # Longest prompts come first, and of equally long ones the earlier.
    order = sorted(range(11), key=lambda i: -len(prompts()[i]["input_ids"]))
    assert [taken for _, (taken,) in calls] == [steps[i] for i in order]
    assert all(0 <= taken < SETTINGS["maximum_new_tokens"] for taken in steps)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log(monkeypatch, capsys, caplog, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(inference, "_SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, logger="sparsetune"):
        generated(batch_size=4)
    assert ("11/11" in capsys.readouterr().err) == terminal
    lines = [record.getMessage() for record in caplog.records]
    expected = [] if terminal else ["4 of 11 prompts", "8 of 11 prompts", "11 of 11 prompts"]
    assert lines == expected

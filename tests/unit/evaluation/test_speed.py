from types import SimpleNamespace

import pytest
import torch
from unit.tiny import tiny_model

from sparsetune.config.task import Generation
from sparsetune.evaluation import speed
from sparsetune.evaluation.speed import measure_speed, middle

GENERATION = Generation(beams=2, maximum_new_tokens=4, length_penalty=1.0, no_repeat_ngram=0)


def features(count):
    return [{"input_ids": [2] * n, "attention_mask": [1] * n} for n in range(1, count + 1)]


def split_of(kind, count):
    return SimpleNamespace(
        task=SimpleNamespace(generation=GENERATION if kind == "generation" else None),
        features=features(count),
        tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=0),
    )


def test_the_middle_lengths_are_chosen_whatever_the_order():
    chosen = middle(features(9)[::-1], 3)
    assert [len(feature["input_ids"]) for feature in chosen] == [4, 5, 6]
    assert len(middle(features(2), 64)) == 2
    assert len(middle(features(2), 1)[0]["input_ids"]) == 1


def test_one_sequence_and_a_batch_are_timed_after_a_warm_up(monkeypatch):
    monkeypatch.setattr(speed, "EVALUATION_BATCH", 4)
    model, shapes = tiny_model("bert"), []
    inner = model.forward
    model.forward = lambda **inputs: (
        shapes.append(tuple(inputs["input_ids"].shape)) or inner(**inputs)
    )
    measured = measure_speed(split_of("classification", 8), model, "cpu")
    assert [(one.sequences, one.tokens) for one in measured] == [(1, 4), (4, 6)]
    for one in measured:
        assert one.threads == torch.get_num_threads()
        calls = shapes.count((one.sequences, one.tokens))
        assert calls == one.warmup + one.repeats >= 4
        assert one.latency_minimum_seconds <= one.latency_median_seconds
        rate = one.sequences / one.latency_median_seconds
        assert one.sequences_per_second == pytest.approx(rate, rel=0.05)  # rounded seconds


def test_a_prompt_is_searched_alone():
    measured = measure_speed(split_of("generation", 5), tiny_model("gpt2", task="lm"), "cpu")
    assert [(one.sequences, one.tokens) for one in measured] == [(1, 3)]


@pytest.mark.parametrize(
    ("seconds", "repeats", "warmup"), [(0.001, 50, 2), (0.03, 6, 2), (9.0, 3, 1)]
)
def test_long_calls_are_repeated_less(monkeypatch, seconds, repeats, warmup):
    clock = SimpleNamespace(now=0.0)

    def call():
        clock.now += seconds

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock.now)
    measured = speed._timed(call)
    assert (measured["repeats"], measured["warmup"]) == (repeats, warmup)
    assert clock.now == pytest.approx(seconds * (repeats + warmup))
    assert measured["latency_median_seconds"] == pytest.approx(seconds)


def test_median_and_p90_of_known_times(monkeypatch):
    # Two calls of 1/50 s allow ten more, which take 1, 2, ... 10 s: nine of ten keep to 9 s.
    lengths, clock = iter([0.02, 0.0199, *range(10, 0, -1)]), SimpleNamespace(now=0.0)

    def call():
        clock.now += next(lengths)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock.now)
    found = speed._timed(call)
    assert (found["warmup"], found["repeats"]) == (2, 10)
    times = [found[f"latency_{name}_seconds"] for name in ("median", "p90", "minimum")]
    assert times == pytest.approx([5.5, 9.0, 1.0])

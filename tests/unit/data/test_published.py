import random

import pytest

from sparsetune.data.examples import GenerationExample
from sparsetune.data.published import group_references

ROWS = [(1, "a", "One."), (1, "a", "Two."), (2, "b", "Three."), (1, "a", "One.")]


def test_train_has_one_example_a_row():
    assert group_references(ROWS, "train", stem="train") == [
        GenerationExample("train-0", "a", ("One.",)),
        GenerationExample("train-1", "a", ("Two.",)),
        GenerationExample("train-2", "b", ("Three.",)),
        GenerationExample("train-3", "a", ("One.",)),
    ]


def test_consecutive_rows_with_one_key_are_one_example():
    assert group_references(ROWS, "evaluation", stem="test") == [
        GenerationExample("test-0", "a", ("One.", "Two.")),
        GenerationExample("test-1", "b", ("Three.",)),
        GenerationExample("test-2", "a", ("One.",)),
    ]


def test_keys_group_and_sources_do_not():
    rows = [(1, "a", "x"), (2, "a", "y"), (2, "b", "z")]
    found = group_references(iter(rows), "evaluation", stem="dev")
    assert [(example.source, example.references) for example in found] == [
        ("a", ("x",)),
        ("a", ("y", "z")),
    ]


def naive(rows):
    found = []
    for place, (key, source, reference) in enumerate(rows):
        if place == 0 or rows[place - 1][0] != key:
            found.append((source, []))
        found[-1][1].append(reference)
    return [(source, tuple(references)) for source, references in found]


@pytest.mark.parametrize("seed", range(5))
def test_groups_equal_a_plain_loop_and_lose_nothing(seed):
    draw = random.Random(seed)
    rows = [(key, f"s{key}", f"r{n}") for n in range(60) for key in [draw.randrange(3)]]
    found = group_references(rows, "evaluation", stem="dev")
    assert [(example.source, example.references) for example in found] == naive(rows)
    assert [one for example in found for one in example.references] == [row[2] for row in rows]


def test_no_rows_are_no_examples():
    assert group_references([], "evaluation", stem="dev") == []

import random

import pytest
from unit.data.tasks import task_of

from sparsetune.data.examples import GenerationExample
from sparsetune.data.layouts import read_published
from sparsetune.data.published import group_references
from sparsetune.errors import DataError

ROWS = [(1, "a", "One."), (1, "a", "Two."), (2, "a", "Three."), (2, "b", "Four."), (1, "a", "One.")]


def test_train_has_one_example_a_row():
    found = group_references(ROWS, "train", stem="train")
    assert found == [
        GenerationExample(f"train-{n}", source, (text,)) for n, (_, source, text) in enumerate(ROWS)
    ]


def test_consecutive_rows_with_one_key_are_one_example_whatever_their_sources():
    assert group_references(iter(ROWS), "evaluation", stem="test") == [
        GenerationExample("test-0", "a", ("One.", "Two.")),
        GenerationExample("test-1", "a", ("Three.", "Four.")),
        GenerationExample("test-2", "a", ("One.",)),
    ]


def naive(rows):
    found = []
    for place, (key, source, reference) in enumerate(rows):
        if place == 0 or rows[place - 1][0] != key:
            found.append((source, []))
        found[-1][1].append(reference)
    return [(source, tuple(references)) for source, references in found]


@pytest.mark.parametrize("seed", range(3))
def test_groups_equal_a_plain_loop_and_lose_nothing(seed):
    draw = random.Random(seed)
    rows = [(key, f"s{key}", f"r{n}") for n in range(60) for key in [draw.randrange(3)]]
    found = group_references(rows, "evaluation", stem="dev")
    assert [(example.source, example.references) for example in found] == naive(rows)


@pytest.mark.parametrize(
    ("layout", "kind", "split"),
    [
        ("squad", "span", "test"),
        *((layout, "generation", "dev_matched") for layout in ("dart", "e2e", "webnlg")),
    ],
)
def test_a_split_that_was_never_published_is_refused(tmp_path, layout, kind, split):
    told = f"split of {layout}: received '{split}'; allowed: train, dev"
    with pytest.raises(DataError, match=told):
        read_published(tmp_path, task_of(layout, kind, (), split), "evaluation")

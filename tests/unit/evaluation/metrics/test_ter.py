import random

import pytest

from sparsetune.evaluation.metrics.ter import corpus_ter, edits_to


@pytest.mark.parametrize(
    ("words", "reference", "edits"),
    [
        ("a b c d", "a b c d", 0),
        ("a b c", "a b c d", 1),
        ("a b x d", "a b c d", 1),
        ("c d e a b", "a b c d e", 1),  # one block is shifted; without shifts: 4
        ("d b c a", "a b c d", 2),
        ("", "a b", 2),
        ("a b", "", 2),
    ],
)
def test_edits_by_hand(words, reference, edits):
    assert edits_to(words.split(), reference.split()) == edits


def test_rate_takes_the_nearest_reference_and_the_mean_length():
    # One edit to the second reference, none to "x"; lengths (4 + 2) / 2 and 1.
    predictions = [["a", "b", "c"], ["x"]]
    references = [[["p", "q", "r", "s"], ["a", "b"]], [["x"]]]
    assert corpus_ter(predictions, references) == pytest.approx(1 / (3 + 1))


def test_rate_of_empty_texts():
    assert corpus_ter([[]], [[[]]]) == 0
    assert corpus_ter([["a"]], [[[]]]) == 1


def test_edits_are_sacrebleus_on_random_and_on_shuffled_texts():
    library = pytest.importorskip("sacrebleu.metrics.lib_ter")
    rng = random.Random(5)
    for number in range(400):
        alphabet = "abcdefghijklm"[: rng.randint(2, 12)]
        words = [rng.choice(alphabet) for _ in range(rng.randint(0, 16))]
        other = [rng.choice(alphabet) for _ in range(rng.randint(0, 16))]
        if number % 2:
            cut = rng.randint(0, len(words))
            other = words[cut:] + words[:cut] + ["z"] * rng.randint(0, 2)
        assert edits_to(words, other) == library.translation_edit_rate(words, other)[0]

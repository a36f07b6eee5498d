import random

import pytest
from unit.cost.configs import TINY_BERT

from sparsetune.cost.lengths import Lengths
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import DataError


def test_expected_cost_is_the_mean_over_sequences_and_above_that_of_the_mean_length():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    lengths = [4, 4, 7, 21]

    def macs(tokens):
        return sum(macs_by_module(shape, tokens).values())

    found = Lengths.of(lengths).expected(macs)
    assert found == round(sum(macs(tokens) for tokens in lengths) / 4)
    # Attention is convex: 2 layers x 2 x 24 features x (mean of squares - square of mean).
    variance = (16 + 16 + 49 + 441) / 4 - 9**2
    assert found - macs(9) == round(2 * 2 * 24 * variance)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_padding_equals_a_naive_walk_over_batches(batch_size):
    lengths = [random.Random(batch_size).randint(1, 9) for _ in range(50)]
    longest_first = sorted(lengths, reverse=True)
    naive = []
    for first in range(0, len(lengths), batch_size):
        batch = longest_first[first : first + batch_size]
        naive += [max(batch)] * len(batch)
    padded = Lengths.of(lengths).padded(batch_size)
    assert padded.pairs() == Lengths.of(naive).pairs()
    assert padded.sequences == 50
    assert padded.mean >= Lengths.of(lengths).mean


def test_a_record_gives_back_what_it_was_given():
    lengths = Lengths.of([5, 2, 5])
    assert lengths.pairs() == [[2, 1], [5, 2]]
    assert Lengths.from_pairs(lengths.pairs()) == lengths
    assert (lengths.sequences, lengths.mean) == (3, 4.0)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "received none"), ([[3, 0]], "0 sequences of 3 tokens"),
     ([[3]], r"\[tokens, sequences\]"), (None, "received None"),
     ([[2.5, 1]], "1 sequences of 2.5 tokens")],
)  # fmt: skip
def test_lengths_that_make_no_sense_are_refused(pairs, message):
    with pytest.raises(DataError, match=message):
        Lengths.from_pairs(pairs)

"""Word vectors from co-occurrence."""

import numpy as np
import pytest

from sparsetune.training.initial_models import cooccurrence_embeddings

# Tokens 1, 2, 3 stand together, and 4, 5, 6; token 0 is special; token 7 never occurs.
DOCUMENTS = [[0, 1, 2], [0, 2, 3], [0, 1, 3], [0, 4, 5], [0, 5, 6], [0, 4, 6]]


def _vectors(width=2):
    return cooccurrence_embeddings(DOCUMENTS, vocabulary_size=8, width=width, skipped=[0])


def test_words_of_one_topic_are_close_and_of_two_topics_are_not():
    vectors = _vectors()
    assert vectors[1] @ vectors[2] == pytest.approx(1.0, abs=1e-5)
    assert vectors[4] @ vectors[6] == pytest.approx(1.0, abs=1e-5)
    assert abs(vectors[1] @ vectors[4]) < 1e-5


def test_rows_have_length_one_or_zero():
    lengths = np.linalg.norm(_vectors(), axis=1)
    assert lengths.tolist() == pytest.approx([0, 1, 1, 1, 1, 1, 1, 0], abs=1e-5)


def test_information_is_the_log_of_observed_over_expected():
    # Each of six words meets two others once: every word counts 2 of 12 pairs, so a pair is
    # expected 2 * 2 / 12 = 1/3 times and seen once: log 3. The block of three words has the
    # eigenvalue 2 log 3 for the constant vector, so a full factorisation returns log 3 off the
    # diagonal; with every width kept, scaling rows to length one leaves equal cosines.
    vectors = _vectors(width=8)
    cosines = vectors[1:4] @ vectors[1:4].T
    assert cosines[0, 1] == pytest.approx(cosines[1, 2], abs=1e-4)


def test_same_documents_give_the_same_bytes():
    assert _vectors().tobytes() == _vectors().tobytes()

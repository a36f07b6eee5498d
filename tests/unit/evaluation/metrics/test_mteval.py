import math

import pytest
from unit.evaluation.generated_texts import GOLDEN, PREDICTIONS, REFERENCES

from sparsetune.evaluation.metrics.mteval import e2e_bleu, e2e_nist, mteval_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Loch Fyne, by the river.", ["loch", "fyne", ",", "by", "the", "river", "."]),
        ("3.5 of 5,000", ["3.5", "of", "5,000"]),  # digits on both sides
        ("5.", ["5", "."]),
        ("£20-25", ["£20", "-", "25"]),  # a dash after a digit
        ("isn't family-friendly", ["isn't", "family-friendly"]),
        ("(a/b)", ["(", "a", "/", "b", ")"]),
        ("Fish &amp; Chips", ["fish", "&", "chips"]),
        ("river-\nside pub\nnow", ["riverside", "pub", "now"]),
        ("", [""]),
    ],
)
def test_words_by_hand(text, words):
    assert mteval_words(text) == words


def test_bleu_by_hand():
    # Precisions 4/5, 3/4, 2/3 and 1/2, whose product is 1/5; no brevity penalty.
    assert e2e_bleu(["a b c d e"], [["A b C d f"]]) == pytest.approx((1 / 5) ** (1 / 4))
    # All n-grams hit; six words against eight pay exp(1 - 8/6).
    short = e2e_bleu(["a b c d e f"], [["a b c d e f g h"]])
    assert short == pytest.approx(math.exp(1 - 8 / 6))


def test_bleu_takes_the_closest_reference_and_the_shorter_of_two_as_close():
    # Four words; references of three and five: three counts, so that nothing is paid.
    assert e2e_bleu(["a b c d"], [["a b c", "a b c d e"]]) == pytest.approx(1)


def test_nist_by_hand():
    # Each of three reference words is worth log2(3 / 1); what must follow a word is worth
    # nothing. Two words against three, a ratio of 2/3, halve the score.
    assert e2e_nist(["a b c"], [["a b c"]]) == pytest.approx(math.log2(3))
    assert e2e_nist(["a b"], [["a b c"]]) == pytest.approx(math.log2(3) / 2)
    # "a" twice in four words: worth log2(4 / 2), then "b" or "c": log2(2 / 1) in one bigram.
    assert e2e_nist(["a b"], [["a b", "a c"]]) == pytest.approx((1 + 2) / 2 + 1)


def test_scores_are_those_of_the_challenges_script():
    assert e2e_bleu(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["e2e_bleu_fraction"])
    assert e2e_nist(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["e2e_nist_score"])


def test_bleu_equals_sacrebleus_without_case_and_smoothing():
    metrics = pytest.importorskip("sacrebleu.metrics")
    first = [[texts[0] for texts in REFERENCES], [texts[1] for texts in REFERENCES]]
    theirs = metrics.BLEU(lowercase=True, smooth_method="none").corpus_score(PREDICTIONS, first)
    ours = e2e_bleu(PREDICTIONS, [texts[:2] for texts in REFERENCES])
    assert ours == pytest.approx(theirs.score / 100)


@pytest.mark.parametrize("metric", [e2e_bleu, e2e_nist])
def test_outputs_without_words_or_hits_score_nothing(metric):
    assert metric([""], [["a b c d e"]]) == pytest.approx(0, abs=1e-6)
    assert metric(["x", ""], [["a b"], ["c"]]) == pytest.approx(0, abs=1e-3)

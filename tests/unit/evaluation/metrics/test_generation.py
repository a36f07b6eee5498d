import math

import pytest
from unit.evaluation.generated_texts import GOLDEN, PREDICTIONS, REFERENCES

from sparsetune.evaluation.metrics import assess, generation, score
from sparsetune.evaluation.metrics.generation import mteval_words

STREAMS = [[t[i] if i < len(t) else None for t in REFERENCES] for i in range(3)]


def e2e_bleu(predictions, references):
    return generation.e2e_bleu(predictions, references).value


def e2e_nist(predictions, references):
    return generation.e2e_nist(predictions, references).value


@pytest.mark.parametrize(("name", "library"), [("bleu", "BLEU"), ("ter", "TER"), ("chrf", "CHRF")])
def test_values_and_signatures_are_sacrebleus(name, library):
    metrics = pytest.importorskip("sacrebleu.metrics")
    theirs = getattr(metrics, library)()
    expected = theirs.corpus_score(PREDICTIONS, STREAMS).score / 100
    values, notes = assess([f"{name}_fraction"], PREDICTIONS, REFERENCES)
    assert values[f"{name}_fraction"] == pytest.approx(expected)
    assert notes[f"{name}_fraction"] == f"sacrebleu {theirs.get_signature().format()}"


def test_bleu_by_hand():
    # Identical texts score 1; a shorter one with perfect precision pays exp(1 - 8/6).
    same = "a b c d e f g h"
    assert score(["bleu_fraction"], [same], [[same]])["bleu_fraction"] == pytest.approx(1)
    short = score(["bleu_fraction"], ["a b c d e f"], [[same]])["bleu_fraction"]
    assert short == pytest.approx(math.exp(1 - 8 / 6))


def test_ter_by_hand():
    # A shift of "a b" is one edit of five words; to the nearest of two references it is one edit
    # of their mean length, 3; no edit at all is needed for the third.
    references = [["a b c d e"], ["p q r s", "a b"], ["x"]]
    found = score(["ter_fraction"], ["c d e a b", "a b c", "x"], references)
    assert found["ter_fraction"] == pytest.approx((1 + 1 + 0) / (5 + 3 + 1))


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


def test_e2e_bleu_by_hand():
    # Precisions 4/5, 3/4, 2/3 and 1/2, whose product is 1/5; no brevity penalty.
    assert e2e_bleu(["a b c d e"], [["A b C d f"]]) == pytest.approx((1 / 5) ** (1 / 4))
    # All n-grams hit; six words against eight pay exp(1 - 8/6).
    short = e2e_bleu(["a b c d e f"], [["a b c d e f g h"]])
    assert short == pytest.approx(math.exp(1 - 8 / 6))


def test_e2e_bleu_takes_the_closest_reference_and_the_shorter_of_two_as_close():
    # Four words; references of three and five: three counts, so that nothing is paid.
    assert e2e_bleu(["a b c d"], [["a b c", "a b c d e"]]) == pytest.approx(1)


def test_nist_by_hand():
    # Each of three reference words is worth log2(3 / 1); what must follow a word is worth
    # nothing. Two words against three, a ratio of 2/3, halve the score.
    assert e2e_nist(["a b c"], [["a b c"]]) == pytest.approx(math.log2(3))
    assert e2e_nist(["a b"], [["a b c"]]) == pytest.approx(math.log2(3) / 2)
    # "a" twice in four words: worth log2(4 / 2), then "b" or "c": log2(2 / 1) in one bigram.
    assert e2e_nist(["a b"], [["a b", "a c"]]) == pytest.approx((1 + 2) / 2 + 1)


def test_e2e_scores_are_those_of_the_challenges_script():
    assert e2e_bleu(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["e2e_bleu_fraction"])
    assert e2e_nist(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["e2e_nist_score"])


def test_e2e_bleu_equals_sacrebleus_without_case_and_smoothing():
    metrics = pytest.importorskip("sacrebleu.metrics")
    theirs = metrics.BLEU(lowercase=True, smooth_method="none")
    expected = theirs.corpus_score(PREDICTIONS, STREAMS[:2]).score / 100
    ours = e2e_bleu(PREDICTIONS, [texts[:2] for texts in REFERENCES])
    assert ours == pytest.approx(expected)


@pytest.mark.parametrize("metric", [e2e_bleu, e2e_nist])
def test_outputs_without_words_or_hits_score_nothing(metric):
    assert metric([""], [["a b c d e"]]) == pytest.approx(0, abs=1e-6)
    assert metric(["x", ""], [["a b"], ["c"]]) == pytest.approx(0, abs=1e-3)

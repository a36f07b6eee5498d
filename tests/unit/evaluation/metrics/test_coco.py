import pytest
from unit.evaluation.generated_texts import GOLDEN, PREDICTIONS, REFERENCES

from sparsetune.evaluation.metrics.coco import cider, rouge_l


def test_rouge_l_by_hand():
    # "b d" is common, in order: precision 2/4 and recall 2/2, weighed with beta 1.2.
    expected = (1 + 1.44) * 0.5 * 1 / (1 + 1.44 * 0.5)
    assert rouge_l(["a b c d"], [["b d"]]) == pytest.approx(expected)
    # Precision of the long reference (3/4), recall of the short one (2/2).
    expected = (1 + 1.44) * 0.75 * 1 / (1 + 1.44 * 0.75)
    assert rouge_l(["a b c d"], [["b d", "a b c f g h"]]) == pytest.approx(expected)


def test_rouge_l_ignores_case_and_punctuation():
    assert rouge_l(["The pub, by the river."], [["the pub by the river"]]) == pytest.approx(1)


def test_rouge_l_is_the_mean_over_examples():
    assert rouge_l(["a", "b"], [["a"], ["c"]]) == 0.5
    assert rouge_l(["", "..."], [["a"], ["a"]]) == 0


def test_cider_by_hand():
    # Two examples, each word in one of them, so that all weigh ln 2. First: "a" of "a b" meets
    # "a c" with cosine 1/2, no pair does: 10 * (1/2 + 0 + 0 + 0) / 4. Second: a single word
    # that fits: 10 * (1 + 0 + 0 + 0) / 4.
    assert cider(["a b", "x"], [["a c"], ["x"]]) == pytest.approx((1.25 + 2.5) / 2)


def test_cider_is_ten_for_the_references_themselves_and_none_for_words_of_all_examples():
    texts = ["a b c d e", "f g h i j"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx(10)
    assert cider(["a b", "a b"], [["a b"], ["a b"]]) == 0


def test_scores_are_those_of_the_caption_scripts():
    assert rouge_l(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["coco_rouge_l_fraction"])
    assert cider(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["coco_cider_score"])


@pytest.mark.parametrize("metric", [rouge_l, cider])
def test_order_of_examples_and_references_does_not_matter(metric):
    turned = metric(PREDICTIONS[::-1], [texts[::-1] for texts in REFERENCES[::-1]])
    assert turned == pytest.approx(metric(PREDICTIONS, REFERENCES))

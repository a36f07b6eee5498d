import math

import numpy as np
import pytest

from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.metrics.assess import (
    METRICS,
    assess,
    collapsed,
    normalise_answer,
    score,
    span_f1,
)
from sparsetune.evaluation.metrics.generation import GENERATION_METRICS


def test_label_metrics_by_hand():
    # true positive 2, false positive 1, false negative 1, true negative 2.
    predictions, references = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]
    scores = score(
        ["accuracy_fraction", "f1_fraction", "matthews_correlation"], predictions, references
    )
    assert scores["accuracy_fraction"] == pytest.approx(4 / 6)
    assert scores["f1_fraction"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores["matthews_correlation"] == pytest.approx((2 * 2 - 1 * 1) / 9)


def test_correlations_against_numpy_and_ranks():
    rng = np.random.default_rng(3)
    expected = rng.normal(size=40)
    predicted = np.exp(expected + 0.1 * rng.normal(size=40))
    scores = score(["pearson_correlation", "spearman_correlation"], predicted, expected)
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, expected)]
    assert scores["pearson_correlation"] == pytest.approx(np.corrcoef(predicted, expected)[0, 1])
    assert scores["spearman_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("metric", ["pearson_correlation", "spearman_correlation"])
def test_correlation_of_constant_predictions_is_none_and_explained(metric):
    scores, notes = assess([metric], [2.5, 2.5, 2.5], [1.0, 2.0, 3.0])
    assert scores == {metric: None}
    assert "do not vary" in notes[metric]


def test_f1_without_any_positive_is_undefined_but_matthews_is_zero():
    scores, notes = assess(["f1_fraction", "matthews_correlation"], [0, 0], [0, 0])
    assert scores == {"f1_fraction": None, "matthews_correlation": 0.0}
    assert list(notes) == ["f1_fraction"]
    assert "positive" in notes["f1_fraction"]


def test_no_metric_gives_nan_on_collapsed_predictions():
    of_texts = {"exact_match_fraction", "span_f1_fraction", *GENERATION_METRICS}
    names = [name for name in METRICS if name not in of_texts]
    assert len(names) == 5
    scores = score(names, [1, 1, 1], [0, 1, 1])
    assert all(value is None or math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Blue-Heron, a pub!", "blueheron pub"),
        ("an apple", "apple"),
        ("theatre", "theatre"),
        ("A.N. Other", "other"),  # punctuation goes before articles do
        ("$1,000", "1000"),
        ("l’été", "l’été"),  # noqa: RUF001 - only ASCII punctuation is dropped
    ],
)
def test_normalisation_worked_examples(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answer", "f1"),
    [
        ("the red house", "a red barn", 0.5),  # 1 shared of 2 and 2
        ("in the old red house", "red house", 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("red red", "red", 2 * 0.5 * 1 / 1.5),  # words count as often as they occur
        ("blue", "red", 0.0),
        ("the", "a", 0.0),  # nothing is left of either
    ],
)
def test_span_f1_worked_examples(prediction, answer, f1):
    assert span_f1(prediction, answer) == pytest.approx(f1)


def test_span_metrics_take_the_best_answer_of_each_example():
    predictions = ["The river Tay", "1066", "blue"]
    references = [["Tay", "river Tay"], ["in 1066", "1067"], ["red"]]
    scores = score(["exact_match_fraction", "span_f1_fraction"], predictions, references)
    assert scores["exact_match_fraction"] == pytest.approx(1 / 3)
    assert scores["span_f1_fraction"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_bleu_equals_sacrebleus_own_sum_with_uneven_references():
    sacrebleu = pytest.importorskip("sacrebleu")
    predictions = ["the blue heron serves thai food .", "it is near the river today ."]
    references = [
        ["the blue heron serves thai food .", "thai food is served ."],
        ["it is near it ."],
    ]
    expected = sacrebleu.corpus_bleu(
        predictions, [[texts[0] for texts in references], [references[0][1], None]]
    )
    scores, notes = assess(["bleu_fraction"], predictions, references)
    assert scores["bleu_fraction"] == pytest.approx(expected.score / 100)
    assert notes["bleu_fraction"].startswith("sacrebleu nrefs:var|case:mixed")


def test_bleu_by_hand():
    # Identical texts score 1; a shorter one with perfect precision pays exp(1 - 8/6).
    same = "a b c d e f g h"
    assert score(["bleu_fraction"], [same], [[same]])["bleu_fraction"] == pytest.approx(1)
    short = score(["bleu_fraction"], ["a b c d e f"], [[same]])["bleu_fraction"]
    assert short == pytest.approx(math.exp(1 - 8 / 6))


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ([1, 1, 1], True),
        (np.array([0, 1, 0]), False),
        ([2.5, 2.5 + 1e-9], True),
        ([2.5, 2.6], False),
        (["pub", "pub"], True),
        (["pub", "bar"], False),
        ([1], False),
    ],
)
def test_collapsed_means_one_answer_for_all(predictions, expected):
    assert collapsed(predictions) is expected


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "message"),
    [
        ("accuracy_fraction", [1], [1, 0], "got 1 for 2 references"),
        ("accuracy_fraction", [], [], "at least one"),
        ("accuracy_fraction", [0.5], [1], r"predictions: row 1: got 0.5, need a label number"),
        ("accuracy_fraction", ["yes"], [1], "predictions: got str values"),
        ("f1_fraction", [0, 2], [0, 1], "predictions: row 2: got 2, need 0 or 1"),
        ("pearson_correlation", [0.1, float("nan")], [1, 2], "predictions: row 2: got nan"),
        ("pearson_correlation", [[0.1], [0.2]], [1, 2], r"shape \(2, 1\)"),
        ("span_f1_fraction", ["x"], [[]], "references: row 1"),
        ("bleu_fraction", ["x"], ["x"], "need a list of at least one text"),
        ("chrf_fraction", ["x"], [[]], "references: row 1: got \\[\\], need a list"),
        ("e2e_nist_score", ["x", "y"], [["x"], ["y", 3]], "references: row 2"),
        ("meteor_1_5_fraction", ["x", None], [["x"], ["y"]], "predictions: row 2: got None"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(metric, predictions, references, message):
    with pytest.raises(DataError, match=message):
        score([metric], predictions, references)


def test_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'rouge'; allowed: accuracy_fraction, "):
        score(["rouge"], [1], [1])

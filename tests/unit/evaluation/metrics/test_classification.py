import math

import numpy as np
import pytest

from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.metrics import assess, score
from sparsetune.evaluation.metrics.classification import collapsed, predictions_of


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
    names = ["accuracy_fraction", "f1_fraction", "matthews_correlation", "pearson_correlation"]
    scores = score([*names, "spearman_correlation"], [1, 1, 1], [0, 1, 1])
    assert all(value is None or math.isfinite(value) for value in scores.values())


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


def test_label_is_the_largest_logit_and_ties_go_to_the_lowest():
    logits = [[0.1, 0.3, 0.2], [2.0, 2.0, 1.0], [-1.0, 0.0, 0.0]]
    labels = predictions_of(logits, "classification")
    assert labels == [1, 0, 1]
    assert type(labels[0]) is int


def test_scores_are_passed_through():
    assert predictions_of(np.array([[5.5], [-0.25]], np.float32), "regression") == [5.5, -0.25]


@pytest.mark.parametrize(
    ("kind", "logits", "message"),
    [
        ("classification", [[0.0], [1.0]], "two columns or more"),
        ("classification", [0.0, 1.0], r"shape \(2,\)"),
        ("classification", [[0.0, 1.0], [float("inf"), 0.0]], "row 2: received inf"),
        ("regression", [[0.0, 1.0]], "allowed: one column"),
        ("regression", [[float("nan")]], "row 1: received nan"),
    ],
)
def test_logits_that_do_not_fit_are_refused(kind, logits, message):
    with pytest.raises(DataError, match=message):
        predictions_of(logits, kind)


def test_another_kind_has_no_predictions_from_logits():
    with pytest.raises(ConfigError, match="'span'; allowed: classification, regression"):
        predictions_of([[0.0, 1.0]], "span")

import numpy as np
import pytest

from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.metrics.classification import (
    majority_predictions,
    predicted_labels,
    predicted_scores,
    predictions_of,
)


def test_label_is_the_largest_logit_and_ties_go_to_the_lowest():
    logits = np.array([[0.1, 0.3, 0.2], [2.0, 2.0, 1.0], [-1.0, 0.0, 0.0]])
    assert predicted_labels(logits).tolist() == [1, 0, 1]


def test_scores_are_passed_through():
    assert predicted_scores(np.array([[5.5], [-0.25]], np.float32)).tolist() == [5.5, -0.25]


def test_predictions_are_plain_numbers_of_the_kind():
    assert predictions_of([[0.0, 1.0], [1.0, 0.0]], "classification") == [1, 0]
    assert predictions_of([[0.5], [1.0]], "regression") == [0.5, 1.0]
    assert type(predictions_of([[0.0, 1.0]], "classification")[0]) is int
    with pytest.raises(ConfigError, match="'span'; allowed: classification, regression"):
        predictions_of([[0.0, 1.0]], "span")


@pytest.mark.parametrize(
    ("function", "logits", "message"),
    [
        (predicted_labels, [[0.0], [1.0]], "at least two columns"),
        (predicted_labels, [0.0, 1.0], r"shape \(2,\)"),
        (predicted_labels, [[0.0, 1.0], [float("inf"), 0.0]], "row 2: got inf"),
        (predicted_scores, [[0.0, 1.0]], "need one column"),
        (predicted_scores, [[float("nan")]], "row 1: got nan"),
    ],
)
def test_logits_that_do_not_fit_are_refused(function, logits, message):
    with pytest.raises(DataError, match=message):
        function(np.array(logits))


def test_majority_is_the_most_frequent_and_lowest_on_ties():
    assert majority_predictions([2, 0, 2, 1]) == [2, 2, 2, 2]
    assert majority_predictions([1, 0]) == [0, 0]
    with pytest.raises(DataError, match="at least one"):
        majority_predictions([])

import numpy as np
import pytest
from scipy.stats import bootstrap

from sparsetune.errors import DataError
from sparsetune.evaluation import statistics
from sparsetune.evaluation.metrics import METRICS, score
from sparsetune.evaluation.statistics import mcnemar, paired_difference, resampled

FORMS = {name: bound.form for name, bound in METRICS.items() if bound.form}


def resampling(**changes):
    return statistics.DEFAULT.model_copy(update=changes)


TEXTS = ["the red house", "a blue boat by the sea", "it rains", "the cat sat on the mat"]


def intervals(metrics, predictions, references, **more):
    scores = score(metrics, predictions, references)
    return statistics.intervals(scores, predictions, references, **more)


def scored(metric, pairs, references, plan=statistics.DEFAULT):
    return [
        tuple(resampled(metric, side, references, plan=plan) for side in pair) for pair in pairs
    ]


def difference(metric, pairs, references, plan=statistics.DEFAULT):
    return paired_difference([scored(metric, pairs, references, plan)], plan=plan)


def answers(metric, size, seed=0):
    """Predictions and references that a metric takes, neither perfect nor all alike."""
    draws = np.random.default_rng(seed)
    if any(name in metric for name in ("exact_match", "span_f1", "bleu", "rouge")):
        chosen = [TEXTS[n] for n in draws.integers(0, 4, size)]
        # One or two references, so that sacrebleu must pick the closer length.
        others = [[TEXTS[n], "the red house by the sea"][: 1 + n % 2] for n in range(4)]
        return chosen, [others[n] for n in draws.integers(0, 4, size)]
    if "earman" in metric or "pearson" in metric:
        expected = draws.integers(0, 6, size).astype(float)  # few values: many ties
        return (expected + draws.normal(size=size)).round(1).tolist(), expected.tolist()
    expected = draws.integers(0, 2, size)
    return np.where(draws.random(size) < 0.3, 1 - expected, expected).tolist(), expected.tolist()


@pytest.mark.parametrize("metric", FORMS)
def test_each_form_agrees_with_the_metric_on_the_drawn_examples(metric):
    predictions, references = answers(metric, 9)
    plan = resampling(resamples=40)
    counts = np.concatenate(list(statistics._counts(9, plan)))
    values = FORMS[metric](predictions, references)(counts)
    for row, value in zip(counts.astype(int), values, strict=True):
        drawn = np.repeat(np.arange(9), row)
        sample = [predictions[n] for n in drawn], [references[n] for n in drawn]
        expected = score([metric], *sample)[metric]
        assert (None if np.isnan(value) else value) == pytest.approx(expected, abs=1e-12)


def test_matthews_of_three_classes_agrees_with_the_metric():
    draws = np.random.default_rng(2)
    references, noise = draws.integers(0, 3, 30), draws.integers(0, 3, 30)
    predictions = np.where(draws.random(30) < 0.6, references, noise).tolist()
    value = FORMS["matthews_correlation"](predictions, references.tolist())(np.ones((1, 30)))
    expected = score(["matthews_correlation"], predictions, references.tolist())
    assert value[0] == pytest.approx(expected["matthews_correlation"], abs=1e-12)


def test_interval_of_two_examples_by_hand():
    # One right, one wrong: a resample scores 0, 1/2 or 1 with chance 1/4, 1/2, 1/4, so the
    # interval of 95 % is the whole range and that of 20 % is the middle.
    told = {"predictions": [1, 1], "references": [1, 0]}
    assert intervals(["accuracy_fraction"], **told) == {"accuracy_fraction": (0.0, 1.0)}
    narrow = intervals(["accuracy_fraction"], **told, plan=resampling(level=0.2))
    assert narrow == {"accuracy_fraction": (0.5, 0.5)}


def test_interval_agrees_with_scipy_and_with_the_normal_approximation():
    predictions, references = answers("accuracy_fraction", 400)
    low, high = intervals(["accuracy_fraction"], predictions, references)["accuracy_fraction"]
    right = np.equal(predictions, references).astype(float)
    theirs = bootstrap(
        (right,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    # Two draws of 1,000 differ by a few thousandths; the standard error is 0.023.
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    half = 1.96 * (right.mean() * (1 - right.mean()) / 400) ** 0.5
    assert (low, high) == pytest.approx((right.mean() - half, right.mean() + half), abs=0.01)


@pytest.mark.parametrize("metric", FORMS)
def test_interval_holds_the_score_and_is_the_same_again_in_any_chunks(metric, monkeypatch):
    predictions, references = answers(metric, 60)
    plan = resampling(resamples=200)
    first = intervals([metric], predictions, references, plan=plan)
    assert first[metric][0] <= score([metric], predictions, references)[metric] <= first[metric][1]
    monkeypatch.setattr(statistics, "_CHUNK_CELLS", 7 * 60)
    again = intervals([metric], predictions, references, plan=plan)
    assert again[metric] == pytest.approx(first[metric], abs=1e-12)


def test_undefined_metric_has_no_interval():
    # A constant prediction has no correlation; one positive of ten is missing from
    # (9/10)^10 = 35 % of the resamples.
    assert (
        intervals(["pearson_correlation"], [1.0] * 9, list(range(9)))["pearson_correlation"] is None
    )
    positive = [1] + [0] * 9
    found = intervals(["f1_fraction", "accuracy_fraction"], positive, positive)
    assert found == {"f1_fraction": None, "accuracy_fraction": (1.0, 1.0)}


def test_correlation_of_large_close_values_does_not_cancel():
    draws = np.random.default_rng(0)
    references = 1e8 + draws.normal(scale=1e3, size=50)
    predictions = references + draws.normal(scale=1e3, size=50)
    value = FORMS["pearson_correlation"](predictions, references)(np.ones((1, 50)))[0]
    assert value == pytest.approx(np.corrcoef(predictions, references)[0, 1], abs=1e-9)


def test_mcnemar_by_hand_and_when_nothing_differs():
    # 5 against 1: both tails of 6 fair coins, 2 * (1 + 6) / 64.
    first = [True] * 5 + [False] + [True] * 4
    second = [False] * 5 + [True] + [True] * 4
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (5, 1)
    assert found.p_value == pytest.approx(14 / 64)
    assert mcnemar(second, first).p_value == pytest.approx(14 / 64)
    assert mcnemar(first, first).p_value == 1.0
    with pytest.raises(DataError, match="received 10 and 9"):
        mcnemar(first, second[:9])


def test_paired_difference_of_equal_predictions_is_none_at_all():
    predictions, references = answers("accuracy_fraction", 50)
    found = difference("accuracy_fraction", [(predictions, predictions)], references)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_paired_difference_by_hand_and_its_sign():
    # The second method is right on 20 examples more of 100: each resample adds a binomial
    # share with mean 0.2 and standard deviation 0.04, and none of 1,000 reaches zero.
    references = [1] * 100
    first, second = [0] * 20 + [1] * 80, [1] * 100
    found = difference("accuracy_fraction", [(first, second)], references)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.0784, 0.2 + 0.0784), abs=0.015)
    assert found.p_value == pytest.approx(2 / 1001)
    back = difference("accuracy_fraction", [(second, first)], references)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


@pytest.mark.parametrize("metric", FORMS)
def test_paired_difference_agrees_with_a_plain_loop(metric):
    first, references = answers(metric, 40)
    second = [*first[20:], *first[:20]]
    plan = resampling(resamples=60)
    found = difference(metric, [(first, second)], references, plan=plan)
    drawn = []
    for row in np.concatenate(list(statistics._counts(40, plan))).astype(int):
        places = np.repeat(np.arange(40), row)
        kept = [references[n] for n in places]
        one, other = (
            score([metric], [side[n] for n in places], kept)[metric] for side in (first, second)
        )
        drawn.append(other - one)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_seeds_are_averaged_on_one_draw_of_examples():
    # Two seeds whose gains cancel on every example: no resample can tell a difference.
    references = [1] * 30
    better, worse = [1] * 30, [1] * 15 + [0] * 15
    found = difference("accuracy_fraction", [(better, worse), (worse, better)], references)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_cells_count_once_and_share_the_draws_of_as_many_examples():
    references, more = [1] * 30, [1] * 40
    better, worse = [1] * 30, [1] * 15 + [0] * 15
    gain = scored("accuracy_fraction", [(worse, better)], references)
    loss = scored("accuracy_fraction", [(better, worse)] * 2, references)
    # One pair up, two pairs down on the same draws: a mean of cells, not of pairs, is nothing.
    found = paired_difference([gain, loss])
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    # 15 of 30 gained; 10 of 40 lost in the mean of two pairs, one of which loses nothing.
    other = [([1] * 40, [0] * 20 + [1] * 20), (more, more)]
    found = paired_difference([gain, scored("accuracy_fraction", other, more)])
    assert found.value == pytest.approx((0.5 - 0.25) / 2)
    thirty, forty = (np.concatenate(list(statistics._counts(n, resampling()))) for n in (30, 40))
    drawn = (thirty[:, 15:].sum(axis=1) / 30 - forty[:, :20].sum(axis=1) / 40 / 2) / 2
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_p_values_of_methods_that_do_not_differ_are_not_small_too_often():
    draws = np.random.default_rng(1)
    small = 0
    for _ in range(100):
        sides = (draws.random((2, 80)) < 0.7).astype(int).tolist()
        plan = resampling(resamples=200)
        found = difference("accuracy_fraction", [tuple(sides)], [1] * 80, plan=plan)
        small += found.p_value < 0.05
    assert small <= 12  # 5 expected; more than 12 has a chance of 0.1 %


def test_metric_that_cannot_be_resampled_has_neither_interval_nor_difference():
    assert statistics.intervals({"ter_fraction": 1.5}, ["a"], [["a"]]) == {"ter_fraction": None}
    assert difference("ter_fraction", [(["a"], ["b"])], [["a"]]) is None


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="received 2 for 3 references"):
        difference("accuracy_fraction", [([1, 0], [1, 0])], [1, 0, 1])
    with pytest.raises(DataError, match="pairs: received none"):
        difference("accuracy_fraction", [], [1])
    with pytest.raises(DataError, match="pairs: received none"):
        paired_difference([])

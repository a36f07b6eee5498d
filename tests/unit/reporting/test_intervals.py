import math

import numpy as np
import pytest
from scipy import stats

from sparsetune.reporting.intervals import Interval, over_seeds, over_tasks, widened_to


def ends(interval):
    return interval.low, interval.high


def test_one_cell_is_students_t_by_hand_and_the_paired_test_of_a_library():
    # Differences 1, 2, 3: mean 2, sd 1, error 1 / sqrt 3; t(2) at 97.5 % = 4.30265.
    found = over_seeds([[1.0, 2.0, 3.0]])
    half = 4.30265 / math.sqrt(3)
    assert (found.mean, found.freedom, found.over) == (2.0, 2.0, "seeds")
    assert ends(found) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    left, right = np.random.default_rng(0).normal(size=(2, 7))
    library = stats.ttest_rel(left, right).confidence_interval(0.95)
    assert ends(over_seeds([list(left - right)])) == pytest.approx(tuple(library))


def test_two_cells_agree_with_welchs_test_of_a_library():
    # mean(a) - mean(-b) is twice the mean of both cells, and Welch's error is the same.
    a, b = [0.2, 1.9, 1.1, 0.4], [3.0, 5.5, 4.0]
    welch = stats.ttest_ind(a, [-value for value in b], equal_var=False)
    found = over_seeds([a, b])
    assert ends(found) == pytest.approx([end / 2 for end in welch.confidence_interval(0.95)])
    assert found.freedom == pytest.approx(welch.df)


@pytest.mark.parametrize("cells", [[[1.0, 1.0], [3.0, 3.0]], [[1.0, 1.0], [3.0] * 10]])
def test_cells_count_once_and_seeds_that_agree_leave_no_noise(cells):
    found = over_seeds(cells)
    assert (found.low, found.mean, found.high) == (2.0, 2.0, 2.0)


def test_tasks_are_a_sample_of_their_means_and_widen_the_interval_where_they_disagree():
    # Means 1, 2, 6 of the cells: what the library says of these three numbers.
    found = over_tasks([[0.0, 2.0], [2.0], [5.0, 6.0, 7.0]])
    library = stats.ttest_1samp([1, 2, 6], 0).confidence_interval(0.95)
    assert ends(found) == pytest.approx(tuple(library))
    assert (found.mean, found.freedom, found.over) == (3.0, 2.0, "tasks")
    cells = [[1.0, 1.1], [5.0, 5.1]]
    seeds, tasks = over_seeds(cells), over_tasks(cells)
    assert tasks.low < seeds.low < seeds.high < tasks.high


@pytest.mark.parametrize(("low", "high", "expected", "widened"), [
    (0.0, 2.0, (0.0, 2.0), False), (-1.0, 1.5, (-1.0, 2.0), True), (-1.0, 3.0, (-1.0, 3.0), True),
    (0.5, 1.5, (0.0, 2.0), False),
])  # fmt: skip
def test_interval_is_no_narrower_than_the_examples(low, high, expected, widened):
    found = widened_to(Interval(1.0, 0.0, 2.0, "tasks", 1.0), Interval(1.0, low, high, "examples"))
    assert (ends(found), found.widened, found.over) == (expected, widened, "tasks")


@pytest.mark.parametrize(("interval", "cells"), [
    (over_seeds, []), (over_seeds, [[1.0, 2.0], [1.0]]), (over_tasks, [[1.0]]),
    (over_tasks, [[1.0], []]),
])  # fmt: skip
def test_too_little_is_refused(interval, cells):
    with pytest.raises(ValueError, match="need at least"):
        interval(cells)

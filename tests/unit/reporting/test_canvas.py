import itertools

import pytest

from sparsetune.reporting.canvas import legend_columns, method_styles, place_labels

BOUNDS = (0, 0, 200, 100)


def boxes(corners, sizes):
    return [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sizes, strict=True)]


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_label_stands_right_of_its_point_when_there_is_room():
    assert place_labels([(50, 50)], [(20, 8)], BOUNDS) == [(55, 46)]


def test_a_label_at_the_right_edge_stands_left_of_its_point():
    assert place_labels([(195, 50)], [(20, 8)], BOUNDS) == [(170, 46)]


@pytest.mark.parametrize("count", [2, 4, 6])
def test_labels_of_near_points_do_not_hide_each_other(count):
    points = [(100, 50 + index) for index in range(count)]
    sizes = [(30, 8)] * count
    found = boxes(place_labels(points, sizes, BOUNDS), sizes)
    assert all(apart(*pair) for pair in itertools.combinations(found, 2))
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 200 and box[3] <= 100 for box in found)


def test_methods_differ_in_marker_and_colour_together():
    styles = method_styles([f"m{index}" for index in range(84)])
    assert len(set(styles.values())) == 84
    assert len({marker for marker, _ in list(styles.values())[:12]}) == 12


def test_a_legend_has_no_more_columns_than_fit():
    # Ten letters of 8 points are 2/3 inch wide, and half an inch is for the marker.
    methods = ["m" * 10] * 8
    assert [legend_columns(methods, width) for width in (9, 5.83, 4.7, 2.4, 0.5)] == [5, 4, 4, 2, 1]
    assert legend_columns(["full"], 9) == 1

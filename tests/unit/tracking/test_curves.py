import pytest

from sparsetune.tracking.curves import CurveDigest, lacking_points

A, B, C = ("loss", 1.0, 0), ("loss", 0.5, 10), ("accuracy", 0.5, 10)


@pytest.mark.parametrize(
    ("present", "lacking"),
    [
        ([], [A, B, C]),
        ([C, A], [B]),
        ([C, B, A], []),
        ([A, A], None),
        ([("loss", 1.0, 1)], None),
        ([("loss", 1.5, 0)], None),
    ],
)
def test_what_lacks_is_what_is_wanted_less_what_is_there(present, lacking):
    assert lacking_points(present, [A, B, C]) == lacking


def test_point_that_is_wanted_twice_must_be_there_twice():
    assert lacking_points([A], [A, B, A]) == [A, B]


def test_curve_with_what_is_no_number_cannot_be_compared():
    stored, wanted = float("nan"), float("nan")
    assert lacking_points([("loss", stored, 0)], [("loss", wanted, 0)]) is None


def test_digest_is_equal_for_the_same_points_in_any_order():
    def digest(*points):
        told = CurveDigest()
        for point in points:
            told.add(*point)
        return told.text

    assert digest(A, B, C) == digest(C, A, B)
    assert len({digest(A, B), digest(A, C), digest(A), digest(A, A), digest()}) == 5

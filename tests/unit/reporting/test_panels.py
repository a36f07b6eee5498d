import numpy as np
import pytest
from matplotlib.figure import Figure

from sparsetune.reporting.panels import (
    Frame,
    Panel,
    Sheet,
    round_ticks,
    tick_texts,
    with_margins,
)


def test_panels_have_the_sizes_asked_for():
    sheet = Sheet([2, 1], [1, 3], margins=(0.5, 0.4, 0.1, 0.2), gaps=(0.3, 0.6))
    size = sheet.figure.get_size_inches()
    assert size == pytest.approx((0.5 + 3 + 0.3 + 0.1, 0.4 + 4 + 0.6 + 0.2))
    assert sheet.panels[1][0].box == pytest.approx((36, 0.4 * 72, 36 + 144, 3.4 * 72))
    assert sheet.panels[0][1].box == pytest.approx((2.8 * 72, 4 * 72, 3.8 * 72, 5 * 72))


def test_values_are_placed_between_the_edges():
    panel = Panel((10, 20, 110, 70), across=(0, 50), up=(4, -1))
    assert panel.x([0, 25, 50]).tolist() == [10, 60, 110]
    assert panel.y([4, -1, 1.5]).tolist() == [20, 70, 45]
    # Of 1 to 10,000, 100 is the middle in powers of ten.
    assert panel.showing((1, 1e4), (0, 1), logarithmic=True).x(100) == pytest.approx(60)


@pytest.mark.parametrize("ends", [(0, 1), (-3.7, 2.2), (51, 104), (1e-4, 3e-4), (-464, 30)])
def test_round_ticks_are_those_of_matplotlib(ends):
    axis = Figure().subplots().xaxis
    axis.set_view_interval(*ends, ignore=True)
    axis.get_tick_space = lambda: 6
    slack = 1e-12  # of rounding: matplotlib draws a tick that is at an edge but for the last digit
    expected = [
        tick for tick in axis.get_majorticklocs() if ends[0] - slack <= tick <= ends[1] + slack
    ]
    assert round_ticks(*ends, most=6.9) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0, 100, 200], ["0", "100", "200"]),
        ([-0.5, 0.0, 0.5], ["\N{MINUS SIGN}0.5", "0.0", "0.5"]),
        ([0.25, 0.5], ["0.25", "0.50"]),
        ([3e-4, 6e-4], ["0.0003", "0.0006"]),
        ([0.1 * 3, 0.4], ["0.3", "0.4"]),
        ([7.0], ["7"]),
        ([], []),
    ],
)
def test_numbers_have_the_decimals_that_they_need(ticks, texts):
    assert tick_texts(ticks) == texts


def test_margins_worked_by_hand():
    assert with_margins([3, 1, 2], share=0.25) == (0.5, 3.5)
    # A tenth of two powers of ten at each end.
    low, high = with_margins([10, 1000], share=0.1, logarithmic=True)
    assert (low, high) == pytest.approx((10**0.8, 10**3.2))


@pytest.mark.parametrize("logarithmic", [False, True])
def test_margins_leave_room_around_a_single_value(logarithmic):
    low, high = with_margins([5.0], share=0.05, logarithmic=logarithmic)
    assert low < 5 < high


def test_lines_of_one_look_are_one_artist(tmp_path):
    sheet = Sheet([1, 1], [1], margins=(0.5, 0.5, 0.1, 0.1), gaps=(0.5, 0))
    for panel in sheet.panels[0]:
        sheet.line(panel.x([0, 0.5, 1]), panel.y([0, 1, 0]), color="red")
        sheet.area(panel.x([0, 0.5, 1]), panel.y([0, 1, 0]), facecolor="blue")
    sheet.save(tmp_path / "a.svg")
    line, area = sheet.axis.lines, sheet.axis.collections
    assert (len(line), len(area)) == (1, 1)
    assert len(area[0].get_paths()) == 2
    # A gap between the two: no line joins the panels.
    assert np.isnan(line[0].get_xdata()).tolist() == [False] * 3 + [True] + [False] * 3 + [True]


def test_a_frame_writes_its_numbers_and_names(tmp_path):
    sheet = Sheet([2], [2], margins=(0.5, 0.5, 0.1, 0.3), gaps=(0, 0))
    frame = Frame(sheet, sheet.panels[0][0].showing((0, 10), (0, 1)))
    frame.edges()
    frame.below_round()
    frame.beside_round(texts=False)
    frame.names("below", "beside")
    frame.title("over it")
    sheet.save(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for told in ("10", "below", "beside", "over it"):
        assert f"<!-- {told} -->" in text
    assert "<!-- 0.4 -->" not in text

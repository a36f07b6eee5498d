import re

import pytest
from unit.reporting.runs import claim

from sparsetune.reporting.forest import inline, reach_of, write_forest
from sparsetune.reporting.intervals import Interval
from sparsetune.reporting.verdicts import Judgement


def judged(verdict, mean, low, high, over="seeds", **about):
    return Judgement(
        claim(**about), verdict, "why", "generated", interval=Interval(mean, low, high, over)
    )


MANY = [
    judged("holds", 1.0, 0.5, 1.5, says="It is better.", id="better"),
    judged("fails", -2.0, -3.0, -1.0, says="It is better elsewhere."),
    judged("within noise", -5.0, -90.0, 80.0, says="It is far better."),
    judged("within noise", 3.0, None, None, "nothing", says="Nobody knows."),
    judged("holds", 0.5, 0.5, 0.5, "nothing", says="It saves a quarter.", right=25.0,
           quantity="backbone-macs-saved", relation="within", tolerance=2.0, because="c"),
    judged("within noise", 70.0, 60.0, 80.0, says="Heads are shared.", right=0.0,
           quantity="heads-in-common"),
    Judgement(claim(says="It was not run."), "not tested at this scale", "no run"),
]  # fmt: skip


def texts(path):
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_same_claims_give_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        write_forest(MANY, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_every_measured_claim_has_its_sentence_number_and_verdict_in_words(tmp_path):
    write_forest(MANY, tmp_path / "a.svg")
    found = texts(tmp_path / "a.svg")
    for one in MANY[:-1]:
        assert one.claim.says in found
    assert "It was not run." not in found
    # Once beside the row, once in the legend.
    assert [found.count(word) for word in ("holds", "fails", "within noise")] == [3, 2, 4]
    assert {"+1.0 [+0.5, +1.5] points", "25.50 %", "-5.0 [-90.0, +80.0] points"} <= set(found)


def test_quantities_of_different_kinds_have_panels_of_their_own(tmp_path):
    write_forest(MANY, tmp_path / "a.svg")
    found = texts(tmp_path / "a.svg")
    assert {"Scores", "Costs and savings", "Tickets"} <= set(found)
    write_forest(MANY[:1], tmp_path / "b.svg")
    assert not {"Costs and savings", "Tickets"} & set(texts(tmp_path / "b.svg"))


def test_reach_worked_by_hand():
    # One claim: its far end is 1.5, which three quarters of 0.5, 1.0 and 1.5 times 2.5 exceed;
    # the least is 1.5 times one point.
    assert reach_of(MANY[:1]) == pytest.approx(1.06 * 1.5)
    # Ends 0.5, 1, 1.5, 2, 3, 1, 5, 90, 80: the third quartile is 5, so the axis ends at 12.5.
    assert reach_of(MANY[:3]) == pytest.approx(1.06 * 12.5)
    # A tolerance of 2 needs 3.
    assert reach_of(MANY[4:5]) == pytest.approx(1.06 * 3)


def test_what_lies_beyond_the_axis_has_an_arrow(tmp_path):
    write_forest(MANY[:2], tmp_path / "within.svg")
    write_forest(MANY[:3], tmp_path / "beyond.svg")

    def markers(name):
        return set(re.findall(r'xlink:href="#(m\w+)"', (tmp_path / name).read_text()))

    arrows = markers("beyond.svg") - markers("within.svg")
    assert len(arrows) >= 2  # to the left and to the right
    far = judged("fails", -50.0, -60.0, -45.0, says="It is far worse.")
    write_forest([*MANY[:2], *MANY[:2], far], tmp_path / "left.svg")
    # All of it lies beyond on one side, and so does every arrow.
    assert len(arrows & markers("left.svg")) == 1


def test_verdicts_differ_by_shape_and_dark_screens_have_other_colours(tmp_path):
    write_forest(MANY, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    used = {colour.lower() for colour in re.findall(r"(?:fill|stroke): (#\w{6})[;\"]", text)}
    changed = set(re.findall(r'\*="(?:fill|stroke): (#\w{6})"', text))
    assert used <= changed
    # Text without a colour of its own would stay black on a dark screen.
    assert "#000000" not in used
    assert inline(tmp_path / "a.svg").startswith('<svg class="forest"')
    assert 'xlink:href="claims.html#better"' in text


def test_a_suite_that_measured_nothing_says_so(tmp_path):
    write_forest(MANY[-1:], tmp_path / "a.svg")
    assert "No claim was measured in this suite." in texts(tmp_path / "a.svg")

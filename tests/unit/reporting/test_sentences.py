import pytest
from unit.reporting.runs import claim

from sparsetune.reporting.intervals import Interval
from sparsetune.reporting.sentences import by_place, claimed, measured, needed
from sparsetune.reporting.untested import Missing
from sparsetune.reporting.verdicts import Cell, Judgement


@pytest.mark.parametrize(
    ("quantity", "relation", "tolerance", "value", "told", "demanded"),
    [
        ("seconds-saved", "at-least", 0.0, 5.0, "40.0 [39.0, 41.0] %", "≥ 35 %"),
        ("inference-macs-saved", "within", 2.0, -0.05, "34.95 %", "35 ± 2 %"),
        ("trained-share", "at-most", 0.5, -0.004, "35.00 %", "≤ 35.5 %"),
    ],
)
def test_against_a_number_the_value_itself_is_told(
    quantity, relation, tolerance, value, told, demanded
):
    about = claim(
        quantity=quantity, right=35.0, relation=relation, tolerance=tolerance, because="c"
    )
    over = "nothing" if about.measure.counted else "seeds"
    found = Judgement(about, "holds", "", interval=Interval(value, value - 1, value + 1, over))
    assert (measured(found), claimed(about)) == (told, demanded)


@pytest.mark.parametrize(
    ("changes", "missing", "told"),
    [
        ({}, Missing(("a", "b"), (), ("dsee",)), "Needs `a` and `b`; suite `dsee` has it"),
        ({}, Missing(), "No seed; no suite of the catalogue has it"),
        (
            {"only_there": "small is other"},
            Missing((), ("bert-base", "gpt2"), ("paper", "x")),
            "Needs `bert-base` or `gpt2`, since small is other; suite `paper` or `x` has it",
        ),
        (
            {"twins": {"early": "late", "tiny": "small"}},
            Missing((), ("early", "late", "tiny", "small"), ("a", "b", "c")),
            "Needs `early` beside `late` or `tiny` beside `small`; suite `a`, `b` or `c` has it",
        ),
    ],
)
def test_an_untested_claim_says_what_would_test_it(changes, missing, told):
    about = Judgement(claim(**changes), "not tested at this scale", "no seed")
    assert needed(about, missing) == told


def test_places_are_told_one_by_one_where_a_mean_may_hide_them():
    interval = Interval(-4.0, -9.0, 1.0, "seeds", 1.0)
    cells = [
        Cell("mini-bert", task, "generated", (1, 2), (90.0, 92.0), (right, right))
        for task, right in (("mini-a", 90.0), ("mini-b", 100.0))
    ]
    told = by_place(Judgement(claim(), "fails", "", "generated", tuple(cells), interval))
    assert told == "mini-a +1.0, mini-b -9.0"
    other = Cell("mini-roberta", "mini-a", "generated", (1,), (24.96,), (25.0,))
    counted = claim(quantity="backbone-macs-saved", right={"value": 25}, relation="within")
    told = by_place(Judgement(counted, "holds", "", "generated", (cells[0], other), interval))
    assert told.endswith("mini-roberta/mini-a 24.96")
    assert told.startswith("mini-bert/mini-a ")
    assert by_place(Judgement(claim(), "fails", "", "generated", tuple(cells[:1]), interval)) == ""

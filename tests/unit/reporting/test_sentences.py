import pytest
from unit.reporting.runs import claim

from sparsetune.reporting.intervals import Interval
from sparsetune.reporting.sentences import claimed, measured, needed
from sparsetune.reporting.untested import Missing
from sparsetune.reporting.verdicts import Judgement


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

import csv

import pytest
from unit.reporting.runs import cells_of, claim

from sparsetune.reporting.claims import _claimed, _measured, as_data, counts, write_claims
from sparsetune.reporting.intervals import Interval
from sparsetune.reporting.verdicts import Cell, Judgement

CLAIM = claim(says="A | claim.", relation="at-least", tolerance=1.5, because="noise")
TIME = claim(
    id="time", says="It saves time.", quantity="seconds-saved", right=35.0, tasks=["qqp"],
    relation="at-least",
)  # fmt: skip
CELL = Cell("mini-bert", "mini-sst2", "generated", (1, 2), (90.0, 92.0), (89.0, 90.0), collapsed=1)
JUDGED = Judgement(
    CLAIM, "holds", "spread of 2 seeds in one place", "generated", (CELL,),
    Interval(1.5, -1.2, 4.2, "seeds", 1.0), left_out={"no run of full": ["mini-bert/mini-rte"]},
)  # fmt: skip
UNTESTED = Judgement(TIME, "not tested at this scale", "no run of earlybert in this suite")


@pytest.fixture
def pages(tmp_path):
    write_claims("mini", [UNTESTED, JUDGED], tmp_path / "claims")
    return {path.suffix: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}


def test_page_opens_with_the_verdicts_and_then_tells_what_was_not_tested(pages):
    lines = pages[".md"].splitlines()
    assert lines[0] == "# Claims of the papers, in suite mini"
    cells = cells_of(lines[4].replace("\\|", ""))
    assert cells == [
        "[A  claim.](#a-claim)", "holds", "+1.5 [-1.2, +4.2] points",
        "earlybert less full ≥ -1.5 points", "spread of 2 seeds in one place", "a paper",
    ]  # fmt: skip
    assert "Of 2 claims: 1 holds, 0 fail, 0 within noise, 1 not tested at this scale." in lines[6]
    later = pages[".md"].index("## Not tested at this scale")
    assert pages[".md"].index("[It saves time.](#time)") > later


def test_every_claim_has_a_section_with_its_cells_and_what_is_left_out(pages):
    section = pages[".md"].split("## a-claim\n")[1]
    assert "at least `full` less 1.5 points, since noise. Published scale: bert-base" in section
    assert "small scale" in section
    row = next(line for line in section.splitlines() if line.startswith("| mini-bert"))
    cells = cells_of(row)
    assert cells == [
        "mini-bert", "[mini-sst2](tables/mini-bert/mini-sst2.md)", "91.00", "89.50", "+1.50",
        "2", "1",
    ]  # fmt: skip
    assert "- Left out: mini-bert/mini-rte: no run of full." in section


def test_html_says_the_same_and_leads_to_tables(pages):
    assert '<a href="#a-claim">A | claim.</a>' in pages[".html"]
    assert '<h2 id="a-claim">' in pages[".html"]
    assert '<a href="tables/mini-bert/mini-sst2.html">mini-sst2</a>' in pages[".html"]
    assert "<code>full</code>" in pages[".html"]


def test_csv_has_a_line_for_each_claim(pages):
    untested, judged = csv.DictReader(pages[".csv"].splitlines())
    assert (untested["verdict"], untested["difference_mean"]) == ("not tested at this scale", "")
    assert float(judged["left_mean"]) == 91.0
    assert (judged["difference_low"], judged["degrees_of_freedom"]) == ("-1.2", "1.0")
    assert (judged["places_count"], judged["pairs_count"]) == ("1", "2")


def test_data_has_the_pairs_and_the_counts_every_verdict():
    data = as_data(JUDGED)
    assert data["cells"][0]["differences"] == [1.0, 2.0]
    assert data["left_out"] == {"no run of full": ["mini-bert/mini-rte"]}
    assert list(counts([JUDGED, UNTESTED]).values()) == [1, 0, 0, 1]


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
    assert (_measured(found), _claimed(found)) == (told, demanded)

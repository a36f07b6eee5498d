import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from unit.reporting.runs import cells_of, claim

from sparsetune.reporting.claims import (
    Reported,
    as_data,
    counts,
    counts_by_paper,
    write_claims,
)
from sparsetune.reporting.forest import write_forest
from sparsetune.reporting.intervals import Interval
from sparsetune.reporting.untested import Missing
from sparsetune.reporting.verdicts import Cell, Judgement

CLAIM = claim(says="A | claim.", relation="at-least", tolerance=1.5, because="noise")
TIME = claim(
    id="time", says="It saves time.", quantity="seconds-saved", right=35.0, tasks=["qqp"],
    relation="at-least",
)  # fmt: skip
SPARSE = claim(id="sparse", says="S2 <helps>.", paper="DSEE", left="dsee", right="lora")
CELL = Cell("mini-bert", "mini-sst2", "generated", (1, 2), (90.0, 92.0), (89.0, 90.0), collapsed=1)
JUDGED = Judgement(
    CLAIM, "holds", "spread of 2 seeds in one place", "generated", (CELL,),
    Interval(1.5, -1.2, 4.2, "seeds", 1.0), left_out={"no run of full": ["mini-bert/mini-rte"]},
)  # fmt: skip
UNTESTED = Judgement(TIME, "not tested at this scale", "no run of earlybert in this suite")
FAILED = Judgement(
    SPARSE, "fails", "spread of 2 seeds in one place", "generated", (CELL,),
    Interval(-3.0, -4.0, -2.0, "seeds", 1.0),
)  # fmt: skip
REPORTED = [
    Reported(UNTESTED, Missing(("earlybert",), (), ("paper", "minilm"))),
    Reported(JUDGED),
    Reported(FAILED),
]


@pytest.fixture
def pages(tmp_path):
    write_forest([one.judgement for one in REPORTED], tmp_path / "claims-forest.svg")
    write_claims("mini", REPORTED, tmp_path / "claims", forest=tmp_path / "claims-forest.svg")
    return {path.suffix: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}


class Read(HTMLParser):
    """What a reader of the page sees of it: the strip, and each claim's folded line."""

    def __init__(self, text):
        super().__init__()
        self.strip, self.lines, self._at, self._row = [], {}, None, []
        self._claim = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self._at = "strip" if attrs.get("class") == "strip" else None
        if tag == "details":
            self._claim = attrs["id"]
        if tag == "summary":
            self._at, self._row = "summary", []
        if tag == "tr":
            self._row = []

    def handle_endtag(self, tag):
        if tag == "tr" and self._at == "strip":
            self.strip.append(self._row)
        if tag == "summary":
            self.lines[self._claim] = " ".join(self._row)
        if tag in ("table", "summary"):
            self._at = None

    def handle_data(self, data):
        if self._at and data.strip():
            self._row.append(" ".join(data.split()))


def test_strip_worked_by_hand(pages):
    # Of EarlyBERT's two claims one holds and one was not tested; DSEE's one fails.
    assert cells_of(pages[".md"].splitlines()[2]) == [
        "paper", "✓ hold", "✗ fail", "≈ within noise", "○ not tested",
    ]  # fmt: skip
    assert cells_of(pages[".md"].splitlines()[4]) == ["DSEE", "0", "1", "0", "0"]
    assert cells_of(pages[".md"].splitlines()[5]) == ["EarlyBERT", "1", "0", "0", "1"]
    _, dsee, earlybert = Read(pages[".html"]).strip
    assert dsee == ["DSEE", "0", "1", "0", "0", "✗"]
    assert earlybert == ["EarlyBERT", "1", "0", "0", "1", "✓", "○"]
    assert (
        "Of 3 claims: 1 holds, 1 fails, 0 within noise, 1 not tested at this scale." in pages[".md"]
    )


def test_each_claim_is_one_sentence_with_its_number_and_interval(pages):
    lines = Read(pages[".html"]).lines
    assert lines == {
        "sparse": "✗ fails S2 <helps>. -3.0 [-4.0, -2.0] points claimed dsee less lora > 0 points",
        "a-claim": "✓ holds A | claim. +1.5 [-1.2, +4.2] points claimed earlybert less full "
        "≥ -1.5 points",
        "time": "○ not tested It saves time. Needs earlybert ; suite paper or minilm has it.",
    }
    told = re.findall(r"<summary>(.*)</summary>", pages[".md"])
    assert told == [
        "✗ <b>fails</b>: S2 &lt;helps&gt;. <b>-3.0 [-4.0, -2.0] points</b>, claimed dsee less "
        "lora &gt; 0 points.",
        "✓ <b>holds</b>: A | claim. <b>+1.5 [-1.2, +4.2] points</b>, claimed earlybert less full "
        "≥ -1.5 points.",
        "○ <b>not tested</b>: It saves time. Needs <code>earlybert</code>; suite "
        "<code>paper</code> or <code>minilm</code> has it.",
    ]


def test_the_untested_stand_in_one_list_at_the_end(pages):
    for form, heading in ((".md", "## Not tested"), (".html", '<h2 id="not-tested">')):
        places = [pages[form].index(f'id="{name}"') for name in ("sparse", "a-claim", "time")]
        assert places[0] < places[1] < pages[form].index(heading) < places[2]


def test_details_tell_source_check_cells_and_what_is_left_out(pages):
    section = pages[".md"].split('<details id="a-claim">')[1].split("</details>")[0]
    assert "Source: a paper." in section
    assert "at least `full` less 1.5 points, since noise. Published scale: bert-base" in section
    assert "small scale" in section
    row = next(line for line in section.splitlines() if line.startswith("| mini-bert"))
    assert cells_of(row) == [
        "mini-bert", "[mini-sst2](tables/mini-bert/mini-sst2.md)", "91.00", "89.50", "+1.50",
        "2", "1",
    ]  # fmt: skip
    assert "- Left out: mini-bert/mini-rte: no run of full." in section


def test_html_holds_the_figure_and_leads_to_tables(pages):
    page = pages[".html"]
    assert '<a href="tables/mini-bert/mini-sst2.html">mini-sst2</a>' in page
    assert "<code>full</code>" in page
    assert pages[".svg"].partition("<svg")[2] in page
    assert "](claims-forest.svg)" in pages[".md"]
    # Nothing is asked of the network, the links of SVG's own namespaces apart.
    assert re.findall(r'(?:src|href)="https?:', page) == []


def test_every_mark_of_a_verdict_has_a_word_and_not_a_colour_alone(pages):
    chips = re.findall(
        r'<a class="mark ([a-z-]+)" [^>]*aria-label="([^"]+)">(.)</a>', pages[".html"]
    )
    assert [(style, label.partition(":")[0], sign) for style, label, sign in chips] == [
        ("fails", "fails", "✗"), ("holds", "holds", "✓"), ("not-tested", "not tested", "○"),
    ]  # fmt: skip


def test_json_csv_and_page_agree(pages):
    data = json.loads(json.dumps([as_data(one) for one in REPORTED]))
    lines = list(csv.DictReader(pages[".csv"].splitlines()))
    shown = Read(pages[".html"]).lines
    for one, line in zip(data, lines, strict=True):
        for key, value in line.items():
            told = one[key]
            written = " ".join(told) if isinstance(told, list) else told
            assert value == ("" if written is None else str(written))
        if one["measured"]:
            assert f"{one['measured']} claimed {one['claimed']}" in shown[one["id"]]
        assert one["claim"] in shown[one["id"]]
        assert all(name in shown[one["id"]] for name in one["missing_methods"] + one["suites"])
        assert shown[one["id"]].split()[1] == one["verdict"].split()[0]
    assert (lines[0]["missing_methods"], lines[0]["suites"]) == ("earlybert", "paper minilm")
    assert (lines[1]["difference_low"], lines[1]["difference_allowed_low"]) == ("-1.2", "-1.5")
    assert (lines[1]["difference_allowed_high"], lines[1]["paper"]) == ("", "EarlyBERT")
    assert (lines[1]["places_count"], lines[1]["pairs_count"]) == ("1", "2")


def test_data_has_the_pairs_and_the_counts_every_verdict():
    data = as_data(REPORTED[1])
    assert data["cells"][0]["differences"] == [1.0, 2.0]
    assert data["left_out"] == {"no run of full": ["mini-bert/mini-rte"]}
    assert list(counts([JUDGED, UNTESTED]).values()) == [1, 0, 0, 1]
    by_paper = counts_by_paper([JUDGED, UNTESTED, FAILED])
    assert {paper: list(found.values()) for paper, found in by_paper.items()} == {
        "DSEE": [0, 1, 0, 0], "EarlyBERT": [1, 0, 0, 1],
    }  # fmt: skip


def test_the_runs_of_a_cell_stay_out_of_its_data():
    row = object()  # of a frame: no JSON could hold it
    cell = replace(CELL, pairs=((row, row), (row, row)))
    found = as_data(Reported(replace(JUDGED, cells=(cell,))))
    (kept,) = found["cells"]
    assert "pairs" not in kept
    assert (kept["task"], kept["differences"]) == ("mini-sst2", [1.0, 2.0])
    json.dumps(found)

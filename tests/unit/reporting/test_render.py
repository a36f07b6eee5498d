import re
from html.parser import HTMLParser

import pytest
from unit.reporting.runs import suite_of, write_run

from sparsetune.reporting.contents import TABLE_FORMS
from sparsetune.reporting.render import (
    Column,
    RunLink,
    number_column,
    rendered,
    text_column,
    write_table,
)
from sparsetune.reporting.tables import write_headline, write_task_table

RUN_ID = "0123456789abcdef0123456789abcdef"
COLUMNS = [
    text_column("method <b>", "method", ["full & co", "lora"]),
    number_column("score", "score", [1.5, None]),
]


class Reader(HTMLParser):
    """Cells row by row, and where links lead; fails on tags that do not close."""

    def __init__(self, path):
        super().__init__()
        self.rows, self.links, self.open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.links += [value for name, value in attributes if name in ("href", "src")]
        self.open += [] if tag in ("meta", "br") else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_page_holds_the_cells_escaped_and_needs_no_other_file(tmp_path):
    *_, html = write_table(tmp_path / "one", "A title", COLUMNS, ["A <note>."])
    found, text = Reader(html), html.read_text()
    assert found.rows == [["method <b>", "score"], ["full & co", "1.5"], ["lora", "-"]]
    assert found.links == ["one.csv", "one.md", "one.tex"]
    assert "A &lt;note&gt;." in text
    assert not [word for word in ("<script", "<link", "url(", "@import") if word in text]


def test_rows_lead_to_their_runs(tmp_path):
    record = tmp_path / "runs" / "one" / "evaluate.json"
    links = [[RunLink("seed 1", record, RUN_ID), RunLink("seed 2", record)]]
    markdown, *_, html = write_table(tmp_path / "tables" / "one", "A", COLUMNS, [], runs=links)
    found = Reader(html)
    assert [row[2] for row in found.rows[1:]] == [f"seed 1 {RUN_ID[:8]}seed 2", ""]
    assert found.links[:2] == ["../runs/one/evaluate.json"] * 2
    assert RUN_ID in html.read_text()
    assert "- full & co: [seed 1](../runs/one/evaluate.json)" in markdown.read_text()


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ([text_column("a", "a", ["bert", "bert"]), text_column("b", "b", ["full", "lora"])],
         ["bert, full", "bert, lora"]),
        ([text_column("backbone", "backbone", ["bert", "bert"])], []),  # which of the two?
        ([number_column("seeds", "seeds", [1])], []),
    ],
)  # fmt: skip
def test_markdown_leads_to_runs_by_the_text_that_names_their_rows(tmp_path, columns, names):
    columns = [*columns, number_column("score", "score", [0.5] * len(columns[0].texts))]
    links = [[RunLink("seed 1", tmp_path / "evaluate.json")]] * len(columns[0].texts)
    markdown, *_ = write_table(tmp_path / "one", "A title", columns, [], runs=links)
    found = [line for line in markdown.read_text().splitlines() if "evaluate.json" in line]
    assert found == [f"- {name}: [seed 1](evaluate.json)" for name in names]


def test_each_form_keeps_what_it_may(tmp_path):
    assert '<b><a href="#b">b</a></b>' in rendered(
        [Column("a", ["b"], targets=["#b"], strong=True)], "html"
    )
    values = [0.1 + 0.2, 2**60 + 1, None, "a, b"]
    columns = [text_column("name", "name", list("abcd")), number_column("x", "x", values)]
    assert rendered(columns, "csv") == (
        'name,x\na,0.30000000000000004\nb,1152921504606846977\nc,\nd,"a, b"\n'
    )
    columns = [text_column("a|b", "a", ["x|y", "z"]), number_column("n", "n", [1, 10_000])]
    lines = rendered(columns, "md").replace("\\|", "..").splitlines()
    assert len({tuple(bar.start() for bar in re.finditer(r"\|", line)) for line in lines}) == 1
    assert re.fullmatch(r"\|:-+\|-+:\|", lines[1])
    texts = ["88.0 ± 2.8", "-3.0", "50 % of a_b & c"]
    assert rendered([text_column("Δ full", "x", texts)], "tex").splitlines() == [
        r"\begin{tabular}{l}", r"\toprule", r"$\Delta$ full \\", r"\midrule",
        r"88.0 $\pm$ 2.8 \\", r"$-3.0$ \\", r"50 \% of a\_b \& c \\",
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


@pytest.mark.parametrize("form", TABLE_FORMS)
def test_headings_may_be_alike_and_a_table_without_lines(form):
    columns = [text_column("a", "a", []), Column("ours", []), Column("ours", [])]
    assert "a" in rendered(columns, form)
    columns = [text_column("", "a", ["x"]), Column("ours", ["1"]), Column("ours", ["2"])]
    assert "x" in rendered(columns, form)


def test_tables_lead_from_the_headline_to_the_runs(tmp_path):
    suite = suite_of([write_run(tmp_path, "full"), write_run(tmp_path, "lora")])
    tables = tmp_path / "tables"
    *_, headline = write_headline(suite, tables)
    *_, task = write_task_table(suite, tables / "mini-bert", backbone="mini-bert", task="mini-sst2")
    assert Reader(headline).links[:2] == ["mini-bert/mini-sst2.html"] * 2
    run = Reader(task).links[0]
    assert run == "../../runs/mini-bert/mini-sst2/full/seed-0/evaluate.json"
    assert (task.parent / run).resolve().is_file()

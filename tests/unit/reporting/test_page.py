import html
import json
import re

import pytest
from unit.reporting.runs import scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.reporting.page import write_interactive


def tracked(records):
    scoring(0.7)(records)
    records["tune"]["where"]["tracking"] = {"mlflow_run_id": "f" * 32, "problem": None}


@pytest.fixture
def page(tmp_path):
    suite = suite_of([write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=tracked)])
    for name in ("a.html", "b.html"):
        write_interactive(suite, tmp_path / name, title="Suite <small>")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    return html.unescape((tmp_path / "a.html").read_text(encoding="utf-8"))


def test_page_needs_no_other_file(page):
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page) == []
    assert "<title>Suite <small></title>" in page


def test_every_run_tells_who_it_is_and_where_its_record_is(page, tmp_path):
    lists = re.findall(r'"customdata":(\[\[.*?\]\])', page)
    told = {tuple(points[0][:2]): points[0] for points in map(json.loads, lists)}
    lora = told["mini-bert · mini-sst2 · lora · seed 0", "accuracy 70.0 %, -10.0 points"]
    # 1,007 of 1,000 dense MACs, 12,345 trained parameters as in the dense run.
    assert lora[2:4] == ["0.00 M (100.7 % of dense)", "12,345 (100 % of the dense run's)"]
    assert lora[4].endswith("runs/mini-bert/mini-sst2/lora/seed-0/evaluate.json")
    assert lora[5] == "f" * 32
    assert len(told) == 2


def test_scores_need_a_reference(tmp_path):
    suite = suite_of([write_run(tmp_path, "lora")])
    with pytest.raises(DataError, match="no task of this suite has a score of 'full'"):
        write_interactive(suite, tmp_path / "x.html", title="t")

import csv

import pytest
from unit.reporting.runs import write_run

from sparsetune.errors import DataError
from sparsetune.reporting.collect import collect
from sparsetune.reporting.savings import Effort, saving, write_savings

ORDER = [("mini-bert", "mini-sst2", method) for method in ("full", "earlybert")]


def searched(records):
    records["tune"]["measured"].update(train_seconds=2.1, loading_seconds=0.1, examples_seen=200)
    records["cost"]["measured"]["search_seconds"] = 0.5
    life = {"search": 60_000, "train": 360_000, "inference": 7, "total": 420_007}
    records["cost"]["measured"]["breakdown"]["whole_life"] = life


def tables(tmp_path, *methods):
    edits = {"full": None, "earlybert": searched}
    rows = collect([write_run(tmp_path, name, edit=edits[name]) for name in methods])
    write_savings(rows, tmp_path, order=ORDER, reference_method="full")
    found = {}
    for name in ("savings", "savings-time"):
        with (tmp_path / f"{name}.csv").open() as file:
            found[name] = {line["method"]: line for line in csv.DictReader(file)}
    return found


def test_saving_worked_by_hand():
    # 30 examples at 10 each; the run: search 10, 20 examples at 7.5. Saved 300 - 160 = 140:
    # 10 examples fewer = 100, 20 examples cheaper by 2.5 = 50, the search = -10.
    found = saving(Effort(10, 150, 20), Effort(0, 300, 30))
    assert found.whole == pytest.approx(140 / 300)
    assert found.fewer_examples == pytest.approx(100 / 300)
    assert found.cheaper_examples == pytest.approx(50 / 300)
    assert found.search == pytest.approx(-10 / 300)


@pytest.mark.parametrize("numbers", [(0, 1, 1, 1, 1), (5, 70, 9, 300, 30), (0, 400, 50, 300, 30)])
def test_parts_add_up(numbers):
    search, training, examples, reference, reference_examples = numbers
    found = saving(Effort(search, training, examples), Effort(0, reference, reference_examples))
    parts = found.fewer_examples + found.cheaper_examples + found.search
    assert parts == pytest.approx(found.whole)
    assert found.whole == pytest.approx(1 - (search + training) / reference)


def test_tables_give_both_units(tmp_path):
    found = tables(tmp_path, "full", "earlybert")
    macs, seconds = found["savings"]["earlybert"], found["savings-time"]["earlybert"]
    # MACs: 900,000 against 60,000 + 360,000; seconds: 5.0 against 0.5 + 2.0.
    assert float(macs["saved_whole_fraction"]) == pytest.approx(1 - 420 / 900)
    assert float(macs["saved_search_fraction"]) == pytest.approx(-60 / 900)
    assert float(seconds["saved_whole_fraction"]) == pytest.approx(0.5)
    # 100 of 300 examples fewer is a third; 200 examples at 10 ms instead of 16.7 ms.
    assert float(seconds["saved_fewer_examples_fraction"]) == pytest.approx(1 / 3)
    assert found["savings"]["full"]["saved_whole_fraction"] == ""


def test_without_a_reference_nothing_is_saved(tmp_path):
    assert tables(tmp_path, "earlybert")["savings"]["earlybert"]["saved_whole_fraction"] == ""


def test_a_record_without_the_seconds_is_named(tmp_path):
    folder = write_run(
        tmp_path, "full", edit=lambda records: records["tune"]["measured"].pop("loading_seconds")
    )
    with pytest.raises(DataError, match=r"tune.json: measured.loading_seconds: missing"):
        write_savings(collect([folder]), tmp_path, order=ORDER, reference_method="full")

from dataclasses import asdict

import pandas as pd
import pytest
from unit.reporting.runs import cells_of, lines_of, scoring, suite_of, write_run

from sparsetune.reporting.load import collect
from sparsetune.reporting.render import rendered
from sparsetune.reporting.savings import Effort, saving
from sparsetune.reporting.tables import columns_of, headlines, spread, write_savings


def searched(records):
    records["tune"]["measured"].update(train_seconds=2.1, loading_seconds=0.1, examples_seen=200)
    records["cost"]["measured"]["search_seconds"] = 0.5
    life = {"search": 60_000, "train": 360_000, "inference": 7, "total": 420_007}
    records["cost"]["measured"]["breakdown"]["whole_life"] = life


def tables(tmp_path, *methods):
    edits = {"full": None, "earlybert": searched}
    folders = [write_run(tmp_path, name, edit=edits[name]) for name in methods]
    paths = write_savings(suite_of(folders, ("full", "earlybert")), tmp_path)
    return {
        name: {line["method"]: line for line in lines_of(paths[at : at + 4])}
        for name, at in (("savings", 0), ("savings-time", 4))
    }


def test_saving_worked_by_hand():
    # 30 examples at 10 each; the run: search 10, 20 examples at 7.5. Saved 300 - 160 = 140:
    # 10 examples fewer = 100, 20 examples cheaper by 2.5 = 50, the search = -10.
    found = asdict(saving(Effort(10, 150, 20), Effort(0, 300, 30)))
    parts = {"whole": 140, "fewer_examples": 100, "cheaper_examples": 50, "search": -10}
    assert found == pytest.approx({name: part / 300 for name, part in parts.items()})


@pytest.mark.parametrize("numbers", [(0, 1, 1, 1, 1), (5, 70, 9, 300, 30), (0, 400, 50, 300, 30)])
def test_parts_add_up(numbers):
    search, training, examples, reference, reference_examples = numbers
    found = saving(Effort(search, training, examples), Effort(0, reference, reference_examples))
    parts = found.fewer_examples + found.cheaper_examples + found.search
    assert parts == pytest.approx(found.whole)
    assert found.whole == pytest.approx(1 - (search + training) / reference)


def test_tables_give_both_units_and_nothing_is_saved_without_a_reference(tmp_path):
    found = tables(tmp_path, "full", "earlybert")
    macs, seconds = found["savings"]["earlybert"], found["savings-time"]["earlybert"]
    # MACs: 900,000 against 60,000 + 360,000; seconds: 5.0 against 0.5 + 2.0.
    assert float(macs["saved_whole_fraction"]) == pytest.approx(1 - 420 / 900)
    assert float(macs["saved_search_fraction"]) == pytest.approx(-60 / 900)
    assert float(seconds["saved_whole_fraction"]) == pytest.approx(0.5)
    # 100 of 300 examples fewer is a third; 200 examples at 10 ms instead of 16.7 ms.
    assert float(seconds["saved_fewer_examples_fraction"]) == pytest.approx(1 / 3)
    assert found["savings"]["full"]["saved_whole_fraction"] == ""
    alone = tables(tmp_path / "alone", "earlybert")
    assert alone["savings"]["earlybert"]["saved_whole_fraction"] == ""


def taking(seconds, *, search=0.0, score=0.8):
    def edit(records):
        scoring(score)(records)
        records["tune"]["measured"].update(train_seconds=seconds, loading_seconds=1.0)
        records["cost"]["measured"].update(search_seconds=search, parameters_trained=50)
        records["cost"]["measured"].update(macs_effective_per_example=625)

    return edit


def headline(runs, method):
    numbers = headlines(collect(runs)).loc["mini-bert", "mini-sst2", method, 0]
    return dict(numbers.dropna())


def test_headline_worked_by_hand(tmp_path):
    runs = [
        write_run(tmp_path, seed=0, edit=taking(9.0)),
        write_run(tmp_path, seed=1, edit=taking(13.0)),
        write_run(tmp_path, "lora", edit=taking(6.0, search=2.0, score=0.81239)),
    ]
    # The reference takes 8 and 12 seconds without loading, 10 in the mean; the run 5 + 2.
    assert headline(runs, "lora") == {
        "score_percent": 81.24,
        "macs_effective_percent": 62.5,
        "parameters_trained": 50.0,
        "time_saved_percent": 30.0,
    }
    assert "time_saved_percent" not in headline(runs, "full")


def test_time_saved_is_that_of_the_savings_table(tmp_path):
    runs = [write_run(tmp_path, edit=taking(7.7))]
    runs += [write_run(tmp_path, "lora", seed=s, edit=taking(5.1 + s, search=0.3)) for s in (0, 1)]
    printed = lines_of(write_savings(suite_of(runs), tmp_path)[4:])[1]
    mean = spread(headlines(collect(runs)))["time_saved_percent_mean"]["lora"]
    assert mean == pytest.approx(100 * float(printed["saved_whole_fraction"]), abs=0.01)


def test_undefined_score_and_missing_reference_leave_gaps(tmp_path):
    runs = [write_run(tmp_path, "lora", edit=taking(6.0, score=None))]
    assert set(headline(runs, "lora")) == {"macs_effective_percent", "parameters_trained"}


def numbers(**columns):
    """Lines of two seeds of one method, as :func:`headlines` tells them."""
    index = [("mini-bert", "mini-sst2", "lora", seed) for seed in range(2)]
    names = ["backbone", "task", "method", "seed"]
    columns["time_saved_percent"] = [None, None]
    return pd.DataFrame(columns, pd.MultiIndex.from_tuples(index, names=names), dtype=float)


SAME = {"score_percent": [80.0, 82.0], "macs_effective_percent": [75.0] * 2,
        "parameters_trained": [12345.0] * 2}  # fmt: skip


def test_spread_is_mean_and_sample_deviation():
    told = spread(numbers(**SAME)).loc["lora"]
    # 2 / sqrt(2); two decimals.
    assert (told["score_percent_mean"], told["score_percent_sd"]) == (81.0, 1.41)
    assert (told["seeds_count"], told["time_saved_percent_mean"]) == (2, None)
    alone = spread(numbers(**{**SAME, "score_percent": [80.0, None]})).loc["lora"]
    assert (alone["score_percent_mean"], alone["score_percent_sd"]) == (80.0, None)


def test_table_shows_spread_where_seeds_differ():
    columns = columns_of(spread(numbers(**SAME)))
    line = rendered(columns, "md").splitlines()[-1]
    assert cells_of(line) == ["lora", "81.0 ± 1.4", "75.0 ± 0.0", "12,345", "-", "2"]

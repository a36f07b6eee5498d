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
    folders = [write_run(tmp_path), write_run(tmp_path, "earlybert", edit=searched)]
    paths = write_savings(suite_of(folders, ("full", "earlybert")), tmp_path)
    (full, macs), (_, seconds) = lines_of(paths[:4]), lines_of(paths[4:])
    # MACs: 900,000 against 60,000 + 360,000; seconds: 5.0 against 0.5 + 2.0.
    assert float(macs["saved_whole_fraction"]) == pytest.approx(1 - 420 / 900)
    assert float(macs["saved_search_fraction"]) == pytest.approx(-60 / 900)
    assert float(seconds["saved_whole_fraction"]) == pytest.approx(0.5)
    # 100 of 300 examples fewer is a third; 200 examples at 10 ms instead of 16.7 ms.
    assert float(seconds["saved_fewer_examples_fraction"]) == pytest.approx(1 / 3)
    paths = write_savings(suite_of(folders[1:], ("full", "earlybert")), tmp_path)
    (alone,) = lines_of(paths[:4])
    assert full["saved_whole_fraction"] == alone["saved_whole_fraction"] == ""


def taking(seconds, *, search=0.0, score=0.8):
    def edit(records):
        scoring(score)(records)
        records["tune"]["measured"].update(train_seconds=seconds, loading_seconds=1.0)
        records["cost"]["measured"].update(
            search_seconds=search, parameters_trained=50, macs_effective_per_example=625
        )

    return edit


def headline(numbers, method):
    return dict(numbers.loc["mini-bert", "mini-sst2", method, 0].dropna())


def test_headline_worked_by_hand(tmp_path):
    runs = [
        write_run(tmp_path, seed=0, edit=taking(9.0)),
        write_run(tmp_path, seed=1, edit=taking(13.0)),
        write_run(tmp_path, "lora", edit=taking(6.0, search=2.0, score=0.81239)),
    ]
    # The reference takes 8 and 12 seconds without loading, 10 in the mean; the run 5 + 2.
    numbers = headlines(collect(runs))
    assert headline(numbers, "lora") == {
        "score_percent": 81.24, "macs_effective_percent": 62.5, "parameters_trained": 50.0,
        "time_saved_percent": 30.0,
    }  # fmt: skip
    assert "time_saved_percent" not in headline(numbers, "full")
    # An undefined score and a missing reference leave gaps.
    alone = headlines(collect([write_run(tmp_path, "dsee", edit=taking(6.0, score=None))]))
    assert set(headline(alone, "dsee")) == {"macs_effective_percent", "parameters_trained"}


def test_time_saved_is_that_of_the_savings_table(tmp_path):
    runs = [write_run(tmp_path, edit=taking(7.7))]
    runs += [write_run(tmp_path, "lora", seed=s, edit=taking(5.1 + s, search=0.3)) for s in (0, 1)]
    printed = lines_of(write_savings(suite_of(runs), tmp_path)[4:])[1]
    mean = spread(headlines(collect(runs)))["time_saved_percent_mean"]["lora"]
    assert mean == pytest.approx(100 * float(printed["saved_whole_fraction"]), abs=0.01)


def test_spread_is_shown_where_seeds_differ():
    names = ["backbone", "task", "method", "seed"]
    lines = [
        ("mini-bert", "mini-sst2", m, seed) for m, seed in (("lora", 0), ("lora", 1), ("ia3", 0))
    ]
    numbers = pd.DataFrame({
        "score_percent": [80.0, 82.0, 70.0], "macs_effective_percent": [75.0] * 3,
        "parameters_trained": [12345.0] * 3, "time_saved_percent": [None] * 3,
    }, pd.MultiIndex.from_tuples(lines, names=names), dtype=float)  # fmt: skip
    found = spread(numbers)
    lora, alone = found.loc["lora"], found.loc["ia3"]
    # 2 / sqrt(2), in two decimals.
    assert (lora["score_percent_mean"], lora["score_percent_sd"]) == (81.0, 1.41)
    assert (lora["seeds_count"], lora["time_saved_percent_mean"]) == (2, None)
    assert (alone["score_percent_mean"], alone["score_percent_sd"]) == (70.0, None)
    cells = list(map(cells_of, rendered(columns_of(found), "md").splitlines()[2:]))
    assert cells[0] == ["lora", "81.0 ± 1.4", "75.0 ± 0.0", "12,345", "-", "2"]
    assert cells[1] == ["ia3", "70.0", "75.0", "12,345", "-", "1"]

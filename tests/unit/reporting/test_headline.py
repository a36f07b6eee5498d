import statistics

import pytest
from unit.reporting.runs import scoring, write_run

from sparsetune.reporting.collect import collect
from sparsetune.reporting.headline import columns_of, headlines, spread
from sparsetune.reporting.layout import markdown_lines
from sparsetune.reporting.savings import write_savings

ORDER = [("mini-bert", "mini-sst2", method) for method in ("full", "lora")]


def taking(seconds, *, search=0.0, score=0.8):
    def edit(records):
        scoring(score)(records)
        records["tune"]["measured"].update(train_seconds=seconds, loading_seconds=1.0)
        records["cost"]["measured"].update(search_seconds=search, parameters_trained=50)
        records["cost"]["measured"].update(macs_effective_per_example=625)

    return edit


def headline(rows, method, seed=0):
    return headlines(rows, reference_method="full")["mini-bert", "mini-sst2", method, seed]


def test_headline_worked_by_hand(tmp_path):
    runs = [
        write_run(tmp_path, seed=0, edit=taking(9.0)),
        write_run(tmp_path, seed=1, edit=taking(13.0)),
        write_run(tmp_path, "lora", edit=taking(6.0, search=2.0, score=0.81239)),
    ]
    rows = collect(runs)
    # The reference takes 8 and 12 seconds without loading, 10 in the mean; the run 5 + 2.
    assert headline(rows, "lora") == {
        "score_percent": 81.24,
        "macs_effective_percent": 62.5,
        "parameters_trained": 50.0,
        "time_saved_percent": 30.0,
    }
    assert "time_saved_percent" not in headline(rows, "full")


def test_time_saved_is_that_of_the_savings_table(tmp_path):
    runs = [write_run(tmp_path, edit=taking(7.7))]
    runs += [write_run(tmp_path, "lora", seed=s, edit=taking(5.1 + s, search=0.3)) for s in (0, 1)]
    rows = collect(runs)
    write_savings(rows, tmp_path, order=ORDER, reference_method="full")
    told = (tmp_path / "savings-time.csv").read_text().splitlines()
    printed = dict(zip(told[0].split(","), told[2].split(","), strict=True))
    mean = spread([headline(rows, "lora", seed) for seed in (0, 1)])["time_saved_percent_mean"]
    assert mean == pytest.approx(100 * float(printed["saved_whole_fraction"]), abs=0.01)


def test_undefined_score_and_missing_reference_leave_gaps(tmp_path):
    rows = collect([write_run(tmp_path, "lora", edit=taking(6.0, score=None))])
    assert set(headline(rows, "lora")) == {"macs_effective_percent", "parameters_trained"}


def test_spread_is_mean_and_sample_deviation():
    values = [80.0, 82.5, 81.0]
    told = spread([{"score_percent": value} for value in values])
    assert told["score_percent_mean"] == round(statistics.fmean(values), 2)
    assert told["score_percent_sd"] == round(statistics.stdev(values), 2)
    assert told["seeds_count"] == 3
    assert "score_percent_sd" not in spread([{"score_percent": 80.0}])


def test_table_shows_spread_where_seeds_differ():
    seeds = [
        {"score_percent": 80.0, "macs_effective_percent": 75.0, "parameters_trained": 12345.0},
        {"score_percent": 82.0, "macs_effective_percent": 75.0, "parameters_trained": 12345.0},
    ]
    line = markdown_lines(columns_of({"lora": spread(seeds)}))[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["lora", "81.0 ± 1.4", "75.0 ± 0.0", "12,345", "-", "2"]

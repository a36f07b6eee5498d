import csv

import pytest
from unit.made_records import SPEED
from unit.reporting.runs import write_run

from sparsetune.reporting.collect import collect
from sparsetune.reporting.costs import macs_text, write_costs
from sparsetune.reporting.timings import write_timings

ORDER = [("mini-bert", "mini-sst2", method) for method in ("full", "dsee")]
SEEN = {"sequences": 300, "tokens_mean": 17.0}
OVER = [
    {"split": "training", "padding": "none", **SEEN, "dense": 1, "executed": 1, "effective": 1},
    {"split": "evaluation", "padding": "none", **SEEN, "dense": 2_000_000, "executed": 1_500_000,
     "effective": 1_000_000},
    {"split": "evaluation", "padding": "batches", **SEEN, "dense": 2_200_000, "executed": 1_650_000,
     "effective": 1_100_000},
]  # fmt: skip
TEXTS = [{"part": "prefill", "dense": 300, "executed": 200, "effective": 100},
         {"part": "decode", "dense": 700, "executed": 600, "effective": 400}]  # fmt: skip
OPERATORS = [
    {"operator": name, "executed": 900, "effective": effective}
    for name, effective in
    (("attention", 100), ("linear", 600), ("low_rank", 0), ("single_entries", 0))
]  # fmt: skip


def costing(**changes):
    def edit(records):
        measured = records["cost"]["measured"]
        measured |= {
            "parameters_trained_with_head": 12_545, "macs_over_lengths": OVER,
            "macs_at_128_tokens": {"dense": 11_174_000_000, "executed": 8_380_500_000,
                                   "effective": 5_587_000_000},
            "macs_by_operator": OPERATORS, "macs_whole_life": 3_000_000_000,
            "whole_life_inference_examples": 100_000, **changes,
        }  # fmt: skip
        measured["breakdown"] |= {
            "effective": {"query": 400, "scores": 300, "pooler": 0},
            "whole_life": {
                "search": 500,
                "train": 2000,
                "recover": 1500,
                "inference": 9,
                "total": 9,
            },
        }

    return edit


def tables(runs, tmp_path, write=write_costs):
    paths = write(collect(runs), tmp_path, order=ORDER)
    found = {path.name: path for path in paths}
    return {
        name: list(csv.DictReader(path.open())) if path.suffix == ".csv" else path.read_text()
        for name, path in found.items()
    }


def test_counts_over_lengths_and_at_128_stand_side_by_side(tmp_path):
    found = tables([write_run(tmp_path, edit=costing())], tmp_path)
    line = found["costs.csv"][0]
    assert (line["macs_executed_share"], line["macs_effective_share"]) == ("0.75", "0.5")
    assert float(line["macs_executed_padding_share"]) == pytest.approx(0.1)
    assert line["macs_executed_share_at_128_tokens"] == "0.75"
    assert (line["macs_search"], line["macs_training"]) == ("500", "3500")
    text = found["costs.md"]
    assert " 12,345 |" in text
    assert " 11.2 G |" in text
    assert "100,000 effective forward passes" in text
    assert "One multiply-add is 1 MAC" in text


def test_a_generated_text_costs_its_prompt_and_its_steps(tmp_path):
    found = tables([write_run(tmp_path, edit=costing(macs_per_text=TEXTS))], tmp_path)
    line = found["costs.csv"][0]
    assert line["macs_dense_per_example"] == "1000"
    assert (line["macs_executed_share"], line["macs_effective_share"]) == ("0.8", "0.5")
    assert line["macs_executed_padding_share"] == ""


def test_operators_and_modules_are_shares_of_the_dense_model(tmp_path):
    runs = [write_run(tmp_path, edit=costing()), write_run(tmp_path, "dsee", edit=costing())]
    line = tables(runs, tmp_path)["costs-by-module.csv"][1]
    assert line["method"] == "dsee"
    shares = {name: value for name, value in line.items() if name.endswith("_share")}
    # 1,000 MACs of the dense model; a module without any is left out.
    assert shares == {
        "linear_share": "0.6", "attention_share": "0.1", "low_rank_share": "0.0",
        "single_entries_share": "0.0", "query_share": "0.4", "scores_share": "0.3",
    }  # fmt: skip


def test_costs_are_the_same_wherever_the_runs_were_made_and_hold_no_timing(tmp_path):
    def moved(records):
        costing()(records)
        for record in records.values():
            record["where"]["seconds"] = 1e4
        records["evaluate"]["measured"] |= {"latency_seconds_batch_1": 7.0}

    one = tables([write_run(tmp_path / "a", edit=costing())], tmp_path)
    other = tables([write_run(tmp_path / "b", edit=moved)], tmp_path)
    for name in ("costs.csv", "costs-by-module.csv"):
        assert one[name] == other[name]
    assert not any("second" in field for field in one["costs.csv"][0])


def test_speed_is_in_the_timings_with_threads_and_a_note_on_devices(tmp_path):
    def faster(records):
        records["evaluate"]["measured"] |= {
            "latency_seconds_batch_1": 0.0125, "sequences_per_second_batch_64": None,
            "inference_peak_memory_bytes": 600_000_000, "speed": [{**SPEED, "threads": 2}],
        }  # fmt: skip
        records["evaluate"]["where"]["device"]["name"] = "H200"

    runs = [write_run(tmp_path), write_run(tmp_path, "dsee", edit=faster)]
    found = tables(runs, tmp_path, write_timings)
    line = found["timings.csv"][1]
    assert line["latency_seconds_batch_1"] == "0.0125"
    assert (line["threads"], line["inference_peak_memory_bytes"]) == ("2", "600000000")
    assert line["sequences_per_second_batch_64"] == ""
    assert "| 12.5 |" in " ".join(found["timings.md"].split())
    assert "Run on different devices: H200, cpu." in found["timings.md"]


@pytest.mark.parametrize(
    ("macs", "text"),
    [(512, "512"), (1_000, "1 k"), (11_174_016_000, "11.2 G"), (4.56e12, "4.56 T"),
     (999_999, "1 M"), (2e18, "2 E"), (0, "0")],
)  # fmt: skip
def test_macs_have_a_unit(macs, text):
    assert macs_text(macs) == text

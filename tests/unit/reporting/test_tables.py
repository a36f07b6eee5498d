import statistics

import pytest
from unit.made_records import MACS, SPEED
from unit.reporting.runs import cells_of, changing, lines_of, scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.records.parts import EpochScore
from sparsetune.reporting.tables import (
    best_epoch,
    macs_text,
    write_costs,
    write_headline,
    write_task_table,
    write_timings,
)

METHODS = ("full", "lora", "dsee-unstructured")
SCORES = {"full": [0.9, 0.86], "lora": [0.85], "dsee-unstructured": [0.5]}


@pytest.fixture
def folders(tmp_path):
    return [
        write_run(
            tmp_path, method, seed=seed, edit=scoring(value, collapsed=method.startswith("dsee"))
        )
        for method, values in SCORES.items()
        for seed, value in enumerate(values)
    ]


def task_table(folders, directory, methods=METHODS, refusals=None):
    """The table of one task: its Markdown, and the lines of its CSV by method."""
    suite = suite_of(folders, methods, refusals)
    paths = write_task_table(suite, directory, backbone="mini-bert", task="mini-sst2")
    return paths[0].read_text(), {line["method"]: line for line in lines_of(paths)}


def test_task_table_prints_percentages_spread_and_difference(folders, tmp_path):
    lines = task_table(folders, tmp_path)[0].splitlines()
    assert lines[0] == "# mini-bert on mini-sst2"
    cells = list(map(cells_of, lines[2:7]))
    # Sample standard deviation of 90 and 86: 4 / sqrt(2) = 2.83; lora: 85 - 88 = -3.
    assert cells[2][:5] == ["full", "88.0 ± 2.8", "-", "75.0 ± 0.0", "2"]
    assert cells[3][:5] == ["lora", "85.0", "-3.0", "75.0", "1"]
    assert cells[3][5:] == ["12,345", "50,000", "100.7", "100.7", "0.0", ""]
    assert cells[4][2] == "-38.0"
    assert cells[4][-1] == "collapsed"


def test_single_seed_has_its_interval_and_several_have_their_deviation(tmp_path):
    told = {
        "intervals": {"accuracy_fraction": [0.8125, 0.8875], "f1_fraction": None},
        "intervals_from": {"level": 0.95, "resamples": 1000, "seed": 0},
    }
    folders = [
        write_run(tmp_path, method, seed=seed, edit=scoring(0.85, **told))
        for method, seed in (("full", 0), ("full", 1), ("lora", 0))
    ]
    text, lines = task_table(folders, tmp_path)
    assert "85.0 ± 0.0 " in text
    assert "85.0 [81.2, 88.8]" in text
    assert "with one seed, its 95 % bootstrap interval" in text
    assert (lines["lora"]["accuracy_fraction_low"], lines["full"]["accuracy_fraction_low"]) == (
        "0.8125", "",
    )  # fmt: skip
    assert lines["lora"]["f1_fraction_high"] == ""


def test_csv_keeps_full_precision_fractions_in_the_suites_order(folders, tmp_path):
    _, lines = task_table(folders, tmp_path)
    full, lora, dsee = lines.values()
    assert float(full["accuracy_fraction_mean"]) == statistics.fmean(SCORES["full"])
    assert float(full["accuracy_fraction_sd"]) == statistics.stdev(SCORES["full"])
    assert full["accuracy_fraction_difference_to_full"] == lora["accuracy_fraction_sd"] == ""
    assert float(lora["macs_effective_share_of_dense"]) == 1.007
    assert (lora["parameters_trained"], dsee["collapsed_count"]) == ("12345", "1")
    assert list(task_table(folders, tmp_path, METHODS[::-1])[1]) == list(METHODS[::-1])


def test_tables_are_byte_identical_whatever_the_order_of_folders(folders, tmp_path):
    def written(given, name):
        suite = suite_of(given, METHODS)
        paths = write_task_table(suite, tmp_path / name, backbone="mini-bert", task="mini-sst2")
        return [path.read_bytes() for path in (*paths, *write_headline(suite, tmp_path / name))]

    assert written(folders, "a") == written(folders[::-1], "b")


def test_notes_tell_of_generated_tasks_missing_seeds_dirty_trees_and_devices(tmp_path):
    def elsewhere(recorded):
        recorded["tune"]["where"]["dirty"] = True
        recorded["tune"]["where"]["device"] = {"kind": "cuda", "name": "H200"}

    folders = [write_run(tmp_path, "full", seed=seed) for seed in (0, 1)]
    text, _ = task_table([*folders, write_run(tmp_path, "lora", edit=elsewhere)], tmp_path)
    assert "not the published benchmarks" in text
    assert "- Missing seeds: mini-bert/mini-sst2/lora (1)." in text
    assert "- Not run: mini-bert/mini-sst2/dsee-unstructured." in text
    assert "- Run from a work tree with uncommitted changes: mini-bert/mini-sst2/lora." in text
    assert "- Run on different devices: H200, cpu." in text


def test_texts_have_their_own_scales_and_an_absent_metric_tells_why(tmp_path):
    why = "absent: no java on the PATH"
    scores = {"accuracy_fraction": 0.5, "e2e_nist_score": 8.7128, "ter_fraction": 0.4,
              "meteor_1_5_fraction": None}  # fmt: skip
    edit = scoring(0.5, metrics=scores, metric_notes={"meteor_1_5_fraction": why})
    text, lines = task_table([write_run(tmp_path, edit=edit)], tmp_path)
    assert " 8.71 |" in text
    assert "- Not percentages: NIST (E2E script)." in text
    assert "- Lower is better: TER." in text
    assert f"- No METEOR 1.5 for at least one seed of full: {why}." in text
    assert lines["full"]["e2e_nist_score_mean"] == "8.7128"
    edit = scoring(None)
    text, lines = task_table([write_run(tmp_path / "b", edit=edit)], tmp_path)
    assert "Undefined for at least one seed: accuracy of full." in text
    assert lines["full"]["accuracy_fraction_mean"] == ""


def test_headline_is_a_matrix_of_methods_and_tasks(folders, tmp_path):
    folders.append(write_run(tmp_path, "lora", task="rte", edit=scoring(0.7)))
    paths = write_headline(suite_of(folders, [*METHODS, ("mini-bert", "rte", "lora")]), tmp_path)
    lines = {line["method"]: line for line in lines_of(paths)}
    assert list(lines) == list(METHODS)
    assert lines["lora"] == {
        "method": "lora", "mini-bert/mini-sst2": "0.85", "mini-bert/rte": "0.7",
    }  # fmt: skip
    assert lines["full"]["mini-bert/rte"] == ""
    text = paths[0].read_text()
    assert "50.0 *" in text
    assert "A star marks" in text


def test_task_without_runs_and_mixed_metrics_are_refused(tmp_path):
    edit = scoring(0.5, headline_metric="f1_fraction")
    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=edit)]
    with pytest.raises(DataError, match="primary metric is 'f1_fraction'"):
        task_table(folders, tmp_path)
    with pytest.raises(DataError, match="mini-bert/mini-sst2: no finished run"):
        task_table([write_run(tmp_path, task="rte")], tmp_path, [("mini-bert", "rte", "full")])
    with pytest.raises(DataError, match="is not in the suite"):
        suite_of(folders, METHODS[1:])


REASON = "the library takes other matrices only"
REFUSED = {("mini-bert", "mini-sst2", "supra"): REASON, ("mini-gpt2", "mini-e2e", "supra"): REASON}


def test_a_refused_method_has_a_line_without_numbers_and_a_reason(folders, tmp_path):
    text, lines = task_table(folders, tmp_path, refusals=REFUSED)
    cells = cells_of(next(line for line in text.splitlines() if line.startswith("| supra")))
    assert set(cells[1:-1]) == {"-"}
    assert cells[-1] == "not run"
    note = f"supra on mini-bert: not run: {REASON}."
    assert f"- {note}" in text
    assert note in (tmp_path / "mini-sst2.tex").read_text()
    assert "mini-gpt2" not in text
    assert {key for key, value in lines["supra"].items() if value} == {"method"}
    assert lines["full"] == task_table(folders, tmp_path)[1]["full"]


def test_refusals_are_in_the_headline_and_below_the_timings(folders, tmp_path):
    refused = {**REFUSED, ("mini-bert", "rte", "supra"): REASON}
    suite = suite_of(folders, METHODS, refused)
    paths = write_headline(suite, tmp_path)
    text = paths[0].read_text()
    assert next(line for line in text.splitlines() if line.startswith("| supra")).count("not run")
    assert text.count(f"- supra on mini-bert: not run: {REASON}.") == 1  # for both tasks
    assert f"- supra on mini-gpt2: not run: {REASON}." in text
    assert lines_of(paths)[-1] == {"method": "supra", "mini-bert/mini-sst2": ""}
    paths = write_timings(suite, tmp_path)
    assert f"supra on mini-gpt2: not run: {REASON}." in paths[0].read_text()
    assert "supra" not in {line["method"] for line in lines_of(paths)}


def test_timings_hold_every_timing_and_no_other_table_does(folders, tmp_path):
    suite = suite_of(folders, METHODS)
    paths = write_timings(suite, tmp_path)
    line = lines_of(paths)[0]
    assert (line["train_seconds"], line["start_up_seconds"]) == ("5.25", "4.0")
    assert (line["evaluate_seconds"], line["examples_per_second"]) == ("0.5", "800.0")
    assert (line["peak_memory_bytes"], line["device"]) == ("512000000", "cpu")
    assert "512.0" in paths[0].read_text()
    names = [*task_table(folders, tmp_path)[1]["full"]]
    names += [
        name for at in (0, 4) for name in lines_of(write_costs(suite, tmp_path)[at : at + 4])[0]
    ]
    assert not any("second" in name for name in names)


def test_speed_is_in_the_timings_with_threads_and_a_note_on_devices(tmp_path):
    def faster(records):
        records["evaluate"]["measured"] |= {
            "latency_seconds_batch_1": 0.0125, "sequences_per_second_batch_64": None,
            "inference_peak_memory_bytes": 600_000_000, "speed": [{**SPEED, "threads": 2}],
        }  # fmt: skip
        records["evaluate"]["where"]["device"]["name"] = "H200"

    suite = suite_of([write_run(tmp_path), write_run(tmp_path, "lora", edit=faster)])
    paths = write_timings(suite, tmp_path)
    line = lines_of(paths)[1]
    assert line["latency_seconds_batch_1"] == "0.0125"
    assert (line["threads"], line["inference_peak_memory_bytes"]) == ("2", "600000000")
    assert line["sequences_per_second_batch_64"] == ""
    text = paths[0].read_text()
    assert "| 12.5 |" in " ".join(text.split())
    assert "Run on different devices: H200, cpu." in text


def costing(**changes):
    """An edit: counts of a model whose 1,000 dense MACs are at its mean length."""
    over = [(2_000_000, 1_500_000, 1_000_000), (2_200_000, 1_650_000, 1_100_000)]
    macs = [dict(zip(MACS, numbers, strict=True)) for numbers in over]
    operators = {"linear": 600, "attention": 100, "low_rank": 0}
    modules = {"query": 400, "scores": 300, "pooler": 0}
    life = {"search": 500, "train": 2000, "recover": 1500, "inference": 9, "total": 9}
    return changing("cost", **{
        "parameters_trained_with_head": 12_545, "macs_whole_life": 3_000_000_000,
        "macs_at_128_tokens": {"dense": 11_174_000_000, "executed": 8_380_500_000,
                               "effective": 5_587_000_000},
        "macs_over_lengths": [
            {"split": "evaluation", "padding": padding, "sequences": 1, "tokens_mean": 17.0, **one}
            for padding, one in zip(("none", "batches"), macs, strict=True)
        ],
        "macs_by_operator": [
            {"operator": name, "executed": 900, "effective": n} for name, n in operators.items()
        ],
        "breakdown": {"executed": modules, "effective": modules, "whole_life": life}, **changes,
    })  # fmt: skip


def costs(tmp_path, **changes):
    paths = write_costs(suite_of([write_run(tmp_path, edit=costing(**changes))]), tmp_path)
    return lines_of(paths[:4])[0], lines_of(paths[4:])[0], paths[0].read_text()


def test_counts_over_lengths_and_at_128_stand_side_by_side(tmp_path):
    line, modules, text = costs(tmp_path)
    assert (line["macs_executed_share"], line["macs_effective_share"]) == ("0.75", "0.5")
    assert float(line["macs_executed_padding_share"]) == pytest.approx(0.1)
    assert line["macs_executed_share_at_128_tokens"] == "0.75"
    assert (line["macs_search"], line["macs_training"]) == ("500", "3500")
    for told in (" 12,345 |", " 11.2 G |", "100,000 effective forward passes", "is 1 MAC"):
        assert told in text
    # Of 1,000 MACs of the dense model; a module without any is left out.
    assert {name: value for name, value in modules.items() if name.endswith("_share")} == {
        "linear_share": "0.6", "attention_share": "0.1", "low_rank_share": "0.0",
        "query_share": "0.4", "scores_share": "0.3",
    }  # fmt: skip


def test_a_generated_text_costs_its_prompt_and_its_steps(tmp_path):
    parts = {"prefill": (300, 200, 100), "decode": (700, 600, 400)}
    texts = [{"part": part, **dict(zip(MACS, macs, strict=True))} for part, macs in parts.items()]
    line, *_ = costs(tmp_path, macs_per_text=texts)
    assert line["macs_dense_per_example"] == "1000"
    assert (line["macs_executed_share"], line["macs_effective_share"]) == ("0.8", "0.5")
    assert line["macs_executed_padding_share"] == ""


@pytest.mark.parametrize(
    ("macs", "text"),
    [(512, "512"), (1_000, "1 k"), (11_174_016_000, "11.2 G"), (4.56e12, "4.56 T"),
     (999_999, "1 M"), (2e18, "2 E"), (0, "0")],
)  # fmt: skip
def test_macs_have_a_unit(macs, text):
    assert macs_text(macs) == text


METRIC = "accuracy_fraction"


def entries(*values, metric=METRIC):
    return [
        {"epoch": float(number), "step": 10 * number, "metrics": {metric: value}}
        for number, value in enumerate(values, start=1)
    ]


def run_with(root, method="full", *, seed=0, epochs=None, note=None):
    """A run whose last model scores what its last epoch did, or 0.8."""

    def edit(records):
        if epochs is not None:
            records["tune"]["measured"]["epoch_scores"] = epochs
        if epochs:
            records["evaluate"]["measured"]["metrics"] = epochs[-1]["metrics"]
        if note:
            records["tune"]["measured"]["epoch_scores_note"] = note

    return write_run(root, method, seed=seed, edit=edit)


@pytest.mark.parametrize(
    ("values", "metric", "expected"),
    [
        ([0.5, 0.75, 0.7], METRIC, (2.0, 0.75)),
        ([0.75, 0.75, 0.7], METRIC, (1.0, 0.75)),
        ([None, 0.25], METRIC, (2.0, 0.25)),
        ([-0.5, -0.75], "matthews_correlation", (1.0, -0.5)),
        ([0.5, 0.25, 0.3], "ter_fraction", (2.0, 0.25)),  # an error rate
        ([None], METRIC, None),
        ([], METRIC, None),
    ],
)
def test_the_best_epoch_is_the_earliest_of_the_best_defined_scores(values, metric, expected):
    epochs = [EpochScore.model_validate(one) for one in entries(*values, metric=metric)]
    assert best_epoch(epochs, metric) == expected


def test_the_table_has_best_and_last_side_by_side_and_says_that_the_best_flatters(tmp_path):
    text, lines = task_table(
        [
            run_with(tmp_path, seed=0, epochs=entries(0.7, 0.9, 0.8)),
            run_with(tmp_path, seed=1, epochs=entries(0.86, 0.82, 0.84)),
            run_with(tmp_path, "lora", seed=0, epochs=entries(0.5, 0.6)),
        ],
        tmp_path,
    )
    cells = list(map(cells_of, text.splitlines()[2:6]))
    # full: the last are 80 and 84, the best 90 and 86: means 82 and 88, deviation 4 / sqrt(2).
    assert cells[0][1:3] == ["accuracy", "best epoch"]
    assert cells[2][1:3] == ["82.0 ± 2.8", "88.0 ± 2.8 (2, 1)"]
    assert cells[3][1:3] == ["60.0", "60.0 (2)"]
    assert cells[3][3] == "-22.0"  # still last against last
    assert "which flatters. All other scores are those of the last model." in text
    assert "- Scored on 400 examples of the split dev." in text
    assert float(lines["full"][f"{METRIC}_best_epoch_mean"]) == statistics.fmean([0.9, 0.86])
    assert float(lines["full"][f"{METRIC}_best_epoch_sd"]) == statistics.stdev([0.9, 0.86])
    assert [line["best_epochs"] for line in lines.values()] == ["2;1", "2"]
    assert lines["lora"][f"{METRIC}_best_epoch_sd"] == ""


def test_a_line_without_epoch_scores_has_a_dash_and_a_suite_without_no_such_column(tmp_path):
    folders = [
        run_with(tmp_path, "full", epochs=entries(0.7)),
        run_with(tmp_path, "lora", seed=0, epochs=entries(0.7)),
        run_with(tmp_path, "lora", seed=1),
    ]
    lora = task_table(folders, tmp_path)[1]["lora"]
    assert lora[f"{METRIC}_best_epoch_mean"] == lora["best_epochs"] == ""
    text, lines = task_table([run_with(tmp_path / "b")], tmp_path)
    assert "epoch" not in text + "".join(lines["full"])


def test_why_epochs_were_not_scored_is_told(tmp_path):
    text, lines = task_table([run_with(tmp_path, epochs=[], note="too slow")], tmp_path)
    assert "- Epochs: too slow." in text
    assert "best_epochs" not in lines["full"]

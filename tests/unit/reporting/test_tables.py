import statistics

import pytest
from unit.made_records import MACS, SPEED
from unit.reporting.runs import cells_of, changing, lines_of, scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.records.parts import EpochScore
from sparsetune.reporting.tables import (
    _best_epoch,
    _macs_text,
    write_costs,
    write_headline,
    write_task_table,
    write_timings,
)

METHODS = ("full", "lora", "dsee-unstructured")
SCORES = {"full": [0.9, 0.86], "lora": [0.85], "dsee-unstructured": [0.5]}
METRIC = "accuracy_fraction"
REASON = "the library takes other matrices only"
REFUSED = {("mini-bert", "mini-sst2", "supra"): REASON, ("mini-gpt2", "mini-e2e", "supra"): REASON}


@pytest.fixture
def folders(tmp_path):
    return [
        write_run(tmp_path, method, seed=seed, edit=scoring(value, collapsed=value == 0.5))
        for method, values in SCORES.items()
        for seed, value in enumerate(values)
    ]


def task_table(folders, directory, methods=METHODS, refusals=None):
    """The table of one task: its Markdown, and the lines of its CSV by method."""
    suite = suite_of(folders, methods, refusals)
    paths = write_task_table(suite, directory, backbone="mini-bert", task="mini-sst2")
    return paths[0].read_text(), {line["method"]: line for line in lines_of(paths)}


def test_task_table_prints_percentages_and_keeps_fractions_in_the_order_of_the_suite(
    folders, tmp_path
):
    text, found = task_table(folders, tmp_path)
    lines = text.splitlines()
    assert lines[0] == "# mini-bert on mini-sst2"
    cells = list(map(cells_of, lines[4:7]))
    # Sample standard deviation of 90 and 86: 4 / sqrt(2) = 2.83; lora: 85 - 88 = -3.
    assert cells[0][:5] == ["full", "88.0 ± 2.8", "-", "75.0 ± 0.0", "2"]
    assert cells[1][:5] == ["lora", "85.0", "-3.0", "75.0", "1"]
    assert cells[1][5:] == ["12,345", "50,000", "100.7", "100.7", "0.0", ""]
    assert (cells[2][2], cells[2][-1]) == ("-38.0", "collapsed")
    full, lora, dsee = found.values()
    assert float(full[f"{METRIC}_mean"]) == statistics.fmean(SCORES["full"])
    assert float(full[f"{METRIC}_sd"]) == statistics.stdev(SCORES["full"])
    assert full[f"{METRIC}_difference_to_full"] == lora[f"{METRIC}_sd"] == ""
    assert float(lora["macs_effective_share_of_dense"]) == 1.007
    assert (lora["parameters_trained"], dsee["collapsed_count"]) == ("12345", "1")
    assert list(task_table(folders, tmp_path, METHODS[::-1])[1]) == list(METHODS[::-1])


def test_single_seed_has_its_interval_and_several_have_their_deviation(tmp_path):
    told = {
        "intervals": {METRIC: [0.8125, 0.8875], "f1_fraction": None},
        "intervals_from": {"level": 0.95, "resamples": 1000, "seed": 0},
    }
    folders = [
        write_run(tmp_path, method, seed=seed, edit=scoring(0.85, **told))
        for method, seed in (("full", 0), ("full", 1), ("lora", 0))
    ]
    text, lines = task_table(folders, tmp_path)
    for part in ("85.0 ± 0.0 ", "85.0 [81.2, 88.8]", "with one seed, its 95 % bootstrap interval"):
        assert part in text
    found = [lines[method][f"{METRIC}_low"] for method in ("lora", "full")]
    assert found == ["0.8125", ""]
    assert lines["lora"]["f1_fraction_high"] == ""


def test_tables_are_byte_identical_whatever_the_order_of_folders(folders, tmp_path):
    def written(given, name):
        suite = suite_of(given, METHODS)
        paths = write_task_table(suite, tmp_path / name, backbone="mini-bert", task="mini-sst2")
        return [path.read_bytes() for path in (*paths, *write_headline(suite, tmp_path / name))]

    assert written(folders, "a") == written(folders[::-1], "b")


def test_notes_tell_of_generated_tasks_missing_seeds_dirty_trees_and_devices(tmp_path):
    def elsewhere(recorded):
        recorded["tune"]["where"]["dirty"] = True
        shared = {"kind": "cuda", "name": "H200", "id": "1", "slots": 4}
        recorded["tune"]["where"]["device"] = shared

    folders = [write_run(tmp_path, "full", seed=seed) for seed in (0, 1)]
    text, _ = task_table([*folders, write_run(tmp_path, "lora", edit=elsewhere)], tmp_path)
    assert "not the published benchmarks" in text
    for note in (
        "Missing seeds: mini-bert/mini-sst2/lora (1).",
        "Not run: mini-bert/mini-sst2/dsee-unstructured.",
        "Run from a work tree with uncommitted changes: mini-bert/mini-sst2/lora.",
        "Run on different devices: H200, shared by up to 4 jobs, cpu.",
        "Scored on 400 examples of the split dev.",
    ):
        assert f"- {note}\n" in text


def test_threads_are_told_where_runs_computed_with_different_numbers(tmp_path):
    def with_threads(count):
        def edit(recorded):
            for stage in ("tune", "evaluate"):
                recorded[stage]["where"]["threads"] = count

        return edit

    folders = [
        write_run(tmp_path, "full", edit=with_threads(1)),
        write_run(tmp_path, "lora", edit=with_threads(4)),
    ]
    text, _ = task_table(folders, tmp_path)
    assert "- Computed with different numbers of threads: 1, 4; sums are split by them," in text
    # Records of before tell no threads.
    folders[1] = write_run(tmp_path / "before", "lora")
    text, _ = task_table(folders, tmp_path)
    assert "numbers of threads" not in text


def test_texts_have_their_own_scales_and_an_absent_metric_tells_why(tmp_path):
    why = "absent: no java on the PATH"
    scores = {METRIC: 0.5, "e2e_nist_score": 8.7128, "ter_fraction": 0.4,
              "meteor_1_5_fraction": None}  # fmt: skip
    edit = scoring(0.5, metrics=scores, metric_notes={"meteor_1_5_fraction": why})
    text, lines = task_table([write_run(tmp_path, edit=edit)], tmp_path)
    for part in (
        " 8.71 |", "- Not percentages: NIST (E2E script).", "- Lower is better: TER.",
        f"- No METEOR 1.5 for at least one seed of full: {why}.",
    ):  # fmt: skip
        assert part in text
    assert lines["full"]["e2e_nist_score_mean"] == "8.7128"
    text, lines = task_table([write_run(tmp_path / "b", edit=scoring(None))], tmp_path)
    assert "Undefined for at least one seed: accuracy of full." in text
    assert lines["full"][f"{METRIC}_mean"] == ""


def test_a_score_above_its_scale_has_a_footnote(tmp_path):
    scores = {METRIC: 0.5, "e2e_bleu_fraction": 17.86, "ter_fraction": 3.0}
    folders = [write_run(tmp_path, edit=scoring(0.5, metrics=scores)), write_run(tmp_path, "lora")]
    text, _ = task_table(folders, tmp_path)
    told = "- BLEU (E2E script) of full is above its scale, which ends at 100.0: "
    assert text.count("above its scale") == 1
    assert told in text


def test_headline_is_a_matrix_of_methods_and_tasks(folders, tmp_path):
    folders.append(write_run(tmp_path, "lora", task="rte", edit=scoring(0.7)))
    paths = write_headline(suite_of(folders, [*METHODS, ("mini-bert", "rte", "lora")]), tmp_path)
    lines = {line.pop("method"): line for line in lines_of(paths)}
    assert list(lines) == list(METHODS)
    assert lines["lora"] == {"mini-bert/mini-sst2": "0.85", "mini-bert/rte": "0.7"}
    assert lines["full"]["mini-bert/rte"] == ""
    text = paths[0].read_text()
    assert "50.0 *" in text
    assert "A star marks" in text


def test_task_without_runs_and_mixed_metrics_are_refused(tmp_path):
    edit = scoring(0.5, headline_metric="f1_fraction")
    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=edit)]
    with pytest.raises(DataError, match="primary metric is 'f1_fraction'"):
        task_table(folders, tmp_path)
    other = [write_run(tmp_path, task="rte")], tmp_path, [("mini-bert", "rte", "full")]
    with pytest.raises(DataError, match="mini-bert/mini-sst2: no finished run"):
        task_table(*other)


def test_a_refused_method_has_a_line_without_numbers_and_a_reason_everywhere(folders, tmp_path):
    text, lines = task_table(folders, tmp_path, refusals=REFUSED)
    cells = cells_of(next(line for line in text.splitlines() if line.startswith("| supra")))
    assert (set(cells[1:-1]), cells[-1]) == ({"-"}, "not run")
    notes = [f"supra on {name}: not run: {REASON}." for name in ("mini-bert", "mini-gpt2")]
    assert f"- {notes[0]}" in text
    assert notes[0] in (tmp_path / "mini-sst2.tex").read_text()
    assert "mini-gpt2" not in text
    assert {key for key, value in lines["supra"].items() if value} == {"method"}
    assert lines["full"] == task_table(folders, tmp_path)[1]["full"]

    suite = suite_of(folders, METHODS, {**REFUSED, ("mini-bert", "rte", "supra"): REASON})
    paths = write_headline(suite, tmp_path)
    text = paths[0].read_text()
    assert next(line for line in text.splitlines() if line.startswith("| supra")).count("not run")
    assert [text.count(f"- {note}") for note in notes] == [1, 1]  # one for both tasks
    assert lines_of(paths)[-1] == {"method": "supra", "mini-bert/mini-sst2": ""}
    paths = write_timings(suite, tmp_path)
    assert notes[1] in paths[0].read_text()
    assert "supra" not in {line["method"] for line in lines_of(paths)}


def test_timings_hold_every_timing_and_no_other_table_does(tmp_path):
    def faster(records):
        records["evaluate"]["measured"] |= {
            "latency_seconds_batch_1": 0.0125, "sequences_per_second_batch_64": None,
            "inference_peak_memory_bytes": 600_000_000, "speed": [{**SPEED, "threads": 2}],
        }  # fmt: skip
        records["evaluate"]["where"]["device"]["name"] = "H200"

    folders = [write_run(tmp_path), write_run(tmp_path, "lora", edit=faster)]
    paths = write_timings(suite_of(folders), tmp_path)
    first, second = lines_of(paths)
    assert (first["train_seconds"], first["start_up_seconds"]) == ("5.25", "4.0")
    assert (first["evaluate_seconds"], first["examples_per_second"]) == ("0.5", "800.0")
    assert (first["peak_memory_bytes"], first["device"]) == ("512000000", "cpu")
    assert second["latency_seconds_batch_1"] == "0.0125"
    assert (second["threads"], second["inference_peak_memory_bytes"]) == ("2", "600000000")
    assert second["sequences_per_second_batch_64"] == ""
    text = " ".join(paths[0].read_text().split())
    for part in ("| 512.0 |", "| 12.5 |", "Run on different devices: H200, cpu."):
        assert part in text
    costs = write_costs(suite_of(folders), tmp_path)
    tables = [
        task_table(folders, tmp_path)[1]["full"],
        lines_of(costs[:4])[0],
        lines_of(costs[4:])[0],
    ]
    assert not any("second" in name for table in tables for name in table)


def costs(tmp_path, **changes):
    """Tables of a model whose 1,000 dense MACs are at its mean length."""
    over = [(2_000_000, 1_500_000, 1_000_000), (2_200_000, 1_650_000, 1_100_000)]
    operators = {"linear": 600, "attention": 100, "low_rank": 0}
    modules = {"query": 400, "scores": 300, "pooler": 0}
    life = {"search": 500, "train": 2000, "recover": 1500, "inference": 9, "total": 9}
    edit = changing("cost", **{
        "parameters_trained_with_head": 12_545, "macs_whole_life": 3_000_000_000,
        "macs_at_128_tokens": {"dense": 11_174_000_000, "executed": 8_380_500_000,
                               "effective": 5_587_000_000},
        "macs_over_lengths": [
            {"split": "evaluation", "padding": padding, "sequences": 1, "tokens_mean": 17.0,
             **dict(zip(MACS, numbers, strict=True))}
            for padding, numbers in zip(("none", "batches"), over, strict=True)
        ],
        "macs_by_operator": [
            {"operator": name, "executed": 900, "effective": n} for name, n in operators.items()
        ],
        "breakdown": {"executed": modules, "effective": modules, "whole_life": life}, **changes,
    })  # fmt: skip
    paths = write_costs(suite_of([write_run(tmp_path, edit=edit)]), tmp_path)
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
    assert _macs_text(macs) == text


def epochs(*values, metric=METRIC):
    return [
        {"epoch": float(number), "step": 10 * number, "metrics": {metric: value}}
        for number, value in enumerate(values, start=1)
    ]


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
    scored = [EpochScore.model_validate(one) for one in epochs(*values, metric=metric)]
    assert _best_epoch(scored, metric) == expected


def scored(root, method, seed, *values, **told):
    """A run whose last model scores what its last epoch did, or 0.8."""

    def edit(records):
        scoring(values[-1] if values else 0.8)(records)
        records["tune"]["measured"].update({"epoch_scores": epochs(*values), **told})

    return write_run(root, method, seed=seed, edit=edit)


def test_the_table_has_best_and_last_side_by_side_and_says_that_the_best_flatters(tmp_path):
    folders = [
        scored(tmp_path, "full", 0, 0.7, 0.9, 0.8), scored(tmp_path, "full", 1, 0.86, 0.82, 0.84),
        scored(tmp_path, "lora", 0, 0.5, 0.6),
    ]  # fmt: skip
    text, lines = task_table(folders, tmp_path)
    cells = list(map(cells_of, text.splitlines()[2:6]))
    # full: the last are 80 and 84, the best 90 and 86: means 82 and 88, deviation 4 / sqrt(2).
    assert cells[0][1:3] == ["accuracy", "best epoch"]
    assert cells[2][1:3] == ["82.0 ± 2.8", "88.0 ± 2.8 (2, 1)"]
    assert cells[3][1:4] == ["60.0", "60.0 (2)", "-22.0"]  # still last against last
    assert "which flatters. All other scores are those of the last model." in text
    assert float(lines["full"][f"{METRIC}_best_epoch_mean"]) == statistics.fmean([0.9, 0.86])
    assert float(lines["full"][f"{METRIC}_best_epoch_sd"]) == statistics.stdev([0.9, 0.86])
    assert [line["best_epochs"] for line in lines.values()] == ["2;1", "2"]
    assert lines["lora"][f"{METRIC}_best_epoch_sd"] == ""
    # With a seed whose epochs were not scored nothing is told.
    lora = task_table([*folders, write_run(tmp_path, "lora", seed=1)], tmp_path)[1]["lora"]
    assert lora[f"{METRIC}_best_epoch_mean"] == lora["best_epochs"] == ""


def test_a_suite_without_epoch_scores_has_no_such_column_and_tells_why(tmp_path):
    text, lines = task_table([write_run(tmp_path)], tmp_path)
    assert "epoch" not in text + "".join(lines["full"])
    told = scored(tmp_path / "b", "full", 0, epoch_scores_note="too slow")
    text, lines = task_table([told], tmp_path)
    assert "- Epochs: too slow." in text
    assert "best_epochs" not in lines["full"]

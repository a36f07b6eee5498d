import csv
import io
import statistics

import pytest
from unit.reporting.runs import scoring, write_run

from sparsetune.errors import DataError
from sparsetune.reporting.collect import collect
from sparsetune.reporting.tables import write_headline, write_task_table
from sparsetune.reporting.timings import write_timings

ORDER = [("mini-bert", "mini-sst2", method) for method in ("full", "lora", "dsee-unstructured")]
SCORES = {"full": [0.9, 0.86], "lora": [0.85], "dsee-unstructured": [0.5]}


@pytest.fixture
def rows(tmp_path):
    folders = [
        write_run(
            tmp_path, method, seed=seed, edit=scoring(value, collapsed=method.startswith("dsee"))
        )
        for method, values in SCORES.items()
        for seed, value in enumerate(values)
    ]
    return collect(folders)


def task_table(rows, directory, order=ORDER):
    paths = write_task_table(rows, directory, backbone="mini-bert", task="mini-sst2", order=order)
    return {path.suffix[1:]: path.read_text(encoding="utf-8") for path in paths}


def records(text):
    return {line["method"]: line for line in csv.DictReader(io.StringIO(text))}


def test_task_table_prints_percentages_spread_and_difference(rows, tmp_path):
    lines = task_table(rows, tmp_path)["md"].splitlines()
    assert lines[0] == "# mini-bert on mini-sst2"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:7]]
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
    texts = task_table(collect(folders), tmp_path)
    assert "85.0 ± 0.0 " in texts["md"]
    assert "85.0 [81.2, 88.8]" in texts["md"]
    assert "with one seed, its 95 % bootstrap interval" in texts["md"]
    lines = records(texts["csv"])
    assert (lines["lora"]["accuracy_fraction_low"], lines["full"]["accuracy_fraction_low"]) == (
        "0.8125", "",
    )  # fmt: skip
    assert lines["lora"]["f1_fraction_high"] == ""


def test_markdown_columns_are_aligned(rows, tmp_path):
    lines = [line for line in task_table(rows, tmp_path)["md"].splitlines() if line[:1] == "|"]
    bars = {tuple(i for i, c in enumerate(line) if c == "|") for line in lines}
    assert len(bars) == 1


def test_csv_keeps_full_precision_fractions(rows, tmp_path):
    lines = records(task_table(rows, tmp_path)["csv"])
    full = lines["full"]
    assert float(full["accuracy_fraction_mean"]) == statistics.fmean(SCORES["full"])
    assert float(full["accuracy_fraction_sd"]) == statistics.stdev(SCORES["full"])
    assert full["accuracy_fraction_difference_to_full"] == ""
    assert lines["lora"]["accuracy_fraction_sd"] == ""
    assert float(lines["lora"]["macs_effective_share_of_dense"]) == 1.007
    assert lines["dsee-unstructured"]["collapsed_count"] == "1"
    assert lines["lora"]["parameters_trained"] == "12345"


def test_latex_is_escaped_booktabs(rows, tmp_path):
    text = task_table(rows, tmp_path)["tex"]
    for piece in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"88.0 $\pm$ 2.8",
        r"MACs \%",
        "$-3.0$",
    ):
        assert piece in text
    assert all(
        line.startswith("%") or "%" not in line.replace(r"\%", "") for line in text.split("\n")
    )
    assert text.count(r"\\") == 1 + 3 + text.count(r"\footnotesize")


def test_tables_are_byte_identical_whatever_the_order_of_rows(rows, tmp_path):
    first, second = task_table(rows, tmp_path / "a"), task_table(rows[::-1], tmp_path / "b")
    assert first == second
    headlines = [
        [path.read_bytes() for path in write_headline(given, tmp_path / name, order=ORDER)]
        for given, name in ((rows, "a"), (rows[::-1], "b"))
    ]
    assert headlines[0] == headlines[1]


def test_lines_follow_the_suites_order(rows, tmp_path):
    text = task_table(rows, tmp_path, order=ORDER[::-1])["csv"]
    assert list(records(text)) == ["dsee-unstructured", "lora", "full"]


def test_notes_tell_of_generated_tasks_missing_seeds_dirty_trees_and_devices(tmp_path):
    def elsewhere(recorded):
        recorded["tune"]["where"]["dirty"] = True
        recorded["tune"]["where"]["device"] = {"kind": "cuda", "name": "H200"}

    folders = [write_run(tmp_path, "full", seed=seed) for seed in (0, 1)]
    rows = collect([*folders, write_run(tmp_path, "lora", edit=elsewhere)])
    text = task_table(rows, tmp_path)["md"]
    assert "not the published benchmarks" in text
    assert "- Missing seeds: mini-bert/mini-sst2/lora (1)." in text
    assert "- Not run: mini-bert/mini-sst2/dsee-unstructured." in text
    assert "- Run from a work tree with uncommitted changes: mini-bert/mini-sst2/lora." in text
    assert "- Run on different devices: H200, cpu." in text


def test_undefined_metric_is_a_dash_with_a_note(tmp_path):
    text = task_table(collect([write_run(tmp_path, edit=scoring(None))]), tmp_path)
    assert "Undefined for at least one seed: accuracy of full." in text["md"]
    assert records(text["csv"])["full"]["accuracy_fraction_mean"] == ""


def test_texts_are_scored_on_their_own_scales_and_an_absent_metric_tells_why(tmp_path):
    why = "absent: no java on the PATH"
    scores = {"accuracy_fraction": 0.5, "e2e_nist_score": 8.7128, "ter_fraction": 0.4,
              "meteor_1_5_fraction": None}  # fmt: skip
    edit = scoring(0.5, metrics=scores, metric_notes={"meteor_1_5_fraction": why})
    text = task_table(collect([write_run(tmp_path, edit=edit)]), tmp_path)
    assert " 8.71 |" in text["md"]
    assert "- Not percentages: NIST (E2E script)." in text["md"]
    assert "- Lower is better: TER." in text["md"]
    assert f"- No METEOR 1.5 for at least one seed of full: {why}." in text["md"]
    assert records(text["csv"])["full"]["e2e_nist_score_mean"] == "8.7128"


def test_headline_is_a_matrix_of_methods_and_tasks(rows, tmp_path):
    rows = [*rows, *collect([write_run(tmp_path, "lora", task="rte", edit=scoring(0.7))])]
    order = [*ORDER, ("mini-bert", "rte", "lora")]
    markdown, table, *_ = write_headline(rows, tmp_path, order=order)
    lines = records(table.read_text())
    assert list(lines) == ["full", "lora", "dsee-unstructured"]
    assert lines["lora"] == {
        "method": "lora",
        "mini-bert/mini-sst2": "0.85",
        "mini-bert/rte": "0.7",
    }
    assert lines["full"]["mini-bert/rte"] == ""
    assert "50.0 *" in markdown.read_text()
    assert "A star marks" in markdown.read_text()


def test_timings_hold_every_timing_and_no_other_table_does(rows, tmp_path):
    markdown, table, *_ = write_timings(rows, tmp_path, order=ORDER)
    line = records(table.read_text())["full"]
    assert (line["train_seconds"], line["start_up_seconds"]) == ("5.25", "4.0")
    assert (line["evaluate_seconds"], line["examples_per_second"]) == ("0.5", "800.0")
    assert (line["peak_memory_bytes"], line["device"]) == ("512000000", "cpu")
    assert "512.0" in markdown.read_text()
    assert "second" not in "".join(task_table(rows, tmp_path).values())


def test_task_without_runs_and_mixed_headlines_are_refused(tmp_path):
    edit = scoring(0.5, headline_metric="f1_fraction")
    rows = collect([write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=edit)])
    with pytest.raises(DataError, match="headline metric is 'f1_fraction'"):
        task_table(rows, tmp_path)
    with pytest.raises(DataError, match="mini-bert/mini-sst2: no finished run"):
        task_table([], tmp_path)
    with pytest.raises(DataError, match="is not in the suite"):
        write_timings(rows, tmp_path, order=ORDER[1:])


REASON = "the library takes other matrices only"
REFUSED = {("mini-bert", "mini-sst2", "supra"): REASON, ("mini-gpt2", "mini-e2e", "supra"): REASON}


def test_a_refused_method_has_a_line_without_numbers_and_a_reason(rows, tmp_path):
    paths = write_task_table(
        rows, tmp_path, backbone="mini-bert", task="mini-sst2", order=ORDER, refusals=REFUSED
    )
    text = {path.suffix: path.read_text() for path in paths}
    line = next(line for line in text[".md"].splitlines() if line.startswith("| supra"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert set(cells[1:-1]) == {"-"}
    assert cells[-1] == "not run"
    note = f"supra on mini-bert: not run: {REASON}."
    assert f"- {note}" in text[".md"]
    assert note in text[".tex"]
    assert "mini-gpt2" not in text[".md"]
    found = records(text[".csv"])
    assert {key for key, value in found["supra"].items() if value} == {"method"}
    assert found["full"] == records(task_table(rows, tmp_path)["csv"])["full"]


def test_refusals_are_in_the_headline_and_below_the_timings(rows, tmp_path):
    markdown, table, *_ = write_headline(rows, tmp_path, order=ORDER, refusals=REFUSED)
    text = markdown.read_text()
    assert next(line for line in text.splitlines() if line.startswith("| supra")).count("not run")
    assert f"- supra on mini-bert: not run: {REASON}." in text
    assert f"- supra on mini-gpt2: not run: {REASON}." in text
    assert records(table.read_text())["supra"]["mini-bert/mini-sst2"] == ""
    markdown, table, *_ = write_timings(rows, tmp_path, order=ORDER, refusals=REFUSED)
    assert f"supra on mini-gpt2: not run: {REASON}." in markdown.read_text()
    assert "supra" not in records(table.read_text())


def test_one_note_tells_of_all_tasks_of_a_backbone(rows, tmp_path):
    refusals = {("mini-bert", task, "supra"): REASON for task in ("mini-sst2", "rte", "cola")}
    markdown, *_ = write_headline(rows, tmp_path, order=ORDER, refusals=refusals)
    assert markdown.read_text().count(REASON) == 1

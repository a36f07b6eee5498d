import csv

from unit.reporting.runs import cells_of

from sparsetune.evaluation.statistics import Difference, McNemar
from sparsetune.reporting.contents import TABLE_FORMS
from sparsetune.reporting.paired import Comparison, comparison_text, write_paired

DRAWN = {"level": 0.95, "resamples": 1000}
KEY = ("mini-bert", "mini-rte", "lora")


def comparison(**changes):
    given = {
        "key": KEY, "against": "full", "metric": "accuracy_fraction", "seeds": (1, 2),
        "examples": 500, "scores": (0.9, 0.8), "difference": Difference(-0.1, -0.125, 0.0004, 0.06),
        "right": (McNemar(60, 10, 1e-9), McNemar(20, 18, 0.871)),
    }  # fmt: skip
    return Comparison(**{**given, **changes})


def written(tmp_path, *comparisons, left_out=()):
    paths = write_paired(list(comparisons), tmp_path, against="full", left_out=left_out, **DRAWN)
    assert [path.name for path in paths] == [f"paired.{form}" for form in TABLE_FORMS]
    return [path.read_text(encoding="utf-8") for path in paths]


def test_line_has_points_interval_and_tests(tmp_path):
    text, content, *_ = written(tmp_path, comparison())
    cells = cells_of(text.splitlines()[4])
    assert cells == [
        *KEY, "accuracy_fraction", "2", "500", "-10.0", "[-12.5, +0.0]", "0.060", "80", "28",
        "< 0.001, 0.871",
    ]  # fmt: skip
    (row,) = csv.DictReader(content.splitlines())
    assert (row["difference"], row["difference_low"], row["p_value"]) == ("-0.1", "-0.125", "0.06")
    assert row["mcnemar_p_values"] == "1e-09;0.871"


def test_what_is_undefined_is_absent(tmp_path):
    text, content, *_ = written(tmp_path, comparison(difference=None, right=(), scores=(None, 0.5)))
    cells = cells_of(text.splitlines()[4])
    assert cells[6:] == ["-"] * 6
    assert "McNemar's test" not in text
    (row,) = csv.DictReader(content.splitlines())
    assert {row[name] for name in ("difference", "p_value", "mcnemar_p_values")} == {""}


def test_notes_say_what_the_tests_do_not_tell(tmp_path):
    text, _, latex, _ = written(tmp_path, comparison(), left_out=["One is left out."])
    for note in ("not what other seeds would do", "no independent sample", "No p is corrected"):
        assert note in text
    assert "- One is left out." in text
    assert "One is left out." in latex


def test_one_pair_has_a_line_per_metric_and_a_note_per_seed():
    text = comparison_text(
        [comparison(), comparison(metric="f1_fraction", scores=(None, 0.5))], **DRAWN
    )
    lines = text.splitlines()
    assert lines[0] == "# lora against full: mini-bert on mini-rte"
    assert [cells_of(line)[0] for line in lines[4:6]] == [
        "accuracy_fraction", "f1_fraction",
    ]  # fmt: skip
    assert cells_of(lines[5])[1] == "-"
    assert "- Seed 2: only full right on 20, only lora on 18, McNemar p 0.871." in lines

from unit.reporting.runs import cells_of, lines_of

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


def written(tmp_path, comparison, left_out=()):
    """Texts of the forms, the cells of the line in Markdown, and its fields."""
    paths = write_paired([comparison], tmp_path, against="full", left_out=left_out, **DRAWN)
    assert [path.name for path in paths] == [f"paired.{form}" for form in TABLE_FORMS]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return texts, cells_of(texts[0].splitlines()[4]), lines_of(paths)[0]


def test_line_has_points_interval_and_tests_and_notes_say_what_they_do_not_tell(tmp_path):
    (text, _, latex, _), cells, row = written(tmp_path, comparison(), ["One is left out."])
    assert cells == [
        *KEY, "accuracy_fraction", "2", "500", "-10.0", "[-12.5, +0.0]", "0.060", "80", "28",
        "< 0.001, 0.871",
    ]  # fmt: skip
    assert (row["difference"], row["difference_low"], row["p_value"]) == ("-0.1", "-0.125", "0.06")
    assert row["mcnemar_p_values"] == "1e-09;0.871"
    for note in ("not what other seeds would do", "no independent sample", "No p is corrected"):
        assert note in text
    assert "- One is left out." in text
    assert "One is left out." in latex


def test_what_is_undefined_is_absent(tmp_path):
    none = comparison(difference=None, right=(), scores=(None, 0.5))
    (text, *_), cells, row = written(tmp_path, none)
    assert cells[6:] == ["-"] * 6
    assert "McNemar's test" not in text
    assert {row[name] for name in ("difference", "p_value", "mcnemar_p_values")} == {""}


def test_one_pair_has_a_line_per_metric_and_a_note_per_seed():
    second = comparison(metric="f1_fraction", scores=(None, 0.5))
    lines = comparison_text([comparison(), second], **DRAWN).splitlines()
    assert lines[0] == "# lora against full: mini-bert on mini-rte"
    names = [cells_of(line)[:2] for line in lines[4:6]]
    assert names == [["accuracy_fraction", "90.0"], ["f1_fraction", "-"]]
    assert "- Seed 2: only full right on 20, only lora on 18, McNemar p 0.871." in lines

"""Splits that hold the same examples: a score of what was learnt by heart is told."""

import pytest
from unit.config.asking import refused, rewritten
from unit.data.tasks import task_of

from sparsetune.config.load import Catalogue
from sparsetune.errors import DataError
from sparsetune.stages.dataset import make_splits

ROWS = ["good,pos", "bad,neg", "fine,pos"]


def write(folder, **splits):
    for name, rows in splits.items():
        text = "\n".join(["text,label", *rows, ""])
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")


def table(folder):
    return task_of(
        "table", labels=("neg", "pos"), columns={"texts": ["text"], "label": "label"},
        splits={"train": "train", "dev": "dev"}, drop_unlabelled=False,
        source={"kind": "mirror", "path": str(folder)},
    )  # fmt: skip


def measured(folder):
    place = folder / "out"
    place.mkdir()
    return make_splits(table(folder), place, lock_file=folder / "lock.yaml")


def test_examples_of_evaluation_that_are_trained_on_are_counted(tmp_path, caplog):
    write(tmp_path, train=ROWS, dev=["good,neg", "ugly,neg"])
    assert measured(tmp_path)["evaluation_examples_in_train"] == 1
    assert "1 of 2 evaluation examples have an input of the train split" in caplog.text


def test_splits_of_their_own_share_nothing(tmp_path, caplog):
    write(tmp_path, train=ROWS, dev=["ugly,neg"])
    assert measured(tmp_path)["evaluation_examples_in_train"] == 0
    assert not caplog.records


def test_evaluation_with_the_contents_of_train_is_told(tmp_path, caplog):
    write(tmp_path, train=ROWS, dev=ROWS[::-1])
    assert measured(tmp_path)["evaluation_examples_in_train"] == 3
    assert "3 of 3 evaluation examples" in caplog.text


def test_one_file_for_both_splits(catalogue):
    path = catalogue / "tasks" / "ag-news.yaml"
    split = rewritten(path)["evaluation_split"]
    rewritten(path, splits={"train": "all", split: "all"})
    with refused(f"splits.{split}: received 'all', which is the train split's"):
        Catalogue(catalogue).task("ag-news")


def test_one_column_for_text_and_label(catalogue):
    path = catalogue / "tasks" / "ag-news.yaml"
    rewritten(path, columns={"texts": ["text"], "label": "text"})
    with refused("columns.texts: received ['text'], which columns.label has too"):
        Catalogue(catalogue).task("ag-news")


@pytest.mark.parametrize("mark", ["utf-16", "utf-32"])
def test_other_encodings_are_named(tmp_path, mark):
    write(tmp_path, dev=["ugly,neg"])
    (tmp_path / "train.csv").write_bytes("text,label\ngood,pos\n".encode(mark))
    with pytest.raises(DataError, match=r"train\.csv: received UTF-16 or UTF-32.*need UTF-8"):
        measured(tmp_path)


@pytest.mark.parametrize("text", ["text,label\r\ngood,pos\r\n", "\ufefftext,label\ngood,pos\n"])
def test_line_ends_of_windows_and_a_mark_of_utf8_are_read(tmp_path, text):
    write(tmp_path, dev=["ugly,neg"])
    (tmp_path / "train.csv").write_bytes(text.encode())
    assert measured(tmp_path)["train_label_counts"] == {"neg": 0, "pos": 1}

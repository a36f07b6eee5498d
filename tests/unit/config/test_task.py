import pytest
from unit.config.asking import refused

from sparsetune.config.load import Catalogue

TABLE = """\
description: "x"
layout: table
kind: classification
columns: {texts: [text], label: label}
splits: {train: train, dev: validation}
labels: [low, high]
source: {kind: mirror, path: somewhere}
evaluation_split: dev
maximum_tokens: 32
metrics: [accuracy_fraction]
"""
SPAN = "kind: span\nwindow_stride_tokens: 8"
CHOSEN = "columns: {texts: [text], label: label}"


def read(folder, text, task_id="mine"):
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / f"{task_id}.yaml").write_text(text)
    return Catalogue(folder).task(task_id)


def test_a_table_task_tells_its_columns_and_splits(tmp_path):
    task = read(tmp_path, TABLE)
    assert task.columns.resolved() == {"texts": ["text"], "label": "label"}
    assert task.settings()["splits"] == {"train": "train", "dev": "validation"}
    assert task.scoring()["columns"] == task.columns.resolved()


def test_other_tasks_have_no_such_settings_and_parts_differ_in_nothing_else(repository):
    catalogue = Catalogue(repository / "config")
    for task_id in ("rte", "squad", "mini-e2e"):
        told = catalogue.task(task_id)
        new = {"columns", "splits", "evaluation_part"}
        assert not new & (told.settings().keys() | told.scoring().keys())
    for part in ("seen", "unseen"):
        scoring = catalogue.task(f"webnlg-{part}").scoring()
        assert scoring == {**catalogue.task("webnlg").scoring(), "evaluation_part": part}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (CHOSEN + "\n", "", "columns: needed by layout table, and only there"),
        ("splits: {train: train, dev: validation}\n", "", "splits: needed by layout table, and"),
        ("layout: table", "layout: rte", "columns: needed by layout table, and only there"),
        (CHOSEN, "columns: {texts: [text]}", "columns: received texts; kind classification needs"),
        (CHOSEN, "columns: {}", "columns: received none; kind classification needs label, texts"),
        (CHOSEN, "columns: {text: text}", "columns: unknown key 'text'; allowed: answers, context"),
        (CHOSEN, "columns: {texts: [a, b, c], label: d}", "columns.texts: received ['a', 'b'"),
        (CHOSEN, "columns: {texts: [a, a], label: d}", "columns.texts: received ['a', 'a']"),
        ("kind: classification", "kind: regression", "labels: needed by kind classification"),
        ("kind: classification", SPAN, "labels: needed by kind classification, and only there"),
        ("dev: validation", "test: test", "evaluation_split: received dev; splits has train, test"),
        ("train: train, ", "", "splits: missing key 'train'"),
        ("train: train", "train: ../train", "splits.train: received '../train'; allowed"),
        ("train: train", "train: '*'", "splits.train: received '*'; allowed: text matching"),
        ("[low, high]", "[low, low]", "labels: received ['low', 'low']"),
        ("[accuracy", "[accuracy_fraction, span_f1", "metrics.1: received 'span_f1"),
        ("[low, high]", "[a, b, c]\nlimit: 1", "unknown key 'limit'"),
        ("[accuracy_fraction]", "[f1_fraction]\nlabels: [a, b, c]", "key 'labels' twice"),
        ("maximum", "evaluation_part: seen\nmaximum", "evaluation_part: not for layout table"),
    ],
)  # fmt: skip
def test_a_task_that_contradicts_itself_is_refused(tmp_path, old, new, message):
    assert old in TABLE
    with refused(message, start=f"{tmp_path}/tasks/mine.yaml: "):
        read(tmp_path, TABLE.replace(old, new))


def test_a_span_table_may_have_ids_and_no_label(tmp_path):
    text = TABLE.replace("labels: [low, high]\n", "").replace("kind: classification", SPAN)
    text = text.replace("accuracy_fraction", "span_f1_fraction")
    good = text.replace(CHOSEN, "columns: {question: q, context: c, answers: a, id: i}")
    assert read(tmp_path, good).columns.id == "i"
    bad = text.replace(CHOSEN, "columns: {question: q, context: c, label: a}")
    told = "kind span needs answers, context, question and may have id"
    with refused(f"columns: received context, label, question; {told}"):
        read(tmp_path, bad)


def test_a_table_cannot_be_generated(tmp_path):
    source = "source: {kind: world, seed: 0, sizes: {train: 2, evaluation: 2}}"
    text = TABLE.replace("source: {kind: mirror, path: somewhere}", source)
    with refused("source.kind: layout table cannot be generated"):
        read(tmp_path, text, "mini-mine")


NEEDS = {
    "classification": "labels: [a, b]",
    "regression": "",
    "span": "window_stride_tokens: 8",
    "generation": "generation: {beams: 1, maximum_new_tokens: 4, length_penalty: 1.0, "
    "no_repeat_ngram: 0}",
}


@pytest.mark.parametrize(
    ("layout", "kind", "held"),
    [
        ("rte", "generation", "classification"),
        ("stsb", "classification", "regression"),
        ("squad", "regression", "span"),
        ("e2e", "span", "generation"),
        ("webnlg", "classification", "generation"),
    ],
)
def test_a_layout_holds_one_kind(tmp_path, layout, kind, held):
    kept = [line for line in TABLE.splitlines() if not line.startswith(("col", "spl", "labels"))]
    text = "\n".join([*kept, NEEDS[kind]]).replace("layout: table", f"layout: {layout}")
    with refused(f"kind: received {kind}; layout {layout} holds kind {held}"):
        read(tmp_path, text.replace("kind: classification", f"kind: {kind}"))

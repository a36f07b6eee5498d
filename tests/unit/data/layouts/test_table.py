import gzip
import json
from pathlib import Path

import pytest
from unit.data import tasks
from unit.data.tasks import parquet

from sparsetune.config.load import Catalogue
from sparsetune.data.examples import GenerationExample, SpanExample, TextExample
from sparsetune.data.layouts import read_published
from sparsetune.data.published import read_rows
from sparsetune.errors import DataError

ROOT = Path(__file__).resolve().parents[4]
SPLITS = {"train": "part-1", "dev": "part-2"}
ROWS = [{"said": 'a "b', "of": "news"}, {"said": "c", "of": "talk"}]


def task_of(kind="classification", labels=("talk", "news"), **columns):
    columns = columns or {"texts": ["said"], "label": "of"}
    return tasks.task_of("table", kind, labels, columns=columns, splits=SPLITS)


def write_every_form(folder, rows):
    def write(name, text):
        (folder / name).mkdir()
        ending = "parquet" if name == "shards" else name
        (folder / name / f"part-1.{ending}").write_bytes(text)

    names = list(rows[0])
    lines = [names, *([row[name] for name in names] for row in rows)]
    write("tsv", "\r\n".join("\t".join(line) for line in lines).encode())
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines]
    write("csv", "\n".join(quoted).encode())
    write("jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    write("json", json.dumps(rows).encode())
    write("json.gz", gzip.compress(json.dumps(rows).encode()))
    table = parquet(**{name: [row[name] for row in rows] for name in names})
    for name, file in (("parquet", "part-1.parquet"), ("shard", "part-1-00000-of-00001.parquet")):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(table)


def test_every_form_gives_the_same_examples(tmp_path):
    write_every_form(tmp_path, ROWS)
    forms = sorted(path.name for path in tmp_path.iterdir())
    assert forms == ["csv", "json", "json.gz", "jsonl", "parquet", "shard", "tsv"]
    for form in forms:
        assert read_published(tmp_path / form, task_of(), "train") == [
            TextExample("train-0", 'a "b', None, 1),
            TextExample("train-1", "c", None, 0),
        ]


def write_json(folder, *rows, name="part-1"):
    (folder / f"{name}.json").write_text(json.dumps(list(rows)))


def test_a_class_is_a_label_or_its_number(tmp_path):
    write_json(tmp_path, *({"said": "a", "of": of} for of in ("news", 1, "1", "talk", 0)))
    found = read_published(tmp_path, task_of(), "train")
    assert [example.label for example in found] == [1, 1, 1, 0, 0]
    # Where labels are numbers themselves, 1 is the label "1", which stands first here.
    found = [example.label for example in _read_numbers(tmp_path, 1, "2", 2)]
    assert found == [0, 1, 1]


def _read_numbers(folder, *values):
    write_json(folder, *({"said": "a", "of": value} for value in values))
    return read_published(folder, task_of(labels=("1", "2")), "train")


def test_pairs_and_scores(tmp_path):
    write_json(tmp_path, {"a": "x", "b": "y", "of": 7.5}, {"a": "x", "b": "", "of": "-2"})
    task = task_of("regression", (), texts=["b", "a"], label="of")
    assert read_published(tmp_path, task, "train") == [
        TextExample("train-0", "y", "x", 7.5),
        TextExample("train-1", "", "x", -2.0),
    ]


def test_questions_with_and_without_ids(tmp_path):
    answers = {"text": ["Oslo"], "answer_start": [7]}
    row = {"key": 0, "q": "Where?", "c": "Ada in Oslo.", "a": answers}
    row["a"] = [{"text": "Oslo", "answer_start": 7}]
    write_json(tmp_path, row, {**row, "key": 6, "a": answers})
    columns = {"question": "q", "context": "c", "answers": "a"}
    for extra, ids in (({}, ["train-0", "train-1"]), ({"id": "key"}, ["0", "6"])):
        found = read_published(tmp_path, task_of("span", (), **columns, **extra), "train")
        assert found == [
            SpanExample(name, "Where?", "Ada in Oslo.", (("Oslo", 7),)) for name in ids
        ]


def test_sources_and_references_may_be_lists(tmp_path):
    task = task_of("generation", (), source="words", references="text")
    rows = [{"words": ["dog", "run "], "text": t} for t in ("A dog runs. ", "Run, dog.")]
    rows.append({"words": "cat", "text": ["A cat.", "Cats."]})
    write_json(tmp_path, *rows)
    write_json(tmp_path, *rows, name="part-2")
    assert read_published(tmp_path, task, "evaluation") == [
        GenerationExample("dev-0", "dog | run", ("A dog runs.", "Run, dog.")),
        GenerationExample("dev-1", "cat", ("A cat.", "Cats.")),
    ]
    assert len(read_published(tmp_path, task, "train")) == 4


def test_rows_are_counted_as_an_editor_does(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b\n"1\n2",3\n4,5\n')
    assert list(read_rows(path, ["b"])) == [("row 3", ("3",)), ("row 4", ("5",))]


@pytest.mark.parametrize(
    ("task_id", "columns", "expected"),
    [
        (
            "ag-news",
            {"text": ["Oil falls.", "Cup won.", "New chip."], "label": [2, 1, 3]},
            [2, 1, 3],
        ),
        (
            "common-gen",
            {
                "concept_set_idx": [0, 0, 1],
                "concepts": [["ski", "skier"], ["ski", "skier"], ["dog", "tail"]],
                "target": ["A skier skis.", "One skis.", "A dog wags its tail."],
            },
            [("A skier skis.", "One skis."), ("A dog wags its tail.",)],
        ),
    ],
)
def test_tasks_of_no_paper_are_one_file_each(tmp_path, task_id, columns, expected):
    task = Catalogue(ROOT / "config").task(task_id)
    for name in ("train", getattr(task.splits, task.evaluation_split)):
        (tmp_path / f"{name}-00000-of-00001.parquet").write_bytes(parquet(**columns))
    found = read_published(tmp_path, task, "evaluation")
    assert [
        getattr(one, "label", None) or getattr(one, "references", 0) for one in found
    ] == expected
    assert len(read_published(tmp_path, task, "train")) == 3


@pytest.mark.parametrize(
    ("value", "told"),
    [(-1, r"-1 \(no label; drop_unlabelled"), (1.0, "1.0;"), (None, r"None \(no"), (True, "True;")],
)
def test_a_label_that_is_none_is_refused(tmp_path, value, told):
    write_json(tmp_path, {"said": "a", "of": value})
    with pytest.raises(
        DataError, match=rf"part-1\.json: row 1: of: received {told}.*allowed: talk, news"
    ):
        read_published(tmp_path, task_of(), "train")


@pytest.mark.parametrize("hidden", [-1, "-1", "-", "", " ", None, float("nan"), -1.0])
def test_unlabelled_rows_are_dropped_where_the_task_says_so(tmp_path, hidden):
    write_json(tmp_path, {"said": "a", "of": "news"}, {"said": "b", "of": hidden})
    task = task_of().model_copy(update={"drop_unlabelled": True})
    assert [one.label for one in read_published(tmp_path, task, "train")] == [1, None]
    task = task_of("regression", ()).model_copy(update={"drop_unlabelled": True})
    write_json(tmp_path, {"said": "a", "of": 0.5}, {"said": "b", "of": hidden})
    assert [one.label for one in read_published(tmp_path, task, "train")] == [0.5, None]


def test_a_label_that_only_looks_like_none_is_kept(tmp_path):
    write_json(tmp_path, {"said": "a", "of": -1}, {"said": "b", "of": 2})
    task = task_of(labels=("-1", "1")).model_copy(update={"drop_unlabelled": True})
    with pytest.raises(DataError, match=r"row 2: of: received 2; allowed: -1, 1$"):
        read_published(tmp_path, task, "train")

import gzip
import json

import pytest
from unit.data.tasks import parquet, task_of

from sparsetune.data.examples import SpanExample
from sparsetune.data.layouts import read_published

TASK = task_of("squad", "span", ())
CONTEXT = "Ada lives in Oslo. Ben lives in Rome."


def question(key="q1", text="Oslo", start=13):
    return {"id": key, "question": "Where?", "answers": [{"text": text, "answer_start": start}]}


def write(path, *questions, context=CONTEXT):
    paragraphs = [{"context": context, "qas": list(questions)}]
    value = {"version": "1.1", "data": [{"title": "People", "paragraphs": paragraphs}]}
    text = json.dumps(value).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@pytest.mark.parametrize("name", ["train-v1.1.json", "train-v1.1.json.gz"])
def test_published_json_gives_questions(tmp_path, name):
    write(tmp_path / name, question())
    assert read_published(tmp_path, TASK, "train") == [
        SpanExample("q1", "Where?", CONTEXT, (("Oslo", 13),))
    ]


def test_parquet_gives_the_same_questions(tmp_path):
    write(tmp_path / "train-v1.1.json", question(), question("q2", "Rome", 32))
    from_json = read_published(tmp_path, TASK, "train")
    table = {
        "id": [e.id for e in from_json],
        "title": ["People"] * 2,
        "context": [e.context for e in from_json],
        "question": [e.question for e in from_json],
        "answers": [{"text": [t], "answer_start": [s]} for e in from_json for t, s in e.answers],
    }
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train-00000-of-00001.parquet").write_bytes(parquet(**table))
    assert read_published(tmp_path / "hub", TASK, "train") == from_json

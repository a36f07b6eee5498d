import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from sparsetune.data.examples import SpanExample
from sparsetune.data.layouts import read_published
from sparsetune.errors import DataError

REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "squad"
TASK = SimpleNamespace(id="squad", layout="squad", kind="span", labels=(), evaluation_split="dev")
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
    path = tmp_path / "hub" / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert read_published(tmp_path / "hub", TASK, "train") == from_json


def test_real_dev_file_has_the_published_counts():
    if not REAL.is_dir():
        pytest.skip("the real SQuAD file is not beside the repository")
    examples = read_published(REAL, TASK, "evaluation")
    assert len(examples) == 10570
    assert len({example.context for example in examples}) == 2067
    assert max(len(example.answers) for example in examples) > 3


def test_a_split_that_was_never_published_is_refused(tmp_path):
    with pytest.raises(DataError, match="split of squad: received 'test'; allowed: train, dev"):
        read_published(
            tmp_path, SimpleNamespace(**{**vars(TASK), "evaluation_split": "test"}), "evaluation"
        )

from types import SimpleNamespace

import pytest

from sparsetune.data.examples import (
    GenerationExample,
    SpanExample,
    TextExample,
    count_examples,
    read_examples,
    split_file,
    write_examples,
)
from sparsetune.errors import DataError

EXAMPLES = {
    "classification": [TextExample("0", " a\u2028b\r", None, 1), TextExample("1", "", "é", None)],
    "regression": [TextExample("0", "a", "b", 0.1 + 0.2), TextExample("1", "a", "b", 5.0)],
    "span": [SpanExample("q", "Where?", "In Oslo.", (("Oslo", 3), ("In", 0)))],
    "generation": [GenerationExample("0", "a : b", ("One.", "Two.")),
                   GenerationExample("1", "c", ("One.",))],
}  # fmt: skip


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_come_back_as_they_were(tmp_path, kind):
    task, path = SimpleNamespace(kind=kind), split_file(tmp_path, "train")
    write_examples(path, kind, EXAMPLES[kind])
    found = read_examples(tmp_path, task, "train")
    assert found == EXAMPLES[kind]
    assert repr(found) == repr(EXAMPLES[kind])  # tells 1 from 1.0
    assert read_examples(tmp_path, task, "train", limit=1) == EXAMPLES[kind][:1]
    assert count_examples(tmp_path, "train") == len(EXAMPLES[kind])
    content = path.read_bytes()
    write_examples(path, kind, EXAMPLES[kind])
    assert path.read_bytes() == content


def test_a_missing_damaged_or_foreign_file_is_named(tmp_path):
    task, path = SimpleNamespace(kind="span"), split_file(tmp_path, "train")
    with pytest.raises(DataError, match=r"train\.parquet: no such file; the dataset stage writes"):
        read_examples(tmp_path, task, "train")
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train\.parquet: not a readable parquet file: "):
        read_examples(tmp_path, task, "train")
    write_examples(path, "generation", EXAMPLES["generation"])
    with pytest.raises(DataError, match=r"received id, source, references; allowed: id, question"):
        read_examples(tmp_path, task, "train")

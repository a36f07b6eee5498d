import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from unit.data.test_sources import COMMIT, SERVED, run_apart

from sparsetune.data.text_files import planned_inputs, text_files
from sparsetune.data.texts import gather_corpus
from sparsetune.errors import DataError
from sparsetune.records import sha256_of


def gather(folder, *paths, **others):
    source = {"kind": "text", "seed": 0, "paths": [str(path) for path in paths], **others}
    return gather_corpus(source, folder / "corpus.txt", lock_file=folder / "lock.yaml")


def lines(folder):
    return (folder / "corpus.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "b.txt").write_text("one  two\n\n \n three\u2028four \n", encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("né\n".encode(), mtime=0))
    table = pyarrow.table({"id": [1, 2, 3], "text": ["five\n\nsix", None, "seven"]})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    return tmp_path


def test_plain_gzip_and_parquet_become_one_document_a_line(texts):
    found = gather(texts, texts / "b.txt", texts / "*.gz", texts / "c.parquet")
    assert lines(texts) == ["one two", "three four", "né", "five six", "seven"]
    assert found["documents"] == 5
    assert found["sha256"] == sha256_of(texts / "corpus.txt")
    assert found["stored_bytes"] == (texts / "corpus.txt").stat().st_size
    assert found["revision"] is None


def test_only_the_first_documents_are_taken_when_asked(texts):
    assert gather(texts, texts / "b.txt", texts / "c.parquet", documents=3)["documents"] == 3
    assert lines(texts) == ["one two", "three four", "five six"]


def test_patterns_give_their_files_sorted_and_each_once(texts, monkeypatch):
    monkeypatch.chdir(texts)
    source = {"kind": "text", "paths": ["c.*", "*.txt*", str(texts / "b.txt")]}
    names = [path.name for path in text_files(source)]
    assert names == ["c.parquet", "a.txt.gz", "b.txt", "b.txt"]  # relative and absolute differ
    assert text_files({"kind": "world"}) == []
    assert planned_inputs(source) == [*names[:3], str(texts / "b.txt")]
    assert planned_inputs({"kind": "text", "paths": ["none.*", "b.txt"]}) == ["none.*", "b.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"none\.txt: no such text; need text, text\.gz or parquet"),
        ("bad.txt", b"\xff\xfe", r"bad\.txt: not readable text: "),
        ("bad.gz", b"not gzip", r"bad\.gz: not readable text: "),
        ("bad.parquet", b"PAR1", r"bad\.parquet: not readable text: "),
        ("empty.txt", b" \n\n", r"empty\.txt: the corpus has no document"),
    ],
)
def test_a_bad_file_is_named_and_leaves_nothing(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        gather(tmp_path, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ([name] if content is not None else [])


def test_a_parquet_file_without_text_is_told_its_columns(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: columns: got body; need text"):
        gather(tmp_path, tmp_path / "c.parquet")


# The hub of the tasks' test, asked for running text instead of a task.
GATHER = """
from sparsetune.data.texts import gather_corpus
source = {"kind": "hub-text", "repository": "nyu-mll/glue", "revision": "main", "seed": 0,
          "files": ["wiki/*.parquet"]}
found = gather_corpus(source, Path("corpus.txt"), lock_file=lock)
try:
    gather_corpus({**source, "files": ["none/*.txt"]}, Path("other.txt"), lock_file=lock)
except DataError as error:
    missing = str(error)
print(json.dumps({"found": found, "missing": missing, "asked": ASKED}))
"""


def test_hub_text_is_read_at_the_commit_that_the_branch_first_stood_for(tmp_path):
    for name, text in (("wiki/b", "second"), ("wiki/a", "first"), ("other/a", "unwanted")):
        path = tmp_path / "served" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": [text]}), path)
    script = SERVED.split("first = fetch_dataset")[0] + GATHER
    done = run_apart(tmp_path, script, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["found"]["revision"], told["found"]["documents"]) == (COMMIT, 2)
    served = {f"wiki/{n}.parquet": tmp_path / "served/wiki" / f"{n}.parquet" for n in "ab"}
    sums = {name: sha256_of(path) for name, path in served.items()}
    assert told["found"]["files"] == sums
    assert lines(tmp_path) == ["first", "second"]
    assert not any("/other/" in path for path in told["asked"] if "/resolve/" in path)
    assert told["missing"].startswith(f"nyu-mll/glue@{COMMIT[:12]}/none/*.txt: no such text")
    assert COMMIT in (Path(tmp_path) / "config" / "revisions.lock.yaml").read_text()

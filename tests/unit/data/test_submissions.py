import gzip
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from sparsetune.data.layouts import glue
from sparsetune.data.published import TextExample
from sparsetune.data.submissions import (
    PARTS,
    read_unlabelled,
    unlabelled_files,
    write_submission,
)
from sparsetune.data.synthetic.world import write_task
from sparsetune.errors import ConfigError, DataError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "glue"
NLI = ("entailment", "neutral", "contradiction")
# The published header of each test file, a row of it, and the texts that must come out.
_MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
PUBLISHED = {
    "cola": ("index\tsentence", "0\tBill whistled.", ("Bill whistled.", None)),
    "sst2": ("index\tsentence", '0\tuneasy " mishmash', ('uneasy " mishmash', None)),
    "mrpc": ("\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t7\t8\ta\tb", ("a", "b")),
    "rte": ("index\tsentence1\tsentence2", "0\ta\tb", ("a", "b")),
    "wnli": ("index\tsentence1\tsentence2", "0\ta\tb", ("a", "b")),
    "qnli": ("index\tquestion\tsentence", "0\tq?\ts", ("q?", "s")),
    "qqp": ("id\tquestion1\tquestion2", "0\ta\tb", ("a", "b")),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
        "0\tnews\tf\t2012\t7\tx\ty\ta\tb",
        ("a", "b"),
    ),
    "mnli": (_MNLI, "0\t1\t2\tfiction\tp\tp\tp\tp\ta\tb", ("a", "b")),
}


def task_of(layout, **more):
    return SimpleNamespace(**{"id": layout, "layout": layout, **more})


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("layout", PUBLISHED)
def test_each_published_test_file_gives_texts_without_a_label(tmp_path, layout):
    header, row, (text, second) = PUBLISHED[layout]
    part = PARTS[layout][0]
    write(tmp_path / f"{part.stem}.tsv", header, row, "1" + row[1:])
    expected = [TextExample(f"{part.stem}-{n}", text, second, None) for n in (0, 1)]
    assert read_unlabelled(tmp_path, task_of(layout)) == {part: expected}


@pytest.mark.parametrize("layout", PUBLISHED)
def test_parquet_gives_the_same_examples_as_tsv(tmp_path, layout):
    header, row, texts = PUBLISHED[layout]
    part = PARTS[layout][0]
    write(tmp_path / f"{part.stem}.tsv", header, row)
    from_tsv = read_unlabelled(tmp_path, task_of(layout))
    (tmp_path / f"{part.stem}.tsv").unlink()
    columns = dict(zip(glue.LAYOUTS[layout].hub_texts, texts, strict=False))
    table = {**{name: [text] for name, text in columns.items()}, "label": [-1], "idx": [0]}
    pyarrow.parquet.write_table(
        pyarrow.table(table), tmp_path / f"{part.shards}-00000-of-00001.parquet"
    )
    assert read_unlabelled(tmp_path, task_of(layout)) == from_tsv


@pytest.mark.parametrize("layout", ["cola", "rte", "sst2", "stsb"])
def test_generated_test_files_are_read_like_published_ones(tmp_path, layout):
    write_task(layout, tmp_path, seed=0, sizes={"test": 3})
    (examples,) = read_unlabelled(tmp_path, task_of(layout)).values()
    assert [example.id for example in examples] == ["test-0", "test-1", "test-2"]
    assert all(example.text and example.label is None for example in examples)


def test_mnli_has_three_files_and_absent_ones_are_left_out(tmp_path):
    header, row, _ = PUBLISHED["mnli"]
    write(tmp_path / "test_mismatched.tsv", header, row)
    write(tmp_path / "diagnostic.tsv", "index\tsentence1\tsentence2", "0\ta\tb")
    found = read_unlabelled(tmp_path, task_of("mnli"))
    assert [part.submission for part in found] == ["MNLI-mm", "AX"]
    names = [path.name for path in unlabelled_files(tmp_path, task_of("mnli"))]
    assert names == ["test_mismatched.tsv", "diagnostic.tsv"]


def test_files_of_tasks_without_a_test_file_are_none(tmp_path):
    assert unlabelled_files(tmp_path, task_of("rte")) == []
    assert unlabelled_files(tmp_path, task_of("squad")) == []
    with pytest.raises(DataError, match=r"test\.tsv: no such file .*the folder holds: nothing"):
        read_unlabelled(tmp_path, task_of("rte"))
    with pytest.raises(ConfigError, match="'squad' has no GLUE submission; allowed: cola, mnli"):
        read_unlabelled(tmp_path, task_of("squad"))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["index\tsentence1", "0\ta"], "row 1: the header lacks column 'sentence2'"),
        (["index\tsentence1\tsentence2", "1\ta\tb"], "row 2: index: got '1', need 0; a submission"),
        (["index\tsentence1\tsentence2", "0\ta\tb", "2\ta\tb"], "row 3: index: got '2', need 1"),
        (["index\tsentence1\tsentence2", "0\ta"], "row 2: got 2 columns, need 3"),
        (["index\tsentence1\tsentence2"], "a header but no examples"),
    ],
)
def test_damaged_test_file_is_refused(tmp_path, lines, told):
    write(tmp_path / "test.tsv", *lines)
    with pytest.raises(DataError, match=rf"test\.tsv: .*{told}"):
        read_unlabelled(tmp_path, task_of("rte"))


@pytest.mark.parametrize("folder", ["MRPC", "QNLI", "RTE", "SST-2", "WNLI"])
def test_published_test_files_have_glues_counts(folder):
    path = REAL / folder / "test.tsv.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} of {folder} is not on this machine")
    layout = folder.lower().replace("-", "")
    ((part, examples),) = read_unlabelled(REAL / folder, task_of(layout)).items()
    assert len(examples) == part.published_examples
    with gzip.open(path, "rt", encoding="utf-8") as file:
        assert len(examples) == sum(1 for _ in file) - 1
    assert all(example.label is None and example.text for example in examples)


def test_labels_are_written_as_the_server_takes_them(tmp_path):
    task = task_of("mnli", kind="classification", labels=NLI)
    write_submission(tmp_path / "MNLI-m.tsv", task, 3, [2, 0, 1])
    text = (tmp_path / "MNLI-m.tsv").read_bytes()
    assert text == b"index\tprediction\n0\tcontradiction\n1\tentailment\n2\tneutral\n"
    task = task_of("cola", kind="classification", labels=("0", "1"))
    write_submission(tmp_path / "CoLA.tsv", task, 2, [1, 0])
    assert (tmp_path / "CoLA.tsv").read_text() == "index\tprediction\n0\t1\n1\t0\n"


def test_scores_are_clipped_to_the_scale_with_three_decimals(tmp_path):
    task = task_of("stsb", kind="regression", labels=())
    write_submission(tmp_path / "STS-B.tsv", task, 4, [-0.2, 5.01, 2.34567, 3.0])
    rows = (tmp_path / "STS-B.tsv").read_text().splitlines()[1:]
    assert rows == ["0\t0.000", "1\t5.000", "2\t2.346", "3\t3.000"]


@pytest.mark.parametrize(
    ("kind", "predictions", "told"),
    [
        ("classification", [0, 1, 1], "got 3 predictions for 2 test examples"),
        ("classification", [0, 2], "prediction 1: got 2, need 0 to 1"),
        ("classification", [-1, 0], "prediction 0: got -1, need 0 to 1"),
        ("regression", [0.0, float("nan")], "prediction 1: got nan, need a number"),
    ],
)
def test_wrong_predictions_are_refused_and_nothing_is_written(tmp_path, kind, predictions, told):
    task = task_of("it", kind=kind, labels=("0", "1"))
    with pytest.raises(DataError, match=rf"it\.tsv: {told}"):
        write_submission(tmp_path / "it.tsv", task, 2, predictions)
    assert list(tmp_path.iterdir()) == []

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from sparsetune.data.examples import TextExample
from sparsetune.data.layouts import glue, read_published
from sparsetune.errors import ConfigError, DataError

REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "glue"
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")

# One good train row per task in its published columns, and what must come out of it.
PUBLISHED = {
    "cola": (None, "gj04\t0\t*\tThe book what.", ("The book what.", None, 0)),
    "sst2": ("sentence\tlabel", "hide \t1", ("hide ", None, 1)),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t70\t71\ta " b\tc " d',
        ('a " b', 'c " d', 1),
    ),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\ta\tb\tnot_entailment", ("a", "b", 1)),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\ta\tb\t1", ("a", "b", 1)),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tq?\ts\tentailment", ("q?", "s", 0)),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "9\t1\t2\ta\tb\t1",
        ("a", "b", 1),
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tnews\tf\t2012\t7\tx\ty\ta\tb\t3.750",
        ("a", "b", 3.75),
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t2e\tfiction\tp\tp\tp\tp\ta\tb\tneutral\tcontradiction",
        ("a", "b", 2),
    ),
}
LABELS = {"rte": ENTAILMENT, "qnli": ENTAILMENT, "mnli": NLI, "stsb": ()}


def task_of(layout, evaluation_split="dev"):
    return SimpleNamespace(
        id=layout,
        layout=layout,
        kind="regression" if layout == "stsb" else "classification",
        labels=LABELS.get(layout, ("0", "1")),
        evaluation_split=evaluation_split,
    )


def write(path, *lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines if line is not None).encode())


def write_parquet(path, layout, examples):
    columns = {
        name: [(e.text, e.second_text)[place] for e in examples]
        for place, name in enumerate(glue.LAYOUTS[layout].hub_texts)
    }
    kind = pyarrow.float32() if layout == "stsb" else pyarrow.int64()
    columns["label"] = pyarrow.array([e.label for e in examples], type=kind)
    columns["idx"] = list(range(len(examples)))
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.mark.parametrize("layout", PUBLISHED)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_published_layout_gives_texts_and_label(tmp_path, layout, end):
    header, row, (text, second, label) = PUBLISHED[layout]
    write(tmp_path / "train.tsv", header, row, end=end)
    examples = read_published(tmp_path, task_of(layout), "train")
    assert examples == [TextExample("train-0", text, second, label)]


@pytest.mark.parametrize("layout", PUBLISHED)
def test_parquet_gives_the_same_examples_as_tsv(tmp_path, layout):
    header, row, _ = PUBLISHED[layout]
    write(tmp_path / "train.tsv", header, row, row.replace("3.750", "2.8"))
    from_tsv = read_published(tmp_path, task_of(layout), "train")
    (tmp_path / "hub").mkdir()
    write_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet", layout, from_tsv)
    assert read_published(tmp_path / "hub", task_of(layout), "train") == from_tsv


@pytest.mark.parametrize(
    ("folder", "layout"), [("RTE", "rte"), ("MRPC", "mrpc"), ("SST-2", "sst2")]
)
def test_parquet_of_real_rows_equals_the_real_tsv(tmp_path, folder, layout):
    if not (REAL / folder).is_dir():
        pytest.skip("the real GLUE files are not beside the repository")
    from_tsv = read_published(REAL / folder, task_of(layout), "evaluation")
    half = len(from_tsv) // 2
    for number, part in enumerate((from_tsv[:half], from_tsv[half:])):
        write_parquet(tmp_path / f"validation-{number:05d}-of-00002.parquet", layout, part)
    assert read_published(tmp_path, task_of(layout), "evaluation") == from_tsv


def test_mnli_takes_the_last_gold_label_column_of_dev(tmp_path):
    names = ["sentence1", "sentence2", "label1", "label2", "gold_label", "gold_label"]
    write(tmp_path / "dev_mismatched.tsv", "\t".join(names), "a\tb\tx\ty\tz\tneutral")
    (example,) = read_published(tmp_path, task_of("mnli", "dev_mismatched"), "evaluation")
    assert example == TextExample("dev_mismatched-0", "a", "b", 1)


def test_mnli_reads_json_lines(tmp_path):
    row = {"premise": "a", "hypothesis": "b", "label": "contradiction"}
    (tmp_path / "dev_matched.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    (example,) = read_published(tmp_path, task_of("mnli", "dev_matched"), "evaluation")
    assert (example.text, example.second_text, example.label) == ("a", "b", 2)


def test_unicode_line_separators_do_not_cut_rows(tmp_path):
    write(tmp_path / "train.tsv", "sentence\tlabel", "one\u2028two\x0cthree\x85four\t0")
    (example,) = read_published(tmp_path, task_of("sst2"), "train")
    assert example.text == "one\u2028two\x0cthree\x85four"


def test_qqp_leaves_out_at_most_the_three_damaged_published_rows(tmp_path):
    header, row, _ = PUBLISHED["qqp"]
    write(tmp_path / "train.tsv", header, *["cut\trow"] * 3, row)
    assert len(read_published(tmp_path, task_of("qqp"), "train")) == 1
    write(tmp_path / "train.tsv", header, *["cut\trow"] * 4, row)
    with pytest.raises(DataError, match=r"train\.tsv: row 5: received 2 columns, need 6"):
        read_published(tmp_path, task_of("qqp"), "train")


def test_missing_file_is_named_with_what_is_there(tmp_path):
    (tmp_path / "dev.tsv.gz").touch()
    with pytest.raises(DataError, match=r"train\.tsv: no such file .* holds: dev\.tsv\.gz"):
        read_published(tmp_path, task_of("sst2"), "train")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_published(tmp_path / "nowhere", task_of("sst2"), "train")


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "train-00001-of-00002.parquet").touch()
    with pytest.raises(DataError, match="need all shards"):
        read_published(tmp_path, task_of("sst2"), "train")


def test_unknown_layout_lists_the_known(tmp_path):
    with pytest.raises(ConfigError, match="received 'sst3'; allowed: cola, dart, e2e"):
        read_published(tmp_path, task_of("sst3"), "train")


def unlabelled(layout):
    """Header and row of a test file, and its texts: the train row without labels."""
    header, row, (*texts, _) = PUBLISHED[layout]
    if header is None or header.startswith("sentence"):
        return "index\tsentence", f"0\t{texts[0]}", texts
    columns = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    for label in ("\ufeffQuality", "is_duplicate", "label", "score", "label1", "gold_label"):
        columns.pop(label, None)
    first = "id" if layout == "qqp" else "index"
    columns = {first: "0"} | columns | {first: "0"}
    return "\t".join(columns), "\t".join(columns.values()), texts


@pytest.mark.parametrize("layout", PUBLISHED)
def test_each_published_test_file_gives_texts_without_a_label(tmp_path, layout):
    header, row, (text, second) = unlabelled(layout)
    part = glue.LAYOUTS[layout].tests[0]
    write(tmp_path / f"{part.stem}.tsv", header, row, "1" + row[1:])
    expected = [TextExample(f"{part.stem}-{n}", text, second, None) for n in (0, 1)]
    assert glue.read_tests(tmp_path, task_of(layout)) == {part.stem: expected}


@pytest.mark.parametrize("layout", PUBLISHED)
def test_parquet_of_a_test_file_gives_the_same_examples(tmp_path, layout):
    header, row, texts = unlabelled(layout)
    part = glue.LAYOUTS[layout].tests[0]
    write(tmp_path / f"{part.stem}.tsv", header, row)
    from_tsv = glue.read_tests(tmp_path, task_of(layout))
    (tmp_path / f"{part.stem}.tsv").unlink()
    columns = dict(zip(glue.LAYOUTS[layout].hub_texts, texts, strict=False))
    table = {**{name: [text] for name, text in columns.items()}, "label": [-1], "idx": [0]}
    pyarrow.parquet.write_table(
        pyarrow.table(table), tmp_path / f"{part.stem}-00000-of-00001.parquet"
    )
    assert glue.read_tests(tmp_path, task_of(layout)) == from_tsv


def test_mnli_has_three_files_and_absent_ones_are_left_out(tmp_path):
    header, row, _ = unlabelled("mnli")
    write(tmp_path / "test_mismatched.tsv", header, row)
    write(tmp_path / "diagnostic.tsv", "index\tsentence1\tsentence2", "0\ta\tb")
    found = glue.read_tests(tmp_path, task_of("mnli"))
    assert list(found) == ["test_mismatched", "diagnostic"]


def test_a_task_without_test_files_has_none(tmp_path):
    assert glue.read_tests(tmp_path, task_of("rte")) == {}
    assert glue.read_tests(tmp_path, task_of("squad")) == {}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["index\tsentence1", "0\ta"], "row 1: column 'sentence2' is not in the header"),
        (
            ["index\tsentence1\tsentence2", "1\ta\tb"],
            "row 2: index: received '1', need 0; a",
        ),
        (
            ["index\tsentence1\tsentence2", "0\ta\tb", "2\ta\tb"],
            "row 3: index: received '2', need 1",
        ),
        (["index\tsentence1\tsentence2", "0\ta"], "row 2: received 2 columns, need 3"),
        (["index\tsentence1\tsentence2"], "a header but no examples"),
    ],
)
def test_damaged_test_file_is_refused(tmp_path, lines, told):
    write(tmp_path / "test.tsv", *lines)
    with pytest.raises(DataError, match=rf"test\.tsv: .*{told}"):
        glue.read_tests(tmp_path, task_of("rte"))


@pytest.mark.parametrize("folder", ["MRPC", "QNLI", "RTE", "SST-2", "WNLI"])
def test_published_test_files_have_glues_counts(folder):
    path = REAL / folder / "test.tsv.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} of {folder} is not on this machine")
    layout = folder.lower().replace("-", "")
    (examples,) = glue.read_tests(REAL / folder, task_of(layout)).values()
    (part,) = glue.LAYOUTS[layout].tests
    assert len(examples) == part.published_examples
    with gzip.open(path, "rt", encoding="utf-8") as file:
        assert len(examples) == sum(1 for _ in file) - 1
    assert all(example.label is None and example.text for example in examples)

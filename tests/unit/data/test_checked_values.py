"""A check of a value is as strong as whatever takes the value: tokenizer, JSON, parquet, loss."""

import json

import pyarrow
import pytest
from unit.data.tasks import parquet, task_of

from sparsetune.config.backbone import TextFiles
from sparsetune.data.corpus import gather_corpus
from sparsetune.errors import DataError
from sparsetune.records import DatasetRecord, read_record
from sparsetune.stages.context import Context
from sparsetune.stages.dataset import make_dataset

HALF = '"broken \\ud83d here"'  # half of an emoji, as a cut JSON text has it
TOLD = r"received .*, need text without \\ud83d, which is half of a character$"
TABLE = {"columns": {"texts": ["text"], "label": "label"}, "splits": {"train": "a", "dev": "b"}}
LINE = '{"text": "fine", "label": "1"}\n'


def made(folder, task, **files):
    """Run the stage on files, all of which are there for both splits."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (source / name.replace("__", ".")).write_bytes(data)
    task = task.model_copy(update={"source": mirror(source)})
    make_dataset(task, folder / "made", Context(), lock_file=folder / "lock.yaml")
    return read_record(folder / "made" / "record.json", DatasetRecord).measured


def mirror(folder):
    return task_of("sst2", source={"kind": "mirror", "path": str(folder)}).source


def table(kind="classification", labels=("0", "1"), **changes):
    return task_of("table", kind, labels, **{**TABLE, **changes})


def test_half_of_a_character_is_refused_with_its_row(tmp_path):
    bad = LINE + LINE.replace('"fine"', HALF)
    with pytest.raises(DataError, match=rf"a\.jsonl: row 2: {TOLD}"):
        made(tmp_path, table(), a__jsonl=bad, b__jsonl=LINE)


LISTS = {
    "table": (table(), "a__json", "[" + LINE.replace('"fine"', HALF) + "]"),
    "squad": (
        task_of("squad", "span", ()), "train-v1__1__json",
        '{"data": [{"paragraphs": [{"context": ' + HALF + ', "qas": []}]}]}',
    ),
    "a key": (table(), "a__json", "[" + LINE.replace('"label"', HALF) + "]"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LISTS)
def test_half_of_a_character_is_refused_wherever_json_may_hold_it(tmp_path, layout):
    task, name, text = LISTS[layout]
    with pytest.raises(DataError, match=TOLD):
        made(tmp_path, task, **{name: text})


def test_a_whole_character_that_json_writes_in_two_halves_is_kept(tmp_path):
    whole = LINE.replace('"fine"', '"smile \\ud83d\\ude00 \\\\ud83d \\u0000"')
    assert made(tmp_path, table(), a__jsonl=whole, b__jsonl=LINE).train_examples == 1


def test_text_of_parquet_that_is_no_utf_8_is_refused_with_its_row(tmp_path):
    raw = pyarrow.array([b"fine", b"\xff\xfe"]).cast(pyarrow.binary())
    bad = parquet(text=raw.view(pyarrow.string()), label=["1", "0"])
    with pytest.raises(DataError, match=r"row 2: column 'text': not valid UTF-8"):
        made(tmp_path, table(), a__parquet=bad, b__parquet=bad)


def test_parquet_with_one_column_name_twice_is_refused(tmp_path):
    columns = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 3, names=["text", "x", "x"])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(columns, sink)
    bad = sink.getvalue().to_pybytes()
    with pytest.raises(DataError, match=r"column 'x' is there twice or more; it has: text, x, x$"):
        made(tmp_path, table(), a__parquet=bad, b__parquet=bad)
    bad = parquet(text=[1, 2])
    (tmp_path / "corpus.parquet").write_bytes(bad)
    source = TextFiles(kind="text", seed=0, paths=(str(tmp_path / "corpus.parquet"),))
    with pytest.raises(DataError, match=r"column text: received int64; allowed: string$"):
        gather_corpus(source, tmp_path / "text", lock_file=tmp_path / "lock.yaml")


FORMS = {
    "jsonl": LINE,
    "csv": "text,label\nfine,1\n",
    "tsv": "text\tlabel\nfine\t1\n",
}


@pytest.mark.parametrize("end", ["\n", "\n\n", "  \n", "\r\n\r\n"])
@pytest.mark.parametrize("form", FORMS)
def test_blank_lines_at_the_end_are_no_rows(tmp_path, form, end):
    whole = FORMS[form]
    files = {f"a__{form}": whole + end, f"b__{form}": whole}
    assert made(tmp_path, table(), **files).train_examples == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_blank_line_between_rows_is_told(tmp_path, form):
    bad = FORMS[form] + "\n" + FORMS[form].splitlines()[-1] + "\n"
    with pytest.raises(DataError, match=r"row [23]: "):
        made(tmp_path, table(), **{f"a__{form}": bad, f"b__{form}": FORMS[form]})


def test_long_fields_of_csv_are_read(tmp_path):
    content = f"text,label\n{'word ' * 40_000},1\n"
    assert made(tmp_path, table(), a__csv=content, b__csv=content).train_examples == 1


@pytest.mark.parametrize("value", ["true", "1e300", '"1_000"', "1" * 400, "NaN", "[1]"])
def test_scores_that_no_loss_can_take_are_refused(tmp_path, value):
    content = LINE.replace('"1"', value)
    with pytest.raises(DataError, match=r"row 1: label: received .*, need a (finite )?number"):
        made(tmp_path, table("regression", ()), a__jsonl=content, b__jsonl=content)


def test_dropped_rows_are_counted_in_the_record(tmp_path):
    hidden = json.dumps({"text": "x", "label": -1}) + "\n"
    task = table().model_copy(update={"drop_unlabelled": True})
    measured = made(tmp_path, task, a__jsonl=LINE + hidden * 2, b__jsonl=hidden + LINE)
    assert (measured.train_examples, measured.train_unlabelled_dropped) == (1, 2)
    assert (measured.evaluation_examples, measured.evaluation_unlabelled_dropped) == (1, 1)
    with pytest.raises(DataError, match=r"no row of the train split has a label$"):
        made(tmp_path, task, a__jsonl=hidden, b__jsonl=LINE)

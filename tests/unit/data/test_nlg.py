import gzip
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsetune.data.examples import GenerationExample, check, read_examples
from sparsetune.data.nlg import linearise
from sparsetune.errors import DataError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "nlg" / "e2e"
MEANING = "name[The Blue Heron], food[Thai]"
SOURCE = "name : The Blue Heron | food : Thai"


def task_of(split="dev", layout="e2e"):
    return SimpleNamespace(
        id="e2e", layout=layout, kind="generation", labels=(), evaluation_split=split
    )


def test_linearise_writes_slots_in_published_order():
    assert linearise(MEANING) == SOURCE
    assert linearise("priceRange[£20-25],near[Café  Brazil, Ely]") == (
        "priceRange : £20-25 | near : Café  Brazil, Ely"
    )


@pytest.mark.parametrize("bad", ["", "name", "name[The", "name[a] food[b]", "[a]", "name[a]]"])
def test_linearise_refuses_what_is_not_slots(bad):
    with pytest.raises(ValueError, match="need slot"):
        linearise(bad)


def test_train_rows_are_examples_and_evaluation_rows_are_grouped(tmp_path):
    rows = f'mr,ref\r\n"{MEANING}","One,\ntwo."\r\n"{MEANING}",Three. \r\nname[Ada],Four.\r\n'
    (tmp_path / "trainset.csv").write_bytes(rows.encode())
    (tmp_path / "devset.csv.gz").write_bytes(gzip.compress(rows.encode()))
    assert read_examples(tmp_path, task_of(), "train") == [
        GenerationExample("train-0", SOURCE, ("One,\ntwo.",)),
        GenerationExample("train-1", SOURCE, ("Three.",)),
        GenerationExample("train-2", "name : Ada", ("Four.",)),
    ]
    assert read_examples(tmp_path, task_of(), "evaluation") == [
        GenerationExample("dev-0", SOURCE, ("One,\ntwo.", "Three.")),
        GenerationExample("dev-1", "name : Ada", ("Four.",)),
    ]
    counts = {"train_examples": 3, "train_references": 3}
    assert check(tmp_path, task_of()) == counts | {
        "evaluation_examples": 2,
        "evaluation_references": 3,
    }


@pytest.mark.parametrize(
    ("split", "evaluation_split", "examples", "references"),
    [
        ("train", "dev", 42061, 42061),
        ("evaluation", "dev", 547, 4672),
        ("evaluation", "test", 630, 4693),
    ],
)
def test_real_files_have_the_published_counts(split, evaluation_split, examples, references):
    if not REAL.is_dir():
        pytest.skip("the real E2E files are not beside the repository")
    found = read_examples(REAL, task_of(evaluation_split), split)
    assert len(found) == examples
    assert sum(len(example.references) for example in found) == references


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MR\nname[a]\n", r"row 1: got header \['MR'\], need mr, ref"),
        ("mr,ref\nname[a]\n", "row 2: got 1 columns, need 2"),
        ("mr,ref\nname[a],ok\nname,ok\n", "row 3: mr: got 'name', need slot"),
        ("mr,ref\nname[a], \n", "row 2: ref is empty"),
        ('mr,ref\nname[a],"open\n', "not CSV"),
        ("mr,ref\n", "a header but no examples"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, message):
    (tmp_path / "trainset.csv").write_text(text)
    with pytest.raises(DataError, match=rf"trainset\.csv: .*{message}"):
        read_examples(tmp_path, task_of(), "train")


@pytest.mark.parametrize("layout", ["webnlg", "dart"])
def test_layouts_without_a_reader_say_so(tmp_path, layout):
    with pytest.raises(DataError, match=f"layout '{layout}' cannot be read yet; readable: e2e"):
        read_examples(tmp_path, task_of(layout=layout), "train")

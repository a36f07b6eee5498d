import gzip
from pathlib import Path

import pytest
from unit.data import tasks
from unit.data.tasks import parquet

from sparsetune.data.examples import GenerationExample
from sparsetune.data.layouts import read_published, split_files
from sparsetune.data.layouts.e2e import linearise
from sparsetune.errors import DataError

REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "nlg"
MEANING = "name[The Blue Heron], food[Thai]"
SOURCE = "name : The Blue Heron | food : Thai"


def task_of(split="dev"):
    return tasks.task_of("e2e", "generation", (), split)


def names(folder):
    found = [split_files(folder, task_of(), split) for split in ("train", "evaluation")]
    return [path.name for paths in found for path in paths]


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
    assert read_published(tmp_path, task_of(), "train") == [
        GenerationExample("train-0", SOURCE, ("One,\ntwo.",)),
        GenerationExample("train-1", SOURCE, ("Three.",)),
        GenerationExample("train-2", "name : Ada", ("Four.",)),
    ]
    assert read_published(tmp_path, task_of(), "evaluation") == [
        GenerationExample("dev-0", SOURCE, ("One,\ntwo.", "Three.")),
        GenerationExample("dev-1", "name : Ada", ("Four.",)),
    ]


def test_linearised_files_are_read_as_they_stand(tmp_path):
    lines = f"{SOURCE}||One , two . \n{SOURCE}||Three . \nname : Ada||Four . \n"
    (tmp_path / "train.txt").write_text(lines)
    (tmp_path / "valid.txt.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_published(tmp_path, task_of(), "train")[0] == GenerationExample(
        "train-0", SOURCE, ("One , two .",)
    )
    assert read_published(tmp_path, task_of(), "evaluation") == [
        GenerationExample("dev-0", SOURCE, ("One , two .", "Three .")),
        GenerationExample("dev-1", "name : Ada", ("Four .",)),
    ]


def test_hub_parquet_gives_the_same_examples_as_csv(tmp_path):
    meanings, references = [MEANING, MEANING, "name[Ada]"], ["One.", "Two.", "Three."]
    rows = "".join(f'"{m}",{r}\n' for m, r in zip(meanings, references, strict=True))
    columns = {"meaning_representation": meanings, "human_reference": references}
    for csv_name, folder in (("trainset.csv", "train"), ("devset.csv", "validation")):
        (tmp_path / csv_name).write_text("mr,ref\n" + rows)
        (tmp_path / "hub" / folder).mkdir(parents=True)
        (tmp_path / "hub" / folder / "0000.parquet").write_bytes(parquet(**columns))
    for split in ("train", "evaluation"):
        expected = read_published(tmp_path, task_of(), split)
        assert read_published(tmp_path / "hub", task_of(), split) == expected


def test_a_folder_is_read_in_one_form(tmp_path):
    (tmp_path / "trainset.csv").write_text("mr,ref\nname[Ada],One.\n")
    (tmp_path / "valid.txt").write_text("name : Ada||One .\n")
    with pytest.raises(DataError, match=r"holds trainset\.csv and valid\.txt, .* in one form"):
        names(tmp_path)
    (tmp_path / "train.txt").write_text("name : Ada||One .\n")
    assert names(tmp_path) == ["train.txt", "valid.txt"]
    (tmp_path / "devset.csv").write_text("mr,ref\nname[Ada],One.\n")
    assert names(tmp_path) == ["trainset.csv", "devset.csv"]


def test_other_things_in_the_folder_are_no_form(tmp_path):
    for name in ("trainset.csv", "devset.csv"):
        (tmp_path / name).write_text("mr,ref\nname[Ada],One.\n")
    (tmp_path / "train").mkdir()
    (tmp_path / "validation-notes.parquet").touch()
    assert names(tmp_path) == ["trainset.csv", "devset.csv"]
    (tmp_path / "trainset.csv").unlink()
    with pytest.raises(DataError, match=r"trainset\.csv: no such file \(accepted: trainset\.csv,"):
        names(tmp_path)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_both_real_forms_group_alike(split):
    if not REAL.is_dir():
        pytest.skip("the real E2E files are not beside the repository")
    challenge, linearised = (
        [
            len(example.references)
            for example in read_published(folder, task_of(split), "evaluation")
        ]
        for folder in (REAL / "e2e", REAL / "e2e_lora")
    )
    assert sorted(challenge) == sorted(linearised)

import json
from pathlib import Path

import pytest
from unit.data import tasks

from sparsetune.data.examples import GenerationExample
from sparsetune.data.layouts import read_published
from sparsetune.data.layouts.webnlg import linearise, triple_of
from sparsetune.errors import DataError

REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "nlg" / "webnlg_challenge_2017"


def task_of(part=None, split="test"):
    return tasks.task_of("webnlg", "generation", (), split, evaluation_part=part)


def entry(number, category, triples, *texts):
    return {
        str(number): {
            "category": category,
            "modifiedtripleset": [
                dict(zip(("subject", "property", "object"), triple, strict=True))
                for triple in triples
            ],
            "lexicalisations": [{"comment": "good", "lex": text} for text in texts],
        }
    }


def write(path, *entries):
    path.write_text(json.dumps({"entries": list(entries)}))


@pytest.fixture
def folder(tmp_path):
    city = entry(1, "City", [("Oslo", "country", "Norway")], "One.", "Two. ")
    write(tmp_path / "train.json", city)
    triples = [("Ada_L", "birthPlace", "Oslo"), ("Oslo", "country", "Norway")]
    artist = entry(2, "Artist", triples, "Three.")
    write(tmp_path / "test.json", city, artist)
    return tmp_path


def test_train_has_an_example_a_text_and_evaluation_an_entry(folder):
    assert read_published(folder, task_of(), "train") == [
        GenerationExample("train-0", "Oslo : country : Norway", ("One.",)),
        GenerationExample("train-1", "Oslo : country : Norway", ("Two.",)),
    ]
    two = "Ada_L : birthPlace : Oslo | Oslo : country : Norway"
    assert read_published(folder, task_of("all"), "evaluation") == [
        GenerationExample("test-0", "Oslo : country : Norway", ("One.", "Two.")),
        GenerationExample("test-1", two, ("Three.",)),
    ]


def test_a_part_has_the_entries_whose_category_train_has_or_lacks(folder):
    seen = read_published(folder, task_of("seen"), "evaluation")
    unseen = read_published(folder, task_of("unseen"), "evaluation")
    assert [example.references for example in seen] == [("One.", "Two.")]
    assert [example.references for example in unseen] == [("Three.",)]


def test_a_part_without_entries_is_refused(folder):
    write(folder / "test.json", entry(1, "City", [("Oslo", "country", "Norway")], "One."))
    with pytest.raises(DataError, match=r"test\.json: no entry has a category that is unseen in"):
        read_published(folder, task_of("unseen"), "evaluation")


def test_entries_with_one_source_stay_apart(folder):
    triples = [("Oslo", "country", "Norway")]
    write(folder / "test.json", entry(1, "City", triples, "A."), entry(2, "City", triples, "B."))
    found = read_published(folder, task_of(), "evaluation")
    assert [example.references for example in found] == [("A.",), ("B.",)]


# Published: 971 entries of the ten categories of train, 891 of five others.
@pytest.mark.parametrize(("part", "entries"), [("all", 1862), ("seen", 971), ("unseen", 891)])
def test_real_test_file_has_the_published_parts(part, entries):
    if not REAL.is_dir():
        pytest.skip("the real WebNLG files are not beside the repository")
    found = read_published(REAL, task_of(part), "evaluation")
    assert len(found) == entries
    assert all(example.source.count(" : ") >= 2 for example in found)


def test_triples_are_written_in_published_order():
    triples = [("Ada_L", "home", '"Oslo, Norway"'), ("Oslo", "country", "Norway")]
    assert linearise(triples) == 'Ada_L : home : "Oslo, Norway" | Oslo : country : Norway'
    assert linearise(triples[:1]) == 'Ada_L : home : "Oslo, Norway"'


def test_a_triple_may_have_an_empty_field_but_needs_all_three():
    assert triple_of(["Ada", "", "Oslo"]) == ("Ada", "", "Oslo")
    for bad in (["Ada", "home"], ["Ada", "home", "Oslo", "x"], "Ada", ["Ada", "home", 3], None, {}):
        with pytest.raises(ValueError, match=r"need three texts \(subject, property, object\)"):
            triple_of(bad)

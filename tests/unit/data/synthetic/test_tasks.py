"""The synthetic language writes the published layouts, the same bytes for the same seed."""

import csv
import json
from pathlib import Path

import pytest

from sparsetune.data.synthetic.tasks import LAYOUTS, write_corpus, write_task
from sparsetune.errors import ConfigError

SIZES = {"train": 40, "dev": 20}


def _lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def _bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_seed_gives_same_bytes_and_other_seed_does_not(layout, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_task(layout, tmp_path / name, seed=seed, sizes=SIZES)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert _bytes(tmp_path / "a") != _bytes(tmp_path / "c")


def test_sst2_has_header_and_binary_labels(tmp_path):
    write_task("sst2", tmp_path, seed=1, sizes={**SIZES, "test": 5})
    header, *rows = _lines(tmp_path / "train.tsv")
    assert header == ["sentence", "label"]
    assert len(rows) == 40
    assert {row[1] for row in rows} == {"0", "1"}
    test = _lines(tmp_path / "test.tsv")
    assert test[0] == ["index", "sentence"]
    assert [row[0] for row in test[1:]] == list("01234")


def test_cola_has_no_header_and_marks_what_is_unacceptable(tmp_path):
    write_task("cola", tmp_path, seed=1, sizes=SIZES)
    rows = _lines(tmp_path / "dev.tsv")
    assert len(rows) == 20
    assert {(label, mark) for _, label, mark, _ in rows} == {("1", ""), ("0", "*")}


def test_rte_rows_are_numbered_and_labelled_in_words(tmp_path):
    write_task("rte", tmp_path, seed=1, sizes=SIZES)
    header, *rows = _lines(tmp_path / "train.tsv")
    assert header == ["index", "sentence1", "sentence2", "label"]
    assert [row[0] for row in rows] == [str(index) for index in range(40)]
    assert {row[3] for row in rows} == {"entailment", "not_entailment"}


def test_stsb_has_ten_columns_and_scores_from_0_to_5(tmp_path):
    write_task("stsb", tmp_path, seed=1, sizes=SIZES)
    header, *rows = _lines(tmp_path / "dev.tsv")
    assert header[7:] == ["sentence1", "sentence2", "score"]
    assert {len(row) for row in (header, *rows)} == {10}
    assert all(0 <= float(row[9]) <= 5 and len(row[9].split(".")[1]) == 3 for row in rows)


def test_squad_answers_stand_in_their_context(tmp_path):
    write_task("squad", tmp_path, seed=1, sizes={"train": 41, "dev": 7})
    content = json.loads((tmp_path / "train-v1.1.json").read_text(encoding="utf-8"))
    paragraphs = content["data"][0]["paragraphs"]
    questions = [(part["context"], qa) for part in paragraphs for qa in part["qas"]]
    assert len({qa["id"] for _, qa in questions}) == len(questions) == 41
    for context, qa in questions:
        (answer,) = qa["answers"]
        start = answer["answer_start"]
        assert context[start : start + len(answer["text"])] == answer["text"]


def test_e2e_references_of_one_representation_follow_each_other(tmp_path):
    write_task("e2e", tmp_path, seed=1, sizes={"train": 30, "dev": 10, "test": 10})
    with (tmp_path / "devset.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["mr", "ref"]
    representations = [mr for mr, _ in rows]
    runs = [
        mr
        for before, mr in zip(["", *representations], representations, strict=False)
        if mr != before
    ]
    assert len(runs) == len(set(representations)) == 10
    assert len(rows) > 10
    assert all(mr.startswith("name[The ") and "], eatType[" in mr for mr in representations)
    assert (tmp_path / "testset_w_refs.csv").is_file()


def test_corpus_has_one_document_a_line_and_is_deterministic(tmp_path):
    write_corpus(tmp_path / "a.txt", seed=3, documents=50)
    write_corpus(tmp_path / "b.txt", seed=3, documents=50)
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    assert len((tmp_path / "a.txt").read_text(encoding="utf-8").splitlines()) == 50


@pytest.mark.parametrize(
    ("layout", "sizes", "named"),
    [
        ("sst3", {"train": 1}, "sst3"),
        ("sst2", {"training": 1}, "training"),
        ("squad", {"test": 1}, "test"),
        ("rte", {"train": 0}, "size of train: received 0"),
    ],
)
def test_wrong_requests_are_refused_by_name(layout, sizes, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        write_task(layout, tmp_path / "out", seed=1, sizes=sizes)
    assert not (tmp_path / "out").exists()


def test_empty_corpus_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="documents: received 0"):
        write_corpus(tmp_path / "corpus.txt", seed=1, documents=0)

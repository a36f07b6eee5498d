"""The synthetic language writes the published layouts, the same bytes for the same seed."""

import csv
from pathlib import Path

import pytest
from unit.data.tasks import task_of

from sparsetune.data.layouts import read_published
from sparsetune.data.layouts.glue import read_tests
from sparsetune.data.synthetic.tasks import write_corpus, write_task
from sparsetune.errors import ConfigError

SIZES = {"train": 40, "dev": 20}
KINDS = {
    **dict.fromkeys(("sst2", "cola", "rte"), "classification"),
    "stsb": "regression", "squad": "span", "e2e": "generation",
}  # fmt: skip


def _lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def _bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("layout", KINDS)
def test_same_seed_gives_same_bytes_and_other_seed_does_not(layout, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_task(layout, tmp_path / name, seed=seed, sizes=SIZES)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert _bytes(tmp_path / "a") != _bytes(tmp_path / "c")


def test_cola_has_no_header_and_marks_what_is_unacceptable(tmp_path):
    write_task("cola", tmp_path, seed=1, sizes=SIZES)
    rows = _lines(tmp_path / "dev.tsv")
    assert len(rows) == 20
    assert {(label, mark) for _, label, mark, _ in rows} == {("1", ""), ("0", "*")}


@pytest.mark.parametrize(("layout", "kind"), KINDS.items())
def test_the_readers_of_published_files_read_what_is_written(layout, kind, tmp_path):
    sizes = SIZES if layout == "squad" else {**SIZES, "test": 5}
    write_task(layout, tmp_path, seed=1, sizes=sizes)
    labels = ("entailment", "not_entailment") if layout == "rte" else ("0", "1")
    task = task_of(layout, kind, labels)
    read = [read_published(tmp_path, task, split) for split in ("train", "evaluation")]
    assert [len(examples) for examples in read] == list(SIZES.values())
    if kind == "classification":
        assert {one.label for examples in read for one in examples} == {0, 1}
    for examples in read_tests(tmp_path, task).values():
        assert [one.id for one in examples] == [f"test-{n}" for n in range(5)]
        assert all(one.text and one.label is None for one in examples)


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

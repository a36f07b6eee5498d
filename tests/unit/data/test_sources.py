import gzip

import pytest
from huggingface_hub import constants
from unit.data.hub_server import COMMIT
from unit.data.tasks import parquet, source_of, task_of

from sparsetune.config.backbone import TextFiles
from sparsetune.data.examples import read_examples
from sparsetune.data.sources import (
    matching_files,
    replaced_directory,
    text_files,
)
from sparsetune.errors import DataError
from sparsetune.records import DatasetRecord, read_record, sha256_of
from sparsetune.stages.context import Context
from sparsetune.stages.dataset import make_dataset

GOOD = b"sentence\tlabel\ngood\t1\nbad\t0\n"
TEST = b"index\tsentence\n0\tfine\n"


def make(task, folder):
    make_dataset(task, folder, Context(), lock_file=folder.parent / "config" / "lock.yaml")
    return read_record(folder / "record.json", DatasetRecord).measured.model_dump(exclude_none=True)


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror" / "datasets" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.tsv.gz").write_bytes(gzip.compress(GOOD, mtime=0))
    (folder / "dev.tsv").write_bytes(GOOD)
    (folder / "test.tsv").write_bytes(TEST)
    (folder / "notes.txt").write_text("not part of the task")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_mirror_is_read_once_and_counted(tmp_path, mirror):
    task = task_of("sst2", source={"kind": "mirror", "path": str(mirror)})
    out = tmp_path / "out" / "sst2"
    measured = make(task, out)
    files = ["evaluation.parquet", "test.parquet", "train.parquet"]
    assert measured["files"] == {name: sha256_of(out / name) for name in files}
    assert names(out) == sorted([*files, "record.json"])
    assert (measured["train_examples"], measured["evaluation_examples"]) == (2, 2)
    assert measured["train_label_counts"] == {"0": 1, "1": 1}
    assert measured["stored_bytes"] == sum((out / name).stat().st_size for name in files)
    assert "revision" not in measured
    assert names(out.parent) == ["sst2"]
    assert not (tmp_path / "out" / "config").exists()
    assert [one.label for one in read_examples(out, task, "train")] == [1, 0]
    assert read_examples(out, task, "test")[0].label is None
    (mirror / "train.tsv.gz").unlink()
    (mirror / "test.tsv").unlink()
    (mirror / "train.tsv").write_bytes(GOOD + b"more\t1\n")
    assert make(task, out)["train_examples"] == 3
    assert names(out) == ["evaluation.parquet", "record.json", "train.parquet"]


def test_missing_parts_of_a_mirror_are_named(tmp_path, mirror):
    (mirror / "dev.tsv").unlink()
    for path, told in (
        (mirror, r"datasets/sst2/dev\.tsv: no such file .*notes\.txt"),
        (tmp_path / "nowhere", r"nowhere: no such folder; it must hold train\.tsv"),
    ):
        task = task_of("sst2", source={"kind": "mirror", "path": str(path)})
        with pytest.raises(DataError, match=told):
            make(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "kind", "expected"),
    [
        ("sst2", "classification", {"train_examples": 12, "evaluation_examples": 5}),
        ("stsb", "regression", {"train_examples": 12}),
        ("e2e", "generation", {"train_references": 12, "evaluation_examples": 5}),
    ],
)
def test_a_synthetic_task_is_made_alike_each_time(tmp_path, layout, kind, expected):
    sizes = {"train": 12, "evaluation": 5, "test": 4}
    task = task_of(layout, kind, source={"kind": "world", "seed": 3, "sizes": sizes})
    one, two = make(task, tmp_path / "one"), make(task, tmp_path / "two")
    assert one == two
    assert expected.items() <= one.items()
    assert ("train_label_counts" in one, "train_score_mean" in one) == (
        kind == "classification", kind == "regression",
    )  # fmt: skip
    assert ("test.parquet" in one["files"]) == (layout != "e2e")


@pytest.fixture
def glue(hub):
    """Two GLUE tasks on a hub, in parquet."""
    hub.repositories["dataset", "nyu-mll/glue"] = {
        f"{subset}/{split}-00000-of-00001.parquet": parquet(sentence=["a"] * size, label=[1] * size)
        for subset in ("sst2", "cola")
        for split, size in (("train", 3), ("validation", 2))
    }
    return hub


def test_a_hub_task_is_read_at_its_commit_and_then_without_network(glue, tmp_path, monkeypatch):
    source = {"kind": "hub", "repository": "nyu-mll/glue", "revision": "main"}
    task = task_of("sst2", source=source)
    first = make(task, tmp_path / "one")
    assert (first["revision"], first["train_examples"]) == (COMMIT, 3)
    assert {name.partition("/")[0] for name in glue.downloads()} == {"sst2"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert make(task, tmp_path / "two") == first
    task = task_of("sst2", source={**source, "subset": "cola"})
    with pytest.raises(DataError, match="no network for hub source nyu-mll/glue"):
        make(task, tmp_path / "one")
    kept = read_record(tmp_path / "one" / "record.json", DatasetRecord).measured
    assert kept.model_dump(exclude_none=True) == first


def test_a_bad_row_from_the_hub_is_told_by_repository_and_commit(glue, tmp_path):
    name = "sst2/validation-00000-of-00001.parquet"
    glue.repositories["dataset", "nyu-mll/glue"][name] = parquet(sentence=["a"], label=[7])
    source = {"kind": "hub", "repository": "nyu-mll/glue", "revision": COMMIT}
    task = task_of("sst2", source=source)
    with pytest.raises(DataError) as caught:
        make(task, tmp_path / "out")
    assert str(caught.value) == (
        f"nyu-mll/glue@{COMMIT[:12]}/{name.partition('/')[2]}: row 1: label: received 7; "
        "allowed: 0, 1"
    )


def test_a_replaced_directory_leaves_nothing_after_an_error(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()

    def fail():
        with replaced_directory(tmp_path / "kept") as partial:
            (partial / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    found = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))]
    assert found == ["kept", "kept/file"]


def text_of(*paths):
    return TextFiles(kind="text", seed=0, paths=paths)


def test_patterns_give_their_files_sorted_and_each_once(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt.gz", "c.parquet"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    source = text_of("c.*", "*.txt*", str(tmp_path / "b.txt"))
    found = [path.name for path in text_files(source)]
    assert found == ["c.parquet", "a.txt.gz", "b.txt", "b.txt"]  # relative and absolute differ
    assert text_files(source_of("mirror", path="x")) == []
    with pytest.raises(DataError, match=r"^here: none\.\*: no such text; need text, text\.gz or"):
        matching_files(["none.*"], tmp_path, "here: ")

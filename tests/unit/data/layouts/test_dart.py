import gzip
import json

import pytest
from unit.data import tasks
from unit.data.tasks import parquet

from sparsetune.data.examples import GenerationExample
from sparsetune.data.layouts import read_published
from sparsetune.errors import DataError

ENTRIES = [
    {
        "tripleset": [["[TABLECONTEXT]", "NAME", "Ada"], ["Ada", "BIRTH_PLACE", "Oslo"]],
        "subtree_was_extended": True,
        "annotations": [
            {"source": "WikiTableQuestions_mturk", "text": "Ada is from Oslo."},
            {"source": "WikiTableQuestions_mturk", "text": " Oslo is Ada's town."},
        ],
    },
    {
        "tripleset": [["Ben", "eatType", "pub"]],
        "subtree_was_extended": False,
        "annotations": [{"source": "e2e", "text": "Ben is a pub."}],
    },
]
# Relations in lower case, subjects and objects as published.
FIRST = "[TABLECONTEXT] : name : Ada | Ada : birth_place : Oslo"


def task_of(split="dev"):
    return tasks.task_of("dart", "generation", (), split)


def test_published_json_gives_texts_to_train_on_and_entries_to_score(tmp_path):
    text = json.dumps(ENTRIES)
    (tmp_path / "dart-v1.1.1-full-train.json").write_text(text)
    (tmp_path / "dart-v1.1.1-full-dev.json.gz").write_bytes(gzip.compress(text.encode()))
    assert read_published(tmp_path, task_of(), "train") == [
        GenerationExample("train-0", FIRST, ("Ada is from Oslo.",)),
        GenerationExample("train-1", FIRST, ("Oslo is Ada's town.",)),
        GenerationExample("train-2", "Ben : eattype : pub", ("Ben is a pub.",)),
    ]
    assert read_published(tmp_path, task_of(), "evaluation") == [
        GenerationExample("dev-0", FIRST, ("Ada is from Oslo.", "Oslo is Ada's town.")),
        GenerationExample("dev-1", "Ben : eattype : pub", ("Ben is a pub.",)),
    ]


def test_entries_without_annotations_give_no_example(tmp_path):
    bare = {**ENTRIES[0], "annotations": []}
    text = json.dumps([ENTRIES[1], bare, ENTRIES[1]])
    (tmp_path / "dart-v1.1.1-full-dev.json").write_text(text)
    found = read_published(tmp_path, task_of(), "evaluation")
    assert [example.id for example in found] == ["dev-0", "dev-1"]
    assert {example.references for example in found} == {("Ben is a pub.",)}


@pytest.mark.parametrize("as_lists", [True, False])
def test_hub_parquet_is_read_from_a_folder_for_each_split(tmp_path, as_lists):
    annotations = [entry["annotations"] for entry in ENTRIES]
    if as_lists:
        annotations = [
            {key: [one[key] for one in texts] for key in ("source", "text")}
            for texts in annotations
        ]
    columns = {"tripleset": [e["tripleset"] for e in ENTRIES], "annotations": annotations}
    for folder in ("train", "validation"):
        (tmp_path / "hub" / folder).mkdir(parents=True)
        (tmp_path / "hub" / folder / "0000.parquet").write_bytes(parquet(**columns))
    for split, count in (("train", 3), ("evaluation", 2)):
        found = read_published(tmp_path / "hub", task_of(), split)
        assert (len(found), found[0].source) == (count, FIRST)


def test_a_missing_shard_of_a_folder_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("0000.parquet", "0002.parquet"):
        (tmp_path / "train" / name).touch()
    with pytest.raises(DataError, match=r"train/0002\.parquet: shard 0001 of 'train' is missing"):
        read_published(tmp_path, task_of(), "train")

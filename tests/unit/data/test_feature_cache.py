import json

import pytest
from transformers import BertTokenizerFast

from sparsetune.config.load import Catalogue
from sparsetune.config.task import Generation
from sparsetune.data import feature_cache
from sparsetune.data.feature_cache import (
    FOLDER,
    FeatureColumns,
    cached_features,
    features_key,
    read_features,
    write_features,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
KINDS = {
    "classification": {"labels": 1},
    "regression": {"labels": 2.5},
    "span": {"start_positions": 3, "end_positions": 5},
    "generation": {"labels": [-100, 4, 5]},
}


def features(kind="classification", count=7):
    return [
        {"input_ids": list(range(n + 1)), "attention_mask": [1] * (n + 1), **KINDS[kind]}
        for n in range(count)
    ]


def tokenizer(words=WORDS):
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "LEAST_EXAMPLES", 5)
    (tmp_path / "record.json").write_text("{}")
    return tmp_path


@pytest.fixture(scope="module")
def task(repository):
    return Catalogue(repository / "config").task("sst2")


class Maker:
    """Counts how often the features had to be made."""

    def __init__(self, made):
        self.made, self.calls = made, 0

    def __call__(self):
        self.calls += 1
        return self.made


@pytest.mark.parametrize("kind", KINDS)
def test_features_come_back_as_they_were_value_by_value_and_type_by_type(tmp_path, kind):
    made = features(kind)
    path = tmp_path / "deep" / "a.parquet"
    for found in (write_features(path, "k", made), read_features(path, "k")):
        assert isinstance(found, FeatureColumns)
        assert json.dumps(list(found)) == json.dumps(made)  # tells 1 from 1.0
        assert (len(found), found[-1], found.lengths) == (7, made[-1], list(range(1, 8)))
        with pytest.raises(IndexError):
            found[7]


def test_a_second_job_takes_the_features_from_disk(dataset, task):
    make = Maker(features())
    first = cached_features(dataset, task, tokenizer(), None, make)
    second = cached_features(dataset, task, tokenizer(), None, make)
    assert make.calls == 1
    assert list(first) == list(second) == make.made


def test_a_small_split_leaves_no_file(dataset, task):
    assert cached_features(dataset, task, tokenizer(), None, lambda: features(count=4))
    assert not (dataset / FOLDER).exists()


def test_a_folder_without_a_record_is_not_cached(tmp_path, task, monkeypatch):
    monkeypatch.setattr(feature_cache, "LEAST_EXAMPLES", 1)
    cached_features(tmp_path, task, tokenizer(), None, features)
    assert list(tmp_path.iterdir()) == []


def test_whatever_changes_the_features_changes_the_key(dataset, task, monkeypatch):
    def key(*, of=task, words=WORDS, limit=None):
        return features_key(dataset, of, tokenizer(words), limit)

    keys = [key(), key(limit=9), key(words=[*WORDS, "i"])]
    for change in (
        {"maximum_tokens": 64}, {"window_stride_tokens": 8}, {"labels": ("1", "0")},
        {"layout": "cola"}, {"kind": "regression"},
        {"generation": Generation.model_construct(maximum_new_tokens=3)},
    ):  # fmt: skip
        keys.append(key(of=task.model_copy(update=change)))
    monkeypatch.setitem(feature_cache.STAGES, "tune", 99)
    keys.append(key())
    monkeypatch.setattr(feature_cache.tokenizers, "__version__", "0")
    keys.append(key())
    (dataset / "record.json").write_text('{"another": 1}')
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_the_features_does_not_change_the_key(dataset, task):
    used = tokenizer()
    before = features_key(dataset, task, used, None)
    used(["a b"], truncation=True, max_length=3, padding=True)  # a tokenizer remembers these
    change = {"metrics": ("matthews",), "description": "other", "evaluation_split": "test"}
    scored = task.model_copy(update=change)
    assert features_key(dataset, scored, used, None) == before


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "another"])
def test_a_damaged_or_foreign_file_is_made_again(dataset, task, damage, caplog):
    make = Maker(features(count=300))
    cached_features(dataset, task, tokenizer(), None, make)
    [path] = (dataset / FOLDER).iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        write_features(path, "of something else", features("regression"))
    found = cached_features(dataset, task, tokenizer(), None, make)
    assert make.calls == 2
    assert "encoding again" in caplog.text
    assert found[299] == make.made[299]
    assert read_features(path, path.stem) is not None  # and it is whole again


def test_a_folder_that_cannot_be_written_to_is_no_fault(dataset, task, caplog):
    (dataset / FOLDER).write_text("a file where the folder should be")
    assert list(cached_features(dataset, task, tokenizer(), None, features)) == features()
    assert "not kept" in caplog.text

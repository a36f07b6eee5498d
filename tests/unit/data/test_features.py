import json

import pytest
import torch
from transformers import BertTokenizerFast

from sparsetune.config.load import Catalogue
from sparsetune.config.task import Generation
from sparsetune.data import features as module
from sparsetune.data.corpus import IGNORED_LABEL
from sparsetune.data.examples import (
    GenerationExample,
    SpanExample,
    TextExample,
    split_file,
    write_examples,
)
from sparsetune.data.features import (
    FOLDER,
    FeatureColumns,
    features_key,
    masked_features,
    training_features,
)
from sparsetune.data.tokenization import encode

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
CLS, SEP, MASK = 2, 3, 4
PAIR = {"input_ids": [CLS, 5, 6, SEP, 7, 8, SEP], "attention_mask": [1] * 7,
        "token_type_ids": [0, 0, 0, 0, 1, 1, 1], "labels": 1}  # fmt: skip
SHORT = {"input_ids": [CLS, 9, SEP], "attention_mask": [1] * 3, "token_type_ids": [0] * 3,
         "labels": 0}  # fmt: skip


KINDS = {
    "classification": (TextExample("0", "a b", "c", 1), TextExample("1", "d", "e f", 0)),
    "regression": (TextExample("0", "a b", None, 2.0), TextExample("1", "d e", None, 0.5)),
    "span": (SpanExample("0", "a", "b c " * 40, (("b", 0),)),
             SpanExample("1", "a", "b c", (("c", 2),))),
    "generation": (GenerationExample("0", "a b", ("c", "d e")),
                   GenerationExample("1", "f", ("g",))),
}  # fmt: skip


def tokenizer_of(words=WORDS):
    vocabulary = {word: number for number, word in enumerate(words)}
    return BertTokenizerFast(vocab=vocabulary, eos_token="[SEP]")


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of()


@pytest.fixture(scope="module")
def task(repository):
    return Catalogue(repository / "config").task("sst2")


def of_kind(task, kind):
    labels = ("0", "1") if kind == "classification" else ()
    change = {"kind": kind, "labels": labels, "maximum_tokens": 16, "window_stride_tokens": 2}
    return task.model_copy(update=change)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A task's folder with so many examples that its features are kept."""
    monkeypatch.setattr(module, "LEAST_EXAMPLES", 5)
    (tmp_path / "record.json").write_text("{}")
    write_examples(split_file(tmp_path, "train"), "classification", KINDS["classification"] * 150)
    return tmp_path


@pytest.fixture
def encoded(monkeypatch):
    """How many examples have been encoded."""
    counts = []

    def counting(examples, *arguments, **options):
        counts.append(len(examples))
        return encode(examples, *arguments, **options)

    monkeypatch.setattr(module, "encode", counting)
    return lambda: sum(counts)


def make(task, dataset, tokenizer, limit=None):
    return training_features(task, dataset, tokenizer, limit)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_features_are_the_encoded_ones_value_by_value_and_type_by_type(
    dataset, task, tokenizer, kind
):
    one, examples = of_kind(task, kind), KINDS[kind] * 10
    write_examples(split_file(dataset, "train"), kind, examples)
    made = encode(examples, one, tokenizer, for_training=True)
    for _ in range(2):
        found = make(one, dataset, tokenizer)
        assert isinstance(found, FeatureColumns)
        assert json.dumps(list(found)) == json.dumps(made)  # tells 1 from 1.0
        assert found.lengths == [len(feature["input_ids"]) for feature in made]
        assert (len(found), found[-1]) == (len(made), made[-1])
        with pytest.raises(IndexError):
            found[len(made)]


def test_a_second_job_takes_the_features_from_disk(dataset, task, tokenizer, encoded):
    first = make(task, dataset, tokenizer)
    assert list(make(task, dataset, tokenizer)) == list(first)
    assert encoded() == 300
    assert len(make(task, dataset, tokenizer, limit=7)) == 7  # another key
    assert encoded() == 307
    assert len(list((dataset / FOLDER).iterdir())) == 2


def test_few_features_and_a_folder_without_a_record_leave_no_file(dataset, task, tokenizer):
    assert make(task, dataset, tokenizer, limit=4) == list(make(task, dataset, tokenizer))[:4]
    (dataset / "record.json").unlink()
    (dataset / FOLDER).rename(dataset / "moved")
    assert len(make(task, dataset, tokenizer)) == 300
    assert not (dataset / FOLDER).exists()


def test_whatever_changes_the_features_changes_the_key(dataset, task, monkeypatch):
    def key(*, of=task, words=WORDS, limit=None):
        return features_key(dataset, of, tokenizer_of(words), limit)

    keys = [key(), key(limit=9), key(words=[*WORDS, "i"])]
    for change in (
        {"maximum_tokens": 64}, {"window_stride_tokens": 8}, {"labels": ("1", "0")},
        {"kind": "regression"}, {"generation": Generation.model_construct(maximum_new_tokens=3)},
    ):  # fmt: skip
        keys.append(key(of=task.model_copy(update=change)))
    monkeypatch.setitem(module.STAGES, "tune", 99)
    keys.append(key())
    monkeypatch.setattr(module.tokenizers, "__version__", "0")
    keys.append(key())
    (dataset / "record.json").write_text('{"another": 1}')
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_the_features_does_not_change_the_key(dataset, task):
    used = tokenizer_of()
    before = features_key(dataset, task, used, None)
    used(["a b"], truncation=True, max_length=3, padding=True)  # a tokenizer remembers these
    scored = task.model_copy(update={"metrics": ("matthews",), "description": "other"})
    assert features_key(dataset, scored, used, None) == before


@pytest.mark.parametrize("kept_bytes", [0, 100, 5000])
def test_a_damaged_file_is_made_again(dataset, task, tokenizer, encoded, caplog, kept_bytes):
    made = list(make(task, dataset, tokenizer))
    [path] = (dataset / FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:kept_bytes])
    assert list(make(task, dataset, tokenizer)) == made
    assert encoded() == 600
    assert "encoding again" in caplog.text
    assert list(make(task, dataset, tokenizer)) == made  # and it is whole again
    assert encoded() == 600


def test_a_folder_that_cannot_be_written_to_is_no_fault(dataset, task, tokenizer, caplog):
    (dataset / FOLDER).write_text("a file where the folder should be")
    assert len(make(task, dataset, tokenizer)) == 300
    assert "not kept" in caplog.text


def test_masked_texts_keep_segments_and_lose_the_tasks_labels(tokenizer):
    texts, collate = masked_features([PAIR, SHORT], tokenizer, fraction=0.9, seed=3)
    assert texts.lengths == [7, 3]
    batch = collate([texts[0], texts[1]])
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0] * 7]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 0, 0, 0, 0]]
    labels = batch["labels"]
    original = torch.tensor([PAIR["input_ids"], SHORT["input_ids"] + [0] * 4])
    chosen = labels != IGNORED_LABEL
    assert chosen.any()
    assert torch.equal(labels[chosen], original[chosen])
    assert torch.equal(batch["input_ids"][~chosen & (original > 0)],
                       original[~chosen & (original > 0)])  # fmt: skip
    assert not chosen[original <= MASK].any()


def test_the_same_tokens_are_hidden_whenever_a_text_is_asked_for(tokenizer):
    def hidden(seed):
        texts, _ = masked_features([PAIR] * 20, tokenizer, fraction=0.5, seed=seed)
        return torch.stack([texts[index]["input_ids"] for index in (*range(20), *range(20))])

    one = hidden(1)
    assert torch.equal(one, hidden(1))
    assert torch.equal(one[:20], one[20:])
    assert not torch.equal(one, hidden(2))
    assert len(one.unique(dim=0)) > 1


def test_texts_without_segments_have_none(tokenizer):
    plain = {key: value for key, value in PAIR.items() if key != "token_type_ids"}
    texts, _ = masked_features([plain], tokenizer, fraction=0.5, seed=0)
    assert set(texts[0]) == {"input_ids", "attention_mask", "labels"}

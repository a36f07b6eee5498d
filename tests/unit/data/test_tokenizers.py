"""Trained tokenizers load as ordinary Hugging Face folders."""

import pytest
from transformers import AutoTokenizer

from sparsetune.data.synthetic.world import write_corpus
from sparsetune.data.tokenizers import train_tokenizer
from sparsetune.errors import ConfigError, DataError

CASES = [("wordpiece", "bert"), ("byte-bpe", "roberta"), ("byte-bpe", "gpt2")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    write_corpus(path, seed=1, documents=300)
    return path


def _train(kind, architecture, corpus, directory, size=500):
    train_tokenizer(
        kind,
        corpus,
        vocabulary_size=size,
        architecture=architecture,
        directory=directory,
        maximum_tokens=64,
    )
    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_training_is_deterministic(kind, architecture, corpus, tmp_path):
    for name in ("a", "b"):
        _train(kind, architecture, corpus, tmp_path / name)
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("kind", "architecture", "ids"),
    [
        ("wordpiece", "bert", {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}),
        ("byte-bpe", "roberta", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}),
        ("byte-bpe", "gpt2", {"<|endoftext|>": 0}),
    ],
)
def test_special_tokens_have_the_published_order(kind, architecture, ids, corpus, tmp_path):
    tokenizer = _train(kind, architecture, corpus, tmp_path)
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in ids} == ids
    assert len(tokenizer) == 500
    assert tokenizer.model_max_length == 64


@pytest.mark.parametrize(
    ("kind", "architecture", "template"),
    [
        ("wordpiece", "bert", "[CLS] A [SEP] B [SEP]"),
        ("byte-bpe", "roberta", "<s> A </s> </s> B </s>"),
        ("byte-bpe", "gpt2", "A B"),
    ],
)
def test_pairs_are_encoded_as_published(kind, architecture, template, corpus, tmp_path):
    tokenizer = _train(kind, architecture, corpus, tmp_path)
    parts = {"A": "the herons sing", "B": "many birds"}
    expected = [
        token
        for part in template.split()
        for token in (tokenizer.tokenize(parts[part]) if part in parts else [part])
    ]
    encoded = tokenizer(parts["A"], parts["B"])
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == expected


def test_saved_class_is_that_of_the_architecture(corpus, tmp_path):
    names = [type(_train(*case, corpus, tmp_path / case[1])).__name__ for case in CASES]
    expected = ("Bert", "Roberta", "GPT2")
    assert all(name.startswith(start) for name, start in zip(names, expected, strict=True))


def test_wordpiece_lower_cases_and_byte_bpe_returns_any_text(corpus, tmp_path):
    bert = _train("wordpiece", "bert", corpus, tmp_path / "bert")
    gpt2 = _train("byte-bpe", "gpt2", corpus, tmp_path / "gpt2")
    assert bert.tokenize("The Heron") == bert.tokenize("the heron")
    text = "name[The Blue Heron], é ☃"
    assert gpt2.decode(gpt2(text)["input_ids"]).strip() == text


@pytest.mark.parametrize(
    ("kind", "architecture", "size", "named"),
    [
        ("wordpiece", "t5", 500, "t5"),
        ("byte-bpe", "bert", 500, "byte-bpe"),
        ("byte-bpe", "gpt2", 100, "vocabulary_size 100"),
    ],
)
def test_wrong_settings_are_refused(kind, architecture, size, named, corpus, tmp_path):
    with pytest.raises(ConfigError, match=named):
        _train(kind, architecture, corpus, tmp_path, size)


def test_missing_corpus_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt"):
        _train("wordpiece", "bert", tmp_path / "none.txt", tmp_path / "out")

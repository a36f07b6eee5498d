"""Fixtures of data: a hub on this machine, and tokenizers trained on generated text."""

import pytest
from unit.data.hub_server import hub  # noqa: F401  # a fixture

from sparsetune.data.synthetic.tasks import write_corpus
from sparsetune.data.tokenization import train_tokenizer

KINDS = {"bert": "wordpiece", "roberta": "byte-bpe", "gpt2": "byte-bpe"}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    write_corpus(path, seed=1, documents=300)
    return path


@pytest.fixture(scope="session")
def train(corpus):
    """Train a tokenizer of an architecture into a folder, and give the folder."""

    def run(architecture, directory, kind=None, size=500, text=corpus):
        train_tokenizer(
            kind or KINDS[architecture], text, vocabulary_size=size, architecture=architecture,
            directory=directory, maximum_tokens=128,
        )  # fmt: skip
        return directory

    return run


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    return {name: train(name, root / name) for name in KINDS}

"""Packing and masking of running text."""

import pytest
import torch

from sparsetune.data.corpus import (
    CausalBlocks,
    MaskedBlocks,
    collate,
    mask_tokens,
    pack_corpus,
)
from sparsetune.data.world import write_corpus
from sparsetune.errors import ConfigError, DataError
from sparsetune.models.tokenizers import train_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    write_corpus(path, seed=1, documents=200)
    return path


def _tokenizer(corpus, kind, architecture):
    from transformers import AutoTokenizer

    directory = corpus.parent / architecture
    train_tokenizer(
        kind,
        corpus,
        vocabulary_size=600,
        architecture=architecture,
        directory=directory,
        maximum_tokens=128,
    )
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def bert(corpus):
    return _tokenizer(corpus, "wordpiece", "bert")


@pytest.fixture(scope="module")
def gpt2(corpus):
    return _tokenizer(corpus, "byte-bpe", "gpt2")


def test_packing_keeps_the_tokens_in_order(corpus, bert):
    blocks = pack_corpus(corpus, bert, block_tokens=16)
    lines = corpus.read_text(encoding="utf-8").splitlines()
    stream = [
        token
        for line in lines
        for token in [*bert(line, add_special_tokens=False)["input_ids"], bert.sep_token_id]
    ]
    assert (blocks[:, 0] == bert.cls_token_id).all()
    flat = blocks[:, 1:].flatten().tolist()
    assert flat == stream[: len(flat)]
    assert len(stream) - len(flat) < 15


def test_causal_blocks_have_no_opening_token_and_label_themselves(corpus, gpt2):
    blocks = pack_corpus(corpus, gpt2, block_tokens=16)
    first = gpt2(corpus.read_text(encoding="utf-8").splitlines()[0])["input_ids"]
    assert blocks[0].tolist() == [*first, gpt2.eos_token_id][:16] or len(first) < 16
    item = CausalBlocks(blocks)[0]
    assert torch.equal(item["input_ids"], item["labels"])


def test_masking_follows_the_80_10_10_rule(bert):
    tokens = torch.full((400, 100), 20)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = mask_tokens(tokens, bert, fraction=0.15, generator=generator)
    chosen = labels != -100
    # 40 000 draws: one standard deviation is 0.0018 of all and 0.0052 of the chosen.
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    hidden = (inputs == bert.mask_token_id)[chosen].float().mean().item()
    kept = (inputs == 20)[chosen].float().mean().item()
    assert hidden == pytest.approx(0.8, abs=0.025)
    assert kept == pytest.approx(0.1, abs=0.025)
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    assert (labels[chosen] == 20).all()


def test_special_tokens_are_never_chosen(bert):
    tokens = torch.tensor(bert.all_special_ids).repeat(200)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = mask_tokens(tokens, bert, fraction=0.5, generator=generator)
    assert torch.equal(inputs, tokens)
    assert (labels == -100).all()


def test_items_depend_on_seed_and_index_alone(corpus, bert):
    blocks = pack_corpus(corpus, bert, block_tokens=16)
    make = lambda seed: MaskedBlocks(blocks, bert, copies=2, seed=seed)  # noqa: E731
    first, again = make(0), make(0)
    count = len(blocks)
    later = again[5]["input_ids"]
    torch.rand(7)
    assert len(first) == 2 * count
    assert torch.equal(first[5]["input_ids"], later)
    assert not torch.equal(first[5]["labels"], first[5 + count]["labels"])
    assert not torch.equal(first[5]["labels"], make(1)[5]["labels"])


def test_collate_stacks(corpus, bert):
    items = MaskedBlocks(pack_corpus(corpus, bert, block_tokens=16), bert, seed=0)
    batch = collate([items[0], items[1]])
    assert {key: tuple(value.shape) for key, value in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), (2, 16)
    )


def test_wrong_settings_are_refused(corpus, bert, gpt2, tmp_path):
    tokens, generator = torch.zeros(3, dtype=torch.int64), torch.Generator()
    with pytest.raises(ConfigError, match="block_tokens 1"):
        pack_corpus(corpus, bert, block_tokens=1)
    with pytest.raises(DataError, match=r"missing\.txt"):
        pack_corpus(tmp_path / "missing.txt", bert, block_tokens=16)
    with pytest.raises(ConfigError, match=r"fraction 1\.0"):
        mask_tokens(tokens, bert, fraction=1.0, generator=generator)
    with pytest.raises(ConfigError, match="no mask token"):
        mask_tokens(tokens, gpt2, fraction=0.1, generator=generator)
    with pytest.raises(ConfigError, match="copies 0"):
        MaskedBlocks(tokens[None], bert, copies=0, seed=0)

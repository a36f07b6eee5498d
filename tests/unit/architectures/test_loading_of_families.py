"""What a folder's tokenizer and its model must agree on, whatever the family."""

import json

import pytest
import torch
from transformers import AutoTokenizer
from unit.stages.tiny_folders import bpe_like_gpt2, byte_bpe, make_folder, wordpiece

from sparsetune.architectures.loading import (
    check_folder,
    check_length,
    check_tokens,
    load_model,
    load_tokenizer,
)
from sparsetune.data.tokenization import collate
from sparsetune.errors import ModelError

TEXTS = ["a dog", "a river flows by the old mill", "cats", "the town is small and old"]


def logits_of(model, features, pad):
    batch = collate(features, pad_token_id=pad)
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "qwen3"])
def test_the_class_of_a_text_does_not_depend_on_how_its_batch_is_padded(tmp_path, kind):
    folder = make_folder(tmp_path / "own", kind)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, kind="classification", label_count=3, seed=0)
    features = [dict(tokenizer(text)) for text in TEXTS]
    together = logits_of(model, features, tokenizer.pad_token_id)
    alone = torch.cat([logits_of(model, [one], tokenizer.pad_token_id) for one in features])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    # An oracle that knows of no padding: the head on the last token's state.
    for number, one in enumerate(features):
        states = model.base_model(input_ids=torch.tensor([one["input_ids"]])).last_hidden_state
        last = model.score(states[0, -1]).detach()
        torch.testing.assert_close(together[number], last, rtol=0, atol=1e-6)


def test_the_model_s_own_padding_may_be_another_than_the_tokenizer_s(tmp_path):
    folder = make_folder(tmp_path / "own", "qwen3")
    told = json.loads((folder / "config.json").read_text())
    tokenizer = load_tokenizer(folder)
    assert told["eos_token_id"] != tokenizer.pad_token_id
    model = load_model(folder, kind="regression", label_count=1, seed=0)
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_several_end_tokens_pad_by_the_first(tmp_path):
    folder = make_folder(tmp_path / "own", "llama", eos_token_id=[0, 7])
    assert load_model(folder, kind="generation", label_count=1, seed=0).config.pad_token_id == 0


def test_what_ends_pads_where_nothing_else_does_and_one_of_them_must_be(tmp_path):
    folder = make_folder(tmp_path / "own", "llama", make_tokenizer=bpe_like_gpt2)
    assert load_tokenizer(folder).pad_token == "<|endoftext|>"
    bare = make_folder(tmp_path / "bare", "llama", make_tokenizer=lambda root: (byte_bpe(root), {}))
    with pytest.raises(ModelError, match="the tokenizer has neither a pad nor an end token"):
        load_tokenizer(bare)


@pytest.mark.parametrize(
    ("kind", "typed"), [("bert", True), ("distilbert", False), ("gpt2", False)]
)
def test_only_models_that_tell_two_texts_apart_get_token_types(tmp_path, kind, typed):
    folder = make_folder(tmp_path / "own", kind)
    assert "token_type_ids" in AutoTokenizer.from_pretrained(folder)("a", "b")
    assert ("token_type_ids" in load_tokenizer(folder)("a", "b")) == typed


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    folder = make_folder(tmp_path / "own", "llama", vocab_size=300)
    with pytest.raises(ModelError, match=r"has \d+ tokens; allowed: up to 300, the vocab_size"):
        check_tokens(folder)


def test_a_tokenizer_of_sentencepiece_alone_says_what_it_needs(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "own", "bert", make_tokenizer=wordpiece)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "spm.model").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"spm\.model: is read by the package sentencepiece"):
        check_folder(folder, "bert")


@pytest.mark.parametrize(
    ("kind", "longest"), [("gpt2", 130), ("distilbert", 130), ("llama", None), ("modernbert", None)]
)
def test_an_input_needs_a_position_for_every_token(tmp_path, kind, longest):
    folder = make_folder(tmp_path / "own", kind)
    check_length(folder, longest or 10_000)
    if longest:
        with pytest.raises(ModelError, match=r"received inputs of up to 131 tokens; allowed"):
            check_length(folder, longest + 1)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_answers_are_given_by_the_weights_of_the_language_model(tmp_path, kind):
    folder = make_folder(tmp_path / "own", kind)
    spans = load_model(folder, kind="span", label_count=2, seed=0)
    texts = load_model(folder, kind="generation", label_count=1, seed=0)
    given = dict(texts.base_model.named_parameters())
    backbone = spans.get_submodule(spans.base_model_prefix)
    assert all(torch.equal(one, given[name]) for name, one in backbone.named_parameters())

"""Texts for models that read to the left alone, with the tokenizers that their families have."""

import dataclasses
from types import SimpleNamespace

import pytest
from unit.stages.tiny_folders import byte_bpe, make_folder

from sparsetune.architectures.loading import load_tokenizer
from sparsetune.data.examples import GenerationExample, SpanExample, TextExample
from sparsetune.data.tokenization import IGNORED_LABEL, encode
from sparsetune.errors import ConfigError

DECODERS = ("gpt2", "llama", "mistral", "qwen3")
LETTERS = "a river in town ☃"  # the last one in no text that a tokenizer was trained on


def task(kind, **more):
    told = {"id": "it", "maximum_tokens": 64, "window_stride_tokens": None, "generation": None}
    return SimpleNamespace(kind=kind, **{**told, **more})


@pytest.fixture(params=DECODERS)
def tokenizer(request, tmp_path):
    return load_tokenizer(make_folder(tmp_path / "own", request.param))


def made(example, fields):
    """An example with everything else that its class has left out."""
    names = {field.name for field in dataclasses.fields(example)}
    return example(**{**dict.fromkeys(names), **fields})


def test_a_prompt_begins_as_the_tokenizer_begins_a_text_and_ends_with_its_end(tokenizer):
    example = made(GenerationExample, {"source": LETTERS, "references": ("the mill",)})
    settings = task("generation", generation=SimpleNamespace(maximum_new_tokens=8))
    (prompt,) = encode([example], settings, tokenizer, for_training=False)
    (whole,) = encode([example], settings, tokenizer, for_training=True)
    ids, labels = whole["input_ids"], whole["labels"]
    begin = tokenizer.bos_token_id if tokenizer.bos_token == "<s>" else None
    assert (prompt["input_ids"][0] == begin) == (begin is not None)
    assert ids[: len(prompt["input_ids"])] == prompt["input_ids"]
    assert ids[-1] == labels[-1] == tokenizer.eos_token_id
    assert set(labels[: len(prompt["input_ids"])]) == {IGNORED_LABEL}
    answer = labels[len(prompt["input_ids"]) :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "the mill"
    # Letters that it has not seen are bytes, and come back.
    assert (
        tokenizer.decode(prompt["input_ids"], skip_special_tokens=True).strip() == f"{LETTERS} =>"
    )


def test_two_texts_are_kept_apart(tokenizer):
    example = made(TextExample, {"text": "a dog", "second_text": "the mill", "label": 1})
    (feature,) = encode([example], task("classification"), tokenizer, for_training=True)
    told = tokenizer.decode(feature["input_ids"])
    between = told.replace(" ", "").partition("adog")[2].partition("themill")[0]
    assert between in ("=>", "<s>")
    assert "token_type_ids" not in feature


def test_a_question_is_kept_apart_from_its_context_and_offsets_are_the_context_s(tokenizer):
    context = "the mill is by the river"
    answers = (("the river", context.index("the river")),)
    fields = {"question": "where is it", "context": context, "answers": answers}
    settings = task("span", window_stride_tokens=4)
    (window,) = encode([made(SpanExample, fields)], settings, tokenizer, for_training=False)
    places = window["offset_mapping"]
    first, last = places[window["start_positions"]], places[window["end_positions"]]
    assert context[first[0] : last[1]].strip() == "the river"
    told = tokenizer.decode(window["input_ids"]).replace(" ", "")
    assert told.partition("whereisit")[2].startswith(("=>", "<s>"))


def test_a_tokenizer_without_an_end_token_cannot_generate(tmp_path):
    bare = make_folder(
        tmp_path / "own", "llama",
        make_tokenizer=lambda root: (byte_bpe(root, "<pad>"), {"pad": "<pad>"}),
    )  # fmt: skip
    example = made(GenerationExample, {"source": "a", "references": ("b",)})
    with pytest.raises(ConfigError, match="needs a backbone whose tokenizer has an end token"):
        encode([example], task("generation"), load_tokenizer(bare), for_training=True)

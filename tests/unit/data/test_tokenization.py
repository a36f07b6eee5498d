from types import SimpleNamespace

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, BertTokenizerFast, GPT2TokenizerFast, RobertaTokenizerFast

from sparsetune.data.examples import GenerationExample, SpanExample, TextExample
from sparsetune.data.tokenization import SEPARATOR, collate, encode
from sparsetune.errors import ConfigError, DataError

WORDS = ["ada", "ben", "lives", "in", "oslo", "rome", ".", "where", "who", "?", *"abcdefgh"]
ALPHABET = sorted(ByteLevel.alphabet())


@pytest.fixture(scope="module")
def bert():
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizerFast(vocab={name: number for number, name in enumerate(names)})


@pytest.fixture(scope="module")
def roberta():
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *ALPHABET]
    vocabulary = {name: number for number, name in enumerate(names)}
    return RobertaTokenizerFast(vocab=vocabulary, merges=[])


@pytest.fixture(scope="module")
def gpt2():
    vocabulary = {name: number for number, name in enumerate(["<|endoftext|>", *ALPHABET])}
    tokenizer = GPT2TokenizerFast(vocab=vocabulary, merges=[])
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def task_of(kind, maximum_tokens=16, stride=2, generation=None):
    return SimpleNamespace(
        id="t",
        kind=kind,
        maximum_tokens=maximum_tokens,
        window_stride_tokens=stride,
        generation=generation,
    )


def test_pairs_are_encoded_with_segments_and_labels(bert):
    examples = [TextExample("0", "a b", "c", 1), TextExample("1", "a", "d", None)]
    first, second = encode(examples, task_of("classification"), bert, for_training=True)
    # [CLS] a b [SEP] c [SEP], ids counted by hand in the vocabulary above
    assert first == {
        "input_ids": [2, 15, 16, 3, 17, 3],
        "attention_mask": [1] * 6,
        "token_type_ids": [0, 0, 0, 0, 1, 1],
        "labels": 1,
    }
    assert "labels" not in second


def test_long_pairs_are_cut_to_maximum_tokens_and_keep_both_texts(bert):
    examples = [TextExample("0", "a " * 30, "c d", 2.5)]
    (feature,) = encode(examples, task_of("regression", 8), bert, for_training=False)
    assert feature["input_ids"] == [2, 15, 15, 15, 3, 17, 18, 3]
    assert feature["labels"] == 2.5


def test_a_single_sentence_equals_the_tokenizer_s_own_encoding(roberta):
    examples = [TextExample("0", "Ada é", None, 0)]
    (feature,) = encode(examples, task_of("classification", 64), roberta, for_training=True)
    assert feature["input_ids"] == roberta("Ada é")["input_ids"]
    assert "token_type_ids" not in feature


def test_pairs_without_a_separator_token_get_a_written_one(gpt2):
    examples = [TextExample("0", "one", "two", 0)]
    (feature,) = encode(examples, task_of("classification", 64), gpt2, for_training=True)
    assert gpt2.decode(feature["input_ids"]) == f"one{SEPARATOR} two"


CONTEXT = "Ada lives in Oslo. Ben lives in Rome."


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("answer", ["Oslo", "Ada", "lives in Rome", "Rome."])
def test_positions_point_at_the_answer_s_text(name, answer, request):
    tokenizer = request.getfixturevalue(name)
    start = CONTEXT.index(answer)
    example = SpanExample("q", "Who?", CONTEXT, ((answer, start),))
    (feature,) = encode([example], task_of("span", 80), tokenizer, for_training=False)
    offsets = feature["offset_mapping"]
    first, last = offsets[feature["start_positions"]], offsets[feature["end_positions"]]
    assert CONTEXT[first[0] : last[1]].strip() == answer
    assert feature["example_index"] == 0


def test_windows_cover_the_context_and_point_at_cls_without_the_answer(bert):
    context = "a b c d e f g h " * 4 + "oslo"
    answer = (("oslo", context.index("oslo")),)
    examples = [SpanExample("q0", "who ?", "ada", (("ada", 0),))]
    examples.append(SpanExample("q1", "  where ?", context, answer))
    features = encode(examples, task_of("span", 16, 4), bert, for_training=False)
    # 16 tokens less 3 special less 2 of question: 11 of context a window, 7 new each time
    assert [f["example_index"] for f in features] == [0, 1, 1, 1, 1, 1]
    seen = {pair for f in features[1:] for pair in f["offset_mapping"] if pair}
    assert seen == {(2 * n, 2 * n + 1) for n in range(32)} | {(64, 68)}
    assert all(len(f["input_ids"]) <= 16 for f in features)
    starts = [f["start_positions"] for f in features[1:]]
    assert starts[:-1] == [0, 0, 0, 0]
    assert features[-1]["input_ids"][starts[-1]] == bert.convert_tokens_to_ids("oslo")
    assert all(f["offset_mapping"][:4] == [None] * 4 for f in features[1:])


def test_an_answer_cut_by_a_window_s_edge_is_not_in_that_window(bert):
    context = " ".join("abcdefgh" * 3)
    example = SpanExample("q", "who", context, (("h a b", context.index("h a b")),))
    features = encode([example], task_of("span", 12, 0), bert, for_training=True)
    # 8 tokens of context a window: a..h | a..h | a..h, and "h a b" crosses the first edge
    assert [(f["start_positions"], f["end_positions"]) for f in features] == [(0, 0)] * 3
    features = encode([example], task_of("span", 12, 2), bert, for_training=True)
    found = [f["input_ids"][f["start_positions"] : f["end_positions"] + 1] for f in features]
    assert bert.convert_tokens_to_ids(["h", "a", "b"]) in found
    assert "offset_mapping" not in features[0]


def test_a_question_longer_than_a_window_is_cut(bert):
    example = SpanExample("q", "a " * 200, "b " * 20 + "oslo", (("oslo", 40),))
    features = encode([example], task_of("span", 16, 4), bert, for_training=True)
    assert all(f["input_ids"][1:9] == [15] * 8 and f["input_ids"][9] == 3 for f in features)
    assert any(f["start_positions"] for f in features)


@pytest.mark.parametrize("stride", [5, -1, None])
def test_a_stride_without_room_is_refused(bert, stride):
    example = SpanExample("q", "who", "oslo", (("oslo", 0),))
    with pytest.raises(ConfigError, match=r"task t: window_stride_tokens: received .* value < 5 "):
        encode([example], task_of("span", 16, stride), bert, for_training=True)


def test_generation_trains_on_the_reference_only(gpt2):
    task = task_of("generation", 64, generation=SimpleNamespace(maximum_new_tokens=8))
    examples = [GenerationExample("0", "food : Thai", ("Thai food.", "It is Thai."))]
    features = encode(examples, task, gpt2, for_training=True)
    (prompt,) = encode(examples, task, gpt2, for_training=False)
    assert gpt2.decode(prompt["input_ids"]) == f"food : Thai{SEPARATOR}"
    assert "labels" not in prompt
    for feature, reference in zip(features, ("Thai food.", "It is Thai."), strict=True):
        length = len(prompt["input_ids"])
        assert feature["input_ids"][:length] == prompt["input_ids"]
        assert feature["labels"][:length] == [-100] * length
        answer = feature["labels"][length:]
        assert answer == feature["input_ids"][length:]
        assert gpt2.decode(answer) == f" {reference}<|endoftext|>"


def test_long_generation_inputs_keep_separator_and_room_for_the_answer(gpt2):
    task = task_of("generation", 20, generation=SimpleNamespace(maximum_new_tokens=8))
    examples = [GenerationExample("0", "s" * 50, ("r" * 50,))]
    (prompt,) = encode(examples, task, gpt2, for_training=False)
    assert gpt2.decode(prompt["input_ids"]) == "s" * 9 + SEPARATOR
    (feature,) = encode(examples, task, gpt2, for_training=True)
    assert len(feature["input_ids"]) == 20
    assert feature["labels"].count(-100) == 12
    with pytest.raises(ConfigError, match="maximum_tokens: received 3, too few"):
        encode(examples, task_of("generation", 3), gpt2, for_training=True)


def test_collate_pads_on_the_asked_side():
    features = [
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [-100, 6, 7]},
        {"input_ids": [8], "attention_mask": [1], "labels": [8]},
    ]
    right = collate(features, pad_token_id=9)
    assert right["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert right["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    left = collate(features, pad_token_id=9, side="left")
    assert left["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_collate_keeps_scalars_with_their_type_and_drops_other_fields():
    token = {"input_ids": [1], "offset_mapping": [None], "example_index": 4, "start_positions": 0}
    batch = collate([{**token, "labels": 2.5}, {**token, "labels": 0.0}], pad_token_id=0)
    assert sorted(batch) == ["input_ids", "labels", "start_positions"]
    assert batch["labels"].dtype == torch.float32
    assert batch["start_positions"].dtype == torch.int64


def test_collate_refuses_features_that_differ():
    with pytest.raises(ValueError, match="labels: in 1 of 2 features; need all"):
        collate([{"input_ids": [1], "labels": 0}, {"input_ids": [1]}], pad_token_id=0)
    with pytest.raises(ValueError, match="features and side right or left, received 0"):
        collate([], pad_token_id=0)


def test_no_examples_give_no_features(bert):
    assert encode([], task_of("span"), bert, for_training=True) == []


@pytest.mark.parametrize(
    ("architecture", "name", "special", "template"),
    [
        ("bert", "Bert", "[PAD] [UNK] [CLS] [SEP] [MASK]", "[CLS] A [SEP] B [SEP]"),
        ("roberta", "Roberta", "<s> <pad> </s> <unk> <mask>", "<s> A </s> </s> B </s>"),
        ("gpt2", "GPT2", "<|endoftext|>", "A B"),
    ],
)
def test_a_trained_tokenizer_is_of_its_architecture_and_the_same_each_time(
    architecture, name, special, template, train, trained, tmp_path
):
    folder = trained[architecture]
    again = train(architecture, tmp_path) / "tokenizer.json"
    assert again.read_bytes() == (folder / "tokenizer.json").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__.startswith(name)
    assert tokenizer.convert_tokens_to_ids(special.split()) == list(range(len(special.split())))
    assert (len(tokenizer), tokenizer.model_max_length) == (500, 128)
    parts = {"A": "the herons sing", "B": "many birds"}
    expected = [
        token
        for part in template.split()
        for token in (tokenizer.tokenize(parts[part]) if part in parts else [part])
    ]
    encoded = tokenizer(parts["A"], parts["B"])
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == expected


def test_wordpiece_lower_cases_and_byte_bpe_returns_any_text(trained):
    bert, gpt2 = (AutoTokenizer.from_pretrained(trained[name]) for name in ("bert", "gpt2"))
    assert bert.tokenize("The Heron") == bert.tokenize("the heron")
    text = "name[The Blue Heron], é ☃"
    assert gpt2.decode(gpt2(text)["input_ids"]).strip() == text


@pytest.mark.parametrize(
    ("kind", "architecture", "size", "named"),
    [
        ("wordpiece", "t5", 500, "t5"),
        ("byte-bpe", "bert", 500, "byte-bpe"),
        ("byte-bpe", "gpt2", 100, "vocabulary_size: received 100"),
    ],
)
def test_wrong_settings_are_refused(kind, architecture, size, named, train, tmp_path):
    with pytest.raises(ConfigError, match=named):
        train(architecture, tmp_path, kind, size)


def test_missing_corpus_is_refused(train, tmp_path):
    with pytest.raises(DataError, match=r"none\.txt"):
        train("bert", tmp_path / "out", text=tmp_path / "none.txt")

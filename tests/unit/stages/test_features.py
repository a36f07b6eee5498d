import pytest
import torch
from transformers import BertTokenizerFast

from sparsetune.data.corpus import IGNORED_LABEL
from sparsetune.stages.features import masked_features

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
CLS, SEP, MASK = 2, 3, 4
PAIR = {"input_ids": [CLS, 5, 6, SEP, 7, 8, SEP], "attention_mask": [1] * 7,
        "token_type_ids": [0, 0, 0, 0, 1, 1, 1], "labels": 1}  # fmt: skip
SHORT = {"input_ids": [CLS, 9, SEP], "attention_mask": [1] * 3, "token_type_ids": [0] * 3,
         "labels": 0}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)})


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

"""Hugging Face folders as somebody would bring them: tiny models of families, real tokenizers."""

import functools
import json

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast, set_seed
from unit.tiny_families import class_of, family_config

from sparsetune.architectures.families import FAMILIES
from sparsetune.data.synthetic.tasks import write_corpus

VOCABULARY = 400


@functools.cache
def texts(root):
    write_corpus(root / "texts.txt", seed=0, documents=60)
    return (root / "texts.txt").read_text(encoding="utf-8").splitlines()


def _trained(model, trainer, root, **parts):
    backend = Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.train_from_iterator(texts(root), trainer)
    return backend


def _around(backend, single, pair):
    words = {word.partition(":")[0] for word in f"{single} {pair}".split()}
    special = sorted(word for word in words if word[0] != "$")
    numbers = [(token, backend.token_to_id(token)) for token in special]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=numbers
    )


def wordpiece(root):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = _trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special),
        root,
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
    )
    _around(backend, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return backend, names


def unigram(root):
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    backend = _trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="[UNK]"),
        root,
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    _around(backend, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return backend, names


def byte_bpe(root, *special):
    return _trained(
        models.BPE(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
        root,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )


def bpe_with_separator(root):
    """As ModernBERT's."""
    backend = byte_bpe(root, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    _around(backend, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return backend, names


def bpe_like_gpt2(root):
    """One special token, and nothing around texts: no token of its own for padding."""
    return byte_bpe(root, "<|endoftext|>"), {"eos": "<|endoftext|>", "bos": "<|endoftext|>"}


def bpe_with_another_pad(root):
    """As Qwen's: what pads is not what ends."""
    names = {"eos": "<|im_end|>", "pad": "<|endoftext|>"}
    return byte_bpe(root, "<|endoftext|>", "<|im_end|>"), names


def bytes_for_the_unknown(root):
    """As Llama's first: a begin token before every text, and bytes for letters it has not seen."""
    parts = {
        "pre_tokenizer": pre_tokenizers.Metaspace(),
        "decoder": decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        ),
    }
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    backend = _trained(models.BPE(unk_token="<unk>"), trainer, root, **parts)
    # Bytes are no special tokens, so they cannot be the trainer's.
    told = json.loads(backend.to_str())
    vocabulary = told["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    told["model"] |= {"byte_fallback": True, "fuse_unk": True}
    backend = Tokenizer.from_str(json.dumps(told))
    _around(backend, "<s> $A", "<s> $A <s> $B:1")
    return backend, {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}


TOKENIZERS = {
    "bert": wordpiece,
    "distilbert": wordpiece,
    "electra": wordpiece,
    "ernie": wordpiece,
    "megatron-bert": wordpiece,
    "xlm-roberta-xl": unigram,
    "roberta-prelayernorm": bpe_with_separator,
    "deberta-v2": unigram,
    "modernbert": bpe_with_separator,
    "gpt2": bpe_like_gpt2,
    "llama": bpe_like_gpt2,
    "mistral": bytes_for_the_unknown,
    "qwen2": bpe_with_another_pad,
    "qwen3": bpe_with_another_pad,
}
"""Model type -> the kind of tokenizer that its published models come with."""


def make_folder(folder, model_type, *, make_tokenizer=None, seed=0, **changes):
    """A language model of random weights with its tokenizer."""
    make_tokenizer = make_tokenizer or TOKENIZERS[model_type]
    backend, names = make_tokenizer(folder.parent)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        # As most classes of tokenizers have it, whatever the model takes.
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )
    numbers = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(names[name]) if name in names else None
        for name in ("pad", "bos", "eos")
    }
    if FAMILIES[model_type].generates:
        numbers["pad_token_id"] = None  # as the published ones have it
    config = family_config(model_type)
    told = {"vocab_size": len(tokenizer), "max_position_embeddings": 130, **numbers, **changes}
    for name, value in told.items():
        setattr(config, name, value)
    set_seed(seed)
    class_of(model_type, "language")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

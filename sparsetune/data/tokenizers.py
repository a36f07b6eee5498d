"""Train a tokenizer on a corpus and save it as an ordinary Hugging Face folder.

Only for backbones that are pre-trained here; published backbones bring their own tokenizer.
"""

from collections import Counter
from pathlib import Path
from typing import Literal

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertTokenizerFast,
    GPT2TokenizerFast,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
)

from sparsetune.errors import ConfigError, DataError

Kind = Literal["wordpiece", "byte-bpe"]
Architecture = Literal["bert", "roberta", "gpt2"]
# The order fixes the ids, and it is that of the published vocabularies.
_SPECIAL_TOKENS: dict[str, tuple[str, ...]] = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "gpt2": ("<|endoftext|>",),
}
_KIND_OF: dict[str, str] = {"bert": "wordpiece", "roberta": "byte-bpe", "gpt2": "byte-bpe"}
_BYTES = 256


def train_tokenizer(
    kind: Kind,
    corpus: Path,
    *,
    vocabulary_size: int,
    architecture: Architecture,
    directory: Path,
    maximum_tokens: int,
) -> None:
    """Train a tokenizer and save it so that ``AutoTokenizer.from_pretrained`` loads it.

    Args:
        kind: ``wordpiece`` (BERT, lower case) or ``byte-bpe`` (RoBERTa, GPT-2; case kept).
        corpus: UTF-8 text, one document on each line.
        vocabulary_size: most tokens, special ones included; a small corpus may give fewer.
        architecture: decides special tokens, pair encoding and the saved class.
        directory: where the folder is written; made if missing.
        maximum_tokens: ``model_max_length`` of the saved tokenizer.

    Raises:
        ConfigError: unknown architecture, a kind that does not fit it, or sizes too small.
        DataError: if the corpus is missing or empty.

    Differs:
        From the published vocabularies in size; WordPiece is built from whole words and single
        characters, without the sub-words between them. RoBERTa and GPT-2 tokenizers put a space
        before the first word, so that a word has the same token wherever it stands.
    """
    _check(kind, corpus, vocabulary_size, architecture, maximum_tokens)
    special = list(_SPECIAL_TOKENS[architecture])
    build = _wordpiece if kind == "wordpiece" else _byte_bpe
    backend = build(corpus, vocabulary_size, special)
    tokenizer = _wrap(backend, architecture, maximum_tokens)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)


def _check(
    kind: str, corpus: Path, vocabulary_size: int, architecture: str, maximum_tokens: int
) -> None:
    """Refuse settings that cannot give a usable tokenizer."""
    if architecture not in _KIND_OF:
        allowed = ", ".join(_KIND_OF)
        raise ConfigError(f"tokenizer: architecture {architecture!r}, allowed: {allowed}")
    if kind != _KIND_OF[architecture]:
        allowed = _KIND_OF[architecture]
        raise ConfigError(f"tokenizer: kind {kind!r} for {architecture}, allowed: {allowed}")
    least = len(_SPECIAL_TOKENS[architecture]) + (_BYTES if kind == "byte-bpe" else 1)
    if vocabulary_size < least:
        raise ConfigError(f"tokenizer: vocabulary_size {vocabulary_size}, allowed: {least} or more")
    if maximum_tokens < 1:
        raise ConfigError(f"tokenizer: maximum_tokens {maximum_tokens}, allowed: 1 or more")
    if not corpus.is_file() or corpus.stat().st_size == 0:
        raise DataError(f"{corpus}: the corpus is missing or empty; need one document a line")


def _wordpiece(corpus: Path, vocabulary_size: int, special: list[str]) -> Tokenizer:
    """BERT's lower-casing WordPiece: all characters, then whole words by falling frequency.

    The library's WordPiece trainer breaks ties by hash order, so that two runs give different
    vocabularies; counting words gives one.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    with corpus.open(encoding="utf-8") as file:
        for line in file:
            pieces = splitter.pre_tokenize_str(normalizer.normalize_str(line))
            counts.update(word for word, _ in pieces)
    letters = sorted(set().union(*counts))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    ordered = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    kept = list(dict.fromkeys(ordered))[:vocabulary_size]
    vocabulary = {token: index for index, token in enumerate(kept)}
    backend = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _byte_bpe(corpus: Path, vocabulary_size: int, special: list[str]) -> Tokenizer:
    """GPT-2's byte-level BPE, untrained; every byte has a token, so nothing is unknown."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train([str(corpus)], trainer)
    return backend


def _wrap(backend: Tokenizer, architecture: str, maximum_tokens: int) -> PreTrainedTokenizerFast:
    """The trained tokenizer in the class of its architecture, with pair encoding."""
    special = {token: backend.token_to_id(token) for token in _SPECIAL_TOKENS[architecture]}
    if architecture == "bert":
        backend.post_processor = processors.BertProcessing(
            ("[SEP]", special["[SEP]"]), ("[CLS]", special["[CLS]"])
        )
        return BertTokenizerFast(
            tokenizer_object=backend, model_max_length=maximum_tokens, do_lower_case=True
        )
    if architecture == "roberta":
        backend.post_processor = processors.RobertaProcessing(
            ("</s>", special["</s>"]), ("<s>", special["<s>"]), add_prefix_space=True
        )
        return RobertaTokenizerFast(
            tokenizer_object=backend, model_max_length=maximum_tokens, add_prefix_space=True
        )
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return GPT2TokenizerFast(
        tokenizer_object=backend, model_max_length=maximum_tokens, add_prefix_space=True
    )

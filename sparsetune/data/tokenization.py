"""From text to token ids: examples to features, features to padded tensors, and new tokenizers.

Features are plain lists of integers, so they can be counted and tested without a model; only
``collate`` makes tensors. Tokenizers are trained for backbones that are pre-trained here alone;
published ones bring their own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sparsetune.architectures.base import Anew
from sparsetune.architectures.families import FAMILIES
from sparsetune.config.load import Task
from sparsetune.config.task import PUBLISHED_QUESTION_TOKENS, context_room
from sparsetune.data.examples import GenerationExample, SpanExample, TextExample
from sparsetune.errors import ConfigError, DataError, refusal, shown

IGNORED_LABEL = -100
SEPARATOR = " =>"  # between source and answer, for models without a separator token

_TOKEN_FIELDS = ("input_ids", "attention_mask", "token_type_ids")
_SCALAR_FIELDS = ("labels", "start_positions", "end_positions")
Kind = Literal["wordpiece", "byte-bpe"]
_BYTES = 256


def encode(
    examples: Sequence[Any], task: Task, tokenizer: Any, *, for_training: bool
) -> list[dict[str, Any]]:
    """Turn examples into token features, in order.

    Args:
        examples: all of one kind.
        task: catalogue entry; ``kind``, ``maximum_tokens``, ``window_stride_tokens`` and
            ``generation`` are read.
        tokenizer: a fast Hugging Face tokenizer with a pad token.
        for_training: True = with what the loss needs, False = with what scoring needs.

    Returns:
        ``input_ids``, ``attention_mask`` (and ``token_type_ids`` where the tokenizer makes
        them), at most ``maximum_tokens`` long, and per kind:

        * classification, regression: ``labels``, an int or a float; absent if unlabelled.
        * span: one feature a window with ``start_positions`` and ``end_positions`` (token
          indices, 0 = the first answer is not in the window); for scoring also
          ``example_index`` and ``offset_mapping`` (character pairs, None outside the context).
        * generation: training = prompt, reference and end token with ``labels`` -100 on the
          prompt; one feature a reference. Scoring = the prompt alone. A prompt begins as the
          tokenizer begins a text.

        Texts of a pair that the tokenizer puts no token between are kept apart by ``SEPARATOR``.

    Raises:
        ConfigError: ``window_stride_tokens`` leaves no room for a window, or a tokenizer without an
            end token is to generate.
    """
    if not examples:
        return []
    if task.kind == "span":
        return _encode_spans(examples, task, tokenizer, for_training=for_training)
    if task.kind == "generation":
        return _encode_generation(examples, task, tokenizer, for_training=for_training)
    return _encode_texts(examples, task, tokenizer)


def collate(
    features: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    side: Literal["right", "left"] = "right",
) -> dict[str, Tensor]:
    """Pad features to the longest of the batch.

    Fields that are not model inputs (``example_index``, ``offset_mapping``) are left out.

    Args:
        features: at least one, all with the same fields.
        pad_token_id: fills ``input_ids``.
        side: where the padding goes; ``left`` for generation from prompts.

    Returns:
        int64 tensors, ``(N, T)`` for token fields and token labels (padded with -100), ``(N,)``
        for class labels and positions; float32 ``(N,)`` for regression labels.

    Raises:
        ValueError: no features, an unknown side, or features whose fields differ.
    """
    if not features or side not in ("right", "left"):
        raise ValueError(
            f"need features and side right or left, received {len(features)}, {side!r}"
        )
    longest = max(len(feature["input_ids"]) for feature in features)
    batch: dict[str, Tensor] = {}
    for field in (*_TOKEN_FIELDS, *_SCALAR_FIELDS):
        rows = [feature[field] for feature in features if field in feature]
        if not rows:
            continue
        if len(rows) != len(features):
            raise ValueError(f"{field}: in {len(rows)} of {len(features)} features; need all")
        if isinstance(rows[0], list):
            fill = {"input_ids": pad_token_id, "labels": IGNORED_LABEL}.get(field, 0)
            rows = [_padded(row, longest, fill=fill, side=side) for row in rows]
        kind = torch.float32 if isinstance(rows[0], float) else torch.int64
        batch[field] = torch.tensor(rows, dtype=kind)
    return batch


def _padded(row: list[int], length: int, *, fill: int, side: str) -> list[int]:
    padding = [fill] * (length - len(row))
    return row + padding if side == "right" else padding + row


def _rows(encoded: Mapping[str, Any]) -> list[dict[str, Any]]:
    fields = [field for field in _TOKEN_FIELDS if field in encoded]
    return [
        dict(zip(fields, values, strict=True))
        for values in zip(*(encoded[field] for field in fields), strict=True)
    ]


def _encode_texts(
    examples: Sequence[TextExample], task: Task, tokenizer: Any
) -> list[dict[str, Any]]:
    first = [example.text for example in examples]
    second = None
    if examples[0].second_text is not None:
        lead = "" if _separates(tokenizer) else f"{SEPARATOR} "
        second = [f"{lead}{example.second_text}" for example in examples]
    features = _rows(tokenizer(first, second, truncation=True, max_length=task.maximum_tokens))
    for feature, example in zip(features, examples, strict=True):
        if example.label is not None:
            feature["labels"] = example.label
    return features


def _separates(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a token between two texts; else they would run into each other."""
    alone, pair = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    return bool(pair > alone)


def _encode_spans(
    examples: Sequence[SpanExample], task: Task, tokenizer: Any, *, for_training: bool
) -> list[dict[str, Any]]:
    questions = _cut_questions(examples, task, tokenizer)
    encoded = tokenizer(
        questions,
        [example.context for example in examples],
        truncation="only_second",
        max_length=task.maximum_tokens,
        stride=task.window_stride_tokens,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    features = _rows(encoded)
    for window, feature in enumerate(features):
        index = encoded["overflow_to_sample_mapping"][window]
        part_of = encoded.sequence_ids(window)
        offsets = [
            tuple(pair) if part == 1 else None
            for pair, part in zip(encoded["offset_mapping"][window], part_of, strict=True)
        ]
        start, end = _answer_tokens(examples[index].answers[0], offsets)
        feature |= {"start_positions": start, "end_positions": end}
        if not for_training:
            feature |= {"example_index": index, "offset_mapping": offsets}
    return features


def _cut_questions(examples: Sequence[SpanExample], task: Task, tokenizer: Any) -> list[str]:
    """Questions without leading blanks, cut so that every window has room for context."""
    limit = min(PUBLISHED_QUESTION_TOKENS, task.maximum_tokens // 2)
    special_tokens = tokenizer.num_special_tokens_to_add(pair=True)
    end = "" if _separates(tokenizer) else SEPARATOR
    special_tokens += len(tokenizer(end, add_special_tokens=False)["input_ids"]) if end else 0
    room = context_room(task.maximum_tokens, special_tokens)
    stride = task.window_stride_tokens
    if stride is None or not 0 <= stride < room:
        raise ConfigError(
            f"task {task.id}: window_stride_tokens: received {stride}, need 0 <= value < {room} "
            f"(maximum_tokens {task.maximum_tokens} less {limit} for the question and "
            f"{special_tokens} special tokens)"
        )
    questions = [example.question.lstrip() for example in examples]
    encoded = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
    return [
        (question if len(offsets) <= limit else question[: offsets[limit - 1][1]]) + end
        for question, offsets in zip(questions, encoded["offset_mapping"], strict=True)
    ]


def _answer_tokens(
    answer: tuple[str, int], offsets: Sequence[tuple[int, int] | None]
) -> tuple[int, int]:
    """First and last token of an answer, (0, 0) if the window does not hold all of it.

    Source:
        Devlin et al. 2019, arXiv:1810.04805 (windows without the answer point at [CLS]).
    Differs:
        Nothing.
    """
    text, begin = answer
    finish = begin + len(text)
    context = [(token, *pair) for token, pair in enumerate(offsets) if pair is not None]
    if not context or context[0][1] > begin or context[-1][2] < finish:
        return 0, 0
    inside = [token for token, left, right in context if right > begin and left < finish]
    return (inside[0], inside[-1]) if inside else (0, 0)


def _encode_generation(
    examples: Sequence[GenerationExample], task: Task, tokenizer: Any, *, for_training: bool
) -> list[dict[str, Any]]:
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"task {task.id}: kind generation needs a backbone whose tokenizer has an end token; "
            f"received a {type(tokenizer).__name__} without one"
        )
    prompts = _prompts([example.source for example in examples], task, tokenizer)
    if not for_training:
        return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in prompts]
    pairs = [
        (prompt, f" {reference}")
        for prompt, example in zip(prompts, examples, strict=True)
        for reference in example.references
    ]
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
    features = []
    for (prompt, _), answer in zip(pairs, answers, strict=True):
        ids = [*prompt, *answer, tokenizer.eos_token_id][: task.maximum_tokens]
        labels = [IGNORED_LABEL] * len(prompt) + ids[len(prompt) :]
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return features


def _prompts(sources: list[str], task: Task, tokenizer: Any) -> list[list[int]]:
    # Source and separator are tokenised apart, so a prompt is the same token for token in
    # training and in scoring, and the separator survives a cut.
    separator = tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"]
    answer_tokens = task.generation.maximum_new_tokens if task.generation else 0
    whole = max(task.maximum_tokens - answer_tokens, task.maximum_tokens // 2)
    opening = _opening(tokenizer, separator)
    fixed = len(opening) + len(separator)
    limit = whole - fixed
    if limit < 1:
        raise ConfigError(
            f"task {task.id}: maximum_tokens: received {shown(task.maximum_tokens)}, "
            f"too few for a source and {fixed} separator tokens"
        )
    encoded = tokenizer(sources, add_special_tokens=False)["input_ids"]
    return [opening + ids[:limit] + separator for ids in encoded]


def _opening(tokenizer: Any, separator: list[int]) -> list[int]:
    """What the tokenizer puts before any text, such as Llama's begin token; GPT-2's: nothing."""
    whole = tokenizer(SEPARATOR)["input_ids"]
    starts = range(len(whole) - len(separator) + 1)
    found = (start for start in starts if whole[start : start + len(separator)] == separator)
    return list(whole[: next(found, 0)])


def train_tokenizer(
    kind: Kind,
    corpus: Path,
    *,
    vocabulary_size: int,
    architecture: str,
    directory: Path,
    maximum_tokens: int,
) -> None:
    """Train a tokenizer and save it so that ``AutoTokenizer.from_pretrained`` loads it.

    Args:
        kind: ``wordpiece`` (lower case) or ``byte-bpe`` (case kept).
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
    known = {name: family.anew for name, family in FAMILIES.items() if family.anew}
    if architecture not in known:
        raise ConfigError(refusal("tokenizer", "architecture", architecture, known))
    anew = known[architecture]
    if kind != anew.tokenizer:
        raise ConfigError(refusal("tokenizer", "kind", kind, [anew.tokenizer]))
    special = list(anew.special_tokens)
    least = len(special) + (_BYTES if kind == "byte-bpe" else 1)
    if vocabulary_size < least:
        raise ConfigError(
            f"tokenizer: vocabulary_size: received {vocabulary_size}; allowed: {least} or more"
        )
    if not corpus.is_file() or corpus.stat().st_size == 0:
        raise DataError(f"{corpus}: the corpus is missing or empty; need one document a line")
    build = _wordpiece if kind == "wordpiece" else _byte_bpe
    backend = build(corpus, vocabulary_size, special)
    tokenizer = _wrap(backend, anew, maximum_tokens)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)


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


def _wrap(backend: Tokenizer, anew: Anew, maximum_tokens: int) -> PreTrainedTokenizerFast:
    """The trained tokenizer in the class of its architecture, with pair encoding."""
    wordpiece = anew.tokenizer == "wordpiece"
    if anew.around is None:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        before, after = ((token, anew.special_tokens.index(token)) for token in anew.around)
        backend.post_processor = (
            processors.BertProcessing(after, before)
            if wordpiece
            else processors.RobertaProcessing(after, before, add_prefix_space=True)
        )
    options = {"do_lower_case": True} if wordpiece else {"add_prefix_space": True}
    wrapper = getattr(transformers, anew.tokenizer_class)
    wrapped: PreTrainedTokenizerFast = wrapper(
        tokenizer_object=backend, model_max_length=maximum_tokens, **options
    )
    return wrapped

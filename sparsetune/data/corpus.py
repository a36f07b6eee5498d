"""Running text for pre-training: gathered into one file, cut into blocks of tokens, two objectives.

Masks are a pure function of seed and item, so a run that is resumed sees what it would have seen.
"""

import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from sparsetune.config.backbone import BackboneSource, HubText, SyntheticCorpus, TextFiles
from sparsetune.data.sources import corpus_files, matching_files, text_files
from sparsetune.data.synthetic.tasks import write_corpus
from sparsetune.data.tokenization import IGNORED_LABEL
from sparsetune.errors import ConfigError, DataError, first_line
from sparsetune.randomness import derive
from sparsetune.records import replacing, sha256_of

_COLUMN = "text"  # of parquet files
# Of the chosen tokens 80 % become the mask token and 10 % a random one; the rest stay.
_MASKED_SHARE = 0.8
_RANDOM_SHARE = 0.1
_FEWEST_TOKENS = 3  # one between the special tokens
_LINES_AT_ONCE = 1000
_TOKENS, _ENDS = "tokens.bin", "ends.npy"
_TOKEN_TYPE = np.int32


def gather_corpus(source: BackboneSource, destination: Path, *, lock_file: Path) -> dict[str, Any]:
    """Write a backbone's running text to one file, a document on each line.

    White space within a document becomes single blanks; documents without words are left out.
    Files are read one row at a time: ``datasets`` would keep a second copy of the whole corpus.

    Args:
        source: of a backbone that is pre-trained here.
        destination: UTF-8 file; appears only when complete.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        ``documents``, ``sha256`` and ``stored_bytes`` of the file, ``revision`` (hub commit; None
        for other sources) and, of the hub's text alone, ``files`` (path -> sha256).

    Raises:
        DataError: the source cannot be reached or read, or holds no document.
    """
    found: dict[str, Any] = {"revision": None}
    if isinstance(source, SyntheticCorpus):
        found["documents"] = source.documents
        with replacing(destination) as partial:
            write_corpus(partial, seed=source.seed, documents=source.documents)
    elif isinstance(source, HubText):
        folder, origin, found["revision"] = corpus_files(source).bring(lock_file)
        files = matching_files(source.files, folder, f"{origin}/")
        found["files"] = {str(path.relative_to(folder)): sha256_of(path) for path in files}
        found["documents"] = _write(destination, files, source.documents)
    elif isinstance(source, TextFiles):
        found["documents"] = _write(destination, text_files(source), source.documents)
    else:
        raise DataError(f"corpus: source {source.kind} holds no running text")
    sizes = {"sha256": sha256_of(destination), "stored_bytes": destination.stat().st_size}
    return {**found, **sizes}


def _write(destination: Path, files: Sequence[Path], most: int | None) -> int:
    texts = itertools.chain.from_iterable(_texts(path) for path in files)
    folded = (" ".join(text.split()) for text in texts)
    count = 0
    with replacing(destination) as partial, partial.open("w", encoding="utf-8") as file:
        for text in itertools.islice(filter(None, folded), most):
            file.write(text + "\n")
            count += 1
        if not count:
            raise DataError(f"{files[0]}: the corpus has no document")
    return count


def _texts(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            yield from _column(path)
        else:
            open_text = gzip.open if path.suffix == ".gz" else open
            with open_text(path, "rt", encoding="utf-8") as file:
                yield from file
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not readable text: {first_line(error)}") from None


def _column(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if names.count(_COLUMN) != 1:
            once = " once" if _COLUMN in names else ""
            raise DataError(f"{path}: columns: received {', '.join(names)}; need {_COLUMN}{once}")
        form = file.schema_arrow.field(_COLUMN).type
        form = form.value_type if pyarrow.types.is_dictionary(form) else form
        if not pyarrow.types.is_string(form) and not pyarrow.types.is_large_string(form):
            raise DataError(f"{path}: column {_COLUMN}: received {form}; allowed: string")
        for batch in file.iter_batches(columns=[_COLUMN]):
            yield from (text for text in batch.column(0).to_pylist() if text)


class Blocks(Sequence[list[int]]):
    """Token ids of many blocks in two files, so that a corpus may be larger than the memory."""

    def __init__(self, folder: Path) -> None:
        """Open what ``write`` wrote in a folder."""
        self._ends = np.load(folder / _ENDS)
        self._tokens = np.memmap(folder / _TOKENS, dtype=_TOKEN_TYPE, mode="r")

    @classmethod
    def write(cls, folder: Path, blocks: Iterable[Sequence[int]]) -> "Blocks":
        """Write blocks, at least one, none empty; what is complete there already is kept."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _ENDS).exists():
            sizes = []
            with (folder / _TOKENS).open("wb") as file:
                for block in blocks:
                    file.write(np.asarray(block, dtype=_TOKEN_TYPE).tobytes())
                    sizes.append(len(block))
            with replacing(folder / _ENDS) as partial, partial.open("wb") as file:
                np.save(file, np.cumsum(sizes))
        return cls(folder)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._ends)

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override]  # no slices
        """Token ids of one block."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = self._ends[index - 1] if index else 0
        return self._tokens[first : self._ends[index]].tolist()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each block."""
        return np.diff(self._ends, prepend=0).tolist()


def encode_corpus(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    block_tokens: int,
    layout: Literal["documents", "stream"] = "documents",
) -> Iterator[list[int]]:
    """Tokenise a corpus into blocks, special tokens included.

    Args:
        path: UTF-8 text, one document on each line; empty lines are skipped.
        tokenizer: BERT-like (blocks begin and end with its special tokens) or GPT-like (an end
            token after each document).
        block_tokens: most tokens in a block, >= 3.
        layout: ``documents``: each document is a block and its end is cut off; for short ones,
            where the words of a second document only blur the context of the first. ``stream``:
            documents follow each other, a separator in between, and are cut into full blocks;
            the last, unfinished one is dropped unless it is the only one.

    Returns:
        Token ids of each block, one by one.

    Raises:
        ConfigError: ``block_tokens`` is below 3 or above the tokenizer's limit.
        DataError: if the file is missing or has no document.

    Source:
        stream: Liu et al. 2019, arXiv:1907.11692, section 4.2 (full sentences).
    Differs:
        stream: documents are cut anywhere, not between sentences only.
    """
    if not _FEWEST_TOKENS <= block_tokens <= tokenizer.model_max_length:
        raise ConfigError(
            f"corpus: block_tokens: received {block_tokens}; allowed: {_FEWEST_TOKENS} to "
            f"{tokenizer.model_max_length}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such corpus; need a text file with one document a line")
    blocks = (_documents if layout == "documents" else _stream)(path, tokenizer, block_tokens)
    first = next(blocks, None)
    if first is None:
        raise DataError(f"{path}: the corpus has no document")
    return itertools.chain([first], blocks)


def _lines(path: Path) -> Iterator[list[str]]:
    """Lines with words, many at a time: the tokenizer is fast on lists."""
    with path.open(encoding="utf-8") as file:
        lines = (line.rstrip("\n") for line in file if line.strip())
        while batch := list(itertools.islice(lines, _LINES_AT_ONCE)):
            yield batch


def _documents(
    path: Path, tokenizer: PreTrainedTokenizerBase, block_tokens: int
) -> Iterator[list[int]]:
    end = tokenizer.eos_token if tokenizer.cls_token_id is None else ""
    for lines in _lines(path):
        ended = [line + end for line in lines]
        yield from tokenizer(ended, truncation=True, max_length=block_tokens)["input_ids"]


def _stream(
    path: Path, tokenizer: PreTrainedTokenizerBase, block_tokens: int
) -> Iterator[list[int]]:
    causal = tokenizer.cls_token_id is None
    begin, end = ([], []) if causal else ([tokenizer.cls_token_id], [tokenizer.sep_token_id])
    between = tokenizer.eos_token_id if causal else tokenizer.sep_token_id
    room = block_tokens - len(begin) - len(end)
    waiting: list[int] = []
    any_full = False
    for lines in _lines(path):
        encoded = tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"]
        for tokens in encoded:
            waiting += [*tokens, between]
        full = len(waiting) // room * room
        for first in range(0, full, room):
            yield [*begin, *waiting[first : first + room], *end]
        any_full |= full > 0
        waiting = waiting[full:]
    if waiting and not any_full:
        yield [*begin, *waiting, *end]


def mask_tokens(
    tokens: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    *,
    fraction: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict and hide them by the 80/10/10 rule.

    Args:
        tokens: int64, any shape, token ids; not changed.
        tokenizer: gives the mask token, the vocabulary and the special tokens, which are
            neither chosen nor put in as random tokens.
        fraction: probability that a token is chosen, in ``(0, 1)``.
        generator: CPU source of randomness.

    Returns:
        Inputs and labels, int64, the shape of ``tokens``; labels are -100 where nothing is
        to be predicted.

    Raises:
        ConfigError: if ``fraction`` is out of range or the tokenizer has no mask token.

    Source:
        Devlin et al. 2019, arXiv:1810.04805, section 3.1 (task 1).
    Differs:
        Each token is chosen by itself, so the count varies; random tokens are never special.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"masked LM: fraction {fraction}, allowed: between 0 and 1")
    if tokenizer.mask_token_id is None:
        raise ConfigError(f"masked LM: {type(tokenizer).__name__} has no mask token")
    special = torch.tensor(sorted(tokenizer.all_special_ids))
    chosen = torch.rand(tokens.shape, generator=generator) < fraction
    chosen &= ~torch.isin(tokens, special)
    fate = torch.rand(tokens.shape, generator=generator)
    ordinary = torch.arange(len(tokenizer))
    ordinary = ordinary[~torch.isin(ordinary, special)]
    draws = torch.randint(len(ordinary), tokens.shape, generator=generator)
    inputs = tokens.clone()
    inputs[chosen & (fate < _MASKED_SHARE)] = tokenizer.mask_token_id
    swapped = chosen & (fate >= _MASKED_SHARE) & (fate < _MASKED_SHARE + _RANDOM_SHARE)
    inputs[swapped] = ordinary[draws[swapped]]
    return inputs, tokens.masked_fill(~chosen, IGNORED_LABEL)


class TrainingBlocks(Dataset[dict[str, Tensor]]):
    """Blocks with what is to be predicted of them: the next token, or tokens that are hidden.

    A block may appear several times, with other tokens hidden. Item ``copy * N + block`` is a pure
    function of the seed and its index: order, workers and resuming do not change it.
    """

    def __init__(
        self,
        blocks: Sequence[list[int]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        fraction: float | None,
        copies: int = 1,
        seed: int = 0,
        segments: Sequence[list[int] | None] | None = None,
    ) -> None:
        """Keep the blocks; nothing is masked before it is asked for.

        Args:
            blocks: token ids of each document.
            tokenizer: see :func:`mask_tokens`.
            fraction: see :func:`mask_tokens`; None = the next token, and the model shifts the
                labels itself.
            copies: how often each block appears, >= 1.
            seed: >= 0.
            segments: ``token_type_ids`` of each block, where the tokenizer makes them.
        """
        self._blocks = blocks
        self._tokenizer = tokenizer
        self._fraction = fraction
        self._copies = copies
        self._seed = seed
        self._segments = segments

    def __len__(self) -> int:
        """Number of items: blocks times copies."""
        return len(self._blocks) * self._copies

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item."""
        blocks = self._blocks
        own = blocks.lengths if isinstance(blocks, Blocks) else [len(block) for block in blocks]
        return own * self._copies

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Input ids, attention mask, labels and, if there are any, token types: int64, ``(T,)``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = index % len(self._blocks)
        inputs = torch.tensor(self._blocks[block])
        labels = inputs
        if self._fraction is not None:
            inputs, labels = mask_tokens(
                inputs,
                self._tokenizer,
                fraction=self._fraction,
                generator=torch.Generator().manual_seed(derive(self._seed, "item", index)),
            )
        item = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}
        segment = self._segments[block] if self._segments else None
        return item if segment is None else {**item, "token_type_ids": torch.tensor(segment)}


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad items to the longest of a batch, for either objective.

    Padding is masked out, so the id that stands there (0) does not matter.

    Args:
        items: of :class:`TrainingBlocks`, at least one.

    Returns:
        The same keys, int64, shape ``(B, T)``; labels are -100 in the padding.
    """
    return {
        key: pad_sequence(
            [item[key] for item in items],
            batch_first=True,
            padding_value=IGNORED_LABEL if key == "labels" else 0,
        )
        for key in items[0]
    }

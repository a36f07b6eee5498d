"""Running text for pre-training: a block for each document, and the two objectives on them.

Masks are a pure function of seed and item, so a run that is resumed sees what it would have seen.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from sparsetune.errors import ConfigError, DataError

IGNORED_LABEL = -100
# Of the chosen tokens 80 % become the mask token and 10 % a random one; the rest stay.
MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


def encode_corpus(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, block_tokens: int
) -> list[list[int]]:
    """Tokenise a corpus, one block for each document.

    Documents are not packed together: in a small model the words of a second document only blur
    the context of the first.

    Args:
        path: UTF-8 text, one document on each line; empty lines are skipped.
        tokenizer: BERT-like (adds its special tokens) or GPT-like (an end token is added).
        block_tokens: longer documents are cut, >= 2.

    Returns:
        Token ids of each document, special tokens included.

    Raises:
        ConfigError: if ``block_tokens`` is below 2 or above the tokenizer's limit.
        DataError: if the file is missing or has no document.
    """
    if not 2 <= block_tokens <= tokenizer.model_max_length:
        limit = tokenizer.model_max_length
        raise ConfigError(f"corpus: block_tokens {block_tokens}, allowed: 2..{limit}")
    if not path.is_file():
        raise DataError(f"{path}: no such corpus; need a text file with one document a line")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path}: the corpus has no document")
    if tokenizer.cls_token_id is None:
        lines = [line + tokenizer.eos_token for line in lines]
    return tokenizer(lines, truncation=True, max_length=block_tokens)["input_ids"]


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
    inputs[chosen & (fate < MASKED_SHARE)] = tokenizer.mask_token_id
    swapped = chosen & (fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE)
    inputs[swapped] = ordinary[draws[swapped]]
    return inputs, tokens.masked_fill(~chosen, IGNORED_LABEL)


def _item_generator(seed: int, index: int) -> torch.Generator:
    """A generator for one item; numpy mixes the two numbers so that neighbours differ."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, dtype=np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class MaskedBlocks(Dataset):
    """Blocks for masked language modelling, each with several fixed ways of hiding tokens.

    Item ``copy * N + block`` is a pure function of the seed and its index: order, workers and
    resuming do not change it.
    """

    def __init__(
        self,
        blocks: list[list[int]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        fraction: float = 0.15,
        copies: int = 1,
        seed: int,
    ) -> None:
        """Keep the blocks; nothing is masked before it is asked for.

        Args:
            blocks: token ids of each document.
            tokenizer: see ``mask_tokens``.
            fraction: see ``mask_tokens``.
            copies: how often each block appears, differently masked, >= 1.
            seed: >= 0.

        Raises:
            ConfigError: if ``copies`` is below 1 or ``seed`` below 0.
        """
        if copies < 1 or seed < 0:
            raise ConfigError(
                f"masked LM: copies {copies}, seed {seed}; allowed: copies >= 1, seed >= 0"
            )
        self._blocks = blocks
        self._tokenizer = tokenizer
        self._fraction = fraction
        self._copies = copies
        self._seed = seed

    def __len__(self) -> int:
        """Number of items: blocks times copies."""
        return len(self._blocks) * self._copies

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, int64, shape ``(T,)``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        tokens = torch.tensor(self._blocks[index % len(self._blocks)])
        inputs, labels = mask_tokens(
            tokens,
            self._tokenizer,
            fraction=self._fraction,
            generator=_item_generator(self._seed, index),
        )
        return {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}


class CausalBlocks(Dataset):
    """Blocks for next-token prediction; the model shifts the labels itself."""

    def __init__(self, blocks: list[list[int]]) -> None:
        """Keep the blocks.

        Args:
            blocks: token ids of each document.
        """
        self._blocks = blocks

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, int64, shape ``(T,)``."""
        tokens = torch.tensor(self._blocks[index])
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "labels": tokens.clone(),
        }


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad items to the longest of a batch, for either objective.

    Padding is masked out, so the id that stands there (0) does not matter.

    Args:
        items: as given by ``MaskedBlocks`` or ``CausalBlocks``, at least one.

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

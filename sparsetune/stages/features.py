"""Training features of a task: examples read, cut to the suite's limit, and encoded."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparsetune.config.load import Task
from sparsetune.data.corpus import MaskedBlocks
from sparsetune.data.corpus import collate as collate_blocks
from sparsetune.data.encoding import collate, encode
from sparsetune.data.examples import read_examples
from sparsetune.data.feature_cache import cached_features


def training_features(
    task: Task, dataset: Path, tokenizer: Any, limits: Mapping[str, int | None]
) -> tuple[Sequence[dict[str, Any]], Callable[[list[Any]], dict[str, Tensor]]]:
    """Read and encode a task's training split, or take its features from the cache.

    Args:
        task: from the catalogue.
        dataset: the task's folder.
        tokenizer: of the backbone.
        limits: ``train_examples`` keeps the first N; None = all.

    Returns:
        Features, and the function that makes a batch of some of them.

    Raises:
        DataError: a file is missing or damaged.
    """
    limit = limits["train_examples"]

    def make() -> list[dict[str, Any]]:
        examples = read_examples(dataset, task, "train")[:limit]
        return encode(examples, task, tokenizer, for_training=True)

    features = cached_features(dataset, task, tokenizer, limit, make)
    return features, partial(collate, pad_token_id=tokenizer.pad_token_id)


class MaskedTexts(Dataset):
    """A task's texts for masked language modelling; each always has the same tokens hidden.

    Attributes:
        lengths: tokens of each text.
    """

    def __init__(
        self, features: Sequence[Mapping[str, Any]], tokenizer: Any, *, fraction: float, seed: int
    ) -> None:
        """Keep the texts; nothing is hidden before it is asked for.

        Args:
            features: encoded examples; their labels are left out.
            tokenizer: with a mask token.
            fraction: share of the tokens to predict, in (0, 1).
            seed: of the choice, >= 0.
        """
        texts = [feature["input_ids"] for feature in features]
        self.lengths = [len(text) for text in texts]
        self._segments = [feature.get("token_type_ids") for feature in features]
        self._masked = MaskedBlocks(texts, tokenizer, fraction=fraction, seed=seed)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._masked)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``labels``, and ``token_type_ids`` if there are any.

        Returns:
            int64, shape ``(T,)``.
        """
        item = self._masked[index]
        if self._segments[index] is not None:
            item["token_type_ids"] = torch.tensor(self._segments[index])
        return item


def masked_features(
    features: Sequence[Mapping[str, Any]], tokenizer: Any, *, fraction: float, seed: int
) -> tuple[MaskedTexts, Callable[[list[Any]], dict[str, Tensor]]]:
    """Turn a task's training features into masked texts; see :class:`MaskedTexts`.

    Returns:
        The texts, and the function that makes a batch of some of them.
    """
    return MaskedTexts(features, tokenizer, fraction=fraction, seed=seed), collate_blocks

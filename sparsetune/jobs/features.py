"""Training features of a task: examples read, cut to the suite's limit, and encoded."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsetune.catalog import Task
from sparsetune.data.encoding import collate, encode
from sparsetune.data.examples import read_examples


def training_features(
    task: Task, dataset: Path, tokenizer: Any, limits: Mapping[str, int | None]
) -> tuple[list[dict[str, Any]], Callable[[list[Any]], dict[str, Tensor]]]:
    """Read and encode a task's training split.

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
    examples = read_examples(dataset, task, "train")[: limits["train_examples"]]
    features = encode(examples, task, tokenizer, for_training=True)
    return features, partial(collate, pad_token_id=tokenizer.pad_token_id)

"""The order in which examples are seen, fixed before training starts.

The whole plan is a pure function of lengths, sizes and seed, so a resumed run skips what it
has seen and goes on exactly where it was, and the tokens seen can be counted without training.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_POOL_BATCHES = 50  # batches sorted by length together: little padding, still well mixed


@dataclass(frozen=True)
class TrainingPlan:
    """Batches in order, and how they make optimizer steps.

    Attributes:
        batches: example indices of every batch, in order.
        steps: optimizer steps.
        steps_per_epoch: optimizer steps in one pass over the examples.
        batch_tokens: tokens of every batch, padding not counted.
    """

    batches: list[list[int]]
    steps: int
    steps_per_epoch: int
    batch_tokens: list[int]

    @property
    def examples_seen(self) -> int:
        """Examples in all batches, repeats counted."""
        return sum(map(len, self.batches))

    @property
    def tokens_seen(self) -> int:
        """Tokens in all batches, repeats counted, padding not."""
        return sum(self.batch_tokens)

    def until(self, steps: int) -> "TrainingPlan":
        """The plan's beginning: what was seen if training stopped after so many steps."""
        count = min(steps, self.steps) * (len(self.batches) // self.steps)
        return replace(
            self, batches=self.batches[:count], steps=steps, batch_tokens=self.batch_tokens[:count]
        )

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        """Batches in order."""
        return iter(self.batches)


def lengths_of(features: Sequence[Any]) -> list[int]:
    """Tokens of each feature, without making any where they know their lengths.

    Args:
        features: with ``input_ids``, or as a whole with ``lengths``.
    """
    known = getattr(features, "lengths", None)
    return list(known) if known is not None else [len(item["input_ids"]) for item in features]


def make_plan(
    lengths: Sequence[int],
    *,
    batch_size: int,
    gradient_accumulation: int = 1,
    epochs: float,
    seed: int,
    horizon_epochs: float | None = None,
) -> TrainingPlan:
    """Draw the length-grouped order of a whole training.

    Args:
        lengths: tokens of each example, ``(N,)``.
        batch_size: examples in one batch.
        gradient_accumulation: batches in one optimizer step.
        epochs: passes over the examples, may be a fraction; at least one step is made.
        seed: of the order.
        horizon_epochs: plan this many epochs but keep only the first ``epochs``: a search
            that stops early then sees the same order as the full training.

    Returns:
        The plan; an epoch shows each example once.

    Raises:
        ValueError: no examples, or a size that is not positive.
    """
    if not lengths or batch_size < 1 or gradient_accumulation < 1 or epochs <= 0:
        raise ValueError(
            f"need examples, batch_size, gradient_accumulation and epochs above 0, received "
            f"{len(lengths)}, {batch_size}, {gradient_accumulation}, {epochs}"
        )
    steps_per_epoch = steps_in_epoch(len(lengths), batch_size, gradient_accumulation)
    steps = max(1, round(epochs * steps_per_epoch))
    horizon = max(1, round((horizon_epochs or epochs) * steps_per_epoch))
    generator = np.random.default_rng(seed)
    batches: list[list[int]] = []
    while len(batches) < max(steps, horizon) * gradient_accumulation:
        batches.extend(_one_epoch(np.asarray(lengths), batch_size, generator))
    batches = batches[: steps * gradient_accumulation]
    tokens = [int(sum(lengths[index] for index in batch)) for batch in batches]
    return TrainingPlan(batches, steps, steps_per_epoch, tokens)


def steps_in_epoch(examples: int, batch_size: int, gradient_accumulation: int = 1) -> int:
    """Optimizer steps in one pass over the examples; the last may be a smaller one."""
    return math.ceil(math.ceil(examples / batch_size) / gradient_accumulation)


def _one_epoch(
    lengths: np.ndarray, batch_size: int, generator: np.random.Generator
) -> list[list[int]]:
    order = generator.permutation(len(lengths))
    pool = batch_size * _POOL_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        members = members[np.argsort(-lengths[members], kind="stable")]
        batches.extend(
            members[first : first + batch_size].tolist()
            for first in range(0, len(members), batch_size)
        )
    return [batches[index] for index in generator.permutation(len(batches))]

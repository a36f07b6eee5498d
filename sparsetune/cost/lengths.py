"""How long a split's sequences are, and what is expected of one of them.

Attention grows with the square of the length, so a mean length alone prices a sequence too low.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sparsetune.errors import DataError

EVALUATION_BATCH = 64
"""Sequences in one forward pass of ``evaluate``; generation fits its own to memory. It stands here
since counting needs it without torch."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of a split's sequences (for spans, of its windows).

    Attributes:
        counts: tokens of a sequence, >= 1 -> sequences of that length, >= 1.
    """

    counts: dict[int, int]

    def __post_init__(self) -> None:
        if not self.counts:
            raise DataError("token lengths: received none; allowed: those of at least one sequence")
        for length, count in self.counts.items():
            for value in (length, count):
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise DataError(
                        f"token lengths: received {count!r} sequences of {length!r} tokens; "
                        "allowed: whole numbers >= 1"
                    )

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """Count the sequences of each length.

        Args:
            lengths: tokens of each sequence.
        """
        return cls(dict(sorted(Counter(lengths).items())))

    @classmethod
    def from_pairs(cls, pairs: Any) -> Self:
        """Take them from a record.

        Args:
            pairs: as :meth:`pairs` gives them.

        Raises:
            DataError: they are anything else.
        """
        try:
            return cls(dict(pairs))
        except (TypeError, ValueError):
            raise DataError(
                f"token lengths: received {pairs!r}; allowed: [tokens, sequences] pairs"
            ) from None

    def pairs(self) -> list[list[int]]:
        """``[tokens, sequences]`` for each length, shortest first, for a record."""
        return [[length, count] for length, count in sorted(self.counts.items())]

    @property
    def sequences(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """Tokens of one sequence."""
        return sum(length * count for length, count in self.counts.items()) / self.sequences

    def padded(self, batch_size: int) -> Self:
        """The lengths that are computed if batches, longest sequences first, are padded.

        Args:
            batch_size: sequences in one batch, >= 1; each is as long as its batch's longest.

        Example:
            >>> Lengths.of([2, 3, 5]).padded(2).pairs()
            [[2, 1], [5, 2]]
        """
        left, longest = 0, 0  # places left in the batch, and its length
        counts: dict[int, int] = {}
        for length, count in sorted(self.counts.items(), reverse=True):
            while count:
                if not left:
                    left, longest = batch_size, length
                taken = min(left, count)
                counts[longest] = counts.get(longest, 0) + taken
                left, count = left - taken, count - taken
        return type(self)(counts)

    def expected(self, macs: Callable[[int], int]) -> int:
        """Mean of a count over the sequences.

        Args:
            macs: length -> MACs of one such sequence.

        Returns:
            Rounded to a whole number.

        Example:
            >>> Lengths.of([1, 3]).expected(lambda tokens: tokens**2)
            5
        """
        total = sum(count * macs(length) for length, count in self.counts.items())
        return round(total / self.sequences)

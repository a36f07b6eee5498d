"""A run's model beside the dense one: its three kinds of inference MACs, at any length.

``dense`` is the model as published, without an update; ``executed`` and ``effective`` are as
``macs`` defines them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparsetune.cost.lengths import Lengths
from sparsetune.cost.macs import (
    OPERATORS,
    TrainingPhase,
    decoding_macs,
    macs_by_layer,
    macs_by_module,
    macs_by_operator,
    prefill_macs,
    training_macs,
)
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import FULL, UpdateCount
from sparsetune.errors import DataError

KINDS = ("dense", "executed", "effective")
PUBLISHED_TOKENS = 128
"""The length at which both papers count."""

_ATTENTION = ("scores", "context")


@dataclass(frozen=True)
class TunedShape:
    """What inference multiplies.

    Attributes:
        dense: before any removal.
        shape: after it.
        update: the branches that stand beside the weights of ``shape``.
        zeros: site key -> zeros left inside that matrix.
    """

    dense: ModelShape
    shape: ModelShape
    update: UpdateCount = FULL
    zeros: Mapping[str, int] = field(default_factory=dict)

    def macs(self, tokens: float) -> dict[str, int]:
        """MACs of one sequence, by kind of :data:`KINDS`.

        Args:
            tokens: length of the sequence, > 0.
        """
        return {
            kind: sum(macs_by_module(shape, tokens, update, zeros).values())
            for kind, (shape, update, zeros) in self._parts().items()
        }

    def over(self, lengths: Lengths) -> dict[str, int]:
        """Expected MACs of one sequence of a split, by kind.

        Args:
            lengths: of the split's sequences.
        """
        at = {tokens: self.macs(tokens) for tokens in lengths.counts}
        expected = {}
        for kind in KINDS:
            own = {tokens: macs[kind] for tokens, macs in at.items()}
            expected[kind] = lengths.expected(own.__getitem__)
        return expected

    def generation(self, prompts: Lengths, decoding: Mapping[str, int]) -> dict[str, Any]:
        """Expected MACs of generating one text, by kind and by part.

        Args:
            prompts: lengths of the prompts.
            decoding: ``beams``, and over all prompts ``steps_total`` and ``visible_keys_total``.

        Returns:
            ``prefill`` and ``decode``: kind -> MACs of one prompt.

        Raises:
            ModelError: the model does not generate, or counts that make no sense.
        """
        steps, keys = decoding["steps_total"], decoding["visible_keys_total"]
        found: dict[str, dict[str, int]] = {"prefill": {}, "decode": {}}
        for kind, (shape, update, zeros) in self._parts().items():
            at = {tokens: prefill_macs(shape, tokens, update, zeros) for tokens in prompts.counts}
            found["prefill"][kind] = prompts.expected(at.__getitem__)
            whole = decoding_macs(
                shape, steps, keys, beams=decoding["beams"], update=update, zeros=zeros
            )
            found["decode"][kind] = round(whole / prompts.sequences)
        return found

    def _parts(self) -> dict[str, tuple[ModelShape, UpdateCount, Mapping[str, int] | None]]:
        """Shape, update and zeros that cost nothing, by kind of :data:`KINDS`."""
        return {
            "dense": (self.dense, FULL, None),
            "executed": (self.shape, self.update, None),
            "effective": (self.shape, self.update, self.zeros),
        }

    def by_layer(self, tokens: float) -> dict[str, dict[str, list[int]]]:
        """Executed and effective MACs of one sequence: module -> one number for each layer.

        Args:
            tokens: length of the sequence, > 0.
        """
        return {
            "executed": macs_by_layer(self.shape, tokens, self.update),
            "effective": macs_by_layer(self.shape, tokens, self.update, self.zeros),
        }

    def by_operator(self, tokens: float) -> list[dict[str, Any]]:
        """Executed and effective MACs of one sequence for each of the kinds of product.

        Args:
            tokens: length of the sequence, > 0.
        """
        executed = macs_by_operator(self.shape, tokens, self.update)
        effective = macs_by_operator(self.shape, tokens, self.update, self.zeros)
        return [
            {"operator": name, "executed": executed[name], "effective": effective[name]}
            for name in OPERATORS
        ]

    def check_weights(self, found: Sequence[Sequence[Any]]) -> None:
        """Compare what is counted with the weights of the model that was run.

        Args:
            found: [module, weights that a token's products go through], from ``evaluate``.

        Raises:
            DataError: a module for which they differ.
        """
        there = {str(module): int(weights) for module, weights in found}
        # Relative positions go through some of them too, but only once for a batch.
        around = replace(self.shape.around, relative=0)
        macs = macs_by_module(replace(self.shape, told_around=around), 1, self.update)
        for module in dict.fromkeys((*macs, *there)):
            counted = 0 if module in _ATTENTION else macs.get(module, 0)
            if counted != there.get(module, 0):
                raise DataError(
                    f"{module}: counted {counted} multiplied weights, the evaluated model has "
                    f"{there.get(module, 0)}"
                )


def training_over_lengths(
    phases: Sequence[TrainingPhase], lengths: Lengths
) -> list[dict[str, int | str]]:
    """MACs of each phase if its sequences are as long as the training split's.

    Args:
        phases: search and training; the length that each tells is not used.
        lengths: of the training split, unpadded.

    Returns:
        ``phase`` and ``macs``; phases of one name are added up.
    """
    life: dict[str, int] = {}
    for phase in phases:
        at = {
            tokens: sum(training_macs(phase.shape, tokens, phase.update).values())
            for tokens in lengths.counts
        }
        total = round(lengths.expected(at.__getitem__) * phase.sequences)
        life[phase.name] = life.get(phase.name, 0) + total
    return [{"phase": name, "macs": macs} for name, macs in life.items()]

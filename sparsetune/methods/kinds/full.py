"""Full fine-tuning: every weight trains."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import FULL, UpdateCount
from sparsetune.methods.kind import Attached, UpdateKind

if TYPE_CHECKING:
    from torch import Tensor, nn


class FullUpdate(UpdateKind):
    """Every weight."""

    kind: Literal["full"]

    def attach(self, model: "nn.Module", supports: "Mapping[str, Tensor]", seed: int) -> Attached:
        """Let everything train."""
        model.requires_grad_(True)
        return Attached()

    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count nothing beside the weights."""
        return FULL

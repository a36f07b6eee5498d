"""BitFit: every bias trains, those of the layer norms and of BERT's pooler included."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import UpdateCount
from sparsetune.errors import ModelError
from sparsetune.methods.kind import Attached, UpdateKind

if TYPE_CHECKING:
    from torch import Tensor, nn


class BitfitUpdate(UpdateKind):
    """Every bias.

    Source:
        Ben Zaken et al. 2022, arXiv:2106.10199. Ours, because PEFT trains biases beside an
        adapter only: without target modules it refuses.
    Differs:
        Nothing.
    """

    kind: Literal["bitfit"]

    def attach(self, model: "nn.Module", supports: "Mapping[str, Tensor]", seed: int) -> Attached:
        """Let the biases and the task head train."""
        from sparsetune.architectures.anatomy import family_of, task_head_parameters

        heads = task_head_parameters(model)
        found = False
        for name, parameter in model.named_parameters():
            bias = name.endswith(".bias") and name not in heads
            parameter.requires_grad_(bias or name in heads)
            found |= bias
        if not found:
            raise ModelError(
                f"update bitfit: received a model of type {family_of(model).model_type} without "
                "biases; allowed: one that has some"
            )
        return Attached()

    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count the biases: parameters, but no multiply-adds."""
        return UpdateCount(own=shape.bias_parameters())

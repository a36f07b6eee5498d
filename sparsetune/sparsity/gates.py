"""EarlyBERT's trainable coefficients on heads and feed-forward neurons, attached from outside.

Two forward pre-hooks per layer; the model's own code and state are untouched.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.errors import ModelError
from sparsetune.models.anatomy import Anatomy


class GateSnapshot(NamedTuple):
    """Copies of the coefficients at one moment.

    Attributes:
        heads: float32, ``(L, H)``.
        neurons: float32, ``(L, F)``.
    """

    heads: np.ndarray
    neurons: np.ndarray


class Gates(nn.Module):
    """One coefficient per head and per neuron of a model, all 1.0 at first, in float32.

    A head's coefficient scales its slice of the attention output projection's input; a neuron's
    scales its activation before the second feed-forward matrix. They must stay in float32: in a
    search they move by about 0.01, which half precision near 1.0 turns into ties.

    Attributes:
        heads: parameter, ``(L, H)``.
        neurons: parameter, ``(L, F)``.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.1, equations 2 and 3.
    Differs:
        The released code scales attention probabilities in place; the same function, ours is out
        of place.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        anatomy = Anatomy.of(model)
        layers = range(anatomy.layers)
        head_counts = {anatomy.heads(layer) for layer in layers}
        widths = {anatomy.ffn_width(layer) for layer in layers}
        if len(head_counts) > 1 or len(widths) > 1:
            raise ModelError(
                f"gates need layers of one size; received heads {sorted(head_counts)}, "
                f"neurons {sorted(widths)}"
            )
        device = anatomy.site(0, "query").module.weight.device
        self.heads = nn.Parameter(torch.ones(anatomy.layers, head_counts.pop(), device=device))
        self.neurons = nn.Parameter(torch.ones(anatomy.layers, widths.pop(), device=device))
        self._head_size = anatomy.head_size
        self._hooks = []
        for layer in layers:
            attention = anatomy.site(layer, "attention_output").module
            ffn = anatomy.site(layer, "ffn_out").module
            for module, hook in (
                (attention, self._hook(layer, "heads", self._head_size)),
                (ffn, self._hook(layer, "neurons", 1)),
            ):
                self._hooks.append(module.register_forward_pre_hook(hook))

    def _hook(self, layer: int, name: str, repeat: int) -> Callable[[nn.Module, Any], Any]:
        def scale(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0]
            gate = getattr(self, name)[layer]
            factor = gate.unsqueeze(1).expand(-1, repeat).reshape(-1)
            if factor.numel() != x.shape[-1]:
                raise ModelError(
                    f"layer {layer}: {factor.numel()} gated features, {x.shape[-1]} in the model; "
                    "detach the gates before removing heads or neurons"
                )
            # The product runs in float32; only its result is rounded to the activation's dtype.
            return ((x * factor).to(x.dtype), *args[1:])

        return scale

    def penalty(self, lambda_heads: float, lambda_neurons: float) -> Tensor:
        """Term added to the loss: weighted sums, not means, of absolute coefficients.

        Args:
            lambda_heads: weight of the heads' sum, 0 or more; published 1e-4.
            lambda_neurons: weight of the neurons' sum, 0 or more; published 1e-4.

        Returns:
            Float32 scalar with gradient ``lambda * sign(c)``.

        Source:
            Chen et al. 2021, arXiv:2101.00063 section 3.1.
        Differs:
            Nothing.
        """
        return lambda_heads * self.heads.abs().sum() + lambda_neurons * self.neurons.abs().sum()

    def snapshot(self) -> GateSnapshot:
        """Copy the coefficients; later steps do not change the copy.

        Returns:
            Float32 arrays that own their memory.
        """
        return GateSnapshot(
            np.array(self.heads.detach().cpu(), dtype=np.float32, copy=True),
            np.array(self.neurons.detach().cpu(), dtype=np.float32, copy=True),
        )

    def detach_hooks(self) -> None:
        """Take the gates off the model; calling it again does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

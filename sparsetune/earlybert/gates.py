"""EarlyBERT's trainable coefficients on heads and feed-forward neurons, attached from outside.

Two projections of each layer are run with scaled weights; the model's own code and state are
untouched.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import Site, check_plain
from sparsetune.errors import ModelError


class GateSnapshot(NamedTuple):
    """Copies of the coefficients at one moment.

    Attributes:
        heads: float32, ``(L, H)``.
        neurons: float32, ``(L, F)``.
    """

    heads: np.ndarray
    neurons: np.ndarray


class _GatedForward:
    """A projection's forward pass, each coefficient scaling so many of its columns.

    An object, not a function, so that a copy of a gated model computes with its own weights.
    """

    def __init__(self, gates: "Gates", site: Site, name: str, features: int) -> None:
        self._gates, self._site, self._name, self._features = gates, site, name, features

    def __call__(self, x: Tensor) -> Tensor:
        site, module = self._site, self._site.module
        factor = getattr(self._gates, self._name)[site.layer].repeat_interleave(self._features)
        # The product is float32; only its result is rounded to the weight's dtype.
        if site.stored_in_by_out:
            weight = (module.weight * factor.unsqueeze(1)).to(module.weight.dtype)
            out = torch.addmm(module.bias, x.reshape(-1, x.shape[-1]), weight)
            return out.view(*x.shape[:-1], -1)
        weight = (module.weight * factor).to(module.weight.dtype)
        return nn.functional.linear(x, weight, module.bias)


class Gates(nn.Module):
    """One coefficient per head and per neuron of a model, all 1.0 at first, never below float32.

    A head's coefficient scales its slice of the attention output projection's input; a neuron's
    scales its activation before the second feed-forward matrix. They must stay in float32: in a
    search they move by about 0.01, which half precision near 1.0 turns into ties. So casting a
    model to half precision leaves them alone.

    Scaling the input is scaling the columns of the matrix that reads it, which is what happens
    here: a matrix is smaller than the activations of a batch, and nothing more is kept for the
    backward pass.

    Attributes:
        heads: parameter, ``(L, H)``.
        neurons: parameter, ``(L, F)``.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.1, equations 2 and 3.
    Differs:
        The released code scales attention probabilities, in place, and activations; the same
        function, ours scales weights, out of place.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        anatomy = Anatomy.of(model)
        for site in anatomy.sites():
            check_plain(site)
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
        self._gated: list[nn.Module] = []
        for layer in layers:
            of_a_head = len(anatomy.features_of("attention_output", [0]))
            sites = (("attention_output", "heads", of_a_head), ("ffn_out", "neurons", 1))
            for projection, name, features in sites:
                site = anatomy.site(layer, projection)
                site.module.forward = _GatedForward(self, site, name, features)
                self._gated.append(site.module)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Gates":
        """Move to another device, or to a wider dtype; never to a narrower one than float32."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype.itemsize >= 4 else tensor.to(result.device)

        return super()._apply(moved, recurse)

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
        for module in self._gated:
            del module.forward
        self._gated.clear()

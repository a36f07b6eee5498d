"""From coefficients to masks: which heads and neurons are kept, in exact numbers.

What becomes of the masks is in ``tickets.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sparsetune.errors import ConfigError, ModelError
from sparsetune.pruning.masks import exact_top_k, pruned_count

Scope = Literal["global", "layer"]


@dataclass(frozen=True)
class DrawConfig:
    """How much a ticket drops, and from where.

    Attributes:
        head_ratio: fraction of the heads dropped, in [0, 1).
        neuron_ratio: fraction of the neurons dropped, in [0, 1).
        neuron_scope: ``global`` over all layers, or ``layer``: the same count in each.
        head_scope: likewise for heads.
        neuron_multiple: the neurons kept in a layer are a multiple of this, as near as possible
            to what was drawn; 1 = as drawn. Matrix kernels in half precision like 8 or 16.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 4.1: 4 of 12 heads, 40 % of the neurons.
    Differs:
        Exact counts, rounded half up; the released code cuts at a quantile. ``neuron_multiple``
        is ours.
    """

    head_ratio: float = 1 / 3
    neuron_ratio: float = 0.4
    neuron_scope: Scope = "global"
    head_scope: Scope = "layer"
    neuron_multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("head_ratio", "neuron_ratio"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"ticket {name}: received {getattr(self, name)}, allowed: [0, 1)")
        for name in ("neuron_scope", "head_scope"):
            if getattr(self, name) not in ("global", "layer"):
                raise ConfigError(
                    f"ticket {name}: received {getattr(self, name)!r}, allowed: global, layer"
                )
        if self.neuron_multiple < 1:
            raise ConfigError(
                f"ticket neuron_multiple: received {self.neuron_multiple}, allowed: 1 or more"
            )


def draw_masks(heads: Any, neurons: Any, config: DrawConfig) -> tuple[Tensor, Tensor]:
    """Keep the largest coefficients, in exact numbers.

    Args:
        heads: floating, ``(L, H)``, tensor or array.
        neurons: floating, ``(L, F)``, tensor or array.
        config: ratios and scopes.

    Returns:
        bool ``(L, H)`` and bool ``(L, F)``; counts are exact in all layers together, or in each, by
        scope. Ranked by magnitude; ties keep the lower index (layer first). A global draw keeps at
        least the largest unit of each layer.

    Raises:
        ModelError: if a coefficient is NaN or a layer would be emptied.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.1: heads by layer, neurons over all layers.
    Differs:
        Exact top-k; the guard against an emptied layer is ours.
    """
    head_scores = torch.as_tensor(heads).detach().cpu().abs()
    neuron_scores = torch.as_tensor(neurons).detach().cpu().abs()
    if head_scores.dim() != 2 or neuron_scores.dim() != 2 or len(head_scores) != len(neuron_scores):
        raise ModelError(
            f"coefficients of heads {tuple(head_scores.shape)} and neurons "
            f"{tuple(neuron_scores.shape)}; needed: (L, H) and (L, F)"
        )
    draw = {"layer": _draw_each_layer, "global": _draw_all_layers}
    neuron_mask = draw[config.neuron_scope](neuron_scores, config.neuron_ratio, "neuron")
    return (
        draw[config.head_scope](head_scores, config.head_ratio, "head"),
        _in_multiples(neuron_scores, neuron_mask, config.neuron_multiple),
    )


def evenly_dropped(layers: int, ratio: float) -> tuple[int, ...]:
    """Choose which layers stay when a fraction of them is dropped, evenly spaced.

    Args:
        layers: how many there are, 1 or more.
        ratio: fraction to drop, in [0, 1).

    Returns:
        Numbers of the kept layers, from 0, increasing. Of ``n`` dropped ones the i-th is the
        ``ceil(i * layers / n)``-th layer, counted from 1: a third of 12 drops the 3rd, 6th, 9th
        and 12th.

    Raises:
        ModelError: if no layer would stay, or the ratio is outside [0, 1].

    Source:
        Fan et al. 2020, arXiv:1909.11556 section 3.2, "Every Other": a depth d counted from 1 is
        dropped if it is divisible by floor(1 / ratio).
    Differs:
        Nothing where 1 / ratio is whole and divides the layers; elsewhere the count is exact
        (rounded half up), which the published rule's is not.
    """
    dropped = pruned_count(ratio, layers)
    if dropped >= layers:
        raise ModelError(f"dropping {ratio} of {layers} layers leaves none")
    gone = {-(-index * layers // dropped) - 1 for index in range(1, dropped + 1)}
    return tuple(layer for layer in range(layers) if layer not in gone)


def _draw_each_layer(scores: Tensor, ratio: float, unit: str) -> Tensor:
    width = scores.shape[1]
    kept = width - pruned_count(ratio, width)
    if kept < 1:
        raise ModelError(f"dropping {ratio} of {width} {unit}s empties every layer")
    return _top_of_each(scores, [kept] * len(scores))


def _draw_all_layers(scores: Tensor, ratio: float, unit: str) -> Tensor:
    layers, total = scores.shape[0], scores.numel()
    kept = total - pruned_count(ratio, total)
    if kept < layers:
        raise ModelError(f"keeping {kept} of {total} {unit}s empties some of {layers} layers")
    # Each layer's best counts as kept beforehand: the result differs from plain top-k only
    # where that would empty a layer.
    best = _top_of_each(scores, [1] * layers)
    return exact_top_k(scores.masked_fill(best, math.inf), kept)


def _in_multiples(scores: Tensor, mask: Tensor, multiple: int) -> Tensor:
    """Round every layer's count to a multiple, at least one; an untouched layer stays whole."""
    if multiple == 1:
        return mask
    width = mask.shape[1]
    most = width // multiple * multiple
    counts = []
    for kept in mask.sum(1).tolist():
        rounded = min(max(multiple, (2 * kept + multiple) // (2 * multiple) * multiple), most)
        counts.append(kept if kept == width or rounded < 1 else rounded)
    return _top_of_each(scores, counts)


def _top_of_each(scores: Tensor, counts: Sequence[int]) -> Tensor:
    rows = zip(scores, counts, strict=True)
    return torch.stack([exact_top_k(row, count) for row, count in rows])

"""Tickets: which heads and neurons to keep, drawn from gates or at random, and saved.

When a search has settled is in ``settling.py``, passed on here; removal itself is in
``sparsetune.models.surgery``.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsetune.errors import ConfigError, ModelError
from sparsetune.models.anatomy import Anatomy, check_kept
from sparsetune.sparsity.masks import exact_top_k, pruned_count
from sparsetune.sparsity.settling import SettleDetector as SettleDetector
from sparsetune.sparsity.settling import mask_distance as mask_distance

Indices = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TicketLabel:
    """Whose ticket it is.

    Attributes:
        backbone: backbone id.
        task: task id.
        recipe: ticket recipe id.
        seed: of the search or of the random draw.
    """

    backbone: str
    task: str
    recipe: str
    seed: int


@dataclass(frozen=True)
class DrawConfig:
    """How much a ticket drops.

    Attributes:
        head_ratio: fraction of the heads dropped in every layer, in [0, 1).
        neuron_ratio: fraction of the neurons dropped, in [0, 1).
        neuron_scope: ``global`` over all layers, or ``layer``.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 4.1: 4 of 12 heads, 40 % of the neurons.
    Differs:
        Exact counts, rounded half up; the released code cuts at a quantile.
    """

    head_ratio: float = 1 / 3
    neuron_ratio: float = 0.4
    neuron_scope: Literal["global", "layer"] = "global"

    def __post_init__(self) -> None:
        for name in ("head_ratio", "neuron_ratio"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"ticket {name}: received {getattr(self, name)}, allowed: [0, 1)")
        if self.neuron_scope not in ("global", "layer"):
            raise ConfigError(
                f"ticket neuron_scope: received {self.neuron_scope!r}, allowed: global, layer"
            )


@dataclass(frozen=True)
class Ticket:
    """Heads and neurons to keep in each layer.

    Attributes:
        backbone: backbone id.
        task: task id.
        recipe: ticket recipe id.
        seed: of the search or of the random draw.
        heads: heads of every layer before removal.
        neurons: neurons of every layer before removal.
        kept_heads: for each layer, head numbers, strictly increasing, at least one.
        kept_neurons: for each layer, neuron numbers, strictly increasing, at least one.
        origin: ``search`` or ``random``.
    """

    backbone: str
    task: str
    recipe: str
    seed: int
    heads: int
    neurons: int
    kept_heads: Indices
    kept_neurons: Indices
    origin: Literal["search", "random"]

    def __post_init__(self) -> None:
        if self.origin not in ("search", "random"):
            raise ModelError(f"ticket origin {self.origin!r}; allowed: search, random")
        if len(self.kept_heads) != len(self.kept_neurons):
            raise ModelError(
                f"ticket has heads for {len(self.kept_heads)} layers "
                f"but neurons for {len(self.kept_neurons)}"
            )
        check_kept(self.kept_heads, [self.heads] * len(self.kept_heads), "head")
        check_kept(self.kept_neurons, [self.neurons] * len(self.kept_neurons), "neuron")

    def check_fits(self, model: nn.Module) -> None:
        """Check that the ticket was drawn for a model of this size.

        Args:
            model: a BERT, RoBERTa or GPT-2, nothing removed yet.

        Raises:
            ModelError: if layers, heads or neurons differ; names both sides.
        """
        anatomy = Anatomy.of(model)
        mine = (len(self.kept_heads), self.heads, self.neurons)
        for layer in range(anatomy.layers):
            theirs = (anatomy.layers, anatomy.heads(layer), anatomy.ffn_width(layer))
            if mine != theirs:
                raise ModelError(
                    f"ticket {self.backbone}/{self.task}/{self.recipe} is for {mine[0]} layers of "
                    f"{mine[1]} heads and {mine[2]} neurons; layer {layer} of the model has "
                    f"{theirs[1]} heads and {theirs[2]} neurons, in {theirs[0]} layers"
                )

    def masks(self) -> tuple[Tensor, Tensor]:
        """Show the ticket as masks.

        Returns:
            bool ``(L, heads)`` and bool ``(L, neurons)``, True = kept.
        """
        return _mask(self.kept_heads, self.heads), _mask(self.kept_neurons, self.neurons)

    def save(self, path: Path) -> None:
        """Write the ticket as JSON, whole or not at all.

        Args:
            path: file to write; its folder is made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(asdict(self), sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Ticket":
        """Read a ticket.

        Args:
            path: file written by ``save``.

        Returns:
            The ticket, checked.

        Raises:
            ModelError: if the file is missing, is no JSON or is no valid ticket; names the file.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot read the ticket: {error}") from error
        try:
            return cls(**_checked_fields(data))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error


def _checked_fields(data: Any) -> dict[str, Any]:
    kinds = {
        "backbone": str,
        "task": str,
        "recipe": str,
        "seed": int,
        "heads": int,
        "neurons": int,
        "kept_heads": list,
        "kept_neurons": list,
        "origin": str,
    }
    if not isinstance(data, Mapping) or data.keys() != kinds.keys():
        received = sorted(data) if isinstance(data, Mapping) else type(data).__name__
        raise ModelError(f"ticket keys: received {received}, needed {sorted(kinds)}")
    fields = dict(data)
    for name, kind in kinds.items():
        if type(fields[name]) is not kind:
            raise ModelError(f"ticket {name}: received {fields[name]!r}, needed {kind.__name__}")
    for name in ("kept_heads", "kept_neurons"):
        rows = fields[name]
        if not all(isinstance(row, list) and all(type(n) is int for n in row) for row in rows):
            raise ModelError(f"ticket {name}: needed lists of whole numbers")
        fields[name] = tuple(map(tuple, rows))
    return fields


def _mask(kept: Sequence[Iterable[int]], width: int) -> Tensor:
    mask = torch.zeros(len(kept), width, dtype=torch.bool)
    for row, indices in zip(mask, kept, strict=True):
        row[list(indices)] = True
    return mask


def _kept(mask: Tensor) -> Indices:
    return tuple(tuple(row.nonzero().squeeze(1).tolist()) for row in mask)


def draw_masks(heads: Any, neurons: Any, config: DrawConfig) -> tuple[Tensor, Tensor]:
    """Keep the largest coefficients, in exact numbers.

    Args:
        heads: floating, ``(L, H)``, tensor or array.
        neurons: floating, ``(L, F)``, tensor or array.
        config: ratios and scope.

    Returns:
        bool ``(L, H)``, the same count in each layer; bool ``(L, F)``, exact in all or in each
        layer. Ranked by magnitude; ties keep the lower index (layer first). A global draw keeps at
        least the largest neuron of each layer.

    Raises:
        ModelError: if a coefficient is NaN or a layer would be emptied.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.1: heads by layer, neurons over all layers.
    Differs:
        Exact top-k; the guard on neurons is ours.
    """
    head_scores = torch.as_tensor(heads).detach().cpu().abs()
    neuron_scores = torch.as_tensor(neurons).detach().cpu().abs()
    if head_scores.dim() != 2 or neuron_scores.dim() != 2 or len(head_scores) != len(neuron_scores):
        raise ModelError(
            f"coefficients of heads {tuple(head_scores.shape)} and neurons "
            f"{tuple(neuron_scores.shape)}; needed: (L, H) and (L, F)"
        )
    by_layer = config.neuron_scope == "layer"
    draw = _draw_each_layer if by_layer else _draw_all_layers
    return (
        _draw_each_layer(head_scores, config.head_ratio, "head"),
        draw(neuron_scores, config.neuron_ratio, "neuron"),
    )


def _draw_each_layer(scores: Tensor, ratio: float, unit: str) -> Tensor:
    width = scores.shape[1]
    kept = width - pruned_count(ratio, width)
    if kept < 1:
        raise ModelError(f"dropping {ratio} of {width} {unit}s empties every layer")
    return torch.stack([exact_top_k(row, kept) for row in scores])


def _draw_all_layers(scores: Tensor, ratio: float, unit: str) -> Tensor:
    layers, total = scores.shape[0], scores.numel()
    kept = total - pruned_count(ratio, total)
    if kept < layers:
        raise ModelError(f"keeping {kept} of {total} {unit}s empties some of {layers} layers")
    # Each layer's best counts as kept beforehand: the result differs from plain top-k only
    # where that would empty a layer.
    best = torch.stack([exact_top_k(row, 1) for row in scores])
    return exact_top_k(scores.masked_fill(best, math.inf), kept)


def draw_ticket(heads: Any, neurons: Any, config: DrawConfig, *, label: TicketLabel) -> Ticket:
    """Draw a ticket from searched coefficients.

    Args:
        heads: floating, ``(L, H)``, e.g. from ``GateSnapshot``.
        neurons: floating, ``(L, F)``.
        config: ratios and scope.
        label: whose ticket it is.

    Returns:
        The ticket, origin ``search``.

    Raises:
        ModelError: as ``draw_masks``.
    """
    return _ticket(draw_masks(heads, neurons, config), label, "search")


def random_ticket(shape: tuple[int, int, int], config: DrawConfig, *, label: TicketLabel) -> Ticket:
    """Draw a ticket of the same size as a searched one, at random.

    Args:
        shape: layers, heads per layer, neurons per layer.
        config: ratios and scope, as for the searched ticket.
        label: whose ticket; its seed decides the draw.

    Returns:
        The ticket, origin ``random``: the same rule applied to uniform coefficients.

    Raises:
        ModelError: as ``draw_masks``.

    Source:
        VITA-Group/EarlyBERT at 5936242, random baseline.
    Differs:
        One generator for heads and neurons; the code seeds them apart for SQuAD, alike for GLUE.
    """
    layers, heads, neurons = shape
    generator = torch.Generator().manual_seed(label.seed)
    drawn = draw_masks(
        torch.rand(layers, heads, generator=generator, dtype=torch.float64),
        torch.rand(layers, neurons, generator=generator, dtype=torch.float64),
        config,
    )
    return _ticket(drawn, label, "random")


def _ticket(
    masks: tuple[Tensor, Tensor], label: TicketLabel, origin: Literal["search", "random"]
) -> Ticket:
    heads, neurons = masks
    return Ticket(
        **asdict(label),
        heads=heads.shape[1],
        neurons=neurons.shape[1],
        kept_heads=_kept(heads),
        kept_neurons=_kept(neurons),
        origin=origin,
    )

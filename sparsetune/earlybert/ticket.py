"""Tickets: which layers, heads and neurons to keep, in exact numbers; drawn, saved and loaded.

How coefficients come about is in ``search``; removal itself is in ``sparsetune.pruning``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import check_kept, check_kept_layers
from sparsetune.errors import ConfigError, ModelError, shown, violation
from sparsetune.pruning.masks import exact_top_k, pruned_count
from sparsetune.randomness import derive
from sparsetune.records import checked_path, write_text_atomically


def _as_tuples(value: object) -> object:
    """Sequences, and sequences in them, as tuples; anything else is left for the check."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(_as_tuples(one) for one in value)
    return value


Indices = Annotated[tuple[tuple[int, ...], ...], BeforeValidator(_as_tuples)]
Scope = Literal["global", "layer"]


def check_share(where: str, value: object) -> None:
    """Refuse what is no share that may be dropped.

    Args:
        where: what it is of, for the message.
        value: as received.

    Raises:
        ConfigError: it is no number in [0, 1).
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0.0 <= value < 1.0):  # type: ignore[operator]
        raise ConfigError(f"{where}: received {shown(value)}, allowed: [0, 1)")


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
            check_share(f"ticket {name}", getattr(self, name))
        for name in ("neuron_scope", "head_scope"):
            if getattr(self, name) not in ("global", "layer"):
                raise ConfigError(
                    f"ticket {name}: received {getattr(self, name)!r}, allowed: global, layer"
                )
        if type(self.neuron_multiple) is not int or self.neuron_multiple < 1:
            raise ConfigError(
                f"ticket neuron_multiple: received {shown(self.neuron_multiple)}, allowed: 1 or "
                "more, whole"
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


@dataclass(frozen=True)
class TicketLabel:
    """Whose ticket it is.

    Attributes:
        backbone: backbone id.
        task: task id.
        recipe: ticket recipe id.
        seed: of the search or of the random draw.
    """

    backbone: str = ""
    task: str = ""
    recipe: str = ""
    seed: int = 0


class SearchEnd(BaseModel):
    """Where a ticket's search was when the ticket was drawn.

    Attributes:
        steps: optimizer steps made.
        rule: ``fixed`` or ``settled``: what the search waited for.
        fixed_step: where the fixed rule stops; None = the search had none.
        settled_step: where the masks converged; None = not up to here.
        head_distance: largest distance of the final mask to the window's older ones, relative to
            chance; None if the window was not yet full.
        neuron_distance: likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    steps: int
    rule: str
    fixed_step: int | None
    settled_step: int | None
    head_distance: float | None
    neuron_distance: float | None


class Ticket(BaseModel):
    """Heads and neurons to keep in each layer, and which layers.

    Made by hand, it is checked as one from a file is: what is wrong is a ``ConfigError``, what does
    not fit together a ``ModelError``, in one line. Any sequences of whole numbers will do.

    Attributes:
        backbone: backbone id; empty = not told.
        task: task id; likewise.
        recipe: ticket recipe id; likewise.
        seed: of the search or of the random draw.
        heads: heads of every layer before removal.
        neurons: neurons of every layer before removal.
        kept_heads: for each layer of the backbone, head numbers, strictly increasing, at least
            one; layers that are dropped name theirs too.
        kept_neurons: likewise for neurons.
        origin: ``search``, ``random`` or ``layers`` (whole layers dropped, nothing searched).
        kept_layers: layer numbers, strictly increasing, at least one; None = all.
        neuron_multiple: what the neurons kept in a layer were rounded to; 1 = as drawn.
        search: how the search ended; None without one.

    Example:
        >>> Ticket(heads=4, neurons=3, kept_heads=((0, 2),), kept_neurons=((1,),), origin="random")
        Ticket(heads [2] of 4, neurons [1] of 3, origin random)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    backbone: str = ""
    task: str = ""
    recipe: str = ""
    seed: int = 0
    heads: Annotated[int, Field(ge=1)]
    neurons: Annotated[int, Field(ge=1)]
    kept_heads: Indices
    kept_neurons: Indices
    origin: Literal["search", "random", "layers"]
    kept_layers: Annotated[tuple[int, ...] | None, BeforeValidator(_as_tuples)] = None
    neuron_multiple: int = 1
    search: SearchEnd | None = None

    def __init__(self, **told: Any) -> None:
        try:
            super().__init__(**told)
        except ValidationError as error:
            raise ConfigError(f"ticket: {violation(type(self), error)}") from None

    @model_validator(mode="after")
    def _fits_itself(self) -> "Ticket":
        if len(self.kept_heads) != len(self.kept_neurons):
            raise ModelError(
                f"ticket has heads for {len(self.kept_heads)} layers "
                f"but neurons for {len(self.kept_neurons)}"
            )
        if not self.kept_heads:
            raise ModelError("ticket is for 0 layers; needed: at least one")
        check_kept(self.kept_heads, [self.heads] * len(self.kept_heads), "head")
        check_kept(self.kept_neurons, [self.neurons] * len(self.kept_neurons), "neuron")
        if self.kept_layers is not None:
            check_kept_layers(self.kept_layers, len(self.kept_heads))
        return self

    def check_fits(self, model: nn.Module) -> None:
        """Check that the ticket was drawn for a model of this size.

        Args:
            model: of a known architecture, nothing removed yet.

        Raises:
            ModelError: if layers, heads or neurons differ; names both sides.
        """
        anatomy = Anatomy.of(model)
        mine = (len(self.kept_heads), self.heads, self.neurons)
        for layer in range(anatomy.layers):
            theirs = (anatomy.layers, anatomy.heads(layer), anatomy.ffn_width(layer))
            if mine != theirs:
                label = "/".join(part for part in (self.backbone, self.task, self.recipe) if part)
                raise ModelError(
                    f"ticket{label and ' ' + label} is for {mine[0]} layers of {mine[1]} heads "
                    f"and {mine[2]} neurons; layer {layer} of the model has {theirs[1]} heads and "
                    f"{theirs[2]} neurons, in {theirs[0]} layers"
                )

    def masks(self) -> tuple[Tensor, Tensor]:
        """Show the ticket as masks: bool ``(L, heads)`` and ``(L, neurons)``, True = kept."""
        return _mask(self.kept_heads, self.heads), _mask(self.kept_neurons, self.neurons)

    def __repr__(self) -> str:
        """Tell sizes, not numbers."""
        layers = self.kept_layers
        kept = [[len(row) for row in rows] for rows in (self.kept_heads, self.kept_neurons)]
        of_layers = "" if layers is None else f"layers {len(layers)} of {len(self.kept_heads)}, "
        return (
            f"Ticket({of_layers}heads {kept[0]} of {self.heads}, neurons {kept[1]} of "
            f"{self.neurons}, origin {self.origin})"
        )

    __str__ = __repr__

    def save(self, path: Path | str) -> None:
        """Write the ticket as JSON, whole or not at all; the file's folder is made.

        Args:
            path: of the file.

        Raises:
            ModelError: it is a folder.
        """
        path = checked_path("Ticket.save: path", path)
        if path.is_dir():
            raise ModelError(f"{path}: a folder; needed: a file, such as {path / 'ticket.json'}")
        write_text_atomically(path, self.model_dump_json() + "\n")

    @classmethod
    def load(cls, path: Path | str) -> "Ticket":
        """Read a ticket that ``save`` wrote.

        Args:
            path: of the file.

        Raises:
            ModelError: if the file is missing or is no valid ticket; names the file.
        """
        path = checked_path("Ticket.load: path", path)
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: cannot read the ticket: {error}") from None
        except ValidationError as error:
            raise ModelError(f"{path}: ticket: {violation(cls, error)}") from None
        except (ConfigError, ModelError) as error:
            raise ModelError(f"{path}: {error}") from None


def draw_ticket(
    heads: Any,
    neurons: Any,
    config: DrawConfig,
    *,
    label: TicketLabel,
    search: SearchEnd | None = None,
) -> Ticket:
    """Draw a ticket from searched coefficients.

    Args:
        heads: floating, ``(L, H)``, e.g. from ``GateSnapshot``.
        neurons: floating, ``(L, F)``.
        config: ratios and scopes.
        label: whose ticket it is.
        search: how the search ended, for the ticket's file.

    Returns:
        The ticket, origin ``search``.

    Raises:
        ModelError: as ``draw_masks``.
    """
    drawn = draw_masks(heads, neurons, config)
    return _ticket(drawn, label, origin="search", multiple=config.neuron_multiple, search=search)


def random_ticket(shape: tuple[int, int, int], config: DrawConfig, *, label: TicketLabel) -> Ticket:
    """Draw a ticket of the same size as a searched one, at random.

    Args:
        shape: layers, heads per layer, neurons per layer.
        config: ratios and scopes, as for the searched ticket. With a ``neuron_multiple`` the
            sizes agree up to the rounding of every layer.
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
    generator = torch.Generator().manual_seed(derive(label.seed, "random ticket"))
    drawn = draw_masks(
        torch.rand(layers, heads, generator=generator, dtype=torch.float64),
        torch.rand(layers, neurons, generator=generator, dtype=torch.float64),
        config,
    )
    return _ticket(drawn, label, origin="random", multiple=config.neuron_multiple)


def layer_ticket(shape: tuple[int, int, int], ratio: float, *, label: TicketLabel) -> Ticket:
    """Make a ticket that drops whole layers, evenly spaced, and nothing inside a layer.

    Args:
        shape: layers, heads per layer, neurons per layer.
        ratio: fraction of the layers to drop, in [0, 1).
        label: whose ticket; the seed decides nothing.

    Returns:
        The ticket, origin ``layers``.

    Raises:
        ModelError: as ``evenly_dropped``.
    """
    layers, heads, neurons = shape
    whole = (torch.ones(layers, heads).bool(), torch.ones(layers, neurons).bool())
    return _ticket(whole, label, origin="layers", kept_layers=evenly_dropped(layers, ratio))


def _ticket(
    masks: tuple[Tensor, Tensor], label: TicketLabel, *, multiple: int = 1, **others: Any
) -> Ticket:
    heads, neurons = masks
    return Ticket(
        **asdict(label),
        heads=heads.shape[1],
        neurons=neurons.shape[1],
        kept_heads=_kept(heads),
        kept_neurons=_kept(neurons),
        neuron_multiple=multiple,
        **others,
    )


def _mask(kept: Sequence[Iterable[int]], width: int) -> Tensor:
    mask = torch.zeros(len(kept), width, dtype=torch.bool)
    for row, indices in zip(mask, kept, strict=True):
        row[list(indices)] = True
    return mask


def _kept(mask: Tensor) -> Indices:
    return tuple(tuple(row.nonzero().squeeze(1).tolist()) for row in mask)


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

"""Tickets: which layers, heads and neurons to keep, drawn from gates or at random, and saved.

How masks are drawn is in ``drawing.py`` and when a search has settled in ``settling.py``, both
passed on here; removal itself is in ``sparsetune.models``.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import check_kept, check_kept_layers
from sparsetune.earlybert.convergence import SettleDetector as SettleDetector
from sparsetune.earlybert.convergence import mask_distance as mask_distance
from sparsetune.earlybert.drawing import DrawConfig as DrawConfig
from sparsetune.earlybert.drawing import draw_masks as draw_masks
from sparsetune.earlybert.drawing import evenly_dropped
from sparsetune.errors import ModelError
from sparsetune.randomness import derive

Indices = tuple[tuple[int, ...], ...]
Origin = Literal["search", "random", "layers"]
ORIGINS = ("search", "random", "layers")


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


class SearchEnd(NamedTuple):
    """Where a ticket's search was when the ticket was drawn.

    Attributes:
        steps: optimizer steps made.
        rule: ``fixed`` or ``settled``: what the search waited for.
        fixed_step: where the fixed rule stops.
        settled_step: where the masks settled; None = not up to here.
        head_distance: largest distance of the final mask to the window's older ones, relative to
            chance; None if the window was not yet full.
        neuron_distance: likewise.
    """

    steps: int
    rule: str
    fixed_step: int
    settled_step: int | None
    head_distance: float | None
    neuron_distance: float | None


@dataclass(frozen=True)
class Ticket:
    """Heads and neurons to keep in each layer, and which layers.

    Attributes:
        backbone: backbone id.
        task: task id.
        recipe: ticket recipe id.
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
    """

    backbone: str
    task: str
    recipe: str
    seed: int
    heads: int
    neurons: int
    kept_heads: Indices
    kept_neurons: Indices
    origin: Origin
    kept_layers: tuple[int, ...] | None = None
    neuron_multiple: int = 1
    search: SearchEnd | None = None

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise ModelError(f"ticket origin {self.origin!r}; allowed: {', '.join(ORIGINS)}")
        if len(self.kept_heads) != len(self.kept_neurons):
            raise ModelError(
                f"ticket has heads for {len(self.kept_heads)} layers "
                f"but neurons for {len(self.kept_neurons)}"
            )
        check_kept(self.kept_heads, [self.heads] * len(self.kept_heads), "head")
        check_kept(self.kept_neurons, [self.neurons] * len(self.kept_neurons), "neuron")
        if self.kept_layers is not None:
            check_kept_layers(self.kept_layers, len(self.kept_heads))

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
            bool ``(L, heads)`` and bool ``(L, neurons)``, True = kept in its layer.
        """
        return _mask(self.kept_heads, self.heads), _mask(self.kept_neurons, self.neurons)

    def save(self, path: Path) -> None:
        """Write the ticket as JSON, whole or not at all.

        Args:
            path: file to write; its folder is made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        content = {**asdict(self), "search": self.search and self.search._asdict()}
        part.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")
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


_NEEDED = {
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
_OPTIONAL = {"kept_layers": list, "neuron_multiple": int, "search": dict}
_KNOWN = {**_NEEDED, **_OPTIONAL}


def _checked_fields(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not _NEEDED.keys() <= data.keys() <= _KNOWN.keys():
        received = sorted(data) if isinstance(data, Mapping) else type(data).__name__
        raise ModelError(f"ticket keys: received {received}, needed {sorted(_NEEDED)}")
    fields = {name: value for name, value in data.items() if value is not None}
    for name, value in data.items():
        absent = name in _OPTIONAL and value is None
        if type(value) is not _KNOWN[name] and not absent:
            kind = _KNOWN[name].__name__
            raise ModelError(f"ticket {name}: received {value!r}, needed {kind}")
    for name in ("kept_heads", "kept_neurons"):
        if not all(isinstance(row, list) and _whole_numbers(row) for row in fields[name]):
            raise ModelError(f"ticket {name}: needed lists of whole numbers")
        fields[name] = tuple(map(tuple, fields[name]))
    if "kept_layers" in fields:
        if not _whole_numbers(fields["kept_layers"]):
            raise ModelError("ticket kept_layers: needed a list of whole numbers")
        fields["kept_layers"] = tuple(fields["kept_layers"])
    if "search" in fields:
        fields["search"] = _checked_search(fields["search"])
    return fields


def _checked_search(data: Mapping[str, Any]) -> SearchEnd:
    if set(data) != set(SearchEnd._fields):
        raise ModelError(f"ticket search: received {sorted(data)}, needed {SearchEnd._fields}")
    return SearchEnd(**data)


def _whole_numbers(values: Iterable[Any]) -> bool:
    return all(type(value) is int for value in values)


def _mask(kept: Sequence[Iterable[int]], width: int) -> Tensor:
    mask = torch.zeros(len(kept), width, dtype=torch.bool)
    for row, indices in zip(mask, kept, strict=True):
        row[list(indices)] = True
    return mask


def _kept(mask: Tensor) -> Indices:
    return tuple(tuple(row.nonzero().squeeze(1).tolist()) for row in mask)


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
        ModelError: as ``drawing.evenly_dropped``.
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

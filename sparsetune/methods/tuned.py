"""A model as a method shapes it, and the file in which a run keeps what it trained.

The file is of the one save format (``pruning.checkpoint``): trained parameters, the positions of S2
and packed masks, never the frozen backbone; its manifest says how to rebuild the model around them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import Kind
from sparsetune.architectures.copies import WeightCopies
from sparsetune.architectures.loading import load_model
from sparsetune.dsee.layer import dsee_branches, folds_held
from sparsetune.dsee.support import restrict_support
from sparsetune.errors import ModelError
from sparsetune.methods.kind import Companion, UpdateKind
from sparsetune.methods.registry import update_of
from sparsetune.pruning.checkpoint import (
    base_of,
    check_base,
    check_tensors,
    masks_of,
    packed,
    part_of,
    read_file,
    write_file,
)
from sparsetune.pruning.manifest import SUPPORT, Head, Kept, Manifest
from sparsetune.pruning.masks import apply_masks_, gate_gradients
from sparsetune.pruning.structured import (
    keep_layers,
    remove,
    renumbered,
    sizes_of,
)
from sparsetune.pruning.zeros import check_zeros

_UPDATE = "update/"


@dataclass(frozen=True)
class Structure:
    """What a run's model is built from, as plain data.

    Attributes:
        head: task kind: ``classification regression span generation``.
        label_count: outputs of a classification or regression head.
        seed: of the task head and the update's random start.
        random_weights: True = the backbone's shape with random weights.
        update: the method's.
        kept_heads: head numbers kept in each layer; None = all.
        kept_neurons: likewise for FFN neurons.
        kept_layers: layer numbers kept; None = all. Heads and neurons are told for all layers.
    """

    head: str
    label_count: int
    seed: int
    random_weights: bool
    update: UpdateKind
    kept_heads: list[list[int]] | None = None
    kept_neurons: list[list[int]] | None = None
    kept_layers: list[int] | None = None


@dataclass
class TunedModel:
    """A model with its update attached, and the masks laid on its weights so far."""

    model: nn.Module
    structure: Structure
    supports: Mapping[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    _gates: list[RemovableHandle] = field(default_factory=list, repr=False)
    companion: Companion | None = None
    _copies: WeightCopies | None = field(default=None, repr=False)

    @contextmanager
    def computing(self, device: str, *, trains: bool) -> Iterator[None]:
        """Multiply by copies of the weights that suit a device, in whatever runs in this context.

        On CUDA these have feed-forward widths rounded up and, of weights that do not train, 16
        bits (see :class:`sparsetune.architectures.copies.WeightCopies`); the parameters are the
        same in the context and outside it. On the CPU nothing changes.

        Args:
            device: ``cpu`` or ``cuda``.
            trains: False = no weight changes in the context, so all copies are made once, and
                DSEE's updates are folded into theirs once.
        """
        if device != "cuda":
            yield
            return
        self._copies = WeightCopies(self.model, hold="frozen" if trains else "everything")
        self._copies.attach()
        try:
            with nullcontext() if trains else folds_held(self.model):
                yield
        finally:
            self._copies.detach()
            self._copies = None

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that train, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def prune(self, masks: Mapping[str, Tensor]) -> None:
        """Zero weights for good; those that train stay zero in training too.

        Args:
            masks: site key -> bool, ``(O, I)``; True = kept. Kept values stay bit-identical.
        """
        apply_masks_(self.model, masks)
        self.masks.update({key: mask.cpu() for key, mask in masks.items()})
        while self._gates:
            self._gates.pop().remove()
        self._gates.extend(gate_gradients(self.model, self.masks))

    def remove_heads(self, kept_heads: Sequence[Sequence[int]]) -> None:
        """Remove all other attention heads for good, with their part of the update.

        Args:
            kept_heads: for each layer the kept head numbers, increasing, at least one.

        Raises:
            ModelError: heads were removed or weights masked before, or the numbers do not fit.
        """
        if self.structure.kept_heads is not None or self.masks:
            raise ModelError("heads can be removed once, and before weights are masked")
        copies = self._copies
        if copies:
            copies.detach()
        remove(self.model, kept_heads)
        if copies:
            copies.attach()
        anatomy = Anatomy.of(self.model)
        self.structure = replace(
            self.structure,
            kept_heads=[list(heads) for heads in kept_heads],
            kept_neurons=[list(range(anatomy.ffn_width(n))) for n in range(anatomy.layers)],
        )
        branches = {branch.key: branch for _, branch in dsee_branches(self.model)}
        self.supports = {key: branches[key].positions.long().cpu() for key in self.supports}

    def trained_values(self) -> dict[str, Tensor]:
        """Copy the values of everything that trains, by parameter name."""
        return {name: p.detach().cpu().clone() for name, p in self.trained_parameters().items()}

    def rewind(self, values: Mapping[str, Tensor]) -> None:
        """Put trained values back to earlier ones; masks stay.

        Args:
            values: as :meth:`trained_values` gave them.
        """
        self._write(values)
        if self.masks:
            apply_masks_(self.model, self.masks)

    def state(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, on the CPU."""
        tensors = {
            name: p.detach().cpu().contiguous() for name, p in self.trained_parameters().items()
        }
        tensors |= packed(self.supports, self.masks)
        own = self.companion.state() if self.companion else {}
        return tensors | {_UPDATE + name: tensor for name, tensor in own.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Write a state back; masks are laid on the frozen weights again.

        Raises:
            ModelError: a trained tensor is missing, unknown, or of another shape.
        """
        self._write(part_of(state, ""))
        masks = masks_of(state, self.model)
        if masks:
            self.prune(masks)
        if self.companion:
            self.companion.load_state(part_of(state, _UPDATE))

    def _write(self, given: Mapping[str, Tensor]) -> None:
        own = self.trained_parameters()
        check_tensors("saved run", given, {name: tuple(p.shape) for name, p in own.items()})
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(given[name])

    def finish(self) -> None:
        """Drop what training has given up (AdaLoRA's ranks), so that it is neither kept nor run."""
        if self.companion:
            update = self.structure.update.model_copy(update=self.companion.finish())
            self.structure = replace(self.structure, update=update)
            self.companion = None

    def save(self, path: Path) -> None:
        """Write the run's file atomically.

        Raises:
            ModelError: a masked weight is not zero; nothing is written then.
        """
        check_zeros(self.model)
        trained, one = self.trained_parameters(), self.structure
        manifest = Manifest(
            model_class=type(self.model).__name__,
            sizes=sizes_of(self.model),
            base=base_of(self.model, trained, self.masks),
            kept=Kept(heads=one.kept_heads, neurons=one.kept_neurons, layers=one.kept_layers),
            head=Head(
                kind=one.head,
                label_count=one.label_count,
                seed=one.seed,
                random_weights=one.random_weights,
            ),
            update=one.update.model_dump(mode="json", exclude_none=True),
            trained=sorted(trained),
        )
        write_file(path, self.state(), manifest)


def build(
    backbone: Path,
    structure: Structure,
    supports: Mapping[str, Tensor],
    *,
    supports_fit: bool = False,
) -> TunedModel:
    """Build a run's model from its backbone, before any training.

    Args:
        backbone: Hugging Face folder.
        structure: see :class:`Structure`.
        supports: site key -> int64 flat positions of S2 (DSEE, or Supra as in a run's file).
        supports_fit: the positions are already those of the model after removal, as in a
            run's file; otherwise they are the backbone's, and follow what is removed.

    Raises:
        ModelError: ticket or support do not fit the backbone.
    """
    model = load_model(
        backbone,
        kind=cast(Kind, structure.head),
        label_count=structure.label_count,
        seed=structure.seed,
        random_weights=structure.random_weights,
    )
    heads, neurons = structure.kept_heads, structure.kept_neurons
    if heads is not None and neurons is not None:
        if not supports_fit:
            supports = _following(model, supports, heads, neurons)
            supports = renumbered(supports, structure.kept_layers)
        remove(model, heads, neurons)
    if structure.kept_layers is not None:
        keep_layers(model, structure.kept_layers)
    attached = structure.update.attach(model, supports, structure.seed)
    return TunedModel(model, structure, dict(attached.supports), companion=attached.companion)


def _following(
    model: nn.Module,
    supports: Mapping[str, Tensor],
    kept_heads: list[list[int]],
    kept_neurons: list[list[int]],
) -> dict[str, Tensor]:
    """The backbone's supports after a removal of heads and neurons."""
    anatomy = Anatomy.of(model)
    restricted = {}
    for key, positions in supports.items():
        site = anatomy.site_of(key)
        heads, neurons = kept_heads[site.layer], kept_neurons[site.layer]
        rows, columns = anatomy.kept_sides(site.projection, heads, neurons)
        restricted[key], _ = restrict_support(
            positions, site.shape, kept_rows=rows, kept_columns=columns
        )
    return restricted


def load_tuned(path: Path, backbone: Path) -> TunedModel:
    """Rebuild a run's model from its file and its backbone.

    Args:
        path: ``model.safetensors`` of a run.
        backbone: the folder of the backbone it was tuned from.

    Raises:
        ModelError: the file is missing, damaged, or does not fit the backbone.
    """
    manifest, state = read_file(path)
    if manifest.head is None or manifest.base is None or manifest.update is None:
        raise ModelError(f"{path}: not a saved run: its manifest names no head, base or update")
    kept = manifest.kept or Kept()
    structure = Structure(
        head=manifest.head.kind,
        label_count=manifest.head.label_count,
        seed=manifest.head.seed,
        random_weights=manifest.head.random_weights,
        update=update_of(manifest.update),
        kept_heads=kept.heads,
        kept_neurons=kept.neurons,
        kept_layers=kept.layers,
    )
    supports = {key: tensor.long() for key, tensor in part_of(state, SUPPORT).items()}
    tuned = build(backbone, structure, supports, supports_fit=True)
    tuned.load_state(state)
    check_base(path, manifest.base, tuned.model, tuned.trained_parameters(), tuned.masks)
    tuned.model.eval()
    return tuned

"""A model as a method shapes it, and the one file in which a run keeps what it trained.

The file holds trained tensors, the positions of S2 and packed masks, never the frozen
backbone; its metadata says how to rebuild the model around them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsetune.architectures.base import Anatomy
from sparsetune.architectures.loading import load_model
from sparsetune.dsee.layer import dsee_branches
from sparsetune.dsee.support import restrict_support
from sparsetune.errors import ModelError
from sparsetune.methods.attached import Companion
from sparsetune.methods.updates import attach_update
from sparsetune.pruning.depth import keep_layers, renumbered
from sparsetune.pruning.heads import remove_heads
from sparsetune.pruning.masks import (
    apply_masks_,
    gate_gradients,
    pack_mask,
    require_zeros,
    unpack_mask,
)
from sparsetune.pruning.structured import features_of, kept_sides, remove
from sparsetune.records import replacing

_TRAINED, _SUPPORT, _MASK, _UPDATE = "trained/", "support/", "mask/", "update/"


@dataclass(frozen=True)
class Structure:
    """What a run's model is built from, as plain data.

    Attributes:
        head: task kind: ``classification regression span generation``.
        label_count: outputs of a classification or regression head.
        seed: of the task head and the update's random start.
        random_weights: True = the backbone's shape with random weights.
        update: the method's ``update`` settings.
        kept_heads: head numbers kept in each layer; None = all.
        kept_neurons: likewise for FFN neurons.
        kept_layers: layer numbers kept; None = all. Heads and neurons are told for all layers.
    """

    head: str
    label_count: int
    seed: int
    random_weights: bool
    update: Mapping[str, Any]
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
        remove_heads(self.model, kept_heads)
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
        """Everything that a checkpoint or the run's file must hold."""
        tensors = {
            _TRAINED + name: parameter.detach().cpu().contiguous()
            for name, parameter in self.trained_parameters().items()
        }
        for key, positions in self.supports.items():
            tensors[_SUPPORT + key] = positions.to(torch.int32).cpu().contiguous()
        for key, mask in self.masks.items():
            tensors[_MASK + key] = pack_mask(mask)
        if self.companion:
            own = self.companion.state()
            tensors.update({_UPDATE + name: tensor for name, tensor in own.items()})
        return tensors

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Write a state back; masks are laid on the frozen weights again.

        Raises:
            ModelError: a trained tensor is missing, unknown, or of another shape.
        """
        self._write(
            {n.removeprefix(_TRAINED): t for n, t in state.items() if n.startswith(_TRAINED)}
        )
        masks = {n.removeprefix(_MASK): t for n, t in state.items() if n.startswith(_MASK)}
        if masks:
            self.prune(self._unpacked(masks))
        if self.companion:
            update = {n.removeprefix(_UPDATE): t for n, t in state.items() if n.startswith(_UPDATE)}
            self.companion.load_state(update)

    def _write(self, given: Mapping[str, Tensor]) -> None:
        own = self.trained_parameters()
        if own.keys() != given.keys():
            differing = sorted(own.keys() ^ given.keys())
            raise ModelError(f"saved run: {len(differing)} tensors differ, first: {differing[0]}")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter.shape != given[name].shape:
                    raise ModelError(
                        f"saved run: {name} has shape {tuple(given[name].shape)}, "
                        f"the model needs {tuple(parameter.shape)}"
                    )
                parameter.copy_(given[name])

    def finish(self) -> None:
        """Drop what training has given up (AdaLoRA's ranks), so that it is neither kept nor run."""
        if self.companion:
            update = {**self.structure.update, **self.companion.finish()}
            self.structure = replace(self.structure, update=update)
            self.companion = None

    def _unpacked(self, packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shapes = {site.key: site.shape for site in Anatomy.of(self.model).sites()}
        return {key: unpack_mask(bits, shapes[key]) for key, bits in packed.items()}

    def save(self, path: Path) -> None:
        """Write the run's file atomically.

        Raises:
            ModelError: a masked weight is not zero; nothing is written then.
        """
        require_zeros(self.model, self.masks)
        metadata = {"structure": json.dumps(asdict(self.structure))}
        with replacing(path) as partial:
            save_file(self.state(), partial, metadata=metadata)


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
        kind=structure.head,
        label_count=structure.label_count,
        seed=structure.seed,
        random_weights=structure.random_weights,
    )
    if structure.kept_heads is not None and structure.kept_neurons is not None:
        if not supports_fit:
            supports = _following(model, supports, structure)
        remove(model, structure.kept_heads, structure.kept_neurons)
    if structure.kept_layers is not None:
        keep_layers(model, structure.kept_layers)
    attached = attach_update(model, structure.update, supports=supports, seed=structure.seed)
    return TunedModel(model, structure, dict(attached.supports), companion=attached.companion)


def _following(
    model: nn.Module, supports: Mapping[str, Tensor], structure: Structure
) -> dict[str, Tensor]:
    """The backbone's supports after the removal that ``structure`` asks for."""
    anatomy = Anatomy.of(model)
    restricted = {}
    for key, positions in supports.items():
        site = anatomy.site_of(key)
        features = features_of(structure.kept_heads[site.layer], anatomy.head_size)
        neurons = structure.kept_neurons[site.layer]
        rows, columns = kept_sides(site.projection, features, neurons)
        restricted[key] = restrict_support(
            positions, site.shape, kept_rows=rows, kept_columns=columns
        )
    return renumbered(restricted, structure.kept_layers)


def load_tuned(path: Path, backbone: Path) -> TunedModel:
    """Rebuild a run's model from its file and its backbone.

    Args:
        path: ``model.safetensors`` of a run.
        backbone: the folder of the backbone it was tuned from.

    Raises:
        ModelError: the file is missing, damaged, or does not fit the backbone.
    """
    try:
        with safe_open(path, framework="pt") as file:
            structure = Structure(**json.loads(file.metadata()["structure"]))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a saved run: {error}") from None
    supports = {
        name.removeprefix(_SUPPORT): tensor.long()
        for name, tensor in state.items()
        if name.startswith(_SUPPORT)
    }
    tuned = build(backbone, structure, supports, supports_fit=True)
    tuned.load_state(state)
    tuned.model.eval()
    return tuned

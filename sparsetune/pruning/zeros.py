"""Zeros that must stay: remembered when a mask is laid, compared before a model is saved.

A mask is not read back from the weights, because a masked weight that came alive again would
then pass for one that was kept.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import Site
from sparsetune.errors import ModelError

# An attribute of the module, not a buffer: it must not reach a state dict or an accelerator.
_MEMORY = "remembered_zeros"


def remember_zeros(sites: Iterable[Site], masks: Mapping[str, Tensor] | None = None) -> None:
    """Note which entries of some projections must stay zero, one bit each, on the CPU.

    The note belongs to the module that holds the weight: it is copied with it, and gone when
    another module takes its place, as after a merge.

    Args:
        sites: which projections; what was noted of them before is replaced.
        masks: bool, ``O x I``, by site key, True = free; without one, what is zero now must stay.
    """
    for site in sites:
        zero = ~masks[site.key] if masks is not None else site.weight_view().detach() == 0
        memory = site.module.__dict__.setdefault(_MEMORY, {})
        memory[site.projection] = (site.shape, np.packbits(zero.cpu().numpy().reshape(-1)))


def share_zeros(module: nn.Module, other: nn.Module) -> None:
    """Let two modules that hold one weight, one at a time in the model, have one note of it.

    Args:
        module: the newer; what it notes goes before.
        other: whose note, which further modules may share, both have from now on.
    """
    memory = other.__dict__.setdefault(_MEMORY, {})
    memory.update(module.__dict__.get(_MEMORY, {}))
    module.__dict__[_MEMORY] = memory


def check_zeros(model: nn.Module) -> None:
    """Check that every entry noted by ``remember_zeros`` is still zero.

    Args:
        model: of a known architecture.

    Raises:
        ModelError: naming the first projection where one is not, and how many.
    """
    for site in Anatomy.of(model).sites():
        shape, bits = getattr(site.module, _MEMORY, {}).get(site.projection, (None, None))
        # Removal of heads or neurons after masking makes another matrix, with no note of its own.
        if shape != site.shape:
            continue
        alive = int(np.unpackbits(bits & ~_zero_bits(site)).sum())
        if alive:
            masked = int(np.unpackbits(bits).sum())
            raise ModelError(
                f"{site.key}: {alive} of its {masked} masked weights are not zero any more; "
                "something trained or overwrote them, so the mask must be applied again"
            )


def zero_masks(model: nn.Module) -> dict[str, Tensor]:
    """Show the zeros of a model as masks.

    Args:
        model: of a known architecture.

    Returns:
        bool, ``O x I``, by site key, True = not zero; only projections that have zeros.
    """
    masks = {site.key: site.weight_view() != 0 for site in Anatomy.of(model).sites()}
    return {key: mask for key, mask in masks.items() if not bool(mask.all())}


def zeros_to_keep(model: nn.Module) -> dict[str, Tensor]:
    """Show as masks what is zero in a model, or was noted to stay zero.

    Args:
        model: of a known architecture.

    Returns:
        bool, ``O x I``, on the weight's device, by site key, True = neither; only projections
        that have such entries.
    """
    masks = {}
    for site in Anatomy.of(model).sites():
        view = site.weight_view().detach()
        free = view != 0
        shape, bits = getattr(site.module, _MEMORY, {}).get(site.projection, (None, None))
        if shape == site.shape:
            noted = np.unpackbits(bits, count=view.numel()).astype(bool).reshape(shape)
            free &= ~torch.from_numpy(noted).to(view.device)
        masks[site.key] = free
    return {key: mask for key, mask in masks.items() if not bool(mask.all())}


def has_kept_zeros(model: nn.Module) -> bool:
    """Tell whether zeros were noted to stay, in any projection that still is what it was.

    Args:
        model: of a known architecture.
    """
    for site in Anatomy.of(model).sites():
        shape, bits = getattr(site.module, _MEMORY, {}).get(site.projection, (None, None))
        if shape == site.shape and bits.any():
            return True
    return False


def zero_counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Count the zeros in every projection's stored weight.

    Args:
        model: of a known architecture.

    Returns:
        By site key: zeros and entries. Updates beside the weight are not looked at.
    """
    views = {site.key: site.weight_view() for site in Anatomy.of(model).sites()}
    return {key: (int((view == 0).sum()), view.numel()) for key, view in views.items()}


def _zero_bits(site: Site) -> np.ndarray:
    return np.packbits((site.weight_view().detach() == 0).cpu().numpy().reshape(-1))

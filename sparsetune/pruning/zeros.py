"""Zeros that must stay: remembered when a mask is laid, compared before a model is saved.

A mask is not read back from the weights, because a masked weight that came alive again would
then pass for one that was kept.
"""

from collections.abc import Iterable

import numpy as np
from torch import nn

from sparsetune.architectures.base import Anatomy, Site
from sparsetune.errors import ModelError

# An attribute of the module, not a buffer: it must not reach a state dict or an accelerator.
_MEMORY = "remembered_zeros"


def remember_zeros(sites: Iterable[Site]) -> None:
    """Note which entries of some projections are zero now, one bit each, on the CPU.

    The note belongs to the module that holds the weight: it is copied with it, and gone when
    another module takes its place, as after a merge.

    Args:
        sites: which projections; what was noted of them before is replaced.
    """
    for site in sites:
        memory = site.module.__dict__.setdefault(_MEMORY, {})
        memory[site.projection] = (site.shape, _zero_bits(site))


def check_zeros(model: nn.Module) -> None:
    """Check that every entry noted by ``remember_zeros`` is still zero.

    Args:
        model: a BERT, RoBERTa or GPT-2.

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


def _zero_bits(site: Site) -> np.ndarray:
    return np.packbits((site.weight_view().detach() == 0).cpu().numpy().reshape(-1))

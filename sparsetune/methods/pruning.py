"""A method's ``mask`` settings turned into masks on the frozen weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.sparsity.masks import (
    ADAPTED_POOL,
    OTHER_POOL,
    mask_pool,
    site_scores,
    two_pool_masks,
)


def masks_for(model: nn.Module, mask: Mapping[str, Any], *, seed: int) -> dict[str, Tensor]:
    """Draw the masks of an unstructured method.

    Args:
        model: with DSEE attached and trained.
        mask: the method's ``mask`` settings, ``kind: unstructured``.
        seed: of the score ``random``.

    Returns:
        bool masks ``(O, I)`` by site key; True = kept.

    Source:
        DSEE, released code of 2023 (two pools) and of 2021 (one pool); see
        :func:`sparsetune.sparsity.masks.two_pool_masks`.
    """
    generator = torch.Generator().manual_seed(seed)
    if mask["pools"] == "two":
        return two_pool_masks(
            model,
            mask["rest_sparsity"],
            adapted_ratio=mask["adapted_sparsity"],
            choice=mask["score"],
            generator=generator,
        )
    scores = site_scores(model, ADAPTED_POOL, choice=mask["score"], generator=generator)
    scores.update(site_scores(model, OTHER_POOL, choice="weight"))
    return mask_pool(scores, mask["rest_sparsity"])

"""A method's mask settings turned into masks on weights, or into heads to keep."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.config.method import HeadsMask, Mask, NOfMMask, UnstructuredMask
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import (
    ADAPTED_POOL,
    OTHER_POOL,
    demote,
    mask_n_of_m,
    mask_per_layer,
    mask_pool,
    pruned_count,
    site_scores,
    two_pool_masks,
)
from sparsetune.pruning.structured import head_scores, heads_left, heads_to_keep


def check_mask(model: nn.Module, mask: Mask) -> None:
    """Check before training that a method's mask can be drawn for a model.

    Args:
        model: the run's model, with the update attached.
        mask: the method's.

    Raises:
        ModelError: an N:M mask, and a matrix whose inputs are not whole groups of M; heads that
            go, and a matrix that keeps fewer rows than DSEE's rank.
    """
    anatomy = Anatomy.of(model)
    if isinstance(mask, NOfMMask):
        for site in anatomy.sites():
            if site.shape[1] % mask.m:
                raise ModelError(
                    f"mask {mask.n}:{mask.m}: {site.key} has {site.shape[1]} inputs; "
                    f"needed: a multiple of {mask.m}"
                )
    if not isinstance(mask, HeadsMask):
        return
    # A model with a larger rank would train, but be refused when it is loaded again.
    for _, branch in dsee_branches(model):
        heads = anatomy.heads(anatomy.site_of(branch.key).layer)
        rows, rank = heads_left(heads, mask.head_sparsity) * anatomy.head_size, branch.U.shape[1]
        if rank > rows:
            raise ModelError(
                f"mask heads: {branch.key} keeps {rows} rows of {branch.U.shape[0]}; "
                f"dsee rank: received {rank}, allowed: 1 to {rows}"
            )


def masks_for(
    model: nn.Module,
    mask: UnstructuredMask | NOfMMask,
    *,
    seed: int,
    share: float = 1.0,
    earlier: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Draw the masks of a method, all at once or a share of them.

    Query and value are scored by the method's choice, the other projections by |W|.

    Args:
        model: as trained so far; with DSEE attached where the score needs the update.
        mask: the method's.
        seed: of the score ``random``.
        share: how much of the final sparsity is reached now, in (0, 1].
        earlier: masks drawn with a smaller share; what they drop stays dropped.

    Returns:
        bool masks ``(O, I)`` by site key; True = kept.

    Source:
        DSEE, released code of 2023 (two pools) and of 2021 (one pool); see
        :func:`sparsetune.pruning.masks.two_pool_masks`. Shares: Chen et al. 2020,
        arXiv:2007.12223, iterative magnitude pruning.
    """
    earlier = earlier or {}
    generator = torch.Generator().manual_seed(seed)
    if isinstance(mask, UnstructuredMask) and mask.pools == "two":
        return two_pool_masks(
            model,
            share * mask.rest_sparsity,
            adapted_ratio=share * mask.adapted_sparsity,
            choice=mask.score,
            generator=generator,
            earlier=earlier,
        )
    adapted = site_scores(model, ADAPTED_POOL, choice=mask.score, generator=generator)
    adapted = demote(adapted, earlier)
    others = demote(site_scores(model, OTHER_POOL, choice="weight"), earlier)
    if isinstance(mask, NOfMMask):
        kept = mask.m - pruned_count(share, mask.m - mask.n)
        scores = {**adapted, **others}
        return {key: mask_n_of_m(score, kept, mask.m) for key, score in scores.items()}
    if mask.pools == "matrix":
        return {
            **mask_per_layer(adapted, share * mask.adapted_sparsity),
            **mask_per_layer(others, share * mask.rest_sparsity),
        }
    return mask_pool({**adapted, **others}, share * mask.rest_sparsity)


def heads_for(model: nn.Module, mask: HeadsMask, *, seed: int) -> list[list[int]]:
    """Choose the heads that a method keeps.

    Args:
        model: with DSEE attached and trained.
        mask: the method's.
        seed: of the score ``random``.

    Returns:
        For each layer the kept head numbers, increasing; at least one.

    Source:
        DSEE, released code of 2023, structured pruning; see
        :func:`sparsetune.pruning.structured.head_scores`.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = head_scores(model, choice=mask.score, generator=generator)
    return heads_to_keep(scores, mask.head_sparsity)

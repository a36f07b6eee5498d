"""From scores to boolean masks on frozen weights: pools, per layer, N:M; exact counts always.

True = kept. Ties are broken in one place, ``exact_top_k``: the lower index wins.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import PROJECTIONS, Site, UpdatedProjection
from sparsetune.errors import ModelError
from sparsetune.pruning.zeros import remember_zeros

SCORES = ("delta", "weight", "weight+delta", "random", "inverse")
ADAPTED_POOL = ("query", "value")
OTHER_POOL = ("key", "attention_output", "ffn_in", "ffn_gate", "ffn_out")


def exact_top_k(scores: Tensor, kept: int) -> Tensor:
    """Mark the largest scores, exactly as many as asked for.

    Args:
        scores: floating, any shape, no NaN.
        kept: how many to keep, 0 to ``scores.numel()``.

    Returns:
        bool, shape of ``scores``, with exactly ``kept`` True; among equal scores the lower flat
        index is kept.

    Raises:
        ModelError: if ``kept`` is out of range or a score is NaN.
    """
    total = scores.numel()
    if not 0 <= kept <= total:
        raise ModelError(f"cannot keep {kept} of {total} scores; allowed: 0..{total}")
    if torch.isnan(scores).any():
        raise ModelError(f"{int(torch.isnan(scores).sum())} of {total} scores are NaN")
    if kept in (0, total):
        return torch.full_like(scores, kept > 0, dtype=torch.bool)
    flat = scores.reshape(-1)
    # A selection, not a sort: pools hold tens of millions of scores.
    threshold = flat.kthvalue(total - kept + 1).values
    mask = flat > threshold
    tied = (flat == threshold).nonzero().squeeze(1)
    mask[tied[: kept - int(mask.sum())]] = True
    return mask.view(scores.shape)


def pruned_count(ratio: float, total: int) -> int:
    """Round a ratio of a total to a count: ``floor(ratio * total + 0.5)``.

    Raises:
        ModelError: if the ratio is outside [0, 1].
    """
    if not 0.0 <= ratio <= 1.0:
        raise ModelError(f"pruning ratio: received {ratio}, allowed: 0 to 1")
    return math.floor(ratio * total + 0.5)


def mask_pool(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Prune one global pool: the smallest scores anywhere in it go.

    Args:
        scores: floating, by site key, any shapes, one device.
        ratio: fraction of the whole pool to prune, in [0, 1].

    Returns:
        bool masks of the same keys and shapes; ``pruned_count(ratio, total)`` False together. Among
        equal scores the earlier key, then the lower flat index, is kept.

    Raises:
        ModelError: if the pool is empty, the ratio is out of range or a score is NaN.

    Source:
        VITA-Group/DSEE at 61844c3, global L1 pools.
    Differs:
        Exact counts under ties.
    """
    if not scores:
        raise ModelError("cannot prune an empty pool of scores")
    flat = torch.cat([tensor.reshape(-1).float() for tensor in scores.values()])
    mask = exact_top_k(flat, flat.numel() - pruned_count(ratio, flat.numel()))
    parts = mask.split([tensor.numel() for tensor in scores.values()])
    return {
        key: part.reshape(tensor.shape).clone()
        for (key, tensor), part in zip(scores.items(), parts, strict=True)
    }


def mask_per_layer(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Prune the same fraction of each matrix by itself.

    Args:
        scores: floating, by site key.
        ratio: fraction of each matrix to prune, in [0, 1]; counts are exact in each.
    """
    return {key: mask_pool({key: tensor}, ratio)[key] for key, tensor in scores.items()}


def mask_n_of_m(scores: Tensor, n: int = 2, m: int = 4) -> Tensor:
    """Keep the n largest of every m consecutive inputs of each output row.

    Args:
        scores: floating, ``O x I``, I divisible by ``m``, no NaN.
        n: kept per group, 0 to ``m``.
        m: group size.

    Returns:
        bool, ``O x I``, exactly n of m True in every group; ties keep the lower input.

    Raises:
        ModelError: if I is not divisible by ``m``, n is out of range or a score is NaN.

    Example:
        >>> mask_n_of_m(torch.tensor([[4.0, 1.0, 3.0, 2.0]])).tolist()
        [[True, False, True, False]]
    """
    if not 0 <= n <= m or m < 1:
        raise ModelError(f"N:M mask: received {n}:{m}, allowed: N from 0 to M")
    if scores.shape[-1] % m:
        raise ModelError(f"{n}:{m} mask: {scores.shape[-1]} inputs are not divisible by {m}")
    if torch.isnan(scores).any():
        raise ModelError(f"{n}:{m} mask: a score is NaN")
    groups = scores.reshape(-1, m)
    order = groups.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :n], True)
    return mask.view(scores.shape)


def site_scores(
    model: nn.Module,
    projections: Iterable[str] = PROJECTIONS,
    *,
    choice: str,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Score the weights of some projections in every layer; larger = kept.

    Args:
        model: with an update attached where the choice needs one.
        projections: which ones.
        choice: ``delta`` |dW|, ``weight`` |W|, ``weight+delta`` |W + dW| (|W| in a layer without
            update, of a projection that has one in another), ``random`` uniform, ``inverse`` the
            order of ``delta`` reversed (a control).
        generator: CPU generator, needed for ``random``.

    Returns:
        float32, ``O x I``, by site key.

    Raises:
        ModelError: if the choice is unknown, an update is missing, or ``random`` has no generator.

    Source:
        VITA-Group/DSEE at 61844c3, ``prune_mode``: ABS, W, WAB, random, NABS.
    Differs:
        ``weight+delta`` scales all of dW (the code forgets the scale on one part); ``inverse`` is a
        negation, not a reciprocal: same order.
    """
    if choice not in SCORES:
        raise ModelError(f"score {choice!r} unknown; known: {', '.join(SCORES)}")
    if choice == "random" and generator is None:
        raise ModelError("score 'random' needs a generator")
    scores = {}
    sites = tuple(Anatomy.of(model).sites(tuple(projections)))
    if choice == "weight+delta" and sites and not any(map(_is_updated, sites)):
        raise ModelError(f"score {choice!r} needs an update on {sites[0].key}; none is attached")
    for site in sites:
        weight = site.weight_view().detach().float()
        if choice == "random":
            scores[site.key] = torch.rand(weight.shape, generator=generator).to(weight.device)
            continue
        if choice == "weight" or (choice == "weight+delta" and not _is_updated(site)):
            scores[site.key] = weight.abs()
            continue
        delta = _delta(site, choice)
        value = (weight + delta).abs() if choice == "weight+delta" else delta.abs()
        scores[site.key] = -value if choice == "inverse" else value
    return scores


def _is_updated(site: Site) -> bool:
    """Whether an update stands beside a weight, whoever attached it."""
    module = site.module
    return isinstance(module, UpdatedProjection) and site.projection in module.updated


def _delta(site: Site, choice: str) -> Tensor:
    """The dense update beside a weight."""
    if not _is_updated(site):
        raise ModelError(f"score {choice!r} needs an update on {site.key}; none is attached")
    return site.module.delta(site.projection).float()


def demote(scores: Mapping[str, Tensor], earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put what is pruned already below every other score, so that it is pruned again first.

    Args:
        scores: floating, by site key.
        earlier: bool masks by site key, True = kept; a site without one is whole. Where one is
            False, the score becomes minus infinity.
    """
    lowest = float("-inf")
    return {
        key: score.masked_fill(~earlier[key].to(score.device), lowest) if key in earlier else score
        for key, score in scores.items()
    }


def two_pool_masks(
    model: nn.Module,
    ratio: float,
    *,
    adapted_ratio: float | None = None,
    choice: str = "delta",
    generator: torch.Generator | None = None,
    earlier: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks of DSEE's unstructured variant: two global pools, pruned apart.

    Args:
        model: a model with DSEE on query and value, unless the choice needs no update.
        ratio: fraction of {key, attention_output, ffn_in, ffn_out} and, where there is one,
            ffn_gate, scored |W|, to prune.
        adapted_ratio: fraction of {query, value} to prune; ``ratio`` if None.
        choice: score of {query, value}, see ``site_scores``.
        generator: CPU generator for ``random``.
        earlier: masks of an earlier pruning; what they drop stays dropped.

    Returns:
        bool masks, ``O x I``, for all projections of every layer, by site key.

    Raises:
        ModelError: as ``site_scores`` and ``mask_pool``.

    Source:
        VITA-Group/DSEE at 61844c3, ``run_glue_prune_with_WAB.py``.
    Differs:
        The released second pool also holds BERT's pooler and RoBERTa's trained
        ``classifier.dense``; ours holds the layers only.
    """
    own = ratio if adapted_ratio is None else adapted_ratio
    adapted = site_scores(model, ADAPTED_POOL, choice=choice, generator=generator)
    others = site_scores(model, OTHER_POOL, choice="weight")
    masks = mask_pool(demote(adapted, earlier or {}), own)
    masks.update(mask_pool(demote(others, earlier or {}), ratio))
    return masks


@torch.no_grad()
def apply_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Write zeros into the masked weights, in place; kept values stay bit for bit.

    They are remembered, so that ``zeros.check_zeros`` can tell whether one came alive again.

    Args:
        model: of a known architecture, with or without an update.
        masks: bool, ``O x I``, by site key.

    Raises:
        ModelError: if a site does not exist or a mask does not fit; nothing is changed then.
    """
    anatomy = Anatomy.of(model)
    sites = {key: anatomy.site_of(key) for key in masks}
    views = {key: site.weight_view() for key, site in sites.items()}
    for key, view in views.items():
        mask = masks[key]
        if mask.dtype != torch.bool or mask.shape != view.shape:
            raise ModelError(
                f"mask of {key}: received {mask.dtype} {tuple(mask.shape)}, "
                f"needed: torch.bool {tuple(view.shape)}"
            )
    for key, view in views.items():
        view.masked_fill_(~masks[key].to(view.device), 0.0)
    remember_zeros(sites.values(), masks)


def gate_gradients(
    model: nn.Module, masks: Mapping[str, Tensor]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Let no gradient reach masked weights that train, so that their zeros stay.

    A weight that is zero, never has a gradient and has an optimizer that is new since it was
    masked gets no update: its momentum is zero, and decay of zero is zero. The norm that gradients
    are clipped to does not see it either.

    Args:
        model: of a known architecture; frozen weights need no gate and get none.
        masks: bool, ``O x I``, by site key; already written by ``apply_masks_``.

    Returns:
        Handles; ``remove()`` takes the gates off.
    """
    gates = []
    for weight, dropped in dropped_weights(model, masks):
        if weight.requires_grad:
            gates.append(weight.register_hook(ZeroGate(dropped)))
    return gates


def dropped_weights(
    model: nn.Module, masks: Mapping[str, Tensor]
) -> list[tuple[nn.Parameter, Tensor]]:
    """Show masks as they lie in the stored weights.

    Args:
        model: of a known architecture.
        masks: bool, ``O x I``, by site key; True = kept.

    Returns:
        Each stored weight under a mask, with what is dropped of it: bool, of its stored shape,
        True = dropped. A fused matrix is one parameter under the masks of three sites.
    """
    anatomy = Anatomy.of(model)
    dropped: dict[str, tuple[nn.Parameter, Tensor]] = {}
    for key, mask in masks.items():
        site = anatomy.site_of(key)
        weight = site.module.weight
        fresh = (weight, torch.zeros(weight.shape, dtype=torch.bool, device=weight.device))
        _, whole = dropped.setdefault(site.path, fresh)
        site.weight_view(whole).copy_(~mask)
    return list(dropped.values())


class ZeroGate:
    """Zeroes a gradient where weights are dropped; follows the weight to its device.

    Attributes:
        dropped: bool, of the weight's shape, True = dropped.
        hooked: whether it stands before a weight's gradient for good.
    """

    def __init__(self, dropped: Tensor) -> None:
        self.dropped = dropped
        self.hooked = False

    def __call__(self, gradient: Tensor) -> Tensor:
        """Zero what is dropped; called by autograd."""
        return gradient.masked_fill(self.on(gradient.device), 0.0)

    def on(self, device: torch.device) -> Tensor:
        """Show what is dropped on some device; it stays there."""
        self.dropped = self.dropped.to(device)
        return self.dropped


def pack_mask(mask: Tensor) -> Tensor:
    """Store a bool mask as bits, first entry in the highest, the last byte padded with zeros.

    Returns:
        uint8 on the CPU, shape ``(ceil(numel / 8),)``.
    """
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))


def unpack_mask(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Read a mask of some shape back from the bits of ``pack_mask``; bool, on the CPU.

    Raises:
        ModelError: if the number of bytes does not fit the shape.
    """
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.numel() != math.ceil(count / 8):
        raise ModelError(
            f"packed mask: received {packed.numel()} of {packed.dtype}, "
            f"needed: {math.ceil(count / 8)} of torch.uint8 for shape {tuple(shape)}"
        )
    bits = np.unpackbits(packed.cpu().numpy(), count=count)
    return torch.from_numpy(bits.astype(bool)).view(shape)

"""Folding DSEE's update into the weights, and what that does to their zeros."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.layer import DseeLinear, dsee_branches
from sparsetune.errors import ModelError


@dataclass(frozen=True)
class MergeReport:
    """What a merge did to the adapted matrices.

    Attributes:
        policy: ``unmerged``, ``dense`` or ``masked``.
        zero_share_before: zeros in W over its entries, in [0, 1].
        zero_share_after: the same for the matrix that inference then multiplies by.
        relative_change: norm of the part of the update that was dropped over the norm of the
            whole update; 0 unless ``masked``, or if the update is zero.
    """

    policy: str
    zero_share_before: float
    zero_share_after: float
    relative_change: float


def merge(model: nn.Module, policy: Literal["unmerged", "dense", "masked"]) -> MergeReport:
    """Fold the updates into the weights, or leave them beside, in place.

    ``dense`` and ``masked`` turn the layers back into plain ones with new weights. ``masked`` takes
    the mask from the zeros of W, so that they survive, and so changes what the model computes.

    Args:
        model: a model with DSEE attached.
        policy: ``unmerged`` changes nothing; ``dense`` keeps the function and loses the zeros;
            ``masked`` keeps the zeros and drops the update there.

    Returns:
        Shares of zeros and how much of the update was dropped.

    Raises:
        ModelError: if the policy is unknown or nothing is attached.
    """
    if policy not in ("unmerged", "dense", "masked"):
        raise ModelError(f"merge policy {policy!r}; allowed: unmerged, dense, masked")
    anatomy = Anatomy.of(model)
    attached = [(anatomy.site_of(branch.key), layer) for layer, branch in dsee_branches(model)]
    if not attached:
        raise ModelError("nothing to merge: no DSEE update is attached")
    before, after, total = 0, 0, 0
    dropped, whole = 0.0, 0.0
    merged: dict[str, Tensor] = {}
    for site, layer in attached:
        stored = merged.setdefault(site.path, layer.weight.detach().clone())
        view, update = site.weight_view(stored), layer.delta(site.projection)
        zero = view == 0
        before, total = before + int(zero.sum()), total + zero.numel()
        if policy == "masked":
            whole += float(update.square().sum())
            dropped += float(update[zero].square().sum())
            update = update.masked_fill(zero, 0.0)
        if policy != "unmerged":
            view += update.to(view.dtype)
        after += int((view == 0).sum())
    if policy != "unmerged":
        for path, layer in {site.path: layer for site, layer in attached}.items():
            if layer.folding is not None:
                layer.folding.detach()
            model.set_submodule(path, _plain(layer, merged[path]))
    change = math.sqrt(dropped / whole) if whole else 0.0
    return MergeReport(policy, before / total, after / total, change)


def _plain(layer: DseeLinear, weight: Tensor) -> nn.Module:
    """Make a module of the original kind around a merged weight."""
    if layer.stored_in_by_out:
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):  # no draw from the global generator for values thrown away
            module: Any = Conv1D(weight.shape[1], weight.shape[0])
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = layer.bias
    return module.train(layer.training)

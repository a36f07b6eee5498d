"""Whether an update fits the matrix that it is for; asked before anything is attached."""

import math
from typing import Any

import torch
from torch import Tensor

from sparsetune.architectures.base import Site
from sparsetune.errors import ModelError


def check_fits(site: Site, positions: Any, *, rank: int, n_sparse: int) -> None:
    """Check that rank, number and positions of an update fit a projection.

    Args:
        site: where it is.
        positions: int32 or int64, shape ``(N,)``, flat in ``O x I``, distinct.
        rank: of U V, at most the smaller side of the matrix.
        n_sparse: most positions allowed, at most the entries of the matrix.

    Raises:
        ModelError: naming the site, what was received and what is allowed.
    """
    check_sizes(site, rank=rank, n_sparse=n_sparse)
    named = f"support of {site.key}"
    if not isinstance(positions, Tensor):
        raise ModelError(f"{named}: received a {type(positions).__name__}, needed: a tensor")
    if positions.dim() != 1 or positions.dtype not in (torch.int32, torch.int64):
        raise ModelError(
            f"{named}: received {positions.dtype} of {positions.dim()} dimensions, "
            "needed: int64 of one dimension"
        )
    if positions.numel() > n_sparse:
        raise ModelError(f"{named}: {positions.numel()} positions; allowed: at most {n_sparse}")
    if positions.numel() == 0:
        return
    lowest, highest, last = int(positions.min()), int(positions.max()), math.prod(site.shape) - 1
    if lowest < 0 or highest > last:
        raise ModelError(
            f"{named}: received {lowest}..{highest}, positions outside 0..{last} "
            f"of its {site.shape[0]} x {site.shape[1]} matrix"
        )
    if positions.unique().numel() != positions.numel():
        raise ModelError(f"{named}: a position occurs twice")


def check_sizes(site: Site, *, rank: int, n_sparse: int) -> None:
    """Check the part of ``check_fits`` that needs no positions.

    Args:
        site: where it is.
        rank: of U V.
        n_sparse: most positions allowed.

    Raises:
        ModelError: naming the site, what was received and what is allowed.
    """
    out_features, in_features = site.shape
    size = f"{site.key} of {out_features} x {in_features}"
    if rank > min(site.shape):
        raise ModelError(f"{size}: dsee rank: received {rank}, allowed: 1 to {min(site.shape)}")
    if n_sparse > math.prod(site.shape):
        raise ModelError(
            f"{size}: dsee n_sparse: received {n_sparse}, allowed: 0 to {math.prod(site.shape)}"
        )

"""Attention heads scored by DSEE's update, and removed from a model that has it attached.

Removal from a plain model is in ``sparsetune.pruning.structured``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsetune.architectures.base import Anatomy, check_kept, check_plain
from sparsetune.dsee.layer import DseeBranch, DseeLinear, dsee_branches
from sparsetune.dsee.support import restrict_support
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import ADAPTED_POOL, exact_top_k, pruned_count, site_scores
from sparsetune.pruning.structured import cut_heads, features_of, kept_sides

HEAD_SCORES = ("delta", "weight+delta", "random")
_SUMMED = {"delta": ("delta",), "weight+delta": ("weight", "delta")}


def head_scores(
    model: nn.Module, *, choice: str, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Score every attention head; larger = kept.

    Args:
        model: a BERT, RoBERTa or GPT-2 with DSEE on query and value, unless the choice is random.
        choice: ``delta``: sum of |dW| over the head's rows of query and value; ``weight+delta``:
            the same of |W| added to it; ``random``: uniform.
        generator: CPU generator, needed for ``random``.

    Returns:
        For each layer a float64 tensor of shape ``(H,)``.

    Raises:
        ModelError: if the choice is unknown, an update is missing, or ``random`` has no generator.

    Source:
        VITA-Group/DSEE at 61844c3, ``run_glue_prune_with_WAB_heads.py``: modes ABS, WABS, random.
    Differs:
        dW holds its scale alpha / r, which the code leaves out; that moves ``weight+delta`` only.
    """
    if choice not in HEAD_SCORES:
        raise ModelError(f"head score {choice!r} unknown; known: {', '.join(HEAD_SCORES)}")
    anatomy = Anatomy.of(model)
    if choice == "random":
        if generator is None:
            raise ModelError("head score 'random' needs a generator")
        return [
            torch.rand(anatomy.heads(layer), generator=generator, dtype=torch.float64)
            for layer in range(anatomy.layers)
        ]
    parts = [site_scores(model, ADAPTED_POOL, choice=part) for part in _SUMMED[choice]]
    return [
        sum(
            part[f"layer.{layer}.{projection}"].double().sum(1).view(-1, anatomy.head_size).sum(1)
            for part in parts
            for projection in ADAPTED_POOL
        )
        for layer in range(anatomy.layers)
    ]


def heads_to_keep(scores: Sequence[Tensor], sparsity: float) -> list[list[int]]:
    """Drop the same share of the heads in every layer: those with the smallest scores.

    Args:
        scores: for each layer a floating tensor of shape ``(H,)``.
        sparsity: share to drop, in [0, 1); the count is rounded half up.

    Returns:
        For each layer the kept head numbers, increasing; one stays however large the share.
        Among equal scores the lower number is kept.

    Raises:
        ModelError: if the share is out of range or a score is NaN.
    """
    kept = []
    for layer in scores:
        count = heads_left(layer.numel(), sparsity)
        kept.append(exact_top_k(layer, count).nonzero().squeeze(1).tolist())
    return kept


def heads_left(heads: int, sparsity: float) -> int:
    """How many of a layer's heads stay when a share, in [0, 1), is dropped; one at least."""
    return max(1, heads - pruned_count(sparsity, heads))


def remove_heads(model: nn.Module, kept_heads: Sequence[Sequence[int]]) -> None:
    """Keep only the named heads of a model with DSEE attached, in place.

    Rows of query, key and value and columns of the attention output go, with the same rows and
    columns of U, V and S2; what is kept is copied bit for bit. V of query and value, which reads
    the hidden state, is not touched.

    Args:
        model: a BERT, RoBERTa or GPT-2 whose projections are plain or DSEE's.
        kept_heads: for each layer, head numbers in increasing order, at least one.

    Raises:
        ModelError: if layers or heads do not fit the model, or something else is attached;
            nothing is changed then.

    Source:
        VITA-Group/DSEE at 61844c3, ``prune_heads`` of BERT's self-attention.
    Differs:
        Works on RoBERTa, whose update the code leaves whole, and on GPT-2, which it lacks.
    """
    anatomy = Anatomy.of(model)
    heads = [anatomy.heads(layer) for layer in range(anatomy.layers)]
    check_kept(kept_heads, heads, "head")
    for site in anatomy.sites():
        if not isinstance(site.module, DseeLinear):
            check_plain(site)
    for _, branch in dsee_branches(model):
        site = anatomy.site_of(branch.key)
        features = features_of(kept_heads[site.layer], anatomy.head_size)
        _cut_branch(branch, *kept_sides(site.projection, features, None))
    cut_heads(model, kept_heads)
    for _, branch in dsee_branches(model):
        site = anatomy.site_of(branch.key)
        branch.start = site.out_slice(site.shape[0] * site.parts).start


def _cut_branch(
    branch: DseeBranch, rows: Sequence[int] | None, columns: Sequence[int] | None
) -> None:
    whole, device = branch.positions.long().cpu(), branch.positions.device
    row, column = whole // branch.shape[1], whole % branch.shape[1]
    survives = torch.ones(whole.numel(), dtype=torch.bool)
    for index, kept in ((row, rows), (column, columns)):
        if kept is not None:
            survives &= torch.isin(index, torch.tensor(list(kept)))
    moved = restrict_support(whole, branch.shape, kept_rows=rows, kept_columns=columns)
    branch.positions = moved.to(device=device, dtype=torch.int32)
    branch.S2 = nn.Parameter(branch.S2.detach()[survives.to(device)])
    if rows is not None:
        branch.U = nn.Parameter(branch.U.detach()[list(rows)])
    if columns is not None:
        branch.V = nn.Parameter(branch.V.detach()[:, list(columns)].contiguous())
    branch.shape = (branch.U.shape[0], branch.V.shape[1])

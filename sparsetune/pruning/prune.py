"""Zeros in the weights of anyone's model: drawn, laid, and kept through whatever trains it."""

import functools
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from sparsetune.architectures.anatomy import Anatomy, check_has_values
from sparsetune.architectures.base import PROJECTIONS, UpdatedProjection, check_alone
from sparsetune.errors import ConfigError, ModelError, refusal, shown
from sparsetune.pruning.masks import (
    ADAPTED_POOL,
    SCORES,
    ZeroGate,
    apply_masks_,
    demote,
    dropped_weights,
    mask_n_of_m,
    mask_per_layer,
    mask_pool,
    pruned_count,
    site_scores,
)
from sparsetune.pruning.zeros import zeros_to_keep
from sparsetune.randomness import derive

M = TypeVar("M", bound=nn.Module)
Score = Literal["weight", "delta", "weight+delta", "random", "inverse"]
Pools = Literal["one", "two", "matrix"]
POOLS = ("one", "two", "matrix")
# An attribute of the parameter: it goes where the parameter goes, and no further.
_GATE = "zero_gate"


def prune(
    model: M,
    sparsity: float | None,
    *,
    score: Score = "weight",
    pools: Pools = "one",
    pattern: str | None = None,
    seed: int = 0,
) -> M:
    """Set the least important weights to zero, in place, and keep them zero.

    Pruned are the projections of every layer: query, key, value, attention output and both
    feed-forward matrices. What is zero already stays zero, so repeated calls with a growing
    ``sparsity`` prune gradually. From then on no optimizer of torch revives a zero: it gets no
    gradient, and is written again after every step. ``save`` refuses a model in which one came
    alive by another way. A deep copy, or a model that was loaded, is watched after a call with
    ``sparsity=None``.

    Args:
        model: of a known architecture; plain, with DSEE, or with layers of PEFT.
        sparsity: zeros in all over all entries of a pool, in [0, 1]; None = no others than are
            there now, from wherever: take the model as it is and keep those.
        score: what counts as important: ``weight`` |W|, ``random``; and where DSEE adapts a
            matrix ``delta`` |dW|, ``weight+delta`` |W + dW|, ``inverse`` (the least moved by
            ``delta`` first, a control), |W| for the others.
        pools: where weights compete: in ``one`` pool of the whole model, in ``two`` (adapted
            projections, or query and value, and the others), or in each ``matrix``.
        pattern: ``N:M``, such as ``2:4``: N of every M consecutive inputs are kept, in every
            matrix; ``sparsity`` is then 1 - N / M. It saves no time on today's hardware.
        seed: of the score ``random``, 0 or more.

    Returns:
        The same model.

    Raises:
        ConfigError: an argument out of range, or two that do not fit together.
        ModelError: another architecture, weights that are not floating or NaN, an update that the
            score needs is not there, inputs that are no multiple of M, more zeros than asked for,
            or other adapters that stand on these weights; nothing is changed then.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3 (scores, pools); gradual: Zhu and Gupta 2017,
        arXiv:1710.01878.
    Differs:
        Counts are exact; ties keep the lower index.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = prune(BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes)), 0.5)
        >>> sum(int((site.weight_view() == 0).sum()) for site in Anatomy.of(model).sites())
        256
    """
    kept_of = _pattern(sparsity, pattern, pools)
    _check_choices(sparsity, score, pools, seed)
    check_has_values(model, "prune")
    _check_weights(model)
    check_alone(model, "prune")
    earlier = zeros_to_keep(model)
    if sparsity is None:
        if not earlier:
            raise ModelError(
                f"prune: sparsity: received None; allowed: 0 to 1, as {type(model).__name__} has "
                "no zeros that could be kept"
            )
        masks = earlier
    else:
        drawn = _drawn(model, sparsity, score, pools, kept_of, earlier, seed)
        masks = {key: mask & earlier.get(key, mask) for key, mask in drawn.items()}
    apply_masks_(model, masks)
    keep_zeros(model, masks)
    return model


def keep_zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Let no optimizer of torch revive masked weights, from now on.

    Args:
        model: of a known architecture.
        masks: bool, ``O x I``, by site key; already written by ``apply_masks_``. Those of a
            matrix replace what was kept zero in it before.
    """
    for weight, dropped in dropped_weights(model, masks):
        gate = getattr(weight, _GATE, None)
        if gate is None:
            gate = ZeroGate(dropped)
            setattr(weight, _GATE, gate)
        gate.dropped = dropped
        if weight.requires_grad and not gate.hooked:
            weight.register_hook(gate)
            gate.hooked = True
    _watch_optimizers()


@functools.cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_write_zeros_again)


@torch.no_grad()
def _write_zeros_again(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Undo what momentum from before the masks did to their weights."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gate = getattr(parameter, _GATE, None)
            if gate is not None and gate.dropped.shape == parameter.shape:
                parameter.masked_fill_(gate.on(parameter.device), 0.0)


def _pattern(sparsity: float | None, pattern: str | None, pools: str) -> tuple[int, int] | None:
    if pattern is None:
        return None
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", pattern) if isinstance(pattern, str) else None
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(
            f"prune: pattern: received {shown(pattern)}; allowed: N:M with N from 1 to M - 1"
        )
    kept, of = int(match[1]), int(match[2])
    if sparsity != 1 - kept / of:
        raise ConfigError(
            f"prune: sparsity: received {shown(sparsity)}; allowed: {1 - kept / of:.12g} with "
            f"pattern {pattern}"
        )
    if pools != "one":
        raise ConfigError(f"prune: pools: received {shown(pools)}; allowed: none with a pattern")
    return kept, of


def _check_choices(sparsity: object, score: str, pools: str, seed: object) -> None:
    number = isinstance(sparsity, int | float) and not isinstance(sparsity, bool)
    if sparsity is not None and not (number and 0 <= sparsity <= 1):  # type: ignore[operator]
        raise ConfigError(
            f"prune: sparsity: received {shown(sparsity)}; allowed: a number from 0 to 1, or None"
        )
    if score not in SCORES:
        raise ConfigError(refusal("prune", "score", score, SCORES))
    if pools not in POOLS:
        raise ConfigError(refusal("prune", "pools", pools, POOLS))
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"prune: seed: received {shown(seed)}; allowed: a whole number from 0")


def _check_weights(model: nn.Module) -> None:
    for site in Anatomy.of(model).sites():
        weight = getattr(site.module, "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            told = getattr(weight, "dtype", "no weight")
            raise ModelError(f"prune: {site.path}: received {told}; needed: a floating weight")


def _drawn(
    model: nn.Module,
    sparsity: float,
    score: Score,
    pools: Pools,
    kept_of: tuple[int, int] | None,
    earlier: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Masks of so much sparsity, in which what is zero already comes first."""
    updated = _updated(model)
    scored = updated if updated and score not in ("weight", "random") else PROJECTIONS
    generator = torch.Generator().manual_seed(derive(seed, "prune"))
    scores = site_scores(model, scored, choice=score, generator=generator)
    others = [name for name in PROJECTIONS if name not in scored]
    scores |= site_scores(model, others, choice="weight")
    scores = demote({site.key: scores[site.key] for site in Anatomy.of(model).sites()}, earlier)
    if kept_of is not None:
        return {key: mask_n_of_m(one, *kept_of) for key, one in scores.items()}
    if pools == "matrix":
        for key, one in scores.items():
            _check_pool(f"matrix {key}", {key: one}, sparsity, earlier)
        return mask_per_layer(scores, sparsity)
    if pools == "one":
        _check_pool("the model", scores, sparsity, earlier)
        return mask_pool(scores, sparsity)
    adapted = updated or ADAPTED_POOL
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for key, one in scores.items():
        parts[key.rpartition(".")[2] not in adapted][key] = one
    for names, part in zip((adapted, "the others"), parts, strict=True):
        told = names if isinstance(names, str) else ", ".join(names)
        _check_pool(f"the pool of {told}", part, sparsity, earlier)
    return mask_pool(parts[0], sparsity) | mask_pool(parts[1], sparsity)


def _check_pool(
    name: str, scores: Mapping[str, Tensor], sparsity: float, earlier: Mapping[str, Tensor]
) -> None:
    total = sum(one.numel() for one in scores.values())
    zeros = sum(int((~earlier[key]).sum()) for key in scores if key in earlier)
    if zeros > pruned_count(sparsity, total):
        raise ModelError(
            f"prune: sparsity: received {sparsity}; allowed: {zeros / total:.4g} to 1, as {zeros} "
            f"of {total} weights of {name} are zero already"
        )


def _updated(model: nn.Module) -> tuple[str, ...]:
    """Projections that have an update beside them in some layer."""
    found = {
        site.projection
        for site in Anatomy.of(model).sites()
        if isinstance(site.module, UpdatedProjection) and site.projection in site.module.updated
    }
    return tuple(name for name in PROJECTIONS if name in found)

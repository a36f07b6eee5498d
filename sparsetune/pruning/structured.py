"""Attention heads, feed-forward neurons and whole layers: scored, and removed for real, in place.

A smaller model is stored as the kept numbers: removing them again from the backbone rebuilds it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import HEADS_BY_LAYER, Anatomy
from sparsetune.architectures.base import (
    UpdatedProjection,
    check_kept,
    check_kept_layers,
    check_plain,
)
from sparsetune.errors import ModelError
from sparsetune.pruning.manifest import Sizes
from sparsetune.pruning.masks import ADAPTED_POOL, exact_top_k, pruned_count, site_scores

Kept = Sequence[Sequence[int]]
HEAD_SCORES = ("delta", "weight+delta", "random")
_SUMMED = {"delta": ("delta",), "weight+delta": ("weight", "delta")}


def remove(model: nn.Module, kept_heads: Kept, kept_neurons: Kept | None = None) -> None:
    """Keep only the named heads and neurons of every layer, in place.

    What is kept is copied bit for bit. Updates of ours beside the weights lose the same rows and
    columns; other attachments (PEFT's layers, gates) must come after removal. Everything is
    checked before anything changes, so a refused call leaves the model whole.

    Args:
        model: of a known architecture, its projections plain or with an update of ours.
        kept_heads: for each layer, head numbers in increasing order, at least one.
        kept_neurons: for each layer, neuron numbers in increasing order, at least one; None = all.

    Raises:
        ModelError: if layers, heads or neurons do not fit the model, a layer would be emptied,
            or something else is attached.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.2 (EarlyBERT removes, never masks; the
        attention scale stays 1 / sqrt(head size)); VITA-Group/DSEE at 61844c3, ``prune_heads``.
    Differs:
        Nothing for BERT. On RoBERTa DSEE's code leaves the update whole; GPT-2, absent from
        both, loses columns of its fused matrix.
    """
    anatomy = Anatomy.of(model)
    layers = range(anatomy.layers)
    for site in anatomy.sites():
        if not isinstance(site.module, UpdatedProjection):
            check_plain(site)
    for site in (one for layer in layers for one in anatomy.like_query(layer)):
        check_plain(site)
    check_kept(kept_heads, [anatomy.heads(layer) for layer in layers], "head")
    if kept_neurons is not None:
        check_kept(kept_neurons, [anatomy.ffn_width(layer) for layer in layers], "neuron")
    for site in anatomy.sites():
        if isinstance(site.module, UpdatedProjection):
            neurons = None if kept_neurons is None else kept_neurons[site.layer]
            sides = anatomy.kept_sides(site.projection, kept_heads[site.layer], neurons)
            site.module.keep_update_(site.projection, *sides)
    for layer in layers:
        anatomy.keep_heads_(layer, kept_heads[layer])
        if kept_neurons is not None:
            anatomy.keep_neurons_(layer, kept_neurons[layer])
    anatomy.note_sizes()


def keep_layers(model: nn.Module, kept: Sequence[int]) -> None:
    """Keep only the named layers, in place; the others are as if they had handed on their input.

    Call it before DSEE or PEFT layers and gates are attached; they then see the smaller model,
    whose layers are numbered anew from 0.

    Args:
        model: of a known architecture, with plain projections.
        kept: layer numbers in increasing order, at least one.

    Raises:
        ModelError: if the numbers do not fit the model or its family (the attention of a GPT-2
            may be scaled by the number of its layer), or a projection is wrapped already; nothing
            is changed then.

    Source:
        Fan et al. 2020, arXiv:1909.11556 (LayerDrop), pruning at inference.
    Differs:
        Layers are dropped before fine-tuning, as EarlyBERT's baseline has it; nothing is dropped
        at random while training.
    """
    anatomy = Anatomy.of(model)
    for site in anatomy.sites():
        check_plain(site)
    check_kept_layers(kept, anatomy.layers)
    reason = anatomy.family.keeps_layers(model.config, kept)
    if reason:
        raise ModelError(reason)
    layers = anatomy.layer_list
    for layer in sorted(set(range(len(layers))) - set(kept), reverse=True):
        del layers[layer]
    for number, one in enumerate(layers):
        for module in one.modules():
            if hasattr(module, "layer_idx"):  # the place of its keys and values in a cache
                module.layer_idx = number
    config: Any = model.config
    config.num_hidden_layers = len(layers)
    for name in anatomy.family.config_by_layer:
        if getattr(config, name, None):
            setattr(config, name, [getattr(config, name)[layer] for layer in kept])
    if hasattr(config, HEADS_BY_LAYER):
        anatomy.note_sizes()


def renumbered(by_site: Mapping[str, Any], kept: Sequence[int] | None) -> dict[str, Any]:
    """Name sites as they are called after layers were removed; those of removed layers go.

    Args:
        by_site: anything by site key, ``layer.<number>.<projection>``.
        kept: layer numbers that stay, increasing; None = all.

    Example:
        >>> renumbered({"layer.0.query": "a", "layer.5.query": "b"}, [2, 5])
        {'layer.1.query': 'b'}
    """
    if kept is None:
        return dict(by_site)
    numbers = {str(old): new for new, old in enumerate(kept)}
    parts = {key: key.split(".") for key in by_site}
    return {
        f"layer.{numbers[number]}.{projection}": by_site[key]
        for key, (_, number, projection) in parts.items()
        if number in numbers
    }


def head_scores(
    model: nn.Module, *, choice: str, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Score every attention head by DSEE's update; larger = kept.

    Args:
        model: with an update on query and value, unless the choice is random.
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
    layers = range(anatomy.layers)
    if choice == "random":
        if generator is None:
            raise ModelError("head score 'random' needs a generator")
        counts = [anatomy.heads(layer) for layer in layers]
        return [torch.rand(n, generator=generator, dtype=torch.float64) for n in counts]
    parts = [site_scores(model, ADAPTED_POOL, choice=part) for part in _SUMMED[choice]]

    def of_heads(rows: Tensor, name: str) -> Tensor:
        features = len(anatomy.features_of(name, [0]))
        return rows.double().sum(1).view(-1, features).sum(1)

    return [
        sum(
            (of_heads(part[f"layer.{n}.{name}"], name) for part in parts for name in ADAPTED_POOL),
            start=torch.zeros((), dtype=torch.float64),
        )
        for n in layers
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
    masks = [exact_top_k(layer, heads_left(layer.numel(), sparsity)) for layer in scores]
    return [mask.nonzero().squeeze(1).tolist() for mask in masks]


def heads_left(heads: int, sparsity: float) -> int:
    """Count the heads that stay when a share of a layer's, in [0, 1), is dropped; at least one."""
    return max(1, heads - pruned_count(sparsity, heads))


def sizes_of(model: nn.Module) -> Sizes:
    """Describe the sizes of a model, whole or after removal.

    Args:
        model: of a known architecture.

    Raises:
        ModelError: if the architecture is another one.
    """
    anatomy = Anatomy.of(model)
    layers = range(anatomy.layers)
    return Sizes(
        model_type=anatomy.model_type,
        layers=anatomy.layers,
        head_size=anatomy.head_size,
        heads=[anatomy.heads(layer) for layer in layers],
        ffn_width=[anatomy.ffn_width(layer) for layer in layers],
    )

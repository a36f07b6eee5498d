"""Remove attention heads and feed-forward neurons from a model for real, in place.

A removed model is stored as the kept indices: removing them again from the backbone rebuilds it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.architectures.base import ATTENTION_INPUTS, Anatomy, Site, check_kept, check_plain

Kept = Sequence[Sequence[int]]


def remove(model: nn.Module, kept_heads: Kept, kept_neurons: Kept) -> None:
    """Keep only the named heads and neurons of every layer, in place.

    Call it before DSEE or PEFT layers and gates are attached; they then get the smaller shapes.
    Everything is checked before anything changes, so a refused call leaves the model whole.

    Args:
        model: a BERT, RoBERTa or GPT-2 with plain projections.
        kept_heads: for each layer, head numbers in increasing order, at least one.
        kept_neurons: for each layer, neuron numbers in increasing order, at least one.

    Raises:
        ModelError: if layers, heads or neurons do not fit the model, a layer would be emptied,
            or a projection is wrapped already.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.2 (EarlyBERT removes, never masks); the
        attention scale stays 1 / sqrt(head size).
    Differs:
        Nothing for BERT. GPT-2, absent from the paper, loses columns of its fused matrix.
    """
    anatomy = Anatomy.of(model)
    for site in anatomy.sites():
        check_plain(site)
    check_kept(kept_heads, [anatomy.heads(layer) for layer in range(anatomy.layers)], "head")
    check_kept(kept_neurons, [anatomy.ffn_width(n) for n in range(anatomy.layers)], "neuron")
    for layer in range(anatomy.layers):
        _remove_heads(anatomy, layer, kept_heads[layer])
        _remove_neurons(anatomy, layer, kept_neurons[layer])


def cut_heads(model: nn.Module, kept_heads: Kept) -> None:
    """Keep only the named heads in the stored matrices of every attention, in place.

    As ``remove``, but a projection may be wrapped: whatever stands beside its weight is left to
    the caller, who knows what it is. See :func:`sparsetune.pruning.heads.remove_heads`.

    Args:
        model: a BERT, RoBERTa or GPT-2.
        kept_heads: for each layer, head numbers in increasing order, at least one.

    Raises:
        ModelError: if layers or heads do not fit the model; nothing is changed then.
    """
    anatomy = Anatomy.of(model)
    check_kept(kept_heads, [anatomy.heads(layer) for layer in range(anatomy.layers)], "head")
    for layer in range(anatomy.layers):
        _remove_heads(anatomy, layer, kept_heads[layer])


def kept_sides(
    projection: str, features: Sequence[int], neurons: Sequence[int] | None
) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """Say which rows and columns of a projection are left after a removal.

    Args:
        projection: one of ``PROJECTIONS``.
        features: features of the heads kept in its layer.
        neurons: neurons kept in its layer; None = all.

    Returns:
        Kept rows and kept columns of its ``O x I`` matrix; None = all.
    """
    if projection in ATTENTION_INPUTS:
        return features, None
    sides = {
        "attention_output": (None, features),
        "ffn_in": (neurons, None),
        "ffn_out": (None, neurons),
    }
    return sides[projection]


def features_of(heads: Sequence[int], head_size: int) -> list[int]:
    """Numbers of the features that some heads own, in order."""
    return [head * head_size + offset for head in heads for offset in range(head_size)]


def shapes(model: nn.Module) -> dict[str, Any]:
    """Describe the sizes of a model, whole or after removal.

    Args:
        model: a BERT, RoBERTa or GPT-2.

    Returns:
        JSON-able: ``model_type``, ``layers``, ``head_size``, ``heads`` and ``ffn_width`` (one
        number per layer).

    Raises:
        ModelError: if the architecture is another one.
    """
    anatomy = Anatomy.of(model)
    return {
        "model_type": anatomy.model_type,
        "layers": anatomy.layers,
        "head_size": anatomy.head_size,
        "heads": [anatomy.heads(layer) for layer in range(anatomy.layers)],
        "ffn_width": [anatomy.ffn_width(layer) for layer in range(anatomy.layers)],
    }


def _remove_heads(anatomy: Anatomy, layer: int, kept: Sequence[int]) -> None:
    size = anatomy.head_size
    device = anatomy.site(layer, "query").module.weight.device
    features = torch.tensor(features_of(kept, size), device=device)
    # A fused matrix is one module seen through three sites: cut all thirds at once.
    sites = {site.path: site for site in (anatomy.site(layer, name) for name in ATTENTION_INPUTS)}
    for site in sites.values():
        block = anatomy.site(layer, "query").shape[0] if site.parts > 1 else 0
        rows = torch.cat([features + part * block for part in range(site.parts)])
        _keep_outputs(site, rows)
    _keep_inputs(anatomy.site(layer, "attention_output"), features)
    attention = anatomy.attention(layer)
    if anatomy.model_type == "gpt2":
        attention.num_heads = len(kept)
        attention.split_size = len(kept) * size
    else:
        attention.num_attention_heads = len(kept)
        attention.all_head_size = len(kept) * size


def _remove_neurons(anatomy: Anatomy, layer: int, kept: Sequence[int]) -> None:
    site = anatomy.site(layer, "ffn_in")
    neurons = torch.tensor(list(kept), device=site.module.weight.device)
    _keep_outputs(site, neurons)
    _keep_inputs(anatomy.site(layer, "ffn_out"), neurons)


def _keep_outputs(site: Site, rows: Tensor) -> None:
    module = site.module
    module.weight = _selected(module.weight, rows, 1 if site.stored_in_by_out else 0)
    if module.bias is not None:
        module.bias = _selected(module.bias, rows, 0)
    _note_width(module, "nf" if site.stored_in_by_out else "out_features", len(rows))


def _keep_inputs(site: Site, columns: Tensor) -> None:
    module = site.module
    module.weight = _selected(module.weight, columns, 0 if site.stored_in_by_out else 1)
    _note_width(module, "nx" if site.stored_in_by_out else "in_features", len(columns))


def _note_width(module: nn.Module, name: str, width: int) -> None:
    """Keep the width that a plain projection states beside its weight in step with it."""
    if hasattr(module, name):
        setattr(module, name, width)


def _selected(parameter: nn.Parameter, indices: Tensor, dim: int) -> nn.Parameter:
    """Copy the kept part: a view would hold the memory that removal should free."""
    kept = parameter.detach().index_select(dim, indices).contiguous()
    return nn.Parameter(kept, requires_grad=parameter.requires_grad)

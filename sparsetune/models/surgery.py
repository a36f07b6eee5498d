"""Remove attention heads and feed-forward neurons from a model for real, in place.

A removed model is stored as the kept indices: removing them again from the backbone rebuilds it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.models.anatomy import ATTENTION_INPUTS, Anatomy, Site, check_kept, check_plain

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
    heads = torch.tensor(list(kept), device=device)
    features = (heads[:, None] * size + torch.arange(size, device=device)).flatten()
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
    setattr(module, "nf" if site.stored_in_by_out else "out_features", len(rows))


def _keep_inputs(site: Site, columns: Tensor) -> None:
    module = site.module
    module.weight = _selected(module.weight, columns, 0 if site.stored_in_by_out else 1)
    setattr(module, "nx" if site.stored_in_by_out else "in_features", len(columns))


def _selected(parameter: nn.Parameter, indices: Tensor, dim: int) -> nn.Parameter:
    """Copy the kept part: a view would hold the memory that removal should free."""
    kept = parameter.detach().index_select(dim, indices).contiguous()
    return nn.Parameter(kept, requires_grad=parameter.requires_grad)

"""Remove whole layers from a model for real, in place.

Heads and neurons inside a layer are removed in ``surgery.py``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from sparsetune.architectures.base import Anatomy, check_kept_layers, check_plain
from sparsetune.errors import ModelError


def keep_layers(model: nn.Module, kept: Sequence[int]) -> None:
    """Keep only the named layers, in place; the others are as if they had handed on their input.

    Call it before DSEE or PEFT layers and gates are attached; they then see the smaller model,
    whose layers are numbered anew from 0.

    Args:
        model: a BERT, RoBERTa or GPT-2 with plain projections.
        kept: layer numbers in increasing order, at least one.

    Raises:
        ModelError: if the numbers do not fit the model, a projection is wrapped already, or the
            attention of a GPT-2 is scaled by the number of its layer; nothing is changed then.

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
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
        raise ModelError(
            "scale_attn_by_inverse_layer_idx is true: a layer's attention would change with its "
            "number, so no layer can be removed; allowed: false"
        )
    layers = anatomy.layer_list
    removed = set(range(len(layers))) - set(kept)
    for layer in sorted(removed, reverse=True):
        del layers[layer]
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # the place of its keys and values in a cache
                module.layer_idx = number
    model.config.num_hidden_layers = len(layers)


def renumbered(by_site: Mapping[str, Any], kept: Sequence[int] | None) -> dict[str, Any]:
    """Name sites as they are called after layers were removed; those of removed layers go.

    Args:
        by_site: anything by site key, ``layer.<number>.<projection>``.
        kept: layer numbers that stay, increasing; None = all.

    Returns:
        The same things by their new keys.
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

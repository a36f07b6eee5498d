"""Which change of the weights is trained: everything, PEFT's adapters, or DSEE's update.

Each kind is one function that prepares a loaded model in place and leaves ``requires_grad``
on exactly what is trained. A new kind is one function and one entry in ``UPDATES``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.models.anatomy import Anatomy, task_head_parameters
from sparsetune.sparsity.dsee import DseeConfig, apply_dsee


def _attach_full(
    model: nn.Module, update: Mapping[str, Any], supports: Mapping[str, Tensor], seed: int
) -> None:
    model.requires_grad_(True)


def _attach_peft(
    model: nn.Module, update: Mapping[str, Any], supports: Mapping[str, Tensor], seed: int
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    anatomy = Anatomy.of(model)
    heads = task_head_parameters(model)
    sites = [site for site in anatomy.sites() if site.projection in update["targets"]]
    config = LoraConfig(
        r=update["rank"],
        lora_alpha=update["alpha"],
        lora_dropout=update["dropout"],
        target_modules=sorted({site.path for site in sites}),
        fan_in_fan_out=any(site.stored_in_by_out for site in sites),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name in heads)


def _attach_dsee(
    model: nn.Module, update: Mapping[str, Any], supports: Mapping[str, Tensor], seed: int
) -> None:
    config = DseeConfig(
        rank=update["rank"],
        alpha=update["alpha"],
        n_sparse=max((len(positions) for positions in supports.values()), default=0),
        targets=tuple(update["targets"]),
        init=update["init"],
    )
    apply_dsee(model, config, supports, generator=torch.Generator().manual_seed(seed))


UPDATES: Mapping[str, Callable[[nn.Module, Mapping[str, Any], Mapping[str, Tensor], int], None]] = (
    MappingProxyType({"full": _attach_full, "peft": _attach_peft, "dsee": _attach_dsee})
)


def attach_update(
    model: nn.Module, update: Mapping[str, Any], *, supports: Mapping[str, Tensor], seed: int
) -> None:
    """Prepare ``model`` in place so that exactly the update and the task head train.

    Args:
        model: BERT, RoBERTa or GPT-2 with a task head.
        update: the method's ``update`` settings; for DSEE with ``targets`` filled in.
        supports: site key -> sorted flat positions (int64) of S2; empty for other updates.
        seed: of the update's random start.
    """
    UPDATES[update["kind"]](model, update, supports, seed)

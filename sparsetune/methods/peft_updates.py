"""Updates that PEFT attaches: LoRA, IA3, AdaLoRA, and Super-Tuning with a rank (Supra).

PEFT wraps whole stored matrices, so on GPT-2, whose query, key and value are one matrix, an
update of any of them is one of all three.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy, task_head_parameters
from sparsetune.architectures.base import Site
from sparsetune.errors import ModelError
from sparsetune.methods.adalora import ADAPTER, attach_adalora
from sparsetune.methods.attached import Attached
from sparsetune.randomness import derive


def attach_peft(
    model: nn.Module, update: Mapping[str, Any], supports: Mapping[str, Tensor], seed: int
) -> Attached:
    """Attach one of PEFT's updates; it and the task head are what trains.

    Args:
        model: BERT, RoBERTa or GPT-2 with a task head; changed in place.
        update: settings of ``kind: peft``.
        supports: for Supra the positions of a run's file; empty = PEFT chooses them.
        seed: of the run.

    Returns:
        Supra's positions; for AdaLoRA what must be called while it trains.

    Raises:
        ModelError: the update does not fit the model.

    Source:
        LoRA (arXiv:2106.09685), (IA)3 (arXiv:2205.05638), AdaLoRA (arXiv:2303.10512) and
        Super-Tuning with a rank (arXiv:2607.09287), as PEFT 0.21 has them.
    Differs:
        On GPT-2 all of the fused matrix is updated, so (IA)3 scales queries too.
    """
    sites: dict[str, Site] = {}  # module path -> the first target that is stored there
    for site in Anatomy.of(model).sites():
        if site.projection in update["targets"]:
            sites.setdefault(site.path, site)
    heads = task_head_parameters(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "update"))
        attached = _TYPES[update["type"]](model, update, sites, supports)
    # PEFT itself has frozen all but its own parameters.
    for head in heads.values():
        head.requires_grad_(True)
    return attached


def _attach_lora(
    model: nn.Module,
    update: Mapping[str, Any],
    sites: Mapping[str, Site],
    supports: Mapping[str, Tensor],
) -> Attached:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=update["rank"],
        lora_alpha=update["alpha"],
        lora_dropout=update["dropout"],
        target_modules=sorted(sites),
        fan_in_fan_out=any(site.stored_in_by_out for site in sites.values()),
        bias="none",
    )
    inject_adapter_in_model(config, model, ADAPTER)
    return Attached()


def _attach_ia3(
    model: nn.Module,
    update: Mapping[str, Any],
    sites: Mapping[str, Site],
    supports: Mapping[str, Tensor],
) -> Attached:
    from peft import IA3Config, inject_adapter_in_model

    # Whole paths: PEFT compares endings, and its own "output.dense" is two matrices of a layer.
    inputs = [path for path, site in sites.items() if site.projection in update["feedforward"]]
    config = IA3Config(
        target_modules=sorted(sites),
        feedforward_modules=sorted(inputs),
        fan_in_fan_out=any(site.stored_in_by_out for site in sites.values()),
    )
    inject_adapter_in_model(config, model, ADAPTER)
    return Attached()


def _attach_adalora(
    model: nn.Module,
    update: Mapping[str, Any],
    sites: Mapping[str, Site],
    supports: Mapping[str, Tensor],
) -> Attached:
    return Attached(companion=attach_adalora(model, update, sites))


def _attach_supra(
    model: nn.Module,
    update: Mapping[str, Any],
    sites: Mapping[str, Site],
    supports: Mapping[str, Tensor],
) -> Attached:
    from peft import SupertuningConfig, inject_adapter_in_model

    config = SupertuningConfig(
        target_modules=sorted(sites),
        sparsity=_ratio(update["n_sparse"], sites.values()),
        r=update["rank"],
        lora_alpha=update["alpha"],
        lora_dropout=update["dropout"],
    )
    try:
        inject_adapter_in_model(config, model, ADAPTER)
    except TypeError as error:  # the module is not one that PEFT takes
        raise ModelError(f"update supra: {error}") from None
    chosen = {}
    for path, site in sites.items():
        positions = model.get_submodule(path).supertuning_indices[ADAPTER]
        if supports:
            _write_positions(positions, supports, site)
        chosen[site.key] = positions.long()
    return Attached(chosen)


def _ratio(n_sparse: int, sites: Collection[Site]) -> float:
    """PEFT's share of untrained entries that leaves ``n_sparse`` trained ones in each matrix.

    Raises:
        ModelError: matrices of several sizes, for which PEFT has no such share; or too small ones.
    """
    sizes = {site.shape[0] * site.shape[1] for site in sites}
    if len(sizes) > 1 or n_sparse > min(sizes):
        raise ModelError(
            f"update supra: got n_sparse {n_sparse} for matrices of {sorted(sizes)} entries; need "
            "one size, and no more than that"
        )
    # PEFT rounds down; half an entry more keeps it from losing one to rounding of the share.
    return max(0.0, 1 - (n_sparse + 0.5) / sizes.pop())


def _write_positions(positions: Tensor, supports: Mapping[str, Tensor], site: Site) -> None:
    """Put the positions of a run's file in place of those that PEFT has just chosen."""
    given = supports.get(site.key)
    size = site.shape[0] * site.shape[1]
    if (
        given is None
        or given.shape != positions.shape
        or not 0 <= given.min() <= given.max() < size
    ):
        raise ModelError(
            f"update supra: {site.key} needs {len(positions)} positions from 0 to {size - 1}, "
            f"got {'none' if given is None else list(given.shape)}"
        )
    positions.copy_(given)


_TYPES = MappingProxyType(
    {
        "lora": _attach_lora,
        "ia3": _attach_ia3,
        "adalora": _attach_adalora,
        "supra": _attach_supra,
    }
)

"""Optimizers and learning rates: AdamW from torch, LAMB and the schedules from libraries."""

import math
import re
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from sparsetune.config.settings import OptimizerSettings
from sparsetune.errors import ConfigError

OPTIMIZERS = ("adamw", "lamb")
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def make_optimizer(
    name: str, model: nn.Module, settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Make the optimizer of everything in a model that has gradients.

    Args:
        name: one of :data:`OPTIMIZERS`.
        model: parameters with ``requires_grad`` are optimized; biases and the weights of norms do
            not decay.
        settings: peak learning rate and weight decay are read.

    Raises:
        ConfigError: an unknown name.

    Source:
        AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101. LAMB: You et al. 2020,
        arXiv:1904.00962, algorithm 2, with its norms unbounded.
    Differs:
        LAMB has no bias correction, as in the paper's third version; decay is inside the trust
        ratio, as printed. Beta 0.9 and 0.999, epsilon 1e-6: the paper's.
    """
    decayed = decayed_parameters(model)
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": settings.weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[0 if parameter_name in decayed else 1]["params"].append(parameter)
    if name == "adamw":
        return torch.optim.AdamW(
            groups, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True
        )
    if name != "lamb":
        raise ConfigError(f"optimizer: received {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    return _lamb()(
        groups,
        lr=settings.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decouple=False,
        # Without it, the library multiplies the first steps by up to 10.
        adam_debias=True,
        # Batched kernels keep their state in slices of one tensor, which cannot be saved apart.
        foreach=False,
    )


def decayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay is for: all but biases and the weights of norms."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if not isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
        if not _NOT_DECAYED.search(f"{prefix}.{name}".lstrip(".").lower())
    }


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, steps: int
) -> LRScheduler:
    """Make the learning rate of each step: a rise, then the schedule's way down.

    Args:
        optimizer: its groups' rates are set, now and at every ``step()``.
        settings: schedule and warm-up are read.
        steps: over which it goes; training may end sooner.
    """
    from transformers import get_scheduler

    return get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=round(settings.warmup_fraction * steps),
        num_training_steps=steps,
    )


def _lamb() -> Any:
    # Imported here: every training job would pay for it, and few use it.
    from pytorch_optimizer import Lamb

    class UnboundedLamb(Lamb):
        """The library cuts weight norms at 10; a word embedding's is near 100."""

        clamp = math.inf

    return UnboundedLamb

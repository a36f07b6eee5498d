"""Optimizers that the Trainer does not bring along: LAMB, from a library."""

import math
from typing import Any

import torch

from sparsetune.errors import ConfigError

OPTIMIZERS = ("adamw", "lamb")


def optimizer_of(
    name: str, *, learning_rate: float
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Say which optimizer the Trainer is to build, and with which options.

    Weight decay comes from the Trainer, which spares biases and layer norms.

    Args:
        name: one of :data:`OPTIMIZERS`.
        learning_rate: the peak, above 0.

    Returns:
        Class and options; None for AdamW, the Trainer's own choice.

    Raises:
        ConfigError: an unknown name.

    Source:
        LAMB: You et al. 2020, arXiv:1904.00962, algorithm 2, with its norms unbounded.
    Differs:
        No bias correction, as in the paper's third version; decay is inside the trust ratio, as
        printed. Beta 0.9 and 0.999, epsilon 1e-6: the paper's.
    """
    if name == "adamw":
        return None
    if name != "lamb":
        raise ConfigError(f"optimizer: received {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    options = {
        "lr": learning_rate,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decouple": False,
        # Without it, the library multiplies the first steps by up to 10.
        "adam_debias": True,
        # Batched kernels keep their state in slices of one tensor, which cannot be saved apart.
        "foreach": False,
    }
    return _lamb(), options


def _lamb() -> type[torch.optim.Optimizer]:
    # Imported here: every training job would pay for it, and few use it.
    from pytorch_optimizer import Lamb

    class UnboundedLamb(Lamb):
        """The library cuts weight norms at 10; a word embedding's is near 100."""

        clamp = math.inf

    return UnboundedLamb

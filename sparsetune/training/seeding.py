"""The only place that touches global random state."""

import os
import random

import numpy as np
import torch

from sparsetune.randomness import derive


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and ask torch for deterministic kernels.

    Args:
        seed: of a stream, in ``[0, 2**63)``; numpy's global generator takes 32 bits of it.
    """
    use_deterministic_kernels()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def use_deterministic_kernels() -> None:
    """Ask torch for kernels that give the same result twice; before CUDA is first used.

    ``CUBLAS_WORKSPACE_CONFIG`` is read when the device is first used, and set here if the caller
    has not.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory before it is written, and filling it takes a kernel an allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def phase_seed(seed: int, index: int, name: str, purpose: str) -> int:
    """The seed of one of a phase's streams of random numbers.

    Each depends on the run's seed and the phase alone, so that a phase reached by resuming and one
    reached without a break see the same numbers.

    Args:
        seed: of the run.
        index: of the phase, from 0.
        name: of the phase.
        purpose: ``order``, ``dropout``, ``masks`` or ``hidden tokens``.
    """
    return derive(seed, "phase", index, name, purpose)

"""The only place that touches global random state and thread counts."""

import os
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and ask torch for deterministic kernels.

    On CUDA ``CUBLAS_WORKSPACE_CONFIG`` must be set before the device is first used; it is set
    here if the caller has not.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def use_threads(count: int | None) -> None:
    """Limit torch to ``count`` CPU threads; None leaves torch's choice.

    Results on a CPU may depend on the number of threads, so a workflow fixes it for each rule.
    """
    if count is not None:
        torch.set_num_threads(count)

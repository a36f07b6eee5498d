"""A step of training shared by two processes; a module of its own, as spawning needs."""

from datetime import timedelta

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from unit.tiny import adapted, tiny_batch

EXAMPLES, LABELS = 4, torch.tensor([0, 1, 2, 1])
LIMIT_SECONDS = 240  # the other process imports everything anew


def loss_of(model, examples):
    batch = {name: values[examples] for name, values in tiny_batch(batch=EXAMPLES).items()}
    return model(**batch, labels=LABELS[examples]).loss


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def half_a_step(rank, folder):
    """One of the two: gradients on its half of the batch, averaged with the other's."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=LIMIT_SECONDS),
    )
    try:
        save_file(_averaged_gradients(rank), f"{folder}/{rank}.safetensors")
    finally:
        distributed.destroy_process_group()


def _averaged_gradients(rank):
    # The model ends with this function: if it outlived the process group, it would end the group's
    # threads while it holds Python's lock, for which they may wait (torch 2.13).
    model = DistributedDataParallel(adapted("bert"))
    half = slice(2 * rank, 2 * rank + 2)
    loss_of(model, half).backward()
    return gradients_of(model.module)

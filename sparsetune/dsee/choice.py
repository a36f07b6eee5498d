"""Which way a DSEE update takes into a product: one function, and the measurements it rests on."""

from typing import Literal

import torch

Way = Literal["together", "folded", "beside"]

# Below float32 the sum W + s (U V + S2) would round small updates away: a weight that is stored in
# 16 bits lies on their grid, and an update smaller than half a step of it would change nothing.
_EXACT_ENOUGH = (torch.float32, torch.float64)
# What a kernel's start costs on a GPU, in bytes that its memory moves meanwhile: 3 us at 3 TB/s.
_BYTES_OF_A_START = 9e6
# Kernels of one layer, forward and backward, with the update beside its weight.
_STARTS_BESIDE = 18
# Passes over a layer's inputs and outputs that these make, in bytes for each token and feature.
_BYTES_BESIDE = 16
# Bytes that folding moves for each weight: stack it, add U V, round it to 16 bits, take G back.
_BYTES_TOGETHER = 22


def way_of(
    device: str,
    dtype: torch.dtype,
    *,
    stored: torch.dtype,
    tokens: int,
    shape: tuple[int, int],
    together: bool = False,
) -> Way:
    """Say how the update of a layer is multiplied.

    ``beside``: the update's own products, added to the weight's. ``folded``: one product with a
    temporary ``W + s (U V + S2)``, and no dense gradient (``kernel``). ``together``: such weights
    of all layers, made at once, with dense gradients (``folding``).

    On the CPU passes over a matrix or over the activations decide: ``folded`` from
    ``tokens * (rows + columns) >= rows * columns`` on, and never below float32. ``together`` gains
    nothing there: a step of four layers of BERT-base takes 1.00 (16 x 128 tokens) and 1.04
    (32 x 32) times the processor time of ``folded`` (``benchmarks/dsee.py``).

    On CUDA a layer's ``beside`` starts some 18 kernels, ``together`` next to none, so starts
    decide first, and then bytes. For 768 x 768 ``together`` always wins; for 4,096 x 4,096 it does
    from 1,581 tokens on. This is arithmetic, from a step on an H100 that took 1.43 times LoRA's,
    most of it starts; the bound itself is still to be measured (``benchmarks/gpu.py``).

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of the product.
        stored: dtype of the frozen weight.
        tokens: rows of the product.
        shape: of the stored weight.
        together: False if only one layer is asked about, outside of its model's forward pass.

    Example:
        >>> way_of("cpu", torch.float32, stored=torch.float32, tokens=512, shape=(768, 768))
        'folded'
    """
    entries, sides = shape[0] * shape[1], shape[0] + shape[1]
    if torch.compiler.is_exporting():
        return "beside"  # a file for any number of tokens holds one way, and keeps the zeros of W
    if stored not in _EXACT_ENOUGH:
        return "beside"
    if together and device == "cuda":
        apart = _STARTS_BESIDE * _BYTES_OF_A_START + _BYTES_BESIDE * tokens * sides
        if _BYTES_TOGETHER * entries <= apart:
            return "together"
    if dtype in _EXACT_ENOUGH and tokens * sides >= entries:
        return "folded"
    return "beside"

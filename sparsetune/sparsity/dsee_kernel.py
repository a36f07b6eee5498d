"""The arithmetic of a DSEE layer: one large product with the frozen weight, small ones beside it.

One autograd function with a hand-written backward; the parameters and their meaning are in
``dsee.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of the (tokens x positions) product held at once when summing the S2 gradient.
_GATHER_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Layout:
    """What the kernel needs beside tensors.

    Attributes:
        scale: the factor s on both parts of the update.
        stored_in_by_out: True if the weight is stored in x out.
        starts: for each branch, its first row in the stored matrix (out x in).
        dtype: dtype of the products.
    """

    scale: float
    stored_in_by_out: bool
    starts: tuple[int, ...]
    dtype: torch.dtype


class DseeProduct(torch.autograd.Function):
    """``x W^T + b + s x (U V)^T + s x S2^T``; no gradient of W is ever formed.

    Each branch comes as five tensors: U, V, the values of S2, their rows and their columns. The
    gradient of S2 is taken at its positions only:
    ``dS2[n] = s * sum over tokens t of g[t, row_n] * x[t, column_n]``.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3 (the parametrisation).
    Differs:
        The released code multiplies by a dense masked S2 and forms its dense gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        layout: Layout,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *branches: Tensor,
    ) -> Tensor:
        """Multiply.

        Args:
            ctx: autograd's context.
            layout: sizes, scale and dtype.
            x: floating, shape ``(..., I)``.
            weight: the stored weight, any floating dtype.
            bias: shape ``(outputs,)`` or None.
            *branches: five tensors per branch.

        Returns:
            Shape ``(..., outputs)``, dtype ``layout.dtype``.
        """
        flat = x.reshape(-1, x.shape[-1]).to(layout.dtype)
        cast = weight.to(layout.dtype)
        kernel = cast if layout.stored_in_by_out else cast.t()
        out = flat @ kernel if bias is None else torch.addmm(bias.to(layout.dtype), flat, kernel)
        lows = []
        for start, (u, v, s2, rows, cols) in zip(layout.starts, _fives(branches), strict=True):
            low = flat @ v.to(layout.dtype).t()
            block = out.narrow(1, start, u.shape[0])
            block.addmm_(low, u.to(layout.dtype).t(), alpha=layout.scale)
            sparse = flat[:, cols] * (s2 * layout.scale).to(layout.dtype)
            block.index_add_(1, rows, sparse)
            lows.append(low)
        ctx.layout, ctx.x_dtype = layout, x.dtype
        # The weight is saved as it is stored: a cast copy per layer would be kept until backward.
        ctx.save_for_backward(flat, weight, *branches, *lows)
        return out.view(*x.shape[:-1], out.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Propagate; the sum for S2 runs in the parameters' dtype.

        Args:
            ctx: autograd's context.
            grad: gradient of the output.

        Returns:
            Gradients of the inputs of ``forward``, None where there is none.
        """
        layout = ctx.layout
        flat, weight, *rest = ctx.saved_tensors
        count = 5 * len(layout.starts)
        fives, lows = _fives(rest[:count]), rest[count:]
        grad_flat = grad.reshape(-1, grad.shape[-1]).to(layout.dtype)
        need_x, need_bias = ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        grad_x = None
        if need_x:
            cast = weight.to(layout.dtype)
            grad_x = grad_flat @ (cast.t() if layout.stored_in_by_out else cast)
        grads: list[Tensor | None] = []
        for start, five, low in zip(layout.starts, fives, lows, strict=True):
            block = grad_flat.narrow(1, start, five[0].shape[0])
            grads += _branch_gradients(layout, flat, block, low=low, five=five)
            if grad_x is not None:
                _add_input_gradient_(grad_x, layout, block, five=five)
        if grad_x is not None:
            grad_x = grad_x.view(*grad.shape[:-1], flat.shape[1]).to(ctx.x_dtype)
        return None, grad_x, None, grad_flat.sum(0) if need_bias else None, *grads


def _fives(tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    return [tuple(tensors[n : n + 5]) for n in range(0, len(tensors), 5)]


def _branch_gradients(
    layout: Layout, flat: Tensor, grad: Tensor, *, low: Tensor, five: tuple[Tensor, ...]
) -> list[Tensor | None]:
    u, v, s2, rows, cols = five
    grad_low = grad @ u.to(layout.dtype)
    grad_u = (grad.t() @ low).to(u.dtype).mul_(layout.scale)
    grad_v = (grad_low.t() @ flat).to(v.dtype).mul_(layout.scale)
    grad_s2 = torch.empty_like(s2)
    step = max(1, _GATHER_ELEMENTS // max(1, flat.shape[0]))
    for first in range(0, s2.numel(), step):
        part = slice(first, first + step)
        products = grad[:, rows[part]].to(s2.dtype) * flat[:, cols[part]].to(s2.dtype)
        grad_s2[part] = products.sum(0)
    return [grad_u, grad_v, grad_s2.mul_(layout.scale), None, None]


def _add_input_gradient_(
    grad_x: Tensor, layout: Layout, grad: Tensor, *, five: tuple[Tensor, ...]
) -> None:
    u, v, s2, rows, cols = five
    grad_x.addmm_(grad @ u.to(layout.dtype), v.to(layout.dtype), alpha=layout.scale)
    sparse = grad[:, rows] * (s2 * layout.scale).to(layout.dtype)
    grad_x.index_add_(1, cols, sparse)

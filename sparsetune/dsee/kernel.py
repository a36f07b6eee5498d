"""The arithmetic of a DSEE layer: one large product, and no dense gradient of the weight.

One autograd function with a hand-written backward; the parameters and their meaning are in
``layer``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsetune.dsee.choice import way_of

# Elements of the (tokens x positions) product held at once when summing the S2 gradient.
_GATHER_ELEMENTS = 1 << 22


class Layout(NamedTuple):
    """What the kernel needs beside tensors.

    Attributes:
        scales: for each branch, the factor s on both parts of its update.
        stored_in_by_out: True if the weight is stored in x out.
        starts: for each branch, its first row in the stored matrix (out x in).
        dtype: dtype of the products.
    """

    scales: tuple[float, ...]
    stored_in_by_out: bool
    starts: tuple[int, ...]
    dtype: torch.dtype


class _Branch(NamedTuple):
    """One update: U V and S2, and where they stand in the stored matrix (out x in)."""

    start: int
    scale: float
    u: Tensor
    v: Tensor
    s2: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def outputs(self) -> int:
        return self.u.shape[0]


class DseeProduct(torch.autograd.Function):
    """``x W^T + b + s x (U V)^T + s x S2^T``; no gradient of W is ever formed.

    Each branch comes as five tensors: U, V, the values of S2, their rows (counted in the stored
    matrix, out x in) and their columns. With many tokens the product runs with a temporary
    ``W + s (U V + S2)``: one pass over the matrix instead of several over all tokens. With few
    tokens, or below float32, the update stays beside (``choice.way_of``). Both agree up to
    rounding. The gradient of
    S2 is taken at its positions only:
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
        *tensors: Tensor,
    ) -> Tensor:
        """Multiply.

        Args:
            ctx: autograd's context.
            layout: sizes, scale and dtype.
            x: floating, shape ``(..., I)``.
            weight: the stored weight, any floating dtype.
            bias: shape ``(outputs,)`` or None.
            *tensors: five per branch.

        Returns:
            Shape ``(..., outputs)``, dtype ``layout.dtype``.
        """
        flat = x.reshape(-1, x.shape[-1]).to(layout.dtype)
        branches = _branches(layout, tensors)
        folds = _folds(layout, flat, weight)
        kernel = _folded(layout, weight, branches) if folds else weight.to(layout.dtype)
        kernel = kernel if layout.stored_in_by_out else kernel.t()
        out = flat @ kernel if bias is None else torch.addmm(bias.to(layout.dtype), flat, kernel)
        if not folds:
            for branch in branches:
                _add_update_(out, layout, flat, branch)
        ctx.layout, ctx.x_dtype, ctx.folds = layout, x.dtype, folds
        # The weight is saved as it is stored: a cast copy per layer would be kept until backward.
        ctx.save_for_backward(flat, weight, *tensors)
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
        flat, weight, *tensors = ctx.saved_tensors
        branches = _branches(layout, tensors)
        grad_flat = grad.reshape(-1, grad.shape[-1]).to(layout.dtype)
        needs_x, needs_bias = ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        lows = [grad_flat.narrow(1, b.start, b.outputs) @ b.u.to(layout.dtype) for b in branches]
        grad_x = None
        if needs_x:
            kernel = _folded(layout, weight, branches) if ctx.folds else weight.to(layout.dtype)
            grad_x = grad_flat @ (kernel.t() if layout.stored_in_by_out else kernel)
            if not ctx.folds:
                for branch, low in zip(branches, lows, strict=True):
                    _add_input_gradient_(grad_x, layout, grad_flat, low=low, branch=branch)
            grad_x = grad_x.view(*grad.shape[:-1], flat.shape[1]).to(ctx.x_dtype)
        grads: list[Tensor | None] = []
        for branch, low in zip(branches, lows, strict=True):
            grads += _branch_gradients(layout, flat, grad_flat, low=low, branch=branch)
        return None, grad_x, None, grad_flat.sum(0) if needs_bias else None, *grads


def _branches(layout: Layout, tensors: Sequence[Tensor]) -> list[_Branch]:
    placed = zip(layout.starts, layout.scales, strict=True)
    return [_Branch(*place, *tensors[5 * n : 5 * n + 5]) for n, place in enumerate(placed)]


def _folds(layout: Layout, flat: Tensor, weight: Tensor) -> bool:
    rows, columns = weight.shape
    way = way_of(
        flat.device.type,
        layout.dtype,
        stored=weight.dtype,
        tokens=flat.shape[0],
        shape=(rows, columns),
    )
    return way == "folded"


def _folded(layout: Layout, weight: Tensor, branches: Sequence[_Branch]) -> Tensor:
    """Form W + s (U V + S2) as the weight is stored; a new tensor."""
    whole = weight.to(layout.dtype, copy=True, memory_format=torch.contiguous_format)
    for branch in branches:
        u, v = branch.u.to(layout.dtype), branch.v.to(layout.dtype)
        if layout.stored_in_by_out:
            block = whole.narrow(1, branch.start, branch.outputs)
            block.addmm_(v.t(), u.t(), alpha=branch.scale)
            index = branch.columns * whole.shape[1] + branch.rows
        else:
            block = whole.narrow(0, branch.start, branch.outputs)
            block.addmm_(u, v, alpha=branch.scale)
            index = branch.rows * whole.shape[1] + branch.columns
        whole.view(-1).index_add_(0, index, (branch.s2 * branch.scale).to(layout.dtype))
    return whole


def _add_update_(out: Tensor, layout: Layout, flat: Tensor, branch: _Branch) -> None:
    low = flat @ branch.v.to(layout.dtype).t()
    block = out.narrow(1, branch.start, branch.outputs)
    block.addmm_(low, branch.u.to(layout.dtype).t(), alpha=branch.scale)
    values = (branch.s2 * branch.scale).to(layout.dtype)
    out.index_add_(1, branch.rows, flat.index_select(1, branch.columns) * values)


def _add_input_gradient_(
    grad_x: Tensor, layout: Layout, grad: Tensor, *, low: Tensor, branch: _Branch
) -> None:
    grad_x.addmm_(low, branch.v.to(layout.dtype), alpha=branch.scale)
    values = (branch.s2 * branch.scale).to(layout.dtype)
    grad_x.index_add_(1, branch.columns, grad.index_select(1, branch.rows) * values)


def _branch_gradients(
    layout: Layout, flat: Tensor, grad: Tensor, *, low: Tensor, branch: _Branch
) -> list[Tensor | None]:
    u, v, s2 = branch.u, branch.v, branch.s2
    block = grad.narrow(1, branch.start, branch.outputs)
    grad_u = (block.t() @ (flat @ v.to(layout.dtype).t())).to(u.dtype).mul_(branch.scale)
    grad_v = (low.t() @ flat).to(v.dtype).mul_(branch.scale)
    step = max(1, _GATHER_ELEMENTS // max(1, flat.shape[0]))
    parts = zip(branch.rows.split(step), branch.columns.split(step), strict=True)
    sums = [
        grad.index_select(1, rows)
        .to(s2.dtype)
        .mul_(flat.index_select(1, columns).to(s2.dtype))
        .sum(0)
        for rows, columns in parts
    ]
    return [grad_u, grad_v, torch.cat(sums).mul_(branch.scale), None, None]

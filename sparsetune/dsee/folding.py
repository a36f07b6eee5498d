"""The updates of all DSEE layers of a model, folded into their weights at once, for a GPU.

A device that waits for kernels to be launched is better served by a few large ones: what ``kernel``
does layer by layer is done here for all layers of one shape together, once in a forward pass.
Which of the two it is, ``choice`` says.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparsetune.architectures.copies import product_dtype
from sparsetune.dsee.choice import way_of

if TYPE_CHECKING:
    from sparsetune.dsee.layer import DseeBranch, DseeLinear

Use = Literal["auto", "always", "never"]
USES = get_args(Use)


class Plan(NamedTuple):
    """What a fold needs beside tensors that learn.

    Attributes:
        weights: the stored weights of all layers, frozen, of one shape.
        blocks: for each adapted projection its first row and its rows in a stored matrix.
        scales: for each of them the factor s.
        transposed: True if weights are stored in x out.
        places: int64, where the entries of S2 stand in the stack of all weights.
        entry_scale: the factor s of these entries; a tensor of one each if blocks differ.
        dtype: of the products that will follow.
    """

    weights: tuple[Tensor, ...]
    blocks: tuple[tuple[int, int], ...]
    scales: tuple[float, ...]
    transposed: bool
    places: Tensor
    entry_scale: float | Tensor
    dtype: torch.dtype


class Fold(torch.autograd.Function):
    """``W + s (U V + S2)`` for a stack of weights, with the gradients of U, V and S2.

    The sum is formed in the dtype of the weights and rounded once, as a weight that trains is
    rounded for a product in 16 bits. The products then are plain ones, so the gradient of each
    folded matrix is one dense product more, G; all of them together become, by two batched products
    and one gather, ``dU = s G V^T``, ``dV = s U^T G`` and ``dS2 = s G[positions]``.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3 (the parametrisation).
    Differs:
        The released code does it layer by layer, with a dense S2.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, s2: Tensor, *factors: Tensor) -> Tensor:
        """Fold.

        Args:
            ctx: autograd's context.
            plan: see ``Plan``.
            s2: values of all sparse parts, one after the other, shape ``(entries,)``.
            *factors: for each block U, ``layers x O x R``, and V, ``layers x R x I``.

        Returns:
            The folded weights as they are stored, ``layers x out x in`` or ``layers x in x out``,
            in ``plan.dtype``.
        """
        with torch.autocast(s2.device.type, enabled=False):
            whole = torch.stack(plan.weights)
            for block, scale, u, v in _factors(plan, factors):
                _block(whole, plan, block).baddbmm_(u, v, alpha=scale)
            whole.view(-1).index_add_(0, plan.places, s2 * plan.entry_scale)
        ctx.plan = plan._replace(weights=())
        ctx.save_for_backward(*factors)
        return whole.to(plan.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Propagate; products in the dtype of the gradient, results in that of the update.

        Args:
            ctx: autograd's context.
            grad: gradient of the folded weights.

        Returns:
            Gradients of the inputs of ``forward``, None where there is none.
        """
        plan: Plan = ctx.plan
        factors = ctx.saved_tensors
        grads: list[Tensor | None] = []
        with torch.autocast(grad.device.type, enabled=False):
            for block, scale, u, v in _factors(plan, factors):
                dense = _block(grad, plan, block)
                low_u, low_v = u.to(grad.dtype), v.to(grad.dtype)
                grads += [
                    torch.bmm(dense, low_v.transpose(1, 2)).to(u.dtype).mul_(scale),
                    torch.bmm(low_u.transpose(1, 2), dense).to(v.dtype).mul_(scale),
                ]
            own = factors[0].dtype
            grad_s2 = grad.reshape(-1).index_select(0, plan.places).to(own)
            grad_s2 = grad_s2.mul_(plan.entry_scale)
        return None, grad_s2, *grads


def _factors(
    plan: Plan, factors: Sequence[Tensor]
) -> Iterator[tuple[tuple[int, int], float, Tensor, Tensor]]:
    """Go through the blocks, each with its scale, U and V."""
    return zip(plan.blocks, plan.scales, factors[::2], factors[1::2], strict=True)


def _block(stack: Tensor, plan: Plan, block: tuple[int, int]) -> Tensor:
    """View one projection of all layers as ``layers x O x I``."""
    stack = stack.transpose(1, 2) if plan.transposed else stack
    return stack.narrow(1, *block)


class Folding:
    """Folds the updates of a model before a forward pass, where that is the better way.

    It hangs on the model that ``apply_dsee`` was given. A part of that model called by itself, and
    one that recomputes activations in its backward pass, computes layer by layer as ever.

    Args:
        layers: the model's DSEE layers.
        blocks: its transformer layers, which say whether activations are recomputed.

    Attributes:
        use: ``auto``: as ``choice.way_of`` says; ``always`` or ``never``, for tests and
            measurements.
        holds: True = no weight changes, so that passes without gradients share one fold.
    """

    def __init__(self, layers: "Sequence[DseeLinear]", blocks: Sequence[nn.Module]) -> None:
        self.use: Use = "auto"
        self.holds = False
        self._layers = tuple(layers)
        self._blocks = tuple(blocks)
        self._known: dict[int, tuple[list[Any], tuple[Tensor, float | Tensor]]] = {}
        self._handles: list[Any] = []
        self._made = False  # whether layers have folded weights now

    def attach(self, model: nn.Module) -> None:
        """Fold before each forward pass of a model from now on, and let go after it."""
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, always_call=True),
        ]

    def detach(self) -> None:
        """Fold no more."""
        self.release()
        while self._handles:
            self._handles.pop().remove()

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_held():
            return
        self.release()
        if not self._applies(_tokens(args, kwargs)):
            return
        self._made = True
        groups: dict[tuple[Any, ...], list[DseeLinear]] = {}
        for layer in self._layers:
            groups.setdefault(_likeness(layer), []).append(layer)
        for number, group in enumerate(groups.values()):
            for layer, weight in zip(group, self._fold(number, group).unbind(), strict=True):
                layer.folded = weight

    def _after(self, *_: Any) -> None:
        if not self.holds or torch.is_grad_enabled():
            self.release()

    def release(self) -> None:
        """Let the folded weights go."""
        if self._made:
            for layer in self._layers:
                layer.folded = None
        self._made = False

    def _is_held(self) -> bool:
        """Whether an earlier pass has left what this one needs."""
        folded, weight = self._layers[0].folded, self._layers[0].weight
        if folded is None or torch.is_grad_enabled() or folded.device != weight.device:
            return False
        return folded.dtype == product_dtype(weight, weight.device.type)

    def _applies(self, tokens: int) -> bool:
        if self.use == "never" or torch.compiler.is_compiling():
            return False
        if any(layer.drops for layer in self._layers):
            return False
        weight = self._layers[0].weight
        if self.use == "auto":
            device = weight.device.type
            rows, columns = weight.shape
            way = way_of(
                device,
                product_dtype(weight, device),
                stored=weight.dtype,
                tokens=tokens,
                shape=(rows, columns),
                together=True,
            )
            if way != "together":
                return False
        # Layers that are run again in the backward pass would find the fold gone.
        again = any(getattr(block, "gradient_checkpointing", False) for block in self._blocks)
        if again and torch.is_grad_enabled():
            return False
        branches = (one for layer in self._layers for one in layer.branches.values())
        return all(branch.U.dtype == weight.dtype for branch in branches)

    def _fold(self, number: int, group: "list[DseeLinear]") -> Tensor:
        first = group[0]
        # Block -> its branch in each layer; what the projection is called does not matter.
        blocks = list(zip(*(layer.branches.values() for layer in group), strict=True))
        places, entry_scale = self._entries_of(number, group)
        plan = Plan(
            weights=tuple(layer.weight for layer in group),
            blocks=tuple((block[0].start, block[0].shape[0]) for block in blocks),
            scales=tuple(block[0].scale for block in blocks),
            transposed=first.stored_in_by_out,
            places=places,
            entry_scale=entry_scale,
            dtype=product_dtype(first.weight, first.weight.device.type),
        )
        factors = [
            torch.stack([getattr(branch, name) for branch in block])
            for block in blocks
            for name in ("U", "V")
        ]
        s2 = torch.cat([branch.S2 for layer in group for branch in layer.branches.values()])
        return Fold.apply(plan, s2, *factors)

    def _entries_of(self, number: int, group: "list[DseeLinear]") -> tuple[Tensor, float | Tensor]:
        """Where the entries of S2 stand in the stack, and their scale; made once."""
        branches = [branch for layer in group for branch in layer.branches.values()]
        scales = [branch.scale for branch in branches]
        key = [one for b in branches for one in (b.positions.data_ptr(), b.positions._version)]
        key += scales
        key_then, entries = self._known.get(number, (None, (branches[0].positions, 0.0)))
        if key_then != key:
            # Made in inference mode it could not be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                parts = [
                    _places(layer, branch) + place * layer.weight.numel()
                    for place, layer in enumerate(group)
                    for branch in layer.branches.values()
                ]
                scale: float | Tensor = scales[0]
                if len(set(scales)) > 1:
                    # Filled where they are: a copy from the host could not be captured.
                    told = zip(branches, scales, strict=True)
                    scale = torch.cat([torch.full_like(one.S2, own) for one, own in told])
                entries = (torch.cat(parts), scale)
            self._known[number] = (key, entries)
        return entries


def _likeness(layer: "DseeLinear") -> tuple[Any, ...]:
    """What layers have in common that can be stacked."""
    weight = layer.weight
    blocks = [(one.start, one.U.shape, one.V.shape, one.scale) for one in layer.branches.values()]
    return weight.device, weight.dtype, weight.shape, *blocks


def _places(layer: "DseeLinear", branch: "DseeBranch") -> Tensor:
    """Where the entries of S2 stand in the flattened stored weight."""
    rows, columns = branch.coordinates()
    if layer.stored_in_by_out:
        rows, columns = columns, rows
    return rows * layer.weight.shape[1] + columns


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Rows of the products of a forward pass; 0 if its inputs are not known by their names."""
    for given in (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args[:1]):
        if isinstance(given, Tensor):
            # Not numel(): that makes constants of the sizes of an export.
            return math.prod(given.shape[:2])
    return 0

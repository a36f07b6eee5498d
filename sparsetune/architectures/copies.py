"""Copies of weights that a device multiplies by in their place: in 16 bits, of rounded widths.

They are attached from outside for as long as a model computes. Parameters stay what they are, so
whatever trains, counts, compares or saves them never sees a copy.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import is_hooked, is_matrix

WIDTH_MULTIPLE = 64
"""Feed-forward widths that fill a GPU's tensor cores; 1,843 neurons took 1.75 times what 1,856 do
(64 x 128 tokens through BERT-base in bfloat16 on an H100)."""
Held = Literal["nothing", "frozen", "everything"]


class WeightCopies:
    """Copies of a model's matrices, while they are attached.

    *Widths.* The feed-forward neurons of a layer are rounded up to a multiple by neurons whose
    weights and biases are zero: their activation is zero and nothing reads it, so outputs and
    gradients are those of the real neurons. They are in no parameter, so no optimizer moves them. A
    layer is left as it is if its width is a multiple already, if one of its two feed-forward
    projections has an update, gates or other hooks, or if its activation does not map 0 to 0.

    *16 bits.* Under autocast a weight is cast at every use. The copies that are held are cast once,
    and again when the weight has changed; they are the same bits. Masks laid on a weight are seen
    through its version; only a write through ``.data`` is not.

    Copies of weights that are not held are made in every forward pass, one kernel each, as
    autocast would.

    Args:
        model: of a known architecture. Nothing may be attached to or removed from it before
            ``detach``; that is refused by name.
        multiple: of the widths, 1 or more; 1 = as they are.
        hold: whose copies are kept from one pass to the next: ``frozen`` weights, or, where
            nothing trains, ``everything``.

    Attributes:
        rounded: layers that compute with more neurons than they have.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=5, **sizes))
        >>> copies = WeightCopies(model, multiple=8)
        >>> copies.attach()
        >>> copies.rounded, model.encoder.layer[0].intermediate(torch.ones(1, 8)).shape
        ([0], torch.Size([1, 8]))
    """

    def __init__(
        self, model: nn.Module, *, multiple: int = WIDTH_MULTIPLE, hold: Held = "frozen"
    ) -> None:
        anatomy = Anatomy.of(model)
        widths: dict[nn.Module, tuple[int, int]] = {}  # module -> zero outputs, zero inputs
        self.rounded: list[int] = []
        for layer in range(anatomy.layers):
            extra = -anatomy.ffn_width(layer) % multiple
            first, second = (anatomy.site(layer, name).module for name in ("ffn_in", "ffn_out"))
            plain = all(is_matrix(one) and not is_hooked(one) for one in (first, second))
            if extra and plain and _keeps_zero(anatomy.activation(layer)):
                widths |= {first: (extra, 0), second: (0, extra)}
                self.rounded.append(layer)
        self._products: dict[nn.Module, _Product] = {}
        for module in model.modules():
            if not is_matrix(module) or is_hooked(module):
                continue
            if module in widths or hold != "nothing":
                extra_sides = widths.get(module, (0, 0))
                transposed = type(module) is not nn.Linear
                self._products[module] = _Product(module, transposed, extra_sides, hold)

    def attach(self) -> None:
        """Multiply by the copies from now on."""
        for module, product in self._products.items():
            module.forward = product

    def detach(self) -> None:
        """Multiply by the parameters again, and let the copies go."""
        for module, product in self._products.items():
            product.forget()
            if vars(module).get("forward") is product:
                del module.forward


class _Product:
    """A projection's forward pass with copies of its parameters."""

    def __init__(self, module: Any, transposed: bool, extra: tuple[int, int], hold: Held) -> None:
        self._module = module
        self._transposed = transposed  # Conv1D: stored in x out
        self._extra = extra
        self._hold = hold
        self._held: dict[str, tuple[Tensor, tuple[Any, ...], Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        outputs, inputs = self._extra
        sides = (inputs, outputs) if self._transposed else (outputs, inputs)
        weight = self._copy("weight", self._module.weight, sides, x.device.type)
        bias = self._module.bias
        if bias is not None:
            bias = self._copy("bias", bias, (outputs,), x.device.type)
        if not self._transposed:
            return nn.functional.linear(x, weight, bias)
        out = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight)
        return out.view(*x.shape[:-1], out.shape[-1])

    def forget(self) -> None:
        self._held.clear()

    def _copy(self, name: str, own: Tensor, extra: tuple[int, ...], device: str) -> Tensor:
        dtype = product_dtype(own, device)
        learns = own.requires_grad and torch.is_grad_enabled()
        held = self._hold == "everything" or (self._hold == "frozen" and not own.requires_grad)
        if not any(extra) and (learns or not held or dtype == own.dtype):
            return own  # autocast makes the same copy
        if learns or not held or own.is_inference():
            return _Copy.apply(own, extra, dtype)
        # With the parameter itself, so that no other one can come to lie where it lay.
        key = (own.data_ptr(), own._version, dtype)
        held_own, held_key, copy = self._held.get(name, (None, None, own))
        if held_own is not own or held_key != key:
            # A tensor made in inference mode could not be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                copy = _Copy.apply(own.detach(), extra, dtype)
            self._held[name] = (own, key, copy)
        return copy


class _Copy(torch.autograd.Function):
    """A tensor in another dtype with zeros at the end of its sides; their gradient is dropped."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, extra: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        ctx.shape, ctx.dtype = own.shape, own.dtype
        sides = [side + more for side, more in zip(own.shape, extra, strict=True)]
        copy = own.new_zeros(sides, dtype=dtype)
        _corner(copy, own.shape).copy_(own)
        return copy

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _corner(grad, ctx.shape).to(ctx.dtype), None, None


def _corner(tensor: Tensor, shape: torch.Size) -> Tensor:
    for side, length in enumerate(shape):
        tensor = tensor.narrow(side, 0, length)
    return tensor


def product_dtype(own: Tensor, device: str) -> torch.dtype:
    """Say which dtype a product with a weight has: autocast's if it is on, but float64 stays.

    Args:
        own: the weight.
        device: type of the device.
    """
    if torch.is_autocast_enabled(device) and own.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return own.dtype


def _keeps_zero(activation: Any) -> bool:
    """Whether a neuron whose input is zero passes zero on."""
    return activation is not None and bool((activation(torch.zeros(1)) == 0).all())

"""A model as one ONNX file, which other runtimes than PyTorch execute; checked by running it.

PyTorch's own archive (``torch.export.save``) is not offered: it pickles its sample inputs.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import check_has_values
from sparsetune.errors import ConfigError, ModelError, first_line, require_extra
from sparsetune.randomness import derive
from sparsetune.records import checked_path, replacing

# One protocol-buffer message ends below 2 GiB; the graph needs a little beside the weights.
MOST_BYTES = 2**31 - 2**24
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OUTPUTS = ("logits", "start_logits", "end_logits")
_HIDDEN = "last_hidden_state"  # of a bare model
_BATCH, _LENGTH = 2, 8
# Rounding of float32 in another order, relative to the largest output (at least 1).
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how it was found to compute.

    Attributes:
        inputs: names, each int64 of shape ``(batch, length)``, both free.
        outputs: names: ``logits``; ``start_logits`` and ``end_logits`` for spans;
            ``last_hidden_state`` for a bare model.
        file_bytes: size of the file.
        largest_difference: of any output from the model's, absolute, over two batches of
            different sizes run by onnxruntime on the CPU; of padding, none counts.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    file_bytes: int
    largest_difference: float


class _TensorsOnly(nn.Module):
    """The model with tensors in and tensors out, without cache or named result."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            given["token_type_ids"] = token_type_ids
        result = self.model(**given, use_cache=False)
        return tuple(result[name] for name in self.outputs)


def export_onnx(model: nn.Module, path: Path | str) -> OnnxReport:
    """Write a model as one ONNX file for any batch size and length, and run it to check it.

    The model is written as it is: with DSEE's update beside the weights (whose zeros then stay in
    the file), merged, or with fewer heads and neurons. The file is only left there if onnxruntime
    gives the model's outputs for two batches of different sizes. The extra ``export`` is needed:
    ``pip install sparsetune[export]``.

    Args:
        model: of a known architecture, bare or with a task head, in float32; with dropout off
            in the file, whatever its mode. Longest length: that of its positions.
        path: the file; replaced if it is there.

    Returns:
        Names of inputs and outputs, size, and the largest difference found.

    Raises:
        ConfigError: a package of the extra is not installed, or ``path`` is a folder.
        ModelError: another architecture, dtype or form of input or output, weights of 2 GiB or
            more, an operator that ONNX does not know, or a file that computes something else.

    Differs:
        Outputs of padding are left undefined: attention over nothing (rows that are padding
        throughout, a window that sees only padding) is uniform in one runtime, zero in another.
    """
    path = checked_path("export: path", path)
    if path.is_dir():
        raise ConfigError(
            f"export: path: received {path}, a folder; allowed: a file, such as "
            f"{path / 'model.onnx'}"
        )
    require_extra("export to ONNX", "export", _PACKAGES)
    _check_exportable(model)
    with _evaluating(model):
        samples = [_sample(model, _BATCH, _LENGTH), _sample(model, _BATCH + 1, _LENGTH - 3)]
        outputs = _outputs(model, samples[0])
        wrapped = _TensorsOnly(model, outputs)
        program = _traced(wrapped, samples[0])
        with replacing(path) as partial:
            program.save(partial, external_data=False)
            difference = max(_difference(partial, wrapped, sample) for sample in samples)
    return OnnxReport(tuple(samples[0]), outputs, path.stat().st_size, difference)


def _outputs(model: nn.Module, sample: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of what a model gives for ids of shape (batch, length)."""
    kind = type(model).__name__
    try:
        found = model(**sample)
    except Exception as error:  # of any kind, by whatever the model does with its input
        raise ModelError(
            f"export: {kind}: cannot compute from ids of shape (batch, length): {first_line(error)}"
        ) from error
    if not isinstance(found, Mapping):
        raise ModelError(
            f"export: {kind}: gives a {type(found).__name__}; needed: outputs by name "
            "(config.return_dict)"
        )
    outputs = tuple(name for name in _OUTPUTS if name in found)
    outputs = outputs or tuple(name for name in (_HIDDEN,) if name in found)
    if not outputs:
        allowed = ", ".join((*_OUTPUTS, _HIDDEN))
        raise ModelError(f"export: {kind}: gives {', '.join(found)}; allowed: {allowed}")
    return outputs


def _check_exportable(model: nn.Module) -> None:
    check_has_values(model, "export")
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    dtypes = sorted({str(t.dtype) for t in tensors if t.is_floating_point()})
    if dtypes != ["torch.float32"]:
        raise ModelError(f"export: weights of {', '.join(dtypes)}; needed: torch.float32")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > MOST_BYTES:
        raise ModelError(f"export: {size} bytes of weights; allowed: {MOST_BYTES} in one ONNX file")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _sample(model: nn.Module, batch: int, length: int) -> dict[str, Tensor]:
    """Random ids, the first row padded at its end, on the model's device."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(derive(0, "export", length))
    ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    pad = getattr(config, "pad_token_id", None)
    if pad is not None and 0 <= pad < config.vocab_size:
        # A decoder's classifier takes the last token that is not this one: a token that is seen.
        ids[mask == 0] = pad
    sample = {"input_ids": ids, "attention_mask": mask}
    kinds = getattr(config, "type_vocab_size", 1)
    if kinds > 1:
        sample["token_type_ids"] = torch.randint(kinds, (batch, length), generator=generator)
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in sample.items()}


def _traced(model: _TensorsOnly, sample: Mapping[str, Tensor]) -> torch.onnx.ONNXProgram:
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about its own parts
            program = torch.onnx.export(
                model,
                kwargs=dict(sample),
                dynamic_shapes=dict.fromkeys(sample, sizes),
                input_names=list(sample),
                output_names=list(model.outputs),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the library raises many kinds, some of many lines
        reason = (str(error.__cause__ or error).splitlines() or [""])[0]
        raise ModelError(f"export: not expressible in ONNX: {reason}") from error
    if program is None:
        raise ModelError("export: this version of torch gives no ONNX program")
    return program


def _difference(path: Path, model: _TensorsOnly, sample: Mapping[str, Tensor]) -> float:
    """Run the file and the model on the same batch; refuse a file that computes another thing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {name: tensor.cpu().numpy() for name, tensor in sample.items()}
    received = session.run(list(model.outputs), given)
    seen = sample["attention_mask"].cpu().bool()
    largest = 0.0
    for name, array, own in zip(model.outputs, received, model(**sample), strict=True):
        own = own.cpu()
        if array.shape != tuple(own.shape):
            raise ModelError(
                f"export: {name} is {array.shape} in the file, {tuple(own.shape)} in the model"
            )
        difference_of_each = (torch.from_numpy(array) - own).abs()
        if own.dim() == 3 or name != "logits":
            # Of every token: padding may attend to nothing, where attention sees a window.
            difference_of_each = difference_of_each[seen]
        difference = float(difference_of_each.max())
        allowed = _TOLERANCE * max(1.0, float(own.abs().max()))
        if not difference <= allowed:
            raise ModelError(
                f"export: {name} of the file differs by {difference:.2g}, allowed: {allowed:.2g}"
            )
        largest = max(largest, difference)
    return largest

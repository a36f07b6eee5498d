"""The gradients of one optimizer step: forward, backward over its batches, clipping."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sparsetune.training.losses import StepLoss

Batch = dict[str, Tensor]


class EagerStep:
    """Compute a step's gradients operation by operation, on any device.

    On CUDA the forward pass is in bfloat16 where autocast allows it; weights, gradients and the
    optimizer stay in float32. Nothing here waits for a GPU.

    Args:
        model: parameters with ``requires_grad`` get gradients; in training mode.
        loss: one mean over the step's labels; None = the model's own, averaged over the batches.
        extra_loss: a term that is added once a step, or None.
        maximum_norm: the gradients' norm is cut to it, above 0.
        device: ``cpu`` or ``cuda``, where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: StepLoss | None,
        extra_loss: Callable[[], Tensor] | None,
        maximum_norm: float,
        device: str,
    ) -> None:
        self._model, self._loss, self._extra_loss = model, loss, extra_loss
        self._maximum_norm, self._device = maximum_norm, device
        self._parameters = [one for one in model.parameters() if one.requires_grad]

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Leave the step's gradients in ``.grad``.

        Args:
            batches: of one step, on the host: keyword arguments of the model.

        Returns:
            Scalars on the device, without gradients: the step's loss, and the norm of its
            gradients before the cut.
        """
        items = sum(self._loss.count(batch["labels"]) for batch in batches) if self._loss else 0
        total = torch.zeros((), device=self._device)
        for index, batch in enumerate(batches):
            with self._precision():
                part = self._part(self._on_device(batch), items, len(batches))
                if index == 0 and self._extra_loss is not None:
                    part = part + self._extra_loss()
            part.backward()
            total += part.detach()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._maximum_norm)
        return total, norm

    def _part(self, batch: Batch, items: int, batches: int) -> Tensor:
        if self._loss is None:
            return self._model(**batch)["loss"] / batches
        labels = batch.pop("labels")
        return self._loss(self._model(**batch)["logits"], labels, items)

    def _on_device(self, batch: Batch) -> Batch:
        if self._device == "cpu":
            return dict(batch)
        # From pinned memory, so that the copy does not make the host wait.
        return {
            name: one.pin_memory().to(self._device, non_blocking=True)
            for name, one in batch.items()
        }

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._device == "cuda")

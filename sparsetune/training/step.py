"""The gradients of one optimizer step: forward, backward over its batches, clipping.

Eager runs operation by operation, on any device. On CUDA a small model's step is bound by the
launches of its kernels, not by its arithmetic, so the forward and backward pass of a batch can be
captured once for each shape and replayed as one launch.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsetune.architectures.graphs import Work, cuda_graph
from sparsetune.data.tokenization import IGNORED_LABEL
from sparsetune.errors import first_line
from sparsetune.training.losses import StepLoss

logger = logging.getLogger(__name__)
Batch = dict[str, Tensor]
LENGTHS_MULTIPLE = 16
FEWEST_REPLAYS = 8  # capturing costs about five eager passes
_AGREEMENT = 1e-3  # relative; replayed kernels are the eager ones, sums may be ordered otherwise
_FILLS = {"labels": IGNORED_LABEL}  # other fields take 0 where a text is padded; see _padded


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
        self._total = torch.zeros((), device=device)

    @property
    def description(self) -> str:
        """How the steps were computed, for the record."""
        return "eager"

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Leave the step's gradients in ``.grad``.

        Args:
            batches: of one step, on the host: keyword arguments of the model.

        Returns:
            Scalars on the device, without gradients: the step's loss, and the norm of its
            gradients before the cut.
        """
        items = sum(self._loss.count(batch["labels"]) for batch in batches) if self._loss else 0
        self._total.zero_()
        for index, batch in enumerate(batches):
            self._backward(batch, items, len(batches), first=index == 0)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._maximum_norm)
        return self._total.clone(), norm

    def clear(self) -> None:
        """Forget the gradients, once the optimizer has used them."""
        for parameter in self._parameters:
            parameter.grad = None

    def _backward(self, batch: Batch, items: int | Tensor, batches: int, *, first: bool) -> None:
        """Add a batch's part to the gradients and to the loss."""
        extra = 1.0 if first and self._extra_loss is not None else None
        self._accumulate(self._on_device(batch), items, batches, extra)

    def _accumulate(
        self, batch: Batch, items: int | Tensor, batches: int, extra: float | Tensor | None
    ) -> None:
        with self._precision():
            part = self._part(dict(batch), items, batches)
            if extra is not None and self._extra_loss is not None:
                part = part + extra * self._extra_loss()
        part.backward()
        self._total += part.detach()

    def _part(self, batch: Batch, items: int | Tensor, batches: int) -> Tensor:
        if self._loss is None:
            return self._model(**batch)["loss"] / batches
        labels = batch.pop("labels")
        return self._loss(self._model(**batch)["logits"], labels, items)

    def _on_device(self, batch: Batch) -> Batch:
        if self._device == "cpu":
            return batch
        # From pinned memory, so that the copy does not make the host wait.
        return {
            name: one.pin_memory().to(self._device, non_blocking=True)
            for name, one in batch.items()
        }

    def _precision(self) -> AbstractContextManager[object]:
        # The cache of cast weights would outlive a captured graph, and saves nothing in one pass.
        return torch.autocast(
            self._device,
            dtype=torch.bfloat16,
            enabled=self._device == "cuda",
            cache_enabled=False,
        )


@dataclass(frozen=True)
class _Captured:
    """One shape: the tensors that its graph reads, and the graph."""

    batch: Batch
    items: Tensor
    extra: Tensor
    replay: Work


@dataclass(frozen=True)
class GraphLengths:
    """Which lengths of text have a graph, of all that a phase will see.

    Attributes:
        captured: tokens of the padded texts.
        longest: of all full batches; no text is padded beyond it, since positions may end there.
    """

    captured: frozenset[int]
    longest: int

    @staticmethod
    def planned(
        lengths: Sequence[int], batches: Iterable[Sequence[int]], rows: int
    ) -> "GraphLengths":
        """Choose the lengths that a phase has enough full batches of for capturing to pay.

        Args:
            lengths: tokens of each example, ``(N,)``.
            batches: example indices of every batch of the plan.
            rows: of a full batch.

        Example:
            >>> batches = [[0, 1]] * 9 + [[2, 2], [0]]
            >>> found = GraphLengths.planned([20, 33, 50], batches, rows=2)
            >>> sorted(found.captured), found.longest, found.of(34), found.of(50)
            ([48], 50, 48, None)
        """
        full = [max(lengths[index] for index in batch) for batch in batches if len(batch) == rows]
        chosen = GraphLengths(frozenset(), max(full, default=0))
        counts = Counter(map(chosen._rounded, full))
        often = frozenset(length for length, count in counts.items() if count >= FEWEST_REPLAYS)
        return GraphLengths(often, chosen.longest)

    def of(self, tokens: int) -> int | None:
        """The length of the graph for texts of so many tokens, or None."""
        length = self._rounded(tokens)
        return length if length in self.captured and tokens <= length else None

    def _rounded(self, tokens: int) -> int:
        return min(math.ceil(tokens / LENGTHS_MULTIPLE) * LENGTHS_MULTIPLE, self.longest)


class CapturedStep(EagerStep):
    """Replay the forward and backward pass of a batch as one graph, a graph for each length.

    Texts are padded to the length of their graph. A batch that is not full, or whose length is
    seldom, runs eagerly; which ones do depends on the plan alone, so that a resumed phase does the
    same. The first replay of each graph must agree with an eager pass over the same batch and
    dropout; where it does not, or capturing fails, all steps run eagerly and ``description`` says
    why.

    Args:
        model, loss, extra_loss, maximum_norm, device: see :class:`EagerStep`.
        batches: accumulated in each step.
        rows: of a full batch.
        lengths: that have graphs.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batches: int,
        rows: int,
        lengths: GraphLengths,
        loss: StepLoss | None,
        extra_loss: Callable[[], Tensor] | None,
        maximum_norm: float,
        device: str,
    ) -> None:
        super().__init__(
            model, loss=loss, extra_loss=extra_loss, maximum_norm=maximum_norm, device=device
        )
        self._batches, self._rows, self._lengths = batches, rows, lengths
        self._graphs: dict[int, _Captured] = {}
        self._problem = ""
        pad = getattr(getattr(model, "config", None), "pad_token_id", None)
        self._fills = {**_FILLS, "input_ids": 0 if pad is None else pad}

    @property
    def description(self) -> str:
        """How the steps were computed, for the record."""
        if self._problem:
            return f"eager: {self._problem}"
        return f"captured: lengths {', '.join(map(str, sorted(self._graphs))) or 'none'}"

    def clear(self) -> None:
        """Forget the gradients; graphs go on adding to the same tensors, so these become 0."""
        if not self._graphs:
            super().clear()
            return
        torch._foreach_zero_([p.grad for p in self._parameters if p.grad is not None])

    def _backward(self, batch: Batch, items: int | Tensor, batches: int, *, first: bool) -> None:
        length = self._graph_length(batch)
        if length is None:
            super()._backward(batch, items, batches, first=first)
            return
        graph = self._graphs.get(length)
        if graph is None:
            try:
                graph = self._graphs[length] = self._captured(batch, length, items, first=first)
            except (RuntimeError, ValueError) as error:
                self._problem = f"length {length}: {first_line(error)}"
                logger.warning("steps run eagerly: %s", self._problem)
                super()._backward(batch, items, batches, first=first)
                return
        self._fill(graph, batch, length, items, first=first)
        graph.replay()

    def _graph_length(self, batch: Batch) -> int | None:
        """The length of the graph that this batch belongs to, if there is one."""
        rows, tokens = batch["input_ids"].shape
        return None if self._problem or rows != self._rows else self._lengths.of(tokens)

    def _captured(
        self, batch: Batch, length: int, items: int | Tensor, *, first: bool
    ) -> _Captured:
        """Capture one shape; gradients, loss and random numbers are as before afterwards."""
        static = {name: one.clone() for name, one in self._padded(batch, length).items()}
        counted, extra = (torch.zeros((), device=self._device) for _ in range(2))
        counted.fill_(items)
        extra.fill_(float(first))

        def run() -> None:
            self._accumulate(static, counted, self._batches, extra)

        if not self._graphs:
            self._make_gradients(run)
        before = self._snapshot()
        try:
            run()
            expected = self._snapshot()
            self._restore(before)
            replay = cuda_graph(run)
            self._restore(before)
            replay()
            found = self._snapshot()
        finally:  # a capture that fails may have run before
            self._restore(before)
        for one, other in zip(found.values, expected.values, strict=True):
            if not _agree(one, other):
                raise ValueError("the replay's loss or gradients are not those of an eager pass")
        return _Captured(static, counted, extra, replay)

    def _make_gradients(self, run: Work) -> None:
        """Give a gradient to each parameter that gets one, to be added to from now on."""
        generator = self._generator()
        total, earlier = self._total.clone(), [p.grad for p in self._parameters]
        super().clear()
        run()
        for parameter, gradient in zip(self._parameters, earlier, strict=True):
            if gradient is not None:
                parameter.grad = gradient
            elif parameter.grad is not None:
                parameter.grad.zero_()
        self._total.copy_(total)
        self._set_generator(generator)

    def _fill(
        self, graph: _Captured, batch: Batch, length: int, items: int | Tensor, *, first: bool
    ) -> None:
        for name, one in self._padded(batch, length).items():
            graph.batch[name].copy_(one, non_blocking=True)
        graph.items.fill_(items)
        graph.extra.fill_(float(first))

    def _padded(self, batch: Batch, length: int) -> Batch:
        tokens = batch["input_ids"].shape[1]
        return self._on_device(
            {
                name: nn.functional.pad(one, (0, length - tokens), value=self._fills.get(name, 0))
                if one.dim() == 2
                else one
                for name, one in batch.items()
            }
        )

    def _snapshot(self) -> "_Snapshot":
        gradients = [p.grad.clone() for p in self._parameters if p.grad is not None]
        return _Snapshot([self._total.clone(), *gradients], self._generator())

    def _restore(self, snapshot: "_Snapshot") -> None:
        current = [self._total, *(p.grad for p in self._parameters if p.grad is not None)]
        for one, value in zip(current, snapshot.values, strict=True):
            one.copy_(value)
        self._set_generator(snapshot.generator)

    def _generator(self) -> Tensor:
        return torch.cuda.get_rng_state() if self._device == "cuda" else torch.get_rng_state()

    def _set_generator(self, state: Tensor) -> None:
        (torch.cuda.set_rng_state if self._device == "cuda" else torch.set_rng_state)(state)


@dataclass(frozen=True)
class _Snapshot:
    """Loss and gradients so far, and the state of the generator that dropout draws from."""

    values: list[Tensor]
    generator: Tensor


def _agree(one: Tensor, other: Tensor) -> bool:
    scale = max(float(other.abs().max()), 1e-12) if other.numel() else 1.0
    return bool((one - other).abs().max() <= _AGREEMENT * scale) if other.numel() else True

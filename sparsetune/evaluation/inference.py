"""Batched forward passes of a tuned model over a task's evaluation split."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sparsetune.data.encoding import collate
from sparsetune.evaluation.beam import BeamSettings, search

logger = logging.getLogger(__name__)
_HYPOTHESES = 320  # prompts x beams in one batch
_SECONDS_BETWEEN_LINES = 30.0  # of progress, where no terminal shows a bar


class Generated(NamedTuple):
    """Texts in the order of their prompts.

    Attributes:
        texts: stripped of blanks around them.
        seconds: of all batches.
        steps: for each prompt the forward passes after the prompt's own.
    """

    texts: list[str]
    seconds: float
    steps: list[int]


def forward_all(
    model: nn.Module,
    features: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    pad_token_id: int,
    device: str,
) -> tuple[list[tuple[Tensor, ...]], float]:
    """Run the model on every feature, longest first, and give the outputs in feature order.

    Args:
        model: with a classification, regression or span head.
        features: see ``sparsetune.data.encoding.encode``.
        batch_size: features in one forward pass.
        pad_token_id: of the tokenizer.
        device: ``cpu`` or ``cuda``; on CUDA the pass runs in bfloat16 autocast, as in training.

    Returns:
        One tuple of float32 CPU tensors for each feature: ``(logits (C,),)``, or
        ``(start (T,), end (T,))`` for spans, padding included; and the seconds of all passes.
    """
    outputs: list[tuple[Tensor, ...]] = [()] * len(features)

    def run(indices: list[int], batch: dict[str, Tensor]) -> None:
        result = model(**batch)
        heads = (result.logits,) if "logits" in result else (result.start_logits, result.end_logits)
        for row, index in enumerate(indices):
            outputs[index] = tuple(head[row].float().cpu() for head in heads)

    seconds = _over_batches(features, run, (batch_size, pad_token_id, device), model, "right")
    return outputs, seconds


def generate_all(
    model: nn.Module,
    features: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    settings: Mapping[str, Any],
    device: str,
    batch_size: int | None = None,
) -> Generated:
    """Continue every prompt by beam search, longest first, and give the texts in feature order.

    Args:
        model: GPT-2 with its language-model head.
        features: prompts, see ``sparsetune.data.encoding.encode``.
        tokenizer: decodes the continuation.
        settings: the task's ``generation`` section.
        device: ``cpu`` or ``cuda``.
        batch_size: prompts in one batch; None = as many as memory is meant for: a step holds
            scores over the vocabulary for every prompt and beam.

    Returns:
        The texts, the seconds of all batches, and the steps that each prompt took.
    """
    texts, steps = [""] * len(features), [0] * len(features)
    asked = BeamSettings.of(settings)

    def run(indices: list[int], batch: dict[str, Tensor]) -> None:
        found = search(model, batch, asked, end_token_id=tokenizer.eos_token_id)
        decoded = tokenizer.batch_decode(found.continuations, skip_special_tokens=True)
        for index, text, taken in zip(indices, decoded, found.steps, strict=True):
            texts[index], steps[index] = text.strip(), taken
        advance(len(indices))

    prompts = batch_size or max(1, _HYPOTHESES // asked.beams)
    place = (prompts, tokenizer.pad_token_id, device)
    with _progress(len(features), "prompts") as advance:
        seconds = _over_batches(features, run, place, model, "left")
    return Generated(texts, seconds, steps)


@contextmanager
def inference_mode(model: nn.Module, device: str) -> Iterator[None]:
    """Everything a forward pass of scoring runs in.

    Args:
        model: put into evaluation mode, moved to the device and left there.
        device: ``cpu`` or ``cuda``; CUDA runs in bfloat16 autocast, as in training.
    """
    model.to(device).eval()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        yield


@contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr; elsewhere a line in the log now and then."""
    told_at = time.monotonic()
    with tqdm(total=total, unit=f" {what}", disable=not sys.stderr.isatty()) as bar:
        done = 0

        def advance(count: int) -> None:
            nonlocal done, told_at
            done += count
            bar.update(count)
            if bar.disable and time.monotonic() - told_at >= _SECONDS_BETWEEN_LINES:
                logger.info("%d of %d %s", done, total, what)
                told_at = time.monotonic()

        yield advance


def _over_batches(
    features: Sequence[Mapping[str, Any]],
    run: Callable[[list[int], dict[str, Tensor]], None],
    place: tuple[int, int, str],
    model: nn.Module,
    side: str,
) -> float:
    batch_size, pad_token_id, device = place
    with inference_mode(model, device):
        started = time.perf_counter()
        for indices in _by_length(features, batch_size):
            batch = collate([features[i] for i in indices], pad_token_id=pad_token_id, side=side)
            batch.pop("labels", None)
            run(indices, {key: tensor.to(device) for key, tensor in batch.items()})
        return time.perf_counter() - started


def _by_length(features: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]

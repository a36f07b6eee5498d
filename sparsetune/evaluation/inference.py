"""Batched forward passes of a tuned model over a task's evaluation split."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.data.encoding import collate


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
    batch_size: int,
    device: str,
) -> tuple[list[str], float]:
    """Continue every prompt by (batched) beam search and give the texts in feature order.

    Args:
        model: GPT-2 with its language-model head.
        features: prompts, see ``sparsetune.data.encoding.encode``.
        tokenizer: decodes the continuation.
        settings: the task's ``generation`` section.
        batch_size: prompts in one batch.
        device: ``cpu`` or ``cuda``.

    Returns:
        The texts, and the seconds of all batches.
    """
    texts = [""] * len(features)

    def run(indices: list[int], batch: dict[str, Tensor]) -> None:
        batch.pop("labels", None)
        produced = model.generate(
            **batch,
            num_beams=settings["beams"],
            max_new_tokens=settings["maximum_new_tokens"],
            length_penalty=settings["length_penalty"],
            no_repeat_ngram_size=settings["no_repeat_ngram"],
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        continued = produced[:, batch["input_ids"].shape[1] :]
        decoded = tokenizer.batch_decode(continued, skip_special_tokens=True)
        for index, text in zip(indices, decoded, strict=True):
            texts[index] = text.strip()

    place = (batch_size, tokenizer.pad_token_id, device)
    seconds = _over_batches(features, run, place, model, "left")
    return texts, seconds


def _over_batches(
    features: Sequence[Mapping[str, Any]],
    run: Callable[[list[int], dict[str, Tensor]], None],
    place: tuple[int, int, str],
    model: nn.Module,
    side: str,
) -> float:
    batch_size, pad_token_id, device = place
    model.to(device).eval()
    started = time.perf_counter()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        for indices in _by_length(features, batch_size):
            batch = collate([features[i] for i in indices], pad_token_id=pad_token_id, side=side)
            batch.pop("labels", None)
            run(indices, {key: tensor.to(device) for key, tensor in batch.items()})
    return time.perf_counter() - started


def _by_length(features: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]

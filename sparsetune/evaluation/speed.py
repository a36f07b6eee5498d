"""How fast a tuned model answers, on the device of the run; numbers for the timings table only."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsetune.architectures.graphs import Work, cuda_graph
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.errors import first_line
from sparsetune.evaluation.generate import continue_prompts
from sparsetune.evaluation.predict import EvaluationSplit, batch_of, inference_mode
from sparsetune.records.parts import Speed

_SECONDS = 0.2  # of timed calls, if they are short
_FEWEST_CALLS, _MOST_CALLS = 3, 50
_MOST_WARM_UP_CALLS = 2
_LONG_SECONDS = 0.5  # a call that takes so long is warm after one


def measure_speed(split: EvaluationSplit, model: nn.Module, device: str) -> list[Speed]:
    """Time one sequence alone, and a batch of 64: those in the middle of the split's lengths.

    A call is a forward pass, padded to its longest sequence, on CUDA replayed as a graph; for
    generation it is the whole search, and a prompt alone is timed only: batches there are as large
    as memory is meant for.

    Args:
        split: with at least one example.
        model: with the head that the task needs; moved to ``device`` and left there in evaluation
            mode.
        device: ``cpu`` or ``cuda``; a call ends when the device is done.

    Returns:
        For each batch: ``engine`` (eager or captured), ``sequences`` (fewer than 64 in a smaller
        split), ``tokens`` it is padded to, ``threads`` of torch, ``sequences_per_second`` (median),
        and the latency.
    """
    settings = split.task.generation
    pad, end = split.tokenizer.pad_token_id, split.tokenizer.eos_token_id
    measured = []
    for size in (1, EVALUATION_BATCH) if settings is None else (1,):
        chosen = middle(split.features, size)
        inputs = batch_of(chosen, pad, device, side="right" if settings is None else "left")

        def call(inputs: dict[str, torch.Tensor] = inputs) -> None:
            if settings is None:
                model(**inputs)
            else:
                continue_prompts(model, inputs, settings, end_token_id=end, pad_token_id=pad)

        with inference_mode(model, device):
            engine, work = _engine(call, device, captured=settings is None)
            taken = _timed(work)
        measured.append(
            Speed.model_validate(
                {
                    "engine": engine,
                    "sequences": len(chosen),
                    "tokens": inputs["input_ids"].shape[1],
                    "threads": torch.get_num_threads(),
                    "sequences_per_second": round(len(chosen) / taken["latency_median_seconds"], 3),
                    **{name: round(value, 6) for name, value in taken.items()},
                }
            )
        )
    return measured


def middle(features: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The features in the middle of a split's lengths, the same for every model of a task.

    Args:
        features: with ``input_ids``.
        count: how many, >= 1; all if there are fewer.
    """
    ordered = sorted(features, key=lambda feature: len(feature["input_ids"]))
    first = max(0, (len(ordered) - count) // 2)
    return ordered[first : first + count]


def _engine(call: Work, device: str, *, captured: bool) -> tuple[str, Work]:
    """How a call runs, and the call: on CUDA it ends when the device is done."""
    if device == "cpu":
        return "eager", call
    engine, replay = "eager", call
    if captured:
        try:
            engine, replay = "captured", cuda_graph(call)
        except RuntimeError as error:
            engine = f"eager: {first_line(error)}"

    def finished() -> None:
        replay()
        torch.cuda.synchronize()

    return engine, finished


def _timed(call: Work) -> dict[str, float]:
    """Warm up, and time as many calls as a fraction of a second holds, three at least.

    The latency that 90 % of the calls kept to is the smallest such time, not interpolated.
    """
    warmup = [_seconds_of(call)]
    while len(warmup) < _MOST_WARM_UP_CALLS and warmup[-1] < _LONG_SECONDS:
        warmup.append(_seconds_of(call))
    repeats = min(_MOST_CALLS, max(_FEWEST_CALLS, int(_SECONDS / max(warmup[-1], 1e-9))))
    seconds = sorted(_seconds_of(call) for _ in range(repeats))
    return {
        "latency_median_seconds": statistics.median(seconds),
        "latency_p90_seconds": seconds[math.ceil(0.9 * repeats) - 1],
        "latency_minimum_seconds": seconds[0],
        "repeats": repeats,
        "warmup": len(warmup),
    }


def _seconds_of(call: Work) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

"""A task's evaluation split: read, encoded, answered by a model in batches, and scored."""

import functools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sparsetune.config.suite import Limits
from sparsetune.config.task import Generation, Task
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.data.examples import read_examples
from sparsetune.data.tokenization import collate, encode
from sparsetune.evaluation.generate import continue_prompts
from sparsetune.evaluation.metrics import score
from sparsetune.evaluation.metrics.classification import predictions_of
from sparsetune.evaluation.metrics.qa import best_spans

_HYPOTHESES = 320  # prompts x beams in one batch: a step scores the vocabulary for each
_SECONDS_BETWEEN_MARKS = 30.0  # of progress, where no terminal shows it


class Predicted(NamedTuple):
    """A model's answers to a split, in the order of its examples.

    Attributes:
        values: one label number, score or text (stripped of blanks around it) for each example.
        seconds: of all batches.
        decoding_steps: see ``generate.Continued``; None where nothing is generated.
    """

    values: list[Any]
    seconds: float
    decoding_steps: list[int] | None = None


@dataclass(frozen=True)
class EvaluationSplit:
    """The examples on which a task's runs are scored.

    Attributes:
        task: from the catalogue.
        examples: of the split that the task names, cut to the suite's limit.
        tokenizer: of the backbone.
    """

    task: Task
    examples: list[Any]
    tokenizer: Any

    @classmethod
    def read(cls, task: Task, dataset: Path, tokenizer: Any, limits: Limits) -> "EvaluationSplit":
        """Read the split; nothing is encoded before it is needed.

        Args:
            task: from the catalogue.
            dataset: the task's folder.
            tokenizer: of the backbone.
            limits: ``evaluation_examples`` keeps the first N; None = all.

        Raises:
            DataError: a file is missing or damaged.
        """
        examples = read_examples(dataset, task, "evaluation", limits.evaluation_examples)
        return cls(task, examples, tokenizer)

    @functools.cached_property
    def features(self) -> list[dict[str, Any]]:
        """The encoded examples; for spans, their windows."""
        return encode(self.examples, self.task, self.tokenizer, for_training=False)

    @functools.cached_property
    def references(self) -> list[Any]:
        """For each example its label, its accepted answers or its reference texts."""
        if self.task.kind == "generation":
            return [list(example.references) for example in self.examples]
        if self.task.kind == "span":
            return [[text for text, _ in example.answers] for example in self.examples]
        return [example.label for example in self.examples]

    def predict(self, model: nn.Module, device: str) -> Predicted:
        """Predict every example.

        Args:
            model: with the head that the task needs; moved to ``device`` and left there in
                evaluation mode.
            device: ``cpu`` or ``cuda``.
        """
        if self.task.generation is not None:
            settings = self.task.generation
            return _generate_all(
                model, self.features, self.tokenizer, settings=settings, device=device
            )
        outputs, seconds = _forward_all(
            model, self.features,
            batch_size=EVALUATION_BATCH, pad_token_id=self.tokenizer.pad_token_id, device=device,
        )  # fmt: skip
        if self.task.kind == "span":
            logits = [(start.numpy(), end.numpy()) for start, end in outputs]
            contexts = [example.context for example in self.examples]
            return Predicted(best_spans(logits, self.features, contexts), seconds)
        return Predicted(
            predictions_of([one.tolist() for (one,) in outputs], self.task.kind), seconds
        )

    def score(self, model: nn.Module, device: str) -> dict[str, float | None]:
        """The task's metrics of a model; see :meth:`predict` and ``evaluation.metrics.score``."""
        predicted = self.predict(model, device)
        return score(self.task.metrics, predicted.values, self.references)


def _forward_all(
    model: nn.Module,
    features: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    pad_token_id: int,
    device: str,
) -> tuple[list[tuple[Tensor, ...]], float]:
    """The outputs for every feature, longest first but in feature order, and their seconds.

    One tuple of float32 CPU tensors for each: ``(logits (C,),)``, or ``(start (T,), end (T,))`` for
    spans, padding included.
    """
    outputs: list[tuple[Tensor, ...]] = [()] * len(features)
    with inference_mode(model, device):
        started = time.perf_counter()
        for indices in _by_length(features, batch_size):
            inputs = batch_of([features[i] for i in indices], pad_token_id, device, side="right")
            result = model(**inputs)
            spans = "logits" not in result
            heads = (result.start_logits, result.end_logits) if spans else (result.logits,)
            on_host = [head.float().cpu() for head in heads]  # all rows at once: each copy waits
            for row, index in enumerate(indices):
                outputs[index] = tuple(head[row] for head in on_host)
        return outputs, time.perf_counter() - started


def _generate_all(
    model: nn.Module,
    features: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    settings: Generation,
    device: str,
    batch_size: int | None = None,
) -> Predicted:
    """Continue every prompt, longest first, and give the texts in feature order.

    None = as many prompts in a batch as memory is meant for.
    """
    texts, steps = [""] * len(features), [0] * len(features)
    prompts = batch_size or max(1, _HYPOTHESES // settings.beams)
    ids = {"end_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    pause = 0.1 if sys.stderr.isatty() else _SECONDS_BETWEEN_MARKS
    bar = tqdm(total=len(features), unit=" prompts", mininterval=pause)
    with inference_mode(model, device), bar:
        started = time.perf_counter()
        for indices in _by_length(features, prompts):
            chosen = [features[i] for i in indices]
            inputs = batch_of(chosen, tokenizer.pad_token_id, device, side="left")
            found = continue_prompts(model, inputs, settings, **ids)
            decoded = tokenizer.batch_decode(found.tokens, skip_special_tokens=True)
            for index, text, taken in zip(indices, decoded, found.steps, strict=True):
                texts[index], steps[index] = text.strip(), taken
            bar.update(len(indices))
        return Predicted(texts, time.perf_counter() - started, steps)


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


def batch_of(
    features: Sequence[Mapping[str, Any]],
    pad_token_id: int,
    device: str,
    *,
    side: Literal["left", "right"],
) -> dict[str, Tensor]:
    """Pad features to one batch on a device, without their labels.

    Args:
        features: see ``sparsetune.data.tokenization.encode``.
        pad_token_id: of the tokenizer.
        device: ``cpu`` or ``cuda``.
        side: of the padding.
    """
    batch = collate(features, pad_token_id=pad_token_id, side=side)
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}


def _by_length(features: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]

"""A task's evaluation split: read, encoded, predicted by a model, and scored."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from sparsetune.config.load import Task
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.data.encoding import encode
from sparsetune.data.examples import read_examples
from sparsetune.evaluation.inference import forward_all, generate_all
from sparsetune.evaluation.metrics.assess import score
from sparsetune.evaluation.metrics.classification import predictions_of
from sparsetune.evaluation.metrics.qa import answers_of


class Predicted(NamedTuple):
    """A model's answers to a split.

    Attributes:
        values: one label number, score or text for each example.
        seconds: of all batches.
        decoding_steps: of each prompt; None where nothing is generated.
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
    def read(
        cls, task: Task, dataset: Path, tokenizer: Any, limits: Mapping[str, int | None]
    ) -> "EvaluationSplit":
        """Read the split; nothing is encoded before it is needed.

        Args:
            task: from the catalogue.
            dataset: the task's folder.
            tokenizer: of the backbone.
            limits: ``evaluation_examples`` keeps the first N; None = all.

        Raises:
            DataError: a file is missing or damaged.
        """
        examples = read_examples(dataset, task, "evaluation")
        return cls(task, examples[: limits["evaluation_examples"]], tokenizer)

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

        Returns:
            The answers, the seconds of all batches, and what generating took.
        """
        if self.task.kind == "generation":
            settings = self.task.generation
            generated = generate_all(
                model, self.features, self.tokenizer, settings=settings, device=device
            )
            return Predicted(*generated)
        outputs, seconds = forward_all(
            model, self.features,
            batch_size=EVALUATION_BATCH, pad_token_id=self.tokenizer.pad_token_id, device=device,
        )  # fmt: skip
        if self.task.kind == "span":
            logits = [(start.numpy(), end.numpy()) for start, end in outputs]
            return Predicted(answers_of(self.examples, self.features, logits), seconds)
        logits = [logits.tolist() for (logits,) in outputs]
        return Predicted(predictions_of(logits, self.task.kind), seconds)

    def score(self, model: nn.Module, device: str) -> dict[str, float | None]:
        """The task's metrics of a model; see :meth:`predict` and ``evaluation.metrics.score``."""
        predicted = self.predict(model, device)
        return score(self.task.metrics, predicted.values, self.references)

"""How large the tasks and backbones of a suite are, from records where there are any.

What was fetched or measured comes first, then the catalogue's ``expected``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsetune.config.load import Backbone, Catalogue, Task
from sparsetune.cost.shapes import LayerShape, ModelShape
from sparsetune.cost.stored import as_stored
from sparsetune.errors import ConfigError
from sparsetune.records import read_json, read_record

DOCUMENT_TOKENS = 28.0  # of the generated corpus, with any of its tokenizers; as measured
BYTES_PER_TOKEN = 4.0  # of English text, labels and field names; compressed files are smaller


@dataclass(frozen=True)
class TaskSize:
    """Examples and lengths of one task.

    Attributes:
        train_examples: before any limit.
        evaluation_examples: likewise; for generation, prompts.
        tokens: mean length of a training example, padding not counted.
        tokens_measured: whether ``tokens`` is from a run's record.
        stored_bytes: of the data set's files, from its record; None = not fetched yet.
    """

    train_examples: int
    evaluation_examples: int
    tokens: float
    tokens_measured: bool = False
    stored_bytes: int | None = None

    @property
    def download_bytes(self) -> float:
        """Of the text in both splits, not compressed."""
        return (self.train_examples + self.evaluation_examples) * self.tokens * BYTES_PER_TOKEN

    def limited(self, limits: Mapping[str, int | None]) -> "TaskSize":
        """The size after a suite's limits."""
        return replace(
            self,
            train_examples=min(
                limits["train_examples"] or self.train_examples, self.train_examples
            ),
            evaluation_examples=min(
                limits["evaluation_examples"] or self.evaluation_examples, self.evaluation_examples
            ),
        )


def task_size(task: Task, *, folder: Path | None, tokens: float | None) -> tuple[TaskSize, str]:
    """Size of a task.

    Args:
        task: from the catalogue.
        folder: the data set's, whose record is read if it is there; None = the catalogue alone.
        tokens: mean length as measured by a run; None = the catalogue's.

    Returns:
        The size; and a remark in one line if record and catalogue disagree, else nothing.

    Raises:
        ConfigError: the catalogue does not tell, and there is no record.
        DataError: the record is damaged.
    """
    expected = task.expected or {}
    told = _expected_examples(task)
    path = folder / "record.json" if folder else None
    remark, stored = "", None
    if path and path.exists():
        measured = read_record(path, "dataset")["measured"]
        found = {name: measured[name] for name in ("train_examples", "evaluation_examples")}
        wrong = {name: n for name, n in found.items() if told.get(name, n) != n}
        for name, count in wrong.items():
            remark = f"{task.id}: {name} is {count} in {path}, {told[name]} in the catalogue"
        told, stored = found, measured.get("stored_bytes")
    for name, value in {**dict.fromkeys(("train_examples", "evaluation_examples")), **told}.items():
        if value is None:
            raise ConfigError(f"task {task.id}: expected.{name}: missing, and nothing was fetched")
    if tokens is None and "tokens" not in expected:
        raise ConfigError(f"task {task.id}: expected.tokens: missing, and no run measured it")
    length = expected["tokens"] if tokens is None else tokens
    return TaskSize(**told, tokens=length, tokens_measured=tokens is not None,
                    stored_bytes=stored), remark  # fmt: skip


def _expected_examples(task: Task) -> dict[str, int]:
    sizes = task.source.get("sizes")
    if sizes:
        split = "test" if task.evaluation_split == "test" else "evaluation"
        return {"train_examples": sizes["train"], "evaluation_examples": sizes[split]}
    names = ("train_examples", "evaluation_examples")
    return {name: task.expected[name] for name in names if name in (task.expected or {})}


def backbone_shapes(
    backbone: Backbone, catalogue: Catalogue, *, folder: Path | None
) -> tuple[ModelShape, ModelShape]:
    """Describe a backbone before any removal, and as it is tuned, under a regression head.

    Args:
        backbone: from the catalogue.
        catalogue: where a borrowed tokenizer's backbone is looked up.
        folder: the backbone's, whose files are read if they are there; None = the catalogue alone.

    Raises:
        ConfigError: nothing was fetched, and the catalogue does not tell.
        DataError, ModelError: the folder's files are damaged.
    """
    path = folder / "config.json" if folder else None
    if path and path.exists():
        dense = ModelShape.dense(read_json(path, what="backbone configuration"), "regression", 1)
        return dense, as_stored(dense, folder)
    dense = ModelShape.dense(_config_of(backbone, catalogue), "regression", 1)
    early = (backbone.pretraining or {}).get("early")
    if not early:
        return dense, dense
    return dense, after_removal(dense, early["head_sparsity"], early["neuron_sparsity"])


def _config_of(backbone: Backbone, catalogue: Catalogue) -> dict[str, Any]:
    sizes = backbone.expected
    if backbone.pretraining:
        tokenizer = backbone.pretraining["tokenizer"]
        lender = tokenizer.get("backbone")
        words = (catalogue.backbone(lender).expected or {}) if lender else tokenizer
        sizes = {**backbone.pretraining["shape"], "vocabulary_size": words.get("vocabulary_size")}
    if not sizes or sizes["vocabulary_size"] is None:
        raise ConfigError(f"backbone {backbone.id}: expected: missing, and nothing was fetched")
    if backbone.architecture == "gpt2":
        return {
            "model_type": "gpt2", "n_embd": sizes["hidden_size"], "n_head": sizes["heads"],
            "n_layer": sizes["layers"], "n_inner": sizes["feed_forward_size"],
            "n_positions": sizes["maximum_positions"], "vocab_size": sizes["vocabulary_size"],
        }  # fmt: skip
    return {
        "model_type": backbone.architecture, "hidden_size": sizes["hidden_size"],
        "num_attention_heads": sizes["heads"], "num_hidden_layers": sizes["layers"],
        "intermediate_size": sizes["feed_forward_size"],
        "max_position_embeddings": sizes["maximum_positions"],
        "type_vocab_size": 2 if backbone.architecture == "bert" else 1,
        "vocab_size": sizes["vocabulary_size"],
    }  # fmt: skip


def under_head(shape: ModelShape, kind: str, label_count: int) -> ModelShape:
    """The same backbone under the head of a kind of task.

    Args:
        shape: under any head.
        kind: a task's, or ``masked_lm``.
        label_count: outputs of a classifier.
    """
    return replace(
        shape,
        head=kind,
        label_count={"span": 2, "regression": 1}.get(kind, label_count),
        pooler=shape.architecture == "bert" and kind in ("classification", "regression"),
    )


def after_removal(shape: ModelShape, heads: float, neurons: float) -> ModelShape:
    """The model after shares of its heads and neurons were removed.

    Args:
        shape: before.
        heads: share of the heads, in [0, 1).
        neurons: share of the neurons, in [0, 1).

    Returns:
        The kept units in as equal numbers per layer as their exact sum allows: multiply-adds
        and parameters depend on the sum alone.
    """
    layers = len(shape.layers)
    kept_heads = _spread(sum(layer.heads for layer in shape.layers), heads, layers)
    kept_neurons = _spread(sum(layer.ffn_width for layer in shape.layers), neurons, layers)
    smaller = [
        LayerShape(kept_heads[index], layer.head_size, kept_neurons[index])
        for index, layer in enumerate(shape.layers)
    ]
    return replace(shape, layers=tuple(smaller))


def _spread(units: int, dropped: float, layers: int) -> list[int]:
    kept = units - int(dropped * units + 0.5)  # rounded half up, as tickets are drawn
    return [kept // layers + (layer < kept % layers) for layer in range(layers)]

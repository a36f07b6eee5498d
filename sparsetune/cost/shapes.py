"""The description of a model that costs are counted on: its layers, widths and task head.

It is read from a backbone's folder without torch.

Heads and neurons that were removed are absent from it; single zeros inside a matrix are told
by site, as ``layer.<i>.<projection>``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from sparsetune.errors import ModelError
from sparsetune.records import read_json

PROJECTIONS = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
ARCHITECTURES = ("bert", "roberta", "gpt2")
HEADS = ("classification", "regression", "span", "generation", "masked_lm")
_FUSED = ("query", "key", "value")  # one matrix in GPT-2
_SIZES = ("heads_by_layer", "neurons_by_layer")  # of a model that they were removed from

Architecture = Literal["bert", "roberta", "gpt2"]
Head = Literal["classification", "regression", "span", "generation", "masked_lm"]


@dataclass(frozen=True)
class LayerShape:
    """Widths of one Transformer layer: heads, size of one head, feed-forward neurons."""

    heads: int
    head_size: int
    ffn_width: int

    def __post_init__(self) -> None:
        for name in ("heads", "head_size", "ffn_width"):
            _positive(f"layer.{name}", getattr(self, name))

    def matrices(self, hidden_size: int) -> dict[str, tuple[int, int]]:
        """Rows and columns (out, in) of every projection's weight, by projection.

        Args:
            hidden_size: width D of the residual stream.
        """
        inner, width = self.heads * self.head_size, self.ffn_width
        return {
            **dict.fromkeys(_FUSED, (inner, hidden_size)),
            "attention_output": (hidden_size, inner),
            "ffn_in": (width, hidden_size),
            "ffn_out": (hidden_size, width),
        }


@dataclass(frozen=True)
class ModelShape:
    """Everything about a model that its cost depends on.

    ``pooler`` is BERT's pooling layer; RoBERTa's classifier has a hidden layer of its own, which
    belongs to its head. ``label_count`` is 2 for a span head and unused for generation.
    """

    architecture: Architecture
    hidden_size: int
    layers: tuple[LayerShape, ...]
    vocabulary_size: int
    maximum_positions: int
    type_vocabulary_size: int
    head: Head
    label_count: int
    pooler: bool

    def __post_init__(self) -> None:
        _among("architecture", self.architecture, ARCHITECTURES)
        _among("head", self.head, HEADS)
        for name in ("hidden_size", "vocabulary_size", "maximum_positions", "label_count"):
            _positive(name, getattr(self, name))
        if not self.layers:
            raise ModelError("layers: received none; allowed: at least one layer")
        if self.head == "generation" and self.architecture != "gpt2":
            raise ModelError(
                f"head: received 'generation' for {self.architecture!r}; allowed: 'gpt2'"
            )
        if self.head == "masked_lm" and self.architecture == "gpt2":
            raise ModelError("head: received 'masked_lm' for 'gpt2'; allowed: 'bert' or 'roberta'")

    @classmethod
    def dense(cls, config: Mapping[str, Any], head: Head, label_count: int) -> Self:
        """Describe the whole backbone, as published, under a task head.

        Args:
            config: content of a Hugging Face ``config.json``.
            head: the kind of task; a span head always has two outputs.
            label_count: number of classes; 1 for regression.

        Raises:
            ModelError: an architecture other than the three, a missing key or a width that does
                not fit.
        """
        architecture = _among("config.model_type", config.get("model_type"), ARCHITECTURES)
        gpt2 = architecture == "gpt2"
        hidden = _width(config, "n_embd" if gpt2 else "hidden_size")
        heads = _width(config, "n_head" if gpt2 else "num_attention_heads")
        if hidden % heads:
            raise ModelError(f"config: hidden size {hidden} is not a multiple of {heads} heads")
        if gpt2:
            ffn_width = config.get("n_inner") or 4 * hidden
        else:
            ffn_width = _width(config, "intermediate_size")
        layer = LayerShape(heads, hidden // heads, ffn_width)
        return cls(
            architecture=architecture,
            hidden_size=hidden,
            layers=(layer,) * _width(config, "n_layer" if gpt2 else "num_hidden_layers"),
            vocabulary_size=_width(config, "vocab_size"),
            maximum_positions=_width(config, "n_positions" if gpt2 else "max_position_embeddings"),
            type_vocabulary_size=0 if gpt2 else _width(config, "type_vocab_size"),
            head=head,
            label_count={"span": 2, "regression": 1}.get(head, label_count),
            pooler=architecture == "bert" and head in ("classification", "regression"),
        )

    def with_kept(
        self, kept_heads: Sequence[Sequence[int]], kept_neurons: Sequence[Sequence[int]]
    ) -> Self:
        """Describe the model after all other heads and neurons were removed.

        Args:
            kept_heads: for each layer, the kept heads' numbers in ``[0, heads)``.
            kept_neurons: for each layer, the kept neurons' numbers in ``[0, ffn_width)``.

        Raises:
            ModelError: wrong number of layers, a number out of range or twice, an emptied layer.
        """
        for name, kept in (("kept_heads", kept_heads), ("kept_neurons", kept_neurons)):
            if len(kept) != len(self.layers):
                raise ModelError(
                    f"{name}: received {len(kept)} layers, model has {len(self.layers)}"
                )
        layers = []
        for index, layer in enumerate(self.layers):
            heads = _kept(f"kept_heads[{index}]", kept_heads[index], layer.heads)
            neurons = _kept(f"kept_neurons[{index}]", kept_neurons[index], layer.ffn_width)
            layers.append(LayerShape(heads, layer.head_size, neurons))
        return replace(self, layers=tuple(layers))

    def with_layers(self, kept_layers: Sequence[int] | None) -> Self:
        """Describe the model after all other layers were removed.

        Args:
            kept_layers: the kept layers' numbers; None = all.

        Raises:
            ModelError: a number out of range or twice, or no layer kept.
        """
        if kept_layers is None:
            return self
        _kept("kept_layers", kept_layers, len(self.layers))
        return replace(self, layers=tuple(self.layers[layer] for layer in kept_layers))

    def sites(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield (site key, projection, rows, columns) of every projection, layer by layer."""
        for index, layer in enumerate(self.layers):
            for projection, (rows, columns) in layer.matrices(self.hidden_size).items():
                yield f"layer.{index}.{projection}", projection, rows, columns

    def sizes(self) -> dict[str, int]:
        """Weights of every projection, by site key."""
        return {key: rows * columns for key, _, rows, columns in self.sites()}

    def matrices(
        self, targets: Collection[str], *, fused: bool
    ) -> Iterator[tuple[str, str, int, int]]:
        """Yield (site key, projection, rows, columns) of every matrix that holds a target.

        Args:
            targets: some of :data:`PROJECTIONS`.
            fused: take GPT-2's query, key and value for the one matrix that they are stored in;
                it goes by the first of them that is a target.
        """
        whole = fused and self.architecture == "gpt2"
        met = set()
        for key, projection, rows, columns in self.sites():
            if projection not in targets:
                continue
            if not whole or projection not in _FUSED:
                yield key, projection, rows, columns
                continue
            layer = key.rpartition(".")[0]
            if layer not in met:
                met.add(layer)
                yield key, projection, len(_FUSED) * rows, columns

    def bias_parameters(self) -> int:
        """Biases outside the task head: of projections, layer norms and BERT's pooler."""
        layer_norms = (2 * len(self.layers) + 1) * self.hidden_size
        return (
            sum(rows for _, _, rows, _ in self.sites())
            + layer_norms
            + (self.hidden_size if self.pooler else 0)
        )

    def head_parameters(self) -> int:
        """Parameters of the task head; 0 for generation, whose matrix is the embedding's."""
        hidden, labels = self.hidden_size, self.label_count
        if self.head == "generation":
            return 0
        if self.head == "masked_lm":  # a layer with its norm, and a bias over the vocabulary
            return hidden * hidden + 3 * hidden + self.vocabulary_size
        if self.head == "span":
            return hidden * labels + labels
        if self.architecture == "gpt2":
            return hidden * labels
        own = hidden * hidden + hidden if self.architecture == "roberta" else 0
        return own + hidden * labels + labels


def as_stored(dense: ModelShape, folder: Path) -> ModelShape:
    """Describe the model of a folder as it is.

    Args:
        dense: as its ``config.json`` says, before any removal.
        folder: whose ``config.json`` has ``heads_by_layer`` and ``neurons_by_layer`` if something
            was removed.

    Returns:
        ``dense`` itself, or the smaller shape.

    Raises:
        DataError: the file is not JSON.
        ModelError: it does not fit the model.
    """
    path = folder / "config.json"
    config = read_json(path, what="backbone configuration")
    if not any(key in config for key in _SIZES):
        return dense
    try:
        kept = [[range(count) for count in config[key]] for key in _SIZES]
    except (KeyError, TypeError):
        raise ModelError(f"{path}: need {' and '.join(_SIZES)}, a number for each layer") from None
    return dense.with_kept(*kept)


def language_model_shapes(folder: Path) -> tuple[ModelShape, ModelShape]:
    """Describe a pre-trained language model: before any removal, and as it is.

    Args:
        folder: the backbone's.

    Raises:
        DataError, ModelError: its ``config.json`` or its sizes are unusable.
    """
    config = read_json(folder / "config.json", what="backbone configuration")
    head: Head = "generation" if config.get("model_type") == "gpt2" else "masked_lm"
    dense = ModelShape.dense(config, head, 1)
    return dense, as_stored(dense, folder)


def _width(config: Mapping[str, Any], key: str) -> int:
    if key not in config:
        raise ModelError(f"config.{key}: missing")
    return _positive(f"config.{key}", config[key])


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{name}: received {value!r}, allowed: a whole number >= 1")
    return value


def _among(name: str, value: Any, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        raise ModelError(f"{name}: received {value!r}; allowed: {', '.join(allowed)}")
    return value


def _kept(name: str, kept: Sequence[int], width: int) -> int:
    wrong = [index for index in kept if not 0 <= index < width]
    if wrong:
        raise ModelError(f"{name}: received {wrong[0]}; allowed: 0 to {width - 1}")
    if not kept or len(set(kept)) != len(kept):
        raise ModelError(
            f"{name}: received {len(kept)} numbers; allowed: at least one, each only once"
        )
    return len(kept)

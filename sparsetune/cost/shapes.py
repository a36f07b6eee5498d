"""The description of a model that costs are counted on: its layers, widths and task head.

It is read from a backbone's folder without torch.

Heads and neurons that were removed are absent from it; single zeros inside a matrix are told
by site, as ``layer.<i>.<projection>``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from sparsetune.architectures.base import Around, Counted, Family
from sparsetune.architectures.families import FAMILIES
from sparsetune.errors import ModelError
from sparsetune.records import read_json

HEADS = ("classification", "regression", "span", "generation", "masked_lm")
_SIZES = ("heads_by_layer", "neurons_by_layer")  # of a model that they were removed from

Head = Literal["classification", "regression", "span", "generation", "masked_lm"]


@dataclass(frozen=True)
class LayerShape:
    """Widths of one Transformer layer: heads, size of one head, feed-forward neurons.

    ``heads`` are those of key and value; each is read by ``queries_per_head`` query heads. With
    ``gated`` neurons a second matrix of the size of the first feed-forward one stands beside it.
    """

    heads: int
    head_size: int
    ffn_width: int
    queries_per_head: int = 1
    gated: bool = False

    @property
    def query_width(self) -> int:
        """Features of all query heads."""
        return self.heads * self.queries_per_head * self.head_size

    def __post_init__(self) -> None:
        for name in ("heads", "head_size", "ffn_width", "queries_per_head"):
            _positive(f"layer.{name}", getattr(self, name))

    def matrices(self, hidden_size: int) -> dict[str, tuple[int, int]]:
        """Rows and columns (out, in) of every projection's weight, by projection.

        Args:
            hidden_size: width D of the residual stream.
        """
        shared, width = self.heads * self.head_size, self.ffn_width
        gate = {"ffn_gate": (width, hidden_size)} if self.gated else {}
        return {
            "query": (self.query_width, hidden_size),
            "key": (shared, hidden_size),
            "value": (shared, hidden_size),
            "attention_output": (hidden_size, self.query_width),
            "ffn_in": (width, hidden_size),
            **gate,
            "ffn_out": (hidden_size, width),
        }


@dataclass(frozen=True)
class ModelShape:
    """Everything about a model that its cost depends on.

    ``architecture`` is one of ``FAMILIES`` whose costs are counted. ``pooler`` is BERT's pooling
    layer; RoBERTa's classifier has a hidden layer of its own, which belongs to its head.
    ``label_count`` is 2 for a span head and unused for generation. ``embedding_size`` is the width
    of the token embeddings; None = that of the layers. ``told_around`` is what the config tells of
    the rest; None = what the library sets.
    """

    architecture: str
    hidden_size: int
    layers: tuple[LayerShape, ...]
    vocabulary_size: int
    maximum_positions: int
    type_vocabulary_size: int
    head: Head
    label_count: int
    pooler: bool
    embedding_size: int | None = None
    told_around: Around | None = None

    def __post_init__(self) -> None:
        family = _counted("architecture", self.architecture)[0]
        _among("head", self.head, HEADS)
        for name in ("hidden_size", "vocabulary_size", "maximum_positions", "label_count"):
            _positive(name, getattr(self, name))
        if not self.layers:
            raise ModelError("layers: received none; allowed: at least one layer")
        if self.head not in family.heads:
            raise ModelError(
                f"head: received {self.head!r} for {self.architecture!r}; "
                f"allowed: {', '.join(family.heads)}"
            )
        if any(layer.gated != family.gated for layer in self.layers):
            wanted = "gated" if family.gated else "not gated"
            raise ModelError(f"layers: the neurons of a {self.architecture!r} are {wanted}")

    @property
    def family(self) -> Family:
        """How the architecture names and stores things."""
        return _counted("architecture", self.architecture)[0]

    @property
    def counted(self) -> Counted:
        """What stands around the layers of the architecture."""
        return _counted("architecture", self.architecture)[1]

    @property
    def around(self) -> Around:
        """What the model holds outside the matrices of its layers."""
        return self.told_around or self.counted.around({})

    @classmethod
    def dense(cls, config: Mapping[str, Any], head: Head, label_count: int) -> Self:
        """Describe the whole backbone, as published, under a task head.

        Args:
            config: content of a Hugging Face ``config.json``.
            head: the kind of task; a span head always has two outputs.
            label_count: number of classes; 1 for regression.

        Raises:
            ModelError: an architecture that is not counted, a missing key or a width that does
                not fit.
        """
        family, told = _counted("config.model_type", config.get("model_type"))

        def width(name: str) -> int:
            return _width(config, told.names.get(name, name))

        hidden, heads = width("hidden_size"), width("num_attention_heads")
        named = family.gated or "head_dim" in told.names
        head_size = config.get(told.names.get("head_dim", "head_dim")) if named else None
        if head_size is None and hidden % heads:
            raise ModelError(f"config: hidden size {hidden} is not a multiple of {heads} heads")
        shared = (config.get("num_key_value_heads") if family.gated else None) or heads
        if heads % shared:
            raise ModelError(
                f"config: {heads} query heads are not a multiple of {shared} key-value heads"
            )
        neurons = config.get(told.names.get("intermediate_size", "intermediate_size"))
        if not neurons and told.neurons_per_feature:
            neurons = told.neurons_per_feature * hidden
        else:
            neurons = width("intermediate_size")
        layer = LayerShape(
            shared, head_size or hidden // heads, neurons, heads // shared, gated=family.gated
        )
        return cls(
            architecture=family.model_type,
            hidden_size=hidden,
            layers=(layer,) * width("num_hidden_layers"),
            vocabulary_size=_width(config, "vocab_size"),
            maximum_positions=width("max_position_embeddings"),
            type_vocabulary_size=_width(config, "type_vocab_size") if told.token_types else 0,
            head=head,
            label_count={"span": 2, "regression": 1}.get(head, label_count),
            pooler=(told.pooler and head in ("classification", "regression"))
            or (told.span_pooler and head == "span"),
            embedding_size=config.get(told.embedding_size) if told.embedding_size else None,
            told_around=told.around(config),
        )

    def with_sizes(self, heads: Sequence[int], neurons: Sequence[int]) -> Self:
        """Describe the model with so many heads and neurons in each layer.

        Args:
            heads: for each layer; where query heads share, its key-value heads.
            neurons: for each layer.

        Raises:
            ModelError: another number of layers, or a layer without any.
        """
        if not len(self.layers) == len(heads) == len(neurons):
            raise ModelError(
                f"sizes: received {len(heads)} and {len(neurons)} layers, model has "
                f"{len(self.layers)}"
            )
        sizes = zip(self.layers, heads, neurons, strict=True)
        layers = (replace(one, heads=some, ffn_width=width) for one, some, width in sizes)
        return replace(self, layers=tuple(layers))

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
        heads, neurons = [], []
        for index, layer in enumerate(self.layers):
            heads.append(_kept(f"kept_heads[{index}]", kept_heads[index], layer.heads))
            neurons.append(_kept(f"kept_neurons[{index}]", kept_neurons[index], layer.ffn_width))
        return self.with_sizes(heads, neurons)

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
            targets: projections.
            fused: take projections that are stored in one matrix, such as GPT-2's query, key and
                value, for that matrix; it goes by the first of them that is a target.
        """
        met = set()
        for key, projection, rows, columns in self.sites():
            if projection not in targets:
                continue
            stored = self.family.stored_with(projection) if fused else (projection,)
            matrix = (key.rpartition(".")[0], stored)
            if matrix not in met:
                met.add(matrix)
                yield key, projection, len(stored) * rows, columns

    def bias_parameters(self) -> int:
        """Biases outside the task head: of projections, norms and BERT's pooler."""
        around = self.around
        norms = around.layer_norms * len(self.layers) + around.norms
        of_pooler = around.pooler_bias + around.pooler_norm * around.norm_bias
        return (
            sum(rows for _, projection, rows, _ in self.sites() if projection in around.biased)
            + sum(rows for rows, _ in self.relative_matrices())
            + around.norm_bias * norms * self.hidden_size
            + (of_pooler * self.hidden_size if self.pooler else 0)
            + around.further_biases
        )

    def relative_matrices(self) -> Iterator[tuple[int, int]]:
        """Yield rows and columns of the matrices that are for relative positions alone."""
        if self.around.relative and not self.around.relative_shared:
            for layer in self.layers:
                for _ in self.around.relative_of:
                    yield layer.query_width, self.hidden_size

    def head_parameters(self) -> int:
        """Parameters of the task head; 0 for generation if its matrix is the embedding's."""
        hidden, labels, around = self.hidden_size, self.label_count, self.around
        inner = self.embedding_size or hidden
        if self.head in ("generation", "masked_lm"):
            output = 0 if around.tied else self.vocabulary_size * inner
        if self.head == "generation":
            return output
        if self.head == "masked_lm":  # a layer with its norm, and a bias over the vocabulary
            vectors = around.pooler_bias + 1 + around.norm_bias
            return (hidden + vectors) * inner + output + around.output_biases * self.vocabulary_size
        if self.head == "span":
            return hidden * labels + labels
        if self.counted.every_token:
            return hidden * labels
        own = hidden * hidden + hidden if self.counted.classifier_layer else 0
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
    family = _counted("config.model_type", config.get("model_type"))[0]
    dense = ModelShape.dense(config, family.language_model, 1)
    return dense, as_stored(dense, folder)


def _counted(name: str, model_type: Any) -> tuple[Family, Counted]:
    """A family with what its costs are counted from."""
    known = {kind: one for kind, family in FAMILIES.items() if (one := family.counted)}
    kind = _among(name, model_type, tuple(known))
    return FAMILIES[kind], known[kind]


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

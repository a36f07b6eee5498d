"""What a family of models must tell, and one projection as it is stored.

A family is one file beside this one, such as ``bert.py``, which alone knows its names, and one
entry in ``families.FAMILIES``. Names and widths are wanted where torch must not be, so nothing here
imports it before it is needed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from sparsetune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

PROJECTIONS = ("query", "key", "value", "attention_output", "ffn_in", "ffn_gate", "ffn_out")
"""Of a layer, in the order that sites go by; ``ffn_gate`` is there in gated families only."""
ATTENTION_INPUTS = ("query", "key", "value")
ASIDE = "updates_aside"
"""An attribute of a model, which is copied with it: updates that are not among its modules now."""
Kind = Literal["classification", "regression", "span", "generation", "masked_lm"]


@dataclass(frozen=True)
class Around:
    """What a model holds and multiplies by outside the matrices of its layers, as its config tells.

    Attributes:
        biased: projections that have a bias.
        norms: norms outside the layers, each as wide as the model; one less where the first layer
            lacks one.
        layer_norms: the same in every layer.
        head_norms: norms of every layer that are as wide as a head, without biases.
        norm_bias: whether norms have a bias beside their weight.
        positions: whether every position has an embedding.
        tied: whether a language model's output matrix is that of the token embeddings.
        output_biases: how many biases it has for every token of the vocabulary.
        pooler_bias: whether the pooler, or a masked language model's first layer, has a bias.
        pooler_norm: whether a norm follows the pooler.
        further_weights: what else the backbone holds.
        further_biases: the same.
        further_products: multiply-adds of a token through it.
        relative: relative positions that get a query or a key of their own in every layer, once
            for a batch.
        relative_of: of ``query`` and ``key`` those that are compared with tokens.
        relative_shared: whether the projections of tokens make both; else each has its own.
    """

    biased: tuple[str, ...] = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
    norms: int = 1
    layer_norms: int = 2
    head_norms: int = 0
    norm_bias: bool = True
    positions: bool = True
    tied: bool = True
    output_biases: int = 1
    pooler_bias: bool = True
    pooler_norm: bool = False
    further_weights: int = 0
    further_biases: int = 0
    further_products: int = 0
    relative: int = 0
    relative_of: tuple[str, ...] = ()
    relative_shared: bool = False


@dataclass(frozen=True)
class Counted:
    """What costs are counted from: how a config names widths, and what stands around the layers.

    Attributes:
        names: width as BERT's config calls it -> as this family's does; the others alike.
        neurons_per_feature: feed-forward neurons where the config tells none; None = it must.
        embedding_size: its name of the width of token embeddings, from which a matrix leads to that
            of the layers if they differ; None = they are one.
        token_types: whether tokens are of types, each with an embedding.
        pooler: whether a ``D x D`` layer of the backbone stands before the classifier of sequences.
        span_pooler: whether it stands before that of spans too, where it runs for every token.
        classifier_layer: whether that classifier has a ``D x D`` layer of its own.
        every_token: whether it runs for every token, not for one.
        around: tells of a config what is outside the layers' matrices; an empty one has what the
            library sets.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    neurons_per_feature: int | None = None
    embedding_size: str | None = None
    token_types: bool = False
    pooler: bool = False
    span_pooler: bool = False
    classifier_layer: bool = False
    every_token: bool = False
    around: Callable[[Mapping[str, Any]], Around] = lambda config: Around()


@dataclass(frozen=True)
class Anew:
    """How a language model of a family is made here: a tokenizer of its own, random weights.

    Attributes:
        tokenizer: its algorithm.
        tokenizer_class: of transformers, as which it is saved.
        special_tokens: in the order of their ids, which is that of the published vocabularies.
        around: the tokens before and after a text; None = it has none there.
        dropouts: entries of the config that hold a share that is dropped.
        settings: further entries.
    """

    tokenizer: Literal["wordpiece", "byte-bpe"]
    tokenizer_class: str
    special_tokens: tuple[str, ...]
    around: tuple[str, str] | None
    dropouts: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """How one architecture names things and stores its weights.

    Attributes:
        model_type: as ``config.json`` says.
        package: of transformers, if it is called otherwise than ``model_type``.
        class_prefix: of transformers' model classes, e.g. ``Bert``.
        heads: task kind -> the rest of the name of the class that has that head.
        layer_list: path of the layers in a bare model.
        paths: projection -> path in a layer. Several of one path are equal blocks of its outputs,
            in the order of ``PROJECTIONS``. With an ``ffn_gate``, its output multiplies that of
            ``ffn_in``, neuron by neuron.
        like_query: paths in a layer of further matrices, whose outputs belong to heads as those of
            the query do; those that a layer has.
        attention: path of the module that splits projections into heads.
        head_size: its attribute that holds the features per head.
        resize_attention: tells that module how many heads and features it has now.
        task_head: top-level modules that every method trains.
        new_weights: beginnings of further names that a pre-trained checkpoint may lack.
        language_head: beginnings of the names of a language model's head.
        stored_in_by_out: True if weights are stored in x out (``Conv1D``).
        activation: path in a layer of what alone stands between ``ffn_in`` and ``ffn_out``, a
            function of each neuron by itself; None = something else does, and widths are never
            rounded.
        keeps_layers: says of a config why not just these layers can be kept; None = they can.
        config_by_layer: entries of the config that hold one value for each layer.
        config_neurons: entry of the config with the neurons of every layer.
        config_heads: entries with every layer's query heads, key-value heads and features of a
            head; None = the config tells no size of a head, which is what the width leaves for it,
            so that it cannot tell fewer heads.
        counted: for costs; None = they are not counted for this family.
        unused_positions: rows of the table of positions that no token of a text has.
        pooler: end of the path of the layer before the classifier of sequences that is counted as
            ``counted.pooler``.
        convolution: end of the path of one that is counted as ``further_products``.
        anew: how one is made here; None = only published ones are taken.
    """

    model_type: str
    class_prefix: str
    heads: Mapping[str, str]
    layer_list: str
    paths: Mapping[str, str]
    attention: str
    head_size: str
    resize_attention: Callable[[Any, int, int], None]
    task_head: tuple[str, ...]
    new_weights: tuple[str, ...]
    language_head: tuple[str, ...]
    package: str | None = None
    like_query: tuple[str, ...] = ()
    stored_in_by_out: bool = False
    activation: str | None = None
    keeps_layers: Callable[[Any, Sequence[int]], str | None] = lambda config, kept: None
    config_by_layer: tuple[str, ...] = ()
    config_neurons: str = "intermediate_size"
    config_heads: tuple[str, str, str] | None = None
    counted: Counted | None = None
    unused_positions: int = 0
    pooler: str = "pooler.dense"
    convolution: str | None = None
    anew: Anew | None = None

    @property
    def module(self) -> str:
        """Name of the module of transformers that holds its classes."""
        package = self.package or self.model_type.replace("-", "_")
        return f"transformers.models.{package}.modeling_{package}"

    @property
    def in_workflow(self) -> bool:
        """Whether a run of the workflow can have it: its costs are counted."""
        return self.counted is not None

    @property
    def generates(self) -> bool:
        """Whether it writes text, from left to right."""
        return "generation" in self.heads

    @property
    def language_model(self) -> Kind:
        """Kind of the head that it is pre-trained with."""
        return "generation" if self.generates else "masked_lm"

    def stored_with(self, projection: str) -> tuple[str, ...]:
        """Projections that are stored in one matrix with this one, itself included, in order."""
        return tuple(n for n in self.projections if self.paths[n] == self.paths[projection])

    @property
    def gated(self) -> bool:
        """Whether neurons are gated, by an ``ffn_gate``."""
        return "ffn_gate" in self.paths

    @property
    def projections(self) -> tuple[str, ...]:
        """Those of ``PROJECTIONS`` that a layer of this family has."""
        return tuple(name for name in PROJECTIONS if name in self.paths)


@dataclass(frozen=True)
class Site:
    """One projection of one layer, as a block of a stored weight.

    Attributes:
        layer: layer number, from 0.
        projection: one of ``PROJECTIONS``.
        path: module path in the model, e.g. ``bert.encoder.layer.0.attention.self.query``.
        module: the module at ``path`` when the anatomy was taken.
        part: which of ``parts`` equal blocks of the outputs this projection is.
        parts: 3 in a fused query-key-value matrix, else 1.
        stored_in_by_out: True if the weight is stored in x out (GPT-2's ``Conv1D``).
    """

    layer: int
    projection: str
    path: str
    module: Any
    part: int
    parts: int
    stored_in_by_out: bool

    @property
    def key(self) -> str:
        """Stable text id used in files, e.g. ``layer.3.query``."""
        return f"layer.{self.layer}.{self.projection}"

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the projection as it is now."""
        out_features, in_features = self.weight_view().shape
        return out_features, in_features

    def weight_view(self, weight: "Tensor | None" = None) -> "Tensor":
        """View the projection's block of a stored weight as out x in.

        Args:
            weight: any dtype, the stored shape of the module's weight (so that a mask or a
                gradient of that shape can be viewed too); the module's own weight if None.

        Returns:
            A view, ``O x I``, never a copy: writing to it writes to ``weight``.
        """
        stored = self.module.weight if weight is None else weight
        out_by_in = stored.t() if self.stored_in_by_out else stored
        return out_by_in[self.out_slice(out_by_in.shape[0])]

    def out_slice(self, out_features: int) -> slice:
        """Rows, of so many of the stored matrix (out x in), that belong to this projection."""
        width = out_features // self.parts
        return slice(self.part * width, (self.part + 1) * width)

    def keep_outputs_(self, rows: "Tensor") -> None:
        """Drop all other rows of the whole stored matrix (out x in) and of its bias."""
        module = self.module
        module.weight = _selected(module.weight, rows, 1 if self.stored_in_by_out else 0)
        if module.bias is not None:
            module.bias = _selected(module.bias, rows, 0)
        _note_width(module, "nf" if self.stored_in_by_out else "out_features", len(rows))

    def keep_inputs_(self, columns: "Tensor") -> None:
        """Drop all other columns of the stored matrix (out x in)."""
        module = self.module
        module.weight = _selected(module.weight, columns, 0 if self.stored_in_by_out else 1)
        _note_width(module, "nx" if self.stored_in_by_out else "in_features", len(columns))


@runtime_checkable
class UpdatedProjection(Protocol):
    """A projection with an update beside its weight, as scores and removal see it.

    Whoever attaches an update that heads may be scored by, or that may follow a removal, gives its
    layer these names; the stored ``weight`` and ``bias`` keep theirs.
    """

    @property
    def updated(self) -> Collection[str]:
        """Projections that have an update here."""

    def delta(self, projection: str) -> "Tensor":
        """Form the dense update of one projection, ``O x I``, without gradient."""

    def keep_update_(
        self, projection: str, rows: Sequence[int] | None, columns: Sequence[int] | None
    ) -> None:
        """Drop all other rows and columns of an update, before those of the weight go."""


def check_alone(model: "nn.Module", where: str) -> None:
    """Refuse to change the weights under updates that are kept aside, see ``dsee.adapters``.

    Args:
        model: any.
        where: what would change them, for the message.

    Raises:
        ModelError: there are such updates.
    """
    aside: Any = vars(model).get(ASIDE)
    if aside is not None:
        aside.check_alone(where)


def check_kept(kept: Sequence[Sequence[int]], widths: Sequence[int], unit: str) -> None:
    """Check that kept indices fit the layers they are for.

    Args:
        kept: for each layer, the indices to keep.
        widths: for each layer, how many units it has.
        unit: ``head`` or ``neuron``, for the message.

    Raises:
        ModelError: if the layer counts differ, a layer keeps nothing, or indices are not
            strictly increasing within the layer's range.
    """
    if len(kept) != len(widths):
        raise ModelError(f"kept {unit}s name {len(kept)} layers; the model has {len(widths)}")
    for layer, (indices, width) in enumerate(zip(kept, widths, strict=True)):
        if len(indices) == 0:
            raise ModelError(f"layer {layer}: no {unit} kept; each layer needs at least one")
        if any(later <= earlier for earlier, later in pairwise(indices)):
            raise ModelError(f"layer {layer}: kept {unit}s are not strictly increasing")
        if indices[0] < 0 or indices[-1] >= width:
            raise ModelError(
                f"layer {layer}: kept {unit}s {indices[0]}..{indices[-1]}; "
                f"the layer has 0..{width - 1}"
            )


def check_kept_layers(kept: Sequence[int], layers: int) -> None:
    """Check that kept layers fit a model.

    Args:
        kept: layer numbers.
        layers: how many layers the model has.

    Raises:
        ModelError: if none is kept, or the numbers are not strictly increasing within the range.
    """
    if not kept or any(later <= earlier for earlier, later in pairwise(kept)):
        raise ModelError(
            f"kept layers: received {list(kept)}, needed: at least one, strictly increasing"
        )
    if kept[0] < 0 or kept[-1] >= layers:
        raise ModelError(f"kept layers {kept[0]}..{kept[-1]}; the model has 0..{layers - 1}")


def check_plain(site: Site) -> None:
    """Refuse a projection that something is attached to already.

    Args:
        site: where it is.

    Raises:
        ModelError: if its module is not exactly ``nn.Linear`` or ``Conv1D``, or has gates or
            copies of its weights.
    """
    kind = type(site.module)
    if not is_matrix(site.module):
        # With its module: PEFT's layers are called Linear too.
        raise ModelError(
            f"{site.path} is wrapped already: a {kind.__module__}.{kind.__name__}, needed: "
            "nn.Linear or Conv1D; removal comes first, then one attachment"
        )
    if is_hooked(site.module):
        raise ModelError(f"{site.path} has gates or other hooks on its input; detach them first")


def check_no_peft(model: "nn.Module") -> None:
    """Refuse a model with layers of PEFT: an update beside them would freeze, or not save, them.

    Args:
        model: any.

    Raises:
        ModelError: naming the first.
    """
    for path, module in model.named_modules():
        kind = type(module)
        if hasattr(module, "base_layer") and kind.__module__.startswith("peft."):
            raise ModelError(
                f"{path} is wrapped already: a {kind.__module__}.{kind.__name__}, which would stay "
                "frozen and be in no saved folder; needed: the model without PEFT "
                "(merge_and_unload())"
            )


def is_matrix(module: "nn.Module") -> bool:
    """Tell whether a module is exactly ``nn.Linear`` or ``Conv1D``, not one derived from them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return type(module) in (nn.Linear, Conv1D)


def is_hooked(module: "nn.Module") -> bool:
    """Tell whether something stands before a module's forward pass, or in its place."""
    # torch has no public way to ask; replacing or shrinking the module would break it silently.
    return bool(module._forward_pre_hooks) or "forward" in vars(module)


def _note_width(module: "nn.Module", name: str, width: int) -> None:
    """Keep the width that a plain projection states beside its weight in step with it."""
    if hasattr(module, name):
        setattr(module, name, width)


def _selected(parameter: "nn.Parameter", indices: "Tensor", dim: int) -> "nn.Parameter":
    """Copy the kept part: a view would hold the memory that removal should free."""
    import torch
    from torch import nn

    kept = torch.index_select(parameter.detach(), dim, indices).contiguous()
    return nn.Parameter(kept, requires_grad=parameter.requires_grad)

"""Where BERT, RoBERTa and GPT-2 keep their projections, heads and feed-forward neurons.

The only file that knows an architecture by name; everything else asks for sites, heads and widths.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from torch import Tensor, nn

from sparsetune.errors import ModelError

PROJECTIONS = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
ATTENTION_INPUTS = ("query", "key", "value")

_BERT_PATHS = MappingProxyType(
    {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "ffn_in": "intermediate.dense",
        "ffn_out": "output.dense",
    }
)
_GPT2_PATHS = MappingProxyType(
    {
        "query": "attn.c_attn",
        "key": "attn.c_attn",
        "value": "attn.c_attn",
        "attention_output": "attn.c_proj",
        "ffn_in": "mlp.c_fc",
        "ffn_out": "mlp.c_proj",
    }
)


@dataclass(frozen=True)
class _Family:
    """How one architecture names things and stores its weights."""

    layer_list: str
    paths: Mapping[str, str]
    attention: str
    head_size: str
    stored_in_by_out: bool


_BERT = _Family("encoder.layer", _BERT_PATHS, "attention.self", "attention_head_size", False)
_GPT2 = _Family("h", _GPT2_PATHS, "attn", "head_dim", True)
_FAMILIES = MappingProxyType({"bert": _BERT, "roberta": _BERT, "gpt2": _GPT2})

# The released recipes train the whole classifier of RoBERTa and never the pooler of BERT.
_HEAD_NAMES = ("classifier", "score", "qa_outputs")
_KEY = re.compile(r"layer\.(\d+)\.(" + "|".join(PROJECTIONS) + ")")


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
    module: nn.Module
    part: int
    parts: int
    stored_in_by_out: bool

    @property
    def key(self) -> str:
        """Stable text id used in files, e.g. ``layer.3.query``."""
        return f"layer.{self.layer}.{self.projection}"

    def weight_view(self, weight: Tensor | None = None) -> Tensor:
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
        """Rows of the stored matrix (out x in) that belong to this projection.

        Args:
            out_features: outputs of the whole stored matrix.

        Returns:
            Slice of length ``out_features / parts``.
        """
        width = out_features // self.parts
        return slice(self.part * width, (self.part + 1) * width)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the projection as it is now."""
        out_features, in_features = self.weight_view().shape
        return out_features, in_features


class Anatomy:
    """The layers of a loaded model: where each projection is, how many heads and neurons.

    Looks the modules up at each call, so it stays right after removal or wrapping.
    """

    def __init__(self, model: nn.Module, family: _Family, layers_path: str) -> None:
        self._model = model
        self._family = family
        self._layers_path = layers_path

    @classmethod
    def of(cls, model: nn.Module) -> "Anatomy":
        """Find the encoder or decoder layers of a model.

        Args:
            model: a Hugging Face BERT, RoBERTa or GPT-2, bare or with any task head.

        Returns:
            The anatomy of ``model``.

        Raises:
            ModelError: if the architecture is another one.
        """
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in _FAMILIES:
            raise ModelError(
                f"model type {kind!r} of {type(model).__name__} is not supported; "
                f"known: {', '.join(_FAMILIES)}"
            )
        family = _FAMILIES[kind]
        for path, module in model.named_modules():
            if isinstance(module, nn.ModuleList) and f".{path}".endswith(f".{family.layer_list}"):
                return cls(model, family, path)
        raise ModelError(
            f"{type(model).__name__} of type {kind!r} has no layers at {family.layer_list!r}"
        )

    @property
    def model_type(self) -> str:
        """``bert``, ``roberta`` or ``gpt2``."""
        return self._model.config.model_type

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.layer_list)

    @property
    def layer_list(self) -> nn.ModuleList:
        """The layers themselves."""
        return self._model.get_submodule(self._layers_path)

    @property
    def head_size(self) -> int:
        """Features per head; the same in all layers and unchanged by removal."""
        return int(getattr(self.attention(0), self._family.head_size))

    def attention(self, layer: int) -> nn.Module:
        """Return the self-attention module of a layer.

        Args:
            layer: layer number, 0 to ``layers - 1``.

        Returns:
            The module that splits projections into heads.

        Raises:
            ModelError: if there is no such layer.
        """
        return self._model.get_submodule(self._layer_path(layer, self._family.attention))

    def heads(self, layer: int) -> int:
        """Count the attention heads a layer has now.

        Args:
            layer: layer number, 0 to ``layers - 1``.

        Returns:
            Heads, at least 1.

        Raises:
            ModelError: if there is no such layer.
        """
        return self.site(layer, "query").shape[0] // self.head_size

    def ffn_width(self, layer: int) -> int:
        """Count the feed-forward neurons a layer has now.

        Args:
            layer: layer number, 0 to ``layers - 1``.

        Returns:
            Neurons, at least 1.

        Raises:
            ModelError: if there is no such layer.
        """
        return self.site(layer, "ffn_in").shape[0]

    def site(self, layer: int, projection: str) -> Site:
        """Find one projection of one layer.

        Args:
            layer: layer number, 0 to ``layers - 1``.
            projection: one of ``PROJECTIONS``.

        Returns:
            Where it is.

        Raises:
            ModelError: if there is no such layer or projection.
        """
        if projection not in PROJECTIONS:
            raise ModelError(f"projection {projection!r} unknown; known: {', '.join(PROJECTIONS)}")
        paths = self._family.paths
        fused = [name for name in PROJECTIONS if paths[name] == paths[projection]]
        path = self._layer_path(layer, paths[projection])
        return Site(
            layer=layer,
            projection=projection,
            path=path,
            module=self._model.get_submodule(path),
            part=fused.index(projection),
            parts=len(fused),
            stored_in_by_out=self._family.stored_in_by_out,
        )

    def site_of(self, key: str) -> Site:
        """Find a site by its text id.

        Args:
            key: as in ``Site.key``, e.g. ``layer.3.query``.

        Returns:
            Where it is.

        Raises:
            ModelError: if the key is malformed or names no site of this model.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ModelError(f"site {key!r} is not of the form layer.<number>.<projection>")
        return self.site(int(match[1]), match[2])

    def sites(self, projections: Sequence[str] = PROJECTIONS) -> Iterator[Site]:
        """Go through projections, layer by layer.

        Args:
            projections: names from ``PROJECTIONS``, in the order wanted within a layer.

        Yields:
            Each site once.

        Raises:
            ModelError: if a projection is unknown.
        """
        for layer in range(self.layers):
            for projection in projections:
                yield self.site(layer, projection)

    def _layer_path(self, layer: int, tail: str) -> str:
        if not 0 <= layer < self.layers:
            raise ModelError(f"layer {layer} does not exist; the model has 0 to {self.layers - 1}")
        return f"{self._layers_path}.{layer}.{tail}"


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
        ModelError: if its module is not exactly ``nn.Linear`` or ``Conv1D``, or has gates.
    """
    from transformers.pytorch_utils import Conv1D

    kind = type(site.module)
    if kind not in (nn.Linear, Conv1D):
        # With its module: PEFT's layers are called Linear too.
        raise ModelError(
            f"{site.path} is wrapped already: a {kind.__module__}.{kind.__name__}, needed: "
            "nn.Linear or Conv1D; removal comes first, then one attachment"
        )
    # torch has no public way to ask; replacing or shrinking the module would break them silently.
    if site.module._forward_pre_hooks or "forward" in vars(site.module):
        raise ModelError(f"{site.path} has gates or other hooks on its input; detach them first")


def task_head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name the parameters of the task head, which every method trains.

    Args:
        model: a model that ``Anatomy.of`` accepts.

    Returns:
        Parameters by their name in the model: all of ``classifier`` (RoBERTa's includes its dense
        layer), ``score`` or ``qa_outputs``; empty for language models, whose head is the
        embedding, and for bare models. BERT's pooler is not part of it.

    Source:
        VITA-Group/DSEE at 61844c3: the classifier trains, ``bert.pooler`` stays frozen.
    Differs:
        Nothing.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.split(".")[0] in _HEAD_NAMES
    }

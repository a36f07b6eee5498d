"""The layers of a loaded model, of whatever family: projections, heads, neurons and task head."""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsetune.architectures.base import ATTENTION_INPUTS, PROJECTIONS, Family, Site
from sparsetune.architectures.families import FAMILIES, UNLIKE
from sparsetune.errors import ModelError

HEADS_BY_LAYER, NEURONS_BY_LAYER = "heads_by_layer", "neurons_by_layer"
"""What the config of a model says after a removal: how many each layer has left.

Not where its own entries can say it, which transformers reads: see ``Anatomy.note_sizes``.
"""

_LOADED = "_is_hf_initialized"
_KEY = re.compile(r"layer\.(\d+)\.(" + "|".join(PROJECTIONS) + ")")


def family_of(model: nn.Module) -> Family:
    """Find the family of a model.

    Args:
        model: of transformers, bare or with any head.

    Raises:
        ModelError: if its architecture is none of ``FAMILIES``, or something is wrapped around it.
    """
    if hasattr(model, "_orig_mod"):
        raise ModelError(
            "received a model that torch.compile has wrapped; needed: the model itself "
            "(model._orig_mod), which is compiled afterwards"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise ModelError(
            f"received a {type(model).__name__}; needed: the model itself (model.module)"
        )
    kind: Any = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in FAMILIES:
        why = f": {UNLIKE[kind]}" if kind in UNLIKE else ""
        raise ModelError(
            f"model type {kind!r} of {type(model).__name__} is not supported{why}; "
            f"known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def check_known(model: nn.Module, where: str) -> None:
    """Refuse what is no model of a known family.

    Args:
        model: as received.
        where: what cannot be done with it, for the message.

    Raises:
        ModelError: it is none, or is wrapped.
    """
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        what = "the class" if isinstance(model, type) else "a"
        raise ModelError(f"{where}: received {what} {kind}; needed: a model of transformers")
    Anatomy.of(model)


def check_has_values(model: nn.Module, where: str) -> None:
    """Refuse what is no model of a known family, or one whose weights are not there.

    Args:
        model: as received.
        where: what cannot be done with it, for the message.

    Raises:
        ModelError: it is none, is wrapped, or a weight is on the meta device.
    """
    check_known(model, where)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ModelError(
                f"{where}: {name} is on the meta device, without values; needed: a loaded model"
            )


def model_class(model_type: str, name: str) -> Any:
    """Find one of transformers' own model classes of an architecture.

    Args:
        model_type: one of ``FAMILIES``.
        name: e.g. ``BertForMaskedLM``.

    Returns:
        The class; None if there is none of that name.

    Raises:
        ModelError: if the architecture is unknown.
    """
    from transformers import PreTrainedModel

    if model_type not in FAMILIES:
        raise ModelError(f"model_type: received {model_type!r}; allowed: {', '.join(FAMILIES)}")
    # The one modelling module, not the whole library: start-up is paid in every job.
    module = importlib.import_module(FAMILIES[model_type].module)
    found = getattr(module, name, None)
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
    return found if is_model else None


class Anatomy:
    """The layers of a loaded model: where each projection is, how many heads and neurons.

    Looks the modules up at each call, so it stays right after removal or wrapping. Layers count
    from 0; one that does not exist is refused by name.

    Attributes:
        family: of the model.
    """

    def __init__(self, model: nn.Module, family: Family, layers_path: str) -> None:
        self._model: Any = model
        self.family = family
        self._layers_path = layers_path

    @classmethod
    def of(cls, model: nn.Module) -> "Anatomy":
        """Find the encoder or decoder layers of a model.

        Args:
            model: of a known architecture, bare or with any task head.

        Raises:
            ModelError: if the architecture is another one, or there are several backbones.
        """
        family = family_of(model)
        paths = [
            path
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and f".{path}".endswith(f".{family.layer_list}")
        ]
        if not paths:
            raise ModelError(
                f"{type(model).__name__} of type {family.model_type!r} has no layers at "
                f"{family.layer_list!r}"
            )
        if len(paths) > 1:
            raise ModelError(
                f"{type(model).__name__} holds {len(paths)} backbones, with layers at "
                f"{' and '.join(paths)}; needed: one, or one of them by itself"
            )
        return cls(model, family, paths[0])

    @property
    def model_type(self) -> str:
        """The architecture, as ``config.json`` says."""
        return self.family.model_type

    @property
    def backbone(self) -> str:
        """Beginning of the names of the backbone's parameters; empty for a bare model."""
        return self._layers_path.removesuffix(self.family.layer_list)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.layer_list)

    @property
    def layer_list(self) -> Any:
        """The layers themselves, an ``nn.ModuleList``."""
        return self._model.get_submodule(self._layers_path)

    @property
    def head_size(self) -> int:
        """Features per head; the same in all layers and unchanged by removal."""
        return int(getattr(self.attention(0), self.family.head_size))

    def attention(self, layer: int) -> nn.Module:
        """Return the module of a layer that splits projections into heads."""
        return self._model.get_submodule(self._layer_path(layer, self.family.attention))

    def activation(self, layer: int) -> Any:
        """Return what a layer applies to each of its neurons; None if the family tells none."""
        if self.family.activation is None:
            return None
        path, _, name = self._layer_path(layer, self.family.activation).rpartition(".")
        return getattr(self._model.get_submodule(path), name)

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key and value head; 1 unless queries are grouped."""
        query, key = (self.site(0, name).shape[0] for name in ("query", "key"))
        return query // key

    def heads(self, layer: int) -> int:
        """Count the attention heads a layer has now; where they share, its key and value heads."""
        return self.site(layer, "key").shape[0] // self.head_size

    def features_of(self, projection: str, heads: Sequence[int]) -> list[int]:
        """Number the features that some heads own on the heads' side of a projection, in order.

        Args:
            projection: ``query``, ``key``, ``value``: of its outputs; ``attention_output``: of its
                inputs.
            heads: increasing.
        """
        shared = projection in ("key", "value")
        size = self.head_size * (1 if shared else self.heads_per_group)
        return [head * size + offset for head in heads for offset in range(size)]

    def kept_sides(
        self, projection: str, heads: Sequence[int], neurons: Sequence[int] | None
    ) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        """Say which rows and columns of a projection are left after a removal.

        Args:
            projection: one of the family's.
            heads: kept in its layer.
            neurons: kept in its layer; None = all.

        Returns:
            Kept rows and kept columns of its ``O x I`` matrix; None = all.
        """
        if projection in ATTENTION_INPUTS:
            return self.features_of(projection, heads), None
        if projection == "attention_output":
            return None, self.features_of(projection, heads)
        return (None, neurons) if projection == "ffn_out" else (neurons, None)

    def ffn_width(self, layer: int) -> int:
        """Count the feed-forward neurons a layer has now."""
        return self.site(layer, "ffn_in").shape[0]

    def site(self, layer: int, projection: str) -> Site:
        """Find one projection of one layer.

        Args:
            layer: layer number, 0 to ``layers - 1``.
            projection: one of ``PROJECTIONS``.

        Raises:
            ModelError: if there is no such layer or projection.
        """
        paths, known = self.family.paths, self.family.projections
        if projection not in known:
            raise ModelError(
                f"projection {projection!r} unknown in a {self.model_type}; known: "
                f"{', '.join(known)}"
            )
        fused = [name for name in known if paths[name] == paths[projection]]
        path = self._layer_path(layer, paths[projection])
        return Site(
            layer=layer,
            projection=projection,
            path=path,
            module=self._model.get_submodule(path),
            part=fused.index(projection),
            parts=len(fused),
            stored_in_by_out=self.family.stored_in_by_out,
        )

    def site_of(self, key: str) -> Site:
        """Find a site by its text id, e.g. ``layer.3.query``.

        Raises:
            ModelError: if the key is malformed or names no site of this model.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ModelError(f"site {key!r} is not of the form layer.<number>.<projection>")
        return self.site(int(match[1]), match[2])

    def sites(self, projections: Sequence[str] = PROJECTIONS) -> Iterator[Site]:
        """Go through projections, layer by layer, in the order given within a layer.

        Args:
            projections: of them those that the family has.

        Raises:
            ModelError: if a projection is unknown in any family.
        """
        names = [n for n in projections if n in self.family.paths or n not in PROJECTIONS]
        for layer in range(self.layers):
            for projection in names:
                yield self.site(layer, projection)

    def like_query(self, layer: int) -> list[Site]:
        """Find the further matrices of a layer whose outputs belong to heads as the query's do."""
        own = dict(self.layer_list[layer].named_modules())
        transposed = self.family.stored_in_by_out
        return [
            Site(layer, "query", self._layer_path(layer, path), own[path], 0, 1, transposed)
            for path in self.family.like_query
            if path in own
        ]

    def keep_heads_(self, layer: int, heads: Sequence[int]) -> None:
        """Drop all other heads of a layer, in place; the caller checks what fits.

        Args:
            layer: layer number.
            heads: increasing.
        """
        device = self.site(layer, "query").module.weight.device
        # Before anything goes: how many heads share is told by the widths.
        kept = {
            name: torch.tensor(self.features_of(name, heads), device=device)
            for name in (*ATTENTION_INPUTS, "attention_output")
        }
        for site in self.like_query(layer):
            site.keep_outputs_(kept["query"])
        self._keep_outputs_(layer, {name: kept[name] for name in ATTENTION_INPUTS})
        columns = kept["attention_output"]
        self.site(layer, "attention_output").keep_inputs_(columns)
        self.family.resize_attention(self.attention(layer), len(heads), len(columns))

    def keep_neurons_(self, layer: int, neurons: Sequence[int]) -> None:
        """Drop all other feed-forward neurons of a layer, in place; the caller checks what fits.

        Args:
            layer: layer number.
            neurons: increasing.
        """
        kept = torch.tensor(list(neurons), device=self.site(layer, "ffn_in").module.weight.device)
        names = [name for name in ("ffn_in", "ffn_gate") if name in self.family.paths]
        self._keep_outputs_(layer, dict.fromkeys(names, kept))
        self.site(layer, "ffn_out").keep_inputs_(kept)

    def _keep_outputs_(self, layer: int, kept: Mapping[str, torch.Tensor]) -> None:
        """Drop all other rows of some projections, each whole matrix once."""
        rows: dict[str, list[torch.Tensor]] = {}
        sites = [self.site(layer, name) for name in kept]
        for site in sites:
            start = site.part * site.shape[0]
            rows.setdefault(site.path, []).append(kept[site.projection] + start)
        for path, site in {site.path: site for site in sites}.items():
            site.keep_outputs_(torch.cat(rows[path]))

    def note_sizes(self) -> None:
        """Write into the model's config how many heads and neurons each layer has.

        If all layers have the same, and the family's config can tell it, its own entries do: the
        model is then one that transformers builds and reads without us. transformers' entries for
        single layers (``per_layer_config``) say nothing to the models of any family here.
        """
        config, layers = self._model.config, range(self.layers)
        heads, neurons = ([of(n) for n in layers] for of in (self.heads, self.ffn_width))
        told = self._told_by_config(heads, neurons)
        sizes = {HEADS_BY_LAYER: heads, NEURONS_BY_LAYER: neurons} if told is None else told
        for name in (HEADS_BY_LAYER, NEURONS_BY_LAYER):
            vars(config).pop(name, None)
        for name, value in sizes.items():
            setattr(config, name, value)

    def _told_by_config(self, heads: list[int], neurons: list[int]) -> dict[str, int] | None:
        """The entries that make the config tell such sizes; None = there are none."""
        if len(set(heads)) > 1 or len(set(neurons)) > 1:
            return None
        config, family = self._model.config, self.family
        told = {family.config_neurons: neurons[0]}
        if family.config_heads is not None:
            sizes = (heads[0] * self.heads_per_group, heads[0], self.head_size)
            told |= dict(zip(family.config_heads, sizes, strict=True))
        elif heads[0] != config.num_attention_heads:
            return None
        try:  # a Llama, say, wants a width that is a multiple of its heads
            type(config).from_dict(config.to_dict() | told)
        except Exception:  # the library raises many kinds
            return None
        return told

    def _layer_path(self, layer: int, tail: str) -> str:
        if not 0 <= layer < self.layers:
            raise ModelError(f"layer {layer} does not exist; the model has 0 to {self.layers - 1}")
        return f"{self._layers_path}.{layer}.{tail}"


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
    head = family_of(model).task_head
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if name.split(".")[0] in head}


def unknown_modules(model: nn.Module) -> list[str]:
    """Name what stands beside the backbone and is no head that its family knows.

    Args:
        model: a model that ``Anatomy.of`` accepts.

    Returns:
        Paths of modules with parameters, or of parameters, in the model's order; such as ``fc``
        of a class of one's own.
    """
    anatomy = Anatomy.of(model)
    family, backbone = anatomy.family, anatomy.backbone
    known = (*(f"{name}." for name in family.task_head), *family.language_head)
    if not backbone:
        return []
    names = [name for name, _ in model.named_parameters() if not name.startswith(backbone)]
    shared = {name.split(".")[0] for name in names if name.startswith(known)}
    depth = backbone.count(".")
    found = []
    for name in names:
        if not name.startswith(known):
            parts = name.split(".")
            whole = parts[0] not in shared or len(parts) == 1
            found.append(".".join(parts[:depth] if whole else parts[:-1]))
    return list(dict.fromkeys(found))


def drawn_modules(model: nn.Module) -> list[str]:
    """Name what a checkpoint lacked, so that it was drawn anew, beside the task head.

    Args:
        model: a model that ``Anatomy.of`` accepts.

    Returns:
        Paths of modules, in the model's order, such as ``bert.pooler.dense``; none if the model
        was not loaded from a checkpoint, or nothing tells.
    """
    anatomy = Anatomy.of(model)
    known = tuple(f"{name}." for name in anatomy.family.task_head)
    # Removal of heads and neurons has made new parameters of these.
    sites = [one for layer in range(anatomy.layers) for one in anatomy.like_query(layer)]
    sites += anatomy.sites()
    cut = {id(parameter) for site in sites for parameter in site.module.parameters()}
    named = list(model.named_parameters())
    # transformers' own mark on what it read; copies of a model lose it.
    loaded = {name for name, parameter in named if getattr(parameter, _LOADED, False)}
    if not loaded:
        return []
    found = [
        name.rpartition(".")[0]
        for name, parameter in named
        if name not in loaded and id(parameter) not in cut and not name.startswith(known)
    ]
    return list(dict.fromkeys(found))

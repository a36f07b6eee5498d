"""Several updates on one backbone, by name, and a merged one that can be taken out again.

One update is in the model; the others are kept aside, no part of its modules: no optimizer, state
dict or wrapper meets them, so the model is what it would be with that one alone. Each brings its
own task head and labels; the frozen weights are shared. A switch puts modules and parameters in
their places, and computes nothing.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import ASIDE
from sparsetune.dsee.folding import Folding
from sparsetune.dsee.layer import DseeLinear, dsee_branches
from sparsetune.errors import ModelError, refusal
from sparsetune.pruning.zeros import share_zeros

_LABELS = ("id2label", "label2id", "problem_type")


@dataclass
class Part:
    """What one adapter, or the base, has where another has something else.

    Attributes:
        layers: module path -> the module: with the update, or plain.
        own: parameter name -> the parameter: the head, and whatever else trains.
        labels: the labels of the head, as the model and its configuration tell them.
        dtype: of the weights when the part was last in the model.
    """

    layers: dict[str, nn.Module] = field(default_factory=dict)
    own: dict[str, nn.Parameter] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype | None = None


@dataclass
class Merged:
    """What a reversible merge took out.

    Attributes:
        layers: module path -> the layer with its weight of before and its update.
        weights: module path -> sha256 of the merged weight in its place.
    """

    layers: dict[str, DseeLinear]
    weights: dict[str, str]


class UpdatesAside:
    """The note on a model of its named adapters, and of what is merged reversibly.

    Attributes:
        active: name of the adapter in the model; None = none is.
        parts: name -> adapter; None -> the base's own, in the places of all adapters.
        merged: None = nothing.
    """

    def __init__(self) -> None:
        self.active: str | None = None
        self.parts: dict[str | None, Part] = {None: Part()}
        self.merged: Merged | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, in the order in which they came."""
        return tuple(name for name in self.parts if name is not None)

    def check_unmerged(self, where: str) -> None:
        """Refuse while an update is merged reversibly; see ``check_alone``."""
        if self.merged is not None:
            raise ModelError(
                f"{where}: an update is merged reversibly into this model; needed: unmerge(model) "
                "first"
            )

    def check_alone(self, where: str) -> None:
        """Refuse what would change the weights under updates that are not in the model now.

        Args:
            where: what would, for the message.

        Raises:
            ModelError: there are such updates.
        """
        self.check_unmerged(where)
        waiting = [name for name in self.names if name != self.active]
        if waiting:
            raise ModelError(
                f"{where}: would change the weights under the adapters {', '.join(waiting)}; "
                "needed: detach(model, name) of each first"
            )

    def check_name(self, where: str, name: object) -> None:
        """Refuse a name that no adapter has."""
        if name not in self.names:
            raise ModelError(refusal(where, "name", name, self.names))

    def switch(self, model: nn.Module, name: str | None) -> None:
        """Put the adapter of a name, or the base's own for None, in its places."""
        if name == self.active:
            return
        leaving = self.parts[self.active]
        _take(model, leaving)
        if self.active is not None:
            _put(model, self.parts[None], leaving.layers, leaving.own)
        if name is not None:
            coming = self.parts[name]
            _put(model, coming, coming.layers, coming.own)
        self.active = name


class Newcomer:
    """An adapter on its way into a model, see ``naming``."""

    def __init__(self, model: nn.Module, aside: UpdatesAside | None = None) -> None:
        self._model = model
        self._aside = aside
        self._plain: dict[str, nn.Module] = {}
        self._names: list[str] = []
        if aside is not None:
            self._plain = {site.path: site.module for site in Anatomy.of(model).sites()}

    @property
    def named(self) -> bool:
        """Whether it will have a name."""
        return self._aside is not None

    def check_masks(self, path: Path, masks: Mapping[str, Tensor]) -> None:
        """Refuse masks that would change the weights under other adapters.

        Args:
            path: of the file that holds them, for the message.
            masks: bool, ``O x I``, by site key, True = kept.
        """
        others = self._aside.names if self._aside is not None else ()
        anatomy = Anatomy.of(self._model)
        for key, mask in masks.items() if others else ():
            alive = anatomy.site_of(key).weight_view()[~mask.to(_weight(self._model).device)]
            if bool(alive.any()):
                raise ModelError(
                    f"{path}: masks {int((alive != 0).sum())} weights of {key} on which the "
                    f"adapters {', '.join(others)} stand; needed: adapters of one mask"
                )

    def bring(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Give the adapter parameters of its own where it trains the model's: copies of them.

        Args:
            shapes: parameter name -> its shape; one of another shape than the model's starts
                without values.
        """
        if self._aside is None:
            return
        base = self._aside.parts[None]
        copies = {}
        for name, shape in shapes.items():
            own = self._model.get_parameter(name)
            base.own[name] = own
            same = tuple(shape) == tuple(own.shape)
            values = own.detach().clone() if same else own.detach().new_empty(tuple(shape))
            copies[name] = nn.Parameter(values, requires_grad=True)
            own.requires_grad_(False)
        _exchange(self._model, copies)
        self._names = list(copies)

    def part(self) -> Part:
        """What is in the model of it now; what stood there before becomes the base's own."""
        layers = {
            path: self._model.get_submodule(path)
            for path, plain in self._plain.items()
            if self._model.get_submodule(path) is not plain
        }
        part = Part(layers, dict.fromkeys(self._names))  # type: ignore[arg-type]
        _take(self._model, part)
        if self._aside is not None:
            self._aside.parts[None].layers |= {path: self._plain[path] for path in layers}
        return part


@contextmanager
def naming(model: nn.Module, name: str | None, where: str) -> Iterator[Newcomer]:
    """Make what is attached in this context an adapter of a name, and the active one.

    Args:
        model: plain, or with other named adapters; it is the base in this context.
        name: None = an update without a name, the only one of its model.
        where: what attaches it, for messages.

    Raises:
        ModelError: the name is taken, or is none; or other updates of the model have none. The
            model is left as it was, also if the context fails.
    """
    aside = updates_aside(model)
    if aside is not None:
        aside.check_unmerged(where)
    if name is None:
        if aside is not None:
            raise ModelError(
                f"{where}: name: received None beside the adapters {', '.join(aside.names)}; "
                "needed: another name"
            )
        yield Newcomer(model)
        return
    if type(name) is not str or not name:
        raise ModelError(f"{where}: name: received {name!r}; needed: a text")
    if aside is None and any(True for _ in dsee_branches(model)):
        raise ModelError(
            f"{where}: name: received {name!r} beside an update that has no name; needed: a name "
            "for each, given when it is attached or loaded"
        )
    aside = aside or UpdatesAside()
    if name in aside.names:
        raise ModelError(
            f"{where}: name: received {name!r}, which is taken; needed: another than "
            f"{', '.join(aside.names)}, or detach(model, {name!r}) first"
        )
    earlier = aside.active
    aside.switch(model, None)
    _take(model, aside.parts[None])
    newcomer = Newcomer(model, aside)
    try:
        yield newcomer
    except BaseException:
        part = newcomer.part()
        _put(model, aside.parts[None], part.layers, part.own)
        aside.switch(model, earlier)
        raise
    part = newcomer.part()
    base = aside.parts[None]
    for path, layer in part.layers.items():
        if isinstance(layer, DseeLinear):
            layer.adapter = name
        share_zeros(layer, base.layers[path])
    aside.parts[name] = part
    aside.active = name
    vars(model)[ASIDE] = aside


def trained_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of what trains in a model beside its updates, by name.

    Args:
        model: with an update attached.
    """
    updates = {id(one) for _, branch in dsee_branches(model) for one in branch.parameters()}
    return {
        name: tuple(one.shape)
        for name, one in model.named_parameters()
        if one.requires_grad and id(one) not in updates
    }


def updates_aside(model: nn.Module) -> UpdatesAside | None:
    """Find the note of named adapters, or of a reversible merge; None = there is none."""
    found: UpdatesAside | None = vars(model).get(ASIDE)
    return found


def use_adapter(model: nn.Module, name: str | None) -> None:
    """Put the adapter of a name into the model; see ``sparsetune.use``."""
    aside = updates_aside(model)
    if aside is None or not aside.names:
        raise ModelError(
            f"use: this {type(model).__name__} has no named adapters; needed: apply_dsee(model, "
            "config, name=...) or load(folder, model, name=...)"
        )
    if name is not None:
        aside.check_name("use", name)
    aside.check_unmerged("use")
    if any("forward" in vars(layer) for layer, _ in dsee_branches(model)):
        raise ModelError("use: the update is disabled here; needed: after disabled(model)")
    aside.switch(model, name)


@contextmanager
def using(model: nn.Module, name: str) -> Iterator[None]:
    """Have the adapter of a name in the model for a while."""
    aside = updates_aside(model)
    earlier = aside.active if aside is not None else None
    use_adapter(model, name)
    try:
        yield
    finally:
        use_adapter(model, earlier)


def drop_adapter(model: nn.Module, name: str | None) -> None:
    """Take one named adapter off a model for good; see ``sparsetune.detach``."""
    aside = updates_aside(model)
    if aside is not None:
        aside.check_unmerged("detach")
    if aside is None or not aside.names:
        raise ModelError(
            f"detach: name: received {name!r}; this {type(model).__name__} has no named adapters"
        )
    name = aside.active if name is None else name
    if name is None:
        raise ModelError(
            f"detach: name: received None, and none is active; allowed: {', '.join(aside.names)}"
        )
    aside.check_name("detach", name)
    if aside.active == name:
        use_adapter(model, None)
    del aside.parts[name]
    if not aside.names:
        del vars(model)[ASIDE]


def _take(model: nn.Module, part: Part) -> None:
    """Note what is in the places of a part now."""
    part.layers = {path: model.get_submodule(path) for path in part.layers}
    part.own = {name: model.get_parameter(name) for name in part.own}
    config: Any = model.config
    part.labels = {name: getattr(config, name, None) for name in _LABELS}
    part.labels["num_labels"] = getattr(model, "num_labels", None)
    part.dtype = _weight(model).dtype


def _put(model: nn.Module, part: Part, paths: Collection[str], names: Collection[str]) -> None:
    """Put a part into some of its places."""
    now = _weight(model).dtype
    cast = None if part.dtype == now else now  # as what is in the model was cast meanwhile
    out: dict[Folding, None] = {}
    into: dict[Folding, None] = {}
    for path in paths:
        old: Any = model.get_submodule(path)
        new: Any = part.layers[path]
        # Whoever moved or replaced the weight did so in the module that was in the model.
        new.weight, new.bias = old.weight, old.bias
        new.to(device=old.weight.device, dtype=cast)
        new.train(old.training)
        model.set_submodule(path, new)
        for found, module in ((out, old), (into, new)):
            if isinstance(module, DseeLinear) and module.folding is not None:
                found[module.folding] = None
    for folding in out:
        folding.detach()
    for folding in into:
        folding.attach(model)
    for name in names:
        own = part.own[name]
        own.data = own.data.to(device=model.get_parameter(name).device, dtype=cast)
    _exchange(model, {name: part.own[name] for name in names})
    set_labels(model, part.labels)
    part.dtype = now


def set_labels(model: nn.Module, labels: Mapping[str, Any]) -> None:
    """Tell a model and its configuration which labels its head has.

    Args:
        model: of transformers.
        labels: ``num_labels``, and what the configuration says of them.
    """
    for name, told in labels.items():
        place: Any = model if name == "num_labels" else model.config
        if hasattr(place, name):
            setattr(place, name, told)


def _exchange(model: nn.Module, new: Mapping[str, nn.Parameter]) -> None:
    """Put parameters in the places of others, under every name that those have."""
    old = {id(model.get_parameter(name)): parameter for name, parameter in new.items()}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in old:
                setattr(module, name, old[id(parameter)])
                if isinstance(module, nn.Linear):
                    module.out_features = module.weight.shape[0]


def _weight(model: nn.Module) -> Tensor:
    weight: Tensor = next(Anatomy.of(model).sites()).module.weight
    return weight

"""What is asked of DSEE: which projections of which layers get an update, of what rank and start.

Checked by itself when it is made, and against a model by ``sites_of`` and ``check_pattern``; what
is attached is in ``layer``.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from numbers import Integral
from typing import Any, Literal

from torch import Tensor

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import PROJECTIONS, Site
from sparsetune.dsee.support import RECIPES, Recipe
from sparsetune.errors import ConfigError, ModelError, refusal, shown

_ALIASES = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "layers_to_transform": "layers",
}


@dataclass(frozen=True)
class DseeConfig:
    """What is attached to which projections, and how it starts.

    Targets are named alike for all architectures. PEFT's words ``r``, ``lora_alpha``,
    ``lora_dropout``, ``target_modules`` and ``layers_to_transform`` may be given for ``rank``,
    ``alpha``, ``dropout``, ``targets`` and ``layers``; they are read as these and not kept.

    Attributes:
        rank: rank of U V, 1 to the smaller side of a target matrix.
        alpha: the update of a projection is scaled by ``alpha / rank``, with the rank that this
            projection has, above 0.
        n_sparse: trained entries of S2 per matrix, 0 to the size of a target matrix.
        targets: projections adapted in every layer: ``query``, ``key``, ``value``,
            ``attention_output``, ``ffn_in``, ``ffn_out``, and ``ffn_gate`` where neurons are gated.
        init: ``zero``: V from N(0, 0.02), U and S2 zero, so that training starts at the
            backbone; ``normal``: all three from N(0, 0.02).
        support: how the places of S2 are chosen from the model's weights (``grebsmo``
            ``magnitude`` ``random`` ``empty``), or the places: site key -> int64, flat in
            ``O x I``, distinct, at most ``n_sparse``.
        seed: of the choice and of the update's start; the global generators are left alone.
        modules_to_save: names of modules, or paths of them, that train and are saved as they are
            beside the update and the task head, such as ``pooler``. None = none, and a model with
            a module beside its backbone that is no head of its family is refused: it would stay
            frozen. An empty list says that it may.
        dropout: share of the inputs of U V that is zeroed in training, in [0, 1), as PEFT's
            ``lora_dropout``; W and S2 see them all. Drawn from torch's global generator.
        layers: numbers of the layers that get the update, from 0, distinct; None = all. They
            have the places of S2 that they have beside all others.
        rank_pattern: other ranks than ``rank``. A key is a regular expression for the end of a
            name, whole or from a dot on, as in PEFT. It may be that of a projection in every layer
            (``query``), of a layer (``layer.3``), of one projection of it (``layer.3.query``), or
            the path of a module, which is all that PEFT knows. The first key that matches counts.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3; rank, n_sparse and alpha as in the released
        code of 2021 (VITA-Group/DSEE at f492778). Layers and ranks: ``LoraConfig`` of PEFT 0.21.
    Differs:
        ``init="zero"`` is the paper's intent; the released code really does ``normal``, because
        the library's fast initialisation skips its zeroing. From PEFT: a list without layers, a
        layer that is not there, and a key of ``rank_pattern`` that no projection follows are
        refused.

    Example:
        >>> config = DseeConfig(rank=8, layers=[10, 11], rank_pattern={"layer.11.query": 16})
        >>> config.layers, config.rank_pattern
        ((10, 11), {'layer.11.query': 16})
    """

    rank: int = 16
    alpha: float = 32.0
    n_sparse: int = 64
    targets: Sequence[str] = ("query", "value")
    init: Literal["zero", "normal"] = "zero"
    support: Recipe | Mapping[str, Tensor] = "grebsmo"
    seed: int = 0
    modules_to_save: Sequence[str] | None = None
    dropout: float = 0.0
    layers: Sequence[int] | None = None
    rank_pattern: Mapping[str, int] | None = None
    r: InitVar[int | None] = field(default=None, kw_only=True)
    lora_alpha: InitVar[float | None] = field(default=None, kw_only=True)
    target_modules: InitVar[Sequence[str] | None] = field(default=None, kw_only=True)
    lora_dropout: InitVar[float | None] = field(default=None, kw_only=True)
    layers_to_transform: InitVar[Sequence[int] | int | None] = field(default=None, kw_only=True)

    def __post_init__(
        self,
        r: int | None,
        lora_alpha: float | None,
        target_modules: Sequence[str] | None,
        lora_dropout: float | None,
        layers_to_transform: Sequence[int] | int | None,
    ) -> None:
        given = (r, lora_alpha, lora_dropout, target_modules, layers_to_transform)
        for (word, name), value in zip(_ALIASES.items(), given, strict=True):
            if value is not None:
                own = getattr(self, name)
                if own != getattr(type(self), name):
                    raise ConfigError(
                        f"dsee {word}: received {value!r} beside {name} {own!r}, allowed: one of "
                        "the two"
                    )
                alone = word == "layers_to_transform" and isinstance(value, Integral)
                self._set(name, (value,) if alone else value)
        for name, least in (("rank", 1), ("n_sparse", 0), ("seed", None)):
            self._set(name, _whole(f"dsee {name}", getattr(self, name), least))
        if type(self.alpha) not in (int, float):
            raise ConfigError(f"dsee alpha: received {self.alpha!r}, allowed: a number above 0")
        if not 0 < self.alpha <= sys.float_info.max:  # a whole number may have no float
            raise ConfigError(
                f"dsee alpha: received {shown(self.alpha)}, allowed: above 0, and finite"
            )
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"dsee dropout: received {self.dropout!r}, allowed: 0 or more, below 1"
            )
        self._check_names()
        if self.init not in ("zero", "normal"):
            raise ConfigError(f"dsee init: received {self.init!r}, allowed: zero, normal")
        if not isinstance(self.support, Mapping) and self.support not in RECIPES:
            raise ConfigError(
                f"dsee support: received {self.support!r}, "
                f"allowed: {', '.join(RECIPES)}, or site -> positions"
            )
        if self.layers is not None:
            self._set("layers", _layers(self.layers))
        if self.rank_pattern is not None:
            self._set("rank_pattern", _pattern(self.rank_pattern))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_names(self) -> None:
        named = self.modules_to_save
        if named is not None:
            if not isinstance(named, list | tuple) or not all(type(n) is str and n for n in named):
                raise ConfigError(
                    f"dsee modules_to_save: received {named!r}, allowed: a list of names, or None"
                )
            self._set("modules_to_save", tuple(named))
        if not isinstance(self.targets, list | tuple):
            raise ConfigError(f"dsee targets: received {self.targets!r}, allowed: a list of names")
        self._set("targets", tuple(self.targets))
        known = all(name in PROJECTIONS for name in self.targets)
        if not self.targets or not known or len(set(self.targets)) != len(self.targets):
            raise ConfigError(
                f"dsee targets: received {list(self.targets)}, "
                f"allowed: distinct names from {', '.join(PROJECTIONS)}"
            )

    def key_of(self, site: Site) -> str | None:
        """Find the key of ``rank_pattern`` that tells the rank of a projection; None = none does.

        Args:
            site: where it is.

        Source:
            ``peft.utils.other.get_pattern_key`` of PEFT 0.21, on module paths alone.
        """
        return next((key for key in self.rank_pattern or () if _matches(key, site)), None)

    def rank_of(self, site: Site) -> int:
        """Tell the rank of the update of a projection.

        Args:
            site: where it is.
        """
        key = self.key_of(site)
        return self.rank if key is None else (self.rank_pattern or {})[key]


def sites_of(anatomy: Anatomy, config: DseeConfig) -> list[Site]:
    """List the projections that get an update, layer by layer.

    Args:
        anatomy: of the model.
        config: what is asked for.

    Raises:
        ModelError: it has no such layer or projection.
    """
    for name in config.targets:
        if name not in anatomy.family.projections:
            where = f"dsee targets: a {anatomy.model_type}"
            raise ModelError(refusal(where, "projection", name, anatomy.family.projections))
    for layer in config.layers or ():
        if layer >= anatomy.layers:
            raise ModelError(
                f"dsee layers: received {layer}; allowed: 0 to {anatomy.layers - 1}, of this "
                f"{anatomy.model_type}"
            )
    sites = anatomy.sites([name for name in PROJECTIONS if name in config.targets])
    return [site for site in sites if config.layers is None or site.layer in config.layers]


def check_pattern(sites: Sequence[Site], config: DseeConfig) -> None:
    """Refuse keys of a rank pattern that no projection follows.

    Args:
        sites: that get an update.
        config: what is asked for.

    Raises:
        ModelError: nothing matches a key, or a wider key before it has all that it matches.
    """
    matched = {
        key: [site for site in sites if _matches(key, site)] for key in config.rank_pattern or ()
    }
    followed = {config.key_of(site) for site in sites}
    for key, own in matched.items():
        where = f"dsee rank_pattern: received {key!r}"
        earlier = config.key_of(own[0]) if own else None
        if earlier and key not in followed and len(matched[earlier]) > len(own):
            raise ModelError(
                f"{where} after {earlier!r}, which has all that it matches and more; needed: the "
                "narrower key first"
            )
        if own:
            continue
        projections = dict.fromkeys(site.projection for site in sites)
        raise ModelError(
            f"{where}, which matches nothing that gets an update; there are "
            f"{', '.join(projections)} of layer.{sites[0].layer} to layer.{sites[-1].layer}, such "
            f"as {sites[0].key} ({sites[0].path})"
        )


def _matches(key: str, site: Site) -> bool:
    names = (f"layer.{site.layer}", site.key, site.path)
    return any(re.match(rf"(.*\.)?({key})$", name) for name in names)


def _whole(where: str, value: Any, least: int | None) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ConfigError(f"{where}: received {value!r}, allowed: a whole number")
    if least is not None and value < least:
        raise ConfigError(f"{where}: received {value}, allowed: {least} or more")
    return int(value)


def _layers(given: Any) -> tuple[int, ...]:
    refused = ConfigError(
        f"dsee layers: received {given!r}, allowed: distinct numbers of layers from 0, at least "
        "one; None = all"
    )
    if not isinstance(given, list | tuple | range) or not given:
        raise refused
    try:
        layers = [_whole("dsee layers", layer, 0) for layer in given]
    except ConfigError:
        raise refused from None
    if len(set(layers)) < len(layers):
        raise refused
    return tuple(sorted(layers))


def _pattern(given: Any) -> dict[str, int] | None:
    where = "dsee rank_pattern"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: received {given!r}, allowed: pattern -> rank, or None")
    for key in given:
        try:
            re.compile(rf"(.*\.)?({key})$")
        except re.error as error:
            raise ConfigError(
                f"{where}: received {key!r}, allowed: a regular expression ({error})"
            ) from None
        if type(key) is not str or not key:
            raise ConfigError(f"{where}: received {key!r}, allowed: names or patterns of them")
    return {key: _whole(f"{where}: {key}", rank, 1) for key, rank in given.items()} or None

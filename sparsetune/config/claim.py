"""The papers' claims as checkable statements: read, validated. Nothing is tested here.

A claim says that a measured quantity of one method stands in a relation to another method's, or
to a number. Imports no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsetune.config.files import read_checked
from sparsetune.config.load import Catalogue
from sparsetune.config.rules import Rule
from sparsetune.errors import ConfigError, nearest

Relation = Literal["above", "at-least", "at-most", "within"]


@dataclass(frozen=True)
class Quantity:
    """What is measured of a run, or of the runs of a method.

    Attributes:
        heading: as printed.
        unit: ``points`` (of a score in percent) or ``%``.
        counted: exact, the same on every machine: no noise, no interval.
        group: on what one value is measured: a ``run``, or the ``tickets`` that the searches of
            one backbone and seed drew on all tasks.
        to_reference: as a part of what the dense run takes.
    """

    heading: str
    unit: str
    counted: bool = True
    group: Literal["run", "tickets"] = "run"
    to_reference: bool = False


QUANTITIES: dict[str, Quantity] = {
    "score": Quantity("headline metric", "points", counted=False),
    "inference-macs-saved": Quantity("effective inference MACs saved", "%"),
    "backbone-macs-saved": Quantity("effective inference MACs saved, without the update's", "%"),
    "trained-share": Quantity("trained parameters, without head", "%", to_reference=True),
    "training-macs-saved": Quantity("training MACs saved, search counted", "%", to_reference=True),
    "seconds-saved": Quantity(
        "training time saved, search counted", "%", counted=False, to_reference=True
    ),
    "pretraining-macs-saved": Quantity("pre-training MACs saved, search counted", "%"),
    "heads-in-common": Quantity(
        "heads in common above chance", "points", counted=False, group="tickets"
    ),
    "neurons-in-common": Quantity(
        "neurons in common above chance", "points", counted=False, group="tickets"
    ),
}
"""What claims can be about; the schema has the same names."""


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: unique.
        says: the claim, in our words.
        source: paper, section or table; or why it stands here.
        backbones: on which the paper tests it.
        tasks: likewise.
        quantity: key of :data:`QUANTITIES`.
        left: method id.
        right: method id, or a number in the quantity's unit.
        relation: of left to right.
        tolerance: in the quantity's unit, at least 0.
        because: why this tolerance; empty for ``above``, which has none.
        twins: backbone of ``left`` -> backbone of ``right``; empty = the same.
        architectures: that it is about; empty = all.
        requires: settings that the run of a method must have, or it is not what is claimed.
        only_there: why no other backbone or task can decide it; empty = any can, each at its
            own scale.
    """

    id: str
    says: str
    source: str
    backbones: tuple[str, ...]
    tasks: tuple[str, ...]
    quantity: str
    left: str
    right: str | float
    relation: Relation
    tolerance: float = 0.0
    because: str = ""
    twins: Mapping[str, str] | None = None
    architectures: tuple[str, ...] = ()
    requires: tuple[Mapping[str, Any], ...] = ()
    only_there: str = ""

    @property
    def measure(self) -> Quantity:
        """What ``quantity`` names."""
        return QUANTITIES[self.quantity]

    @property
    def number(self) -> float | None:
        """What left is compared with, where it is no method."""
        return None if isinstance(self.right, str) else float(self.right)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it compares."""
        return (self.left,) if self.number is not None else (self.left, str(self.right))


def read_claims(path: Path, catalogue: Catalogue) -> tuple[Claim, ...]:
    """Read every claim.

    Args:
        path: ``config/claims.yaml``.
        catalogue: whose ids the claims may name.

    Returns:
        The claims in the file's order.

    Raises:
        ConfigError: the file breaks its schema, names something that does not exist, or breaks a
            rule between its keys; one line with the claim's id and the key.
    """
    raw = read_checked(path, "claims")
    known = {thing: catalogue.known(thing) for thing in ("backbone", "task", "method")}
    seen: set[str] = set()
    for one in raw["claims"]:
        if one["id"] in seen:
            raise ConfigError(f"{path}: claim {one['id']}: id: twice")
        seen.add(one["id"])
        for holds, message in (*_id_rules(one, known), *_rules(one)):
            if not holds:
                raise ConfigError(f"{path}: claim {one['id']}: {message}")
    return tuple(_claim(one) for one in raw["claims"])


def _claim(raw: Mapping[str, Any]) -> Claim:
    simple = {key: value for key, value in raw.items() if key not in ("published", "right")}
    right = raw["right"]
    lists = {key: tuple(raw.get(key, ())) for key in ("architectures", "requires")}
    places = {key: tuple(ids) for key, ids in raw["published"].items()}
    return Claim(**{**simple, **lists, **places, "right": right.get("method", right.get("value"))})


def _id_rules(raw: Mapping[str, Any], known: Mapping[str, Sequence[str]]) -> Iterator[Rule]:
    twins = raw.get("twins", {})
    named = [
        ("method", "left", raw["left"]),
        *([("method", "right.method", raw["right"]["method"])] if "method" in raw["right"] else []),
        *(("method", f"requires.{i}.method", r["method"]) for i, r in _requires(raw)),
        *(("backbone", "published.backbones", one) for one in raw["published"]["backbones"]),
        *(("task", "published.tasks", one) for one in raw["published"]["tasks"]),
        *(("backbone", "twins", one) for pair in twins.items() for one in pair),
    ]
    for thing, key, name in named:
        ids = known[thing]
        if name not in ids:  # to look for the nearest name takes long, and every job reads this
            told = f"{key}: unknown {thing} {name!r}; known: {', '.join(ids)}"
            yield False, told + nearest(name, ids)


def _requires(raw: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from enumerate(raw.get("requires", ()))


def _rules(raw: Mapping[str, Any]) -> Iterator[Rule]:
    quantity, relation, right = raw["quantity"], raw["relation"], raw["right"]
    about_number = "value" in right
    for key in ("tolerance", "because"):
        yield (
            (key in raw) == (relation != "above"),
            f"{key}: needed by relation at-least, at-most and within, and only there",
        )
    yield (
        not about_number or quantity != "score",
        "right.value: not for quantity score, whose numbers hang on backbone and task; "
        "allowed: right.method",
    )
    tickets = QUANTITIES[quantity].group == "tickets"
    yield (
        not tickets or (about_number and "twins" not in raw),
        f"right: quantity {quantity} is compared with chance; allowed: value, without twins",
    )
    pretraining = quantity == "pretraining-macs-saved"
    yield (
        not pretraining or ("twins" in raw and about_number),
        f"quantity: {quantity} needs twins (left = what it is measured of, right = against what) "
        "and right.value",
    )
    yield (
        "twins" not in raw or pretraining or not about_number,
        "twins: needs right.method, or quantity pretraining-macs-saved",
    )
    methods = [raw["left"], right.get("method")]
    for index, need in _requires(raw):
        yield (
            need["method"] in methods,
            f"requires.{index}.method: got {need['method']!r}; allowed: left or right.method",
        )
    same = right.get("method") == raw["left"] and "twins" not in raw
    yield not same, f"right.method: got {raw['left']!r}, which is left; need another method"

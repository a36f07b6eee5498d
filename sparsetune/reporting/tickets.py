"""What the tickets of a suite have in common: between seeds, between tasks, between recipes.

Reads ticket files only. Beside each share stands what two independent tickets of the same sizes
would have in common.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from sparsetune.errors import DataError
from sparsetune.records import read_json
from sparsetune.reporting.render import Column, number_column, percent, text_column, write_table

_UNITS = ("heads", "neurons")
_IDENTITY = ("backbone", "task", "recipe")
# What differs -> the origins of tickets that are compared so: drawn tickets do not look at the
# task, and those of whole layers neither at the seed.
_ORIGINS = {
    "seed": {"search", "random"},
    "task": {"search"},
    "recipe": {"search", "random", "layers"},
}
_NOTES = (
    "In common: units kept by both tickets over the mean of what each keeps, mean over all pairs. "
    "Chance: the same for two independent tickets of these sizes, over the whole model.",
    "Seeds: same task and recipe. Tasks: same recipe and seed; searched tickets alone, since the "
    "others do not look at the task. Recipes: same task and seed.",
)


@dataclass(frozen=True)
class KeptUnits:
    """What one ticket keeps.

    Attributes:
        seed: of the search or draw.
        origin: ``search``, ``random`` or ``layers``.
        heads: bool, ``(L, H)``; True = kept, in a kept layer.
        neurons: bool, ``(L, F)``; likewise.
    """

    backbone: str
    task: str
    recipe: str
    seed: int
    origin: str
    heads: np.ndarray
    neurons: np.ndarray


_Pair = tuple[KeptUnits, KeptUnits]


def read_kept(path: Path) -> KeptUnits:
    """Read what a ticket keeps from ``<backbone>/<task>/<recipe>/seed-<n>/ticket.json``.

    Raises:
        DataError: missing, damaged, or another ticket than its folder says.
    """
    data = read_json(path, what="ticket")
    try:
        told = (*(data[name] for name in _IDENTITY), f"seed-{data['seed']}")
        label = [data[name] for name in (*_IDENTITY, "seed", "origin")]
        masks = [
            _mask(data[f"kept_{unit}"], data[unit], data.get("kept_layers")) for unit in _UNITS
        ]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: not a ticket: {error!r}") from None
    folder = path.absolute().parts[-5:-1]
    if told != folder:
        raise DataError(f"{path}: is ticket {'/'.join(told)}, its folder says {'/'.join(folder)}")
    return KeptUnits(*label, *masks)


def share_in_common(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Compare what two tickets keep.

    Args:
        one: bool, any shape, at least one True.
        other: bool, the same shape, at least one True.

    Returns:
        Units kept by both over the mean of what each keeps, in [0, 1]; and the value expected of
        two independent masks with as many True.

    Raises:
        DataError: the shapes differ.
    """
    if one.shape != other.shape:
        raise DataError(f"tickets of {one.shape} and {other.shape} cannot be compared")
    sizes = int(one.sum()), int(other.sum())
    mean = sum(sizes) / 2
    return int((one & other).sum()) / mean, sizes[0] * sizes[1] / one.size / mean


def write_tickets(tickets: Iterable[Path], directory: Path) -> list[Path]:
    """Write how much the tickets of a suite have in common, as four files ``tickets``.

    Args:
        tickets: files ``ticket.json``; only those of one backbone are compared. May be none: the
            table then says so.
        directory: where the files go.

    Raises:
        DataError: as :func:`read_kept`.
    """
    found = [read_kept(path) for path in tickets]
    pairs = {
        name: pairs
        for backbone in dict.fromkeys(ticket.backbone for ticket in found)
        for name, pairs in _pairs([one for one in found if one.backbone == backbone]).items()
    }
    columns = [
        text_column(heading, heading, [name[place] for name in pairs])
        for place, heading in enumerate(("backbone", "compared", "tickets"))
    ]
    columns.append(number_column("pairs", "pairs_count", list(map(len, pairs.values()))))
    for unit in _UNITS:
        columns += _columns(unit, pairs.values())
    notes = _NOTES if pairs else ("No two tickets of this suite can be compared.",)
    return write_table(directory / "tickets", "Tickets in common", columns, notes)


def _mask(kept: Sequence[Sequence[int]], width: int, layers: Sequence[int] | None) -> np.ndarray:
    mask = np.zeros((len(kept), width), dtype=bool)
    for layer, indices in enumerate(kept):
        mask[layer, list(indices)] = layers is None or layer in layers
    return mask


def _pairs(own: Sequence[KeptUnits]) -> dict[tuple[str, str, str], list[_Pair]]:
    """(backbone, what differs, recipes) -> the pairs of tickets that differ in it alone."""
    recipes = list(dict.fromkeys(ticket.recipe for ticket in own))
    found: dict[tuple[int, ...], list[_Pair]] = {}
    for one, other in combinations(own, 2):
        differing = [name for name in _ORIGINS if getattr(one, name) != getattr(other, name)]
        if len(differing) == 1 and {one.origin, other.origin} <= _ORIGINS[differing[0]]:
            places = sorted({recipes.index(one.recipe), recipes.index(other.recipe)})
            found.setdefault((list(_ORIGINS).index(differing[0]), *places), []).append((one, other))
    named = {}
    for kind, *places in sorted(found):
        names = ", ".join(recipes[place] for place in places)
        named[own[0].backbone, f"{list(_ORIGINS)[kind]}s", names] = found[kind, *places]
    return named


def _columns(unit: str, pairs: Iterable[Sequence[_Pair]]) -> tuple[Column, Column]:
    """What the pairs of each line have in common, and would have by chance."""
    found = [
        np.array([share_in_common(getattr(one, unit), getattr(other, unit)) for one, other in of])
        for of in pairs
    ]
    shares, chances = ([list(of[:, place]) for of in found] for place in (0, 1))
    means = list(map(statistics.fmean, shares))
    fields = {
        f"{unit}_common_fraction_mean": means,
        f"{unit}_common_fraction_lowest": list(map(min, shares)),
        f"{unit}_common_fraction_highest": list(map(max, shares)),
    }
    chance = list(map(statistics.fmean, chances))
    return (
        Column(f"{unit} in common %", list(map(percent, means)), fields),
        number_column("chance %", f"{unit}_chance_fraction", chance, percent),
    )

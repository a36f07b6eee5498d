"""What the tickets of a suite have in common: between seeds, between tasks, between recipes.

Reads ticket files only. Beside each share stands what two independent tickets of the same sizes
would have in common.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsetune.errors import DataError
from sparsetune.records import read_json
from sparsetune.reporting.render import Column, number_column, percent, text_column, write_table

_UNITS = ("heads", "neurons")
_CHANCES = tuple(f"{unit}_chance_fraction" for unit in _UNITS)
_NAMES = ("backbone", "compared", "tickets")
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
    pairs = pd.DataFrame(
        _pairs([read_kept(path) for path in tickets]), columns=[*_NAMES, *_UNITS, *_CHANCES]
    )
    groups = dict(iter(pairs.groupby(list(_NAMES), sort=False)))
    columns = [
        text_column(name, name, [label[place] for label in groups])
        for place, name in enumerate(_NAMES)
    ]
    columns.append(number_column("pairs", "pairs_count", map(len, groups.values())))
    for unit, by_chance in zip(_UNITS, _CHANCES, strict=True):
        means, lowest, highest = (
            [pick(group[unit]) for group in groups.values()]
            for pick in (statistics.fmean, min, max)
        )
        common = f"{unit}_common_fraction"
        ends = {f"{common}_lowest": lowest, f"{common}_highest": highest}
        texts = list(map(percent, means))
        columns.append(Column(f"{unit} in common %", texts, {f"{common}_mean": means, **ends}))
        chances = [statistics.fmean(group[by_chance]) for group in groups.values()]
        columns.append(number_column("chance %", by_chance, chances, percent))
    notes = _NOTES if groups else ("No two tickets of this suite can be compared.",)
    return write_table(directory / "tickets", "Tickets in common", columns, notes)


def _mask(kept: Sequence[Sequence[int]], width: int, layers: Sequence[int] | None) -> np.ndarray:
    mask = np.zeros((len(kept), width), dtype=bool)
    for layer, indices in enumerate(kept):
        mask[layer, list(indices)] = layers is None or layer in layers
    return mask


def _pairs(tickets: Sequence[KeptUnits]) -> list[tuple[Any, ...]]:
    """Pairs that differ in one thing alone, as lines of the frame, in the order to print."""
    backbones, recipes = (
        list(dict.fromkeys(getattr(ticket, name) for ticket in tickets))
        for name in ("backbone", "recipe")
    )
    found = []
    for one, other in combinations(tickets, 2):
        differing = [name for name in _ORIGINS if getattr(one, name) != getattr(other, name)]
        if one.backbone != other.backbone or len(differing) != 1:
            continue
        kind = differing[0]
        if {one.origin, other.origin} <= _ORIGINS[kind]:
            places = sorted({recipes.index(one.recipe), recipes.index(other.recipe)})
            order = (backbones.index(one.backbone), list(_ORIGINS).index(kind), places)
            shares = [share_in_common(getattr(one, unit), getattr(other, unit)) for unit in _UNITS]
            names = ", ".join(recipes[place] for place in places)
            own, chance = zip(*shares, strict=True)
            found.append((order, (one.backbone, f"{kind}s", names, *own, *chance)))
    return [line for _, line in sorted(found, key=itemgetter(0))]

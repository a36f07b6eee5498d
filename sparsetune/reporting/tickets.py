"""What the tickets of a suite have in common: between seeds, between tasks, between recipes.

Reads ticket files only. Beside each share stands what two independent tickets of the same sizes
would have in common.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from sparsetune.errors import DataError
from sparsetune.records import read_json
from sparsetune.reporting.render import Column, number_column, percent, text_column, write_table

_UNITS = ("heads", "neurons")
_IDENTITY = ("backbone", "task", "recipe")
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
        backbone: id.
        task: id.
        recipe: ticket recipe id.
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
    """Read what a ticket keeps.

    Args:
        path: ``<backbone>/<task>/<recipe>/seed-<n>/ticket.json``.

    Returns:
        The kept units as masks.

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
    """Write how much the tickets of a suite have in common.

    Args:
        tickets: files ``ticket.json``; only those of one backbone are compared. May be none: the
            table then says so.
        directory: where ``tickets.md``, ``.csv``, ``.tex`` and ``.html`` go.

    Returns:
        The four files.

    Raises:
        DataError: as :func:`read_kept`.
    """
    found = [read_kept(path) for path in tickets]
    lines = [
        line
        for backbone in dict.fromkeys(ticket.backbone for ticket in found)
        for line in _comparisons([one for one in found if one.backbone == backbone])
        if line[-1]
    ]
    notes = _NOTES if lines else ("No two tickets of this suite can be compared.",)
    return write_table(directory / "tickets", "Tickets in common", _columns(lines), notes)


def _mask(kept: Sequence[Sequence[int]], width: int, layers: Sequence[int] | None) -> np.ndarray:
    mask = np.zeros((len(kept), width), dtype=bool)
    for layer, indices in enumerate(kept):
        mask[layer, list(indices)] = layers is None or layer in layers
    return mask


def _comparisons(own: Sequence[KeptUnits]) -> Iterator[tuple[str, str, str, list[_Pair]]]:
    """Backbone, what differs, the recipes, and every pair of tickets that differ so."""
    backbone = own[0].backbone
    by_recipe: dict[str, list[KeptUnits]] = {}
    for ticket in own:
        by_recipe.setdefault(ticket.recipe, []).append(ticket)
    for differing, same in (("seeds", "task"), ("tasks", "seed")):
        # Drawn tickets do not look at the task; those of whole layers neither at the seed.
        origins = ("search", "random") if differing == "seeds" else ("search",)
        for recipe, tickets in by_recipe.items():
            alike = [ticket for ticket in tickets if ticket.origin in origins]
            pairs = combinations(alike, 2)
            yield backbone, differing, recipe, [
                pair for pair in pairs if getattr(pair[0], same) == getattr(pair[1], same)
            ]  # fmt: skip
    for first, second in combinations(by_recipe, 2):
        others = {(ticket.task, ticket.seed): ticket for ticket in by_recipe[second]}
        places = [(ticket, others.get((ticket.task, ticket.seed))) for ticket in by_recipe[first]]
        pairs_there = [(one, other) for one, other in places if other is not None]
        yield backbone, "recipes", f"{first}, {second}", pairs_there


def _columns(lines: Sequence[tuple[str, str, str, list[_Pair]]]) -> list[Column]:
    columns = [
        text_column(name, name, [str(line[place]) for line in lines])
        for place, name in enumerate(("backbone", "compared", "tickets"))
    ]
    columns.append(number_column("pairs", "pairs_count", [len(pairs) for *_, pairs in lines]))
    for unit in _UNITS:
        found = [
            [share_in_common(getattr(one, unit), getattr(other, unit)) for one, other in pairs]
            for *_, pairs in lines
        ]
        shares = [[share for share, _ in pairs] for pairs in found]
        means = [statistics.fmean(values) for values in shares]
        fields = {
            f"{unit}_common_fraction_mean": means,
            f"{unit}_common_fraction_lowest": [min(values) for values in shares],
            f"{unit}_common_fraction_highest": [max(values) for values in shares],
        }
        chances = [statistics.fmean(chance for _, chance in pairs) for pairs in found]
        columns.append(Column(f"{unit} in common %", list(map(percent, means)), fields))
        columns.append(number_column("chance %", f"{unit}_chance_fraction", chances, percent))
    return columns

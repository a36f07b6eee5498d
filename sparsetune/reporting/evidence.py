"""What a suite's runs say about a claim: pairs of runs, backbone by backbone and task by task.

A cell is one backbone and task, with one value for left and for right from each seed. What does
not count is left out by name and with the reason; whether the claim holds is not decided here.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from sparsetune.config.claim import Claim
from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.reporting.collect import Key, RunGroup
from sparsetune.reporting.intervals import Range
from sparsetune.reporting.overlaps import KeptUnits, share_in_common
from sparsetune.reporting.savings import (
    macs_of,
    mean_effort,
    saved_inference,
    saving,
    seconds_of,
    trained_shares,
)

Scale = Literal["published", "real", "generated"]
SCALES: tuple[Scale, ...] = ("published", "real", "generated")
"""Where a cell stands, from the paper's own backbones and tasks down."""


@dataclass(frozen=True)
class Evidence:
    """Everything a suite has to say.

    Attributes:
        groups: finished runs.
        architectures: backbone id -> architecture.
        tickets: what the suite's tickets keep.
        pretraining_macs: of the backbones that are pre-trained here.
        reference_method: the dense run that savings are measured against.
    """

    groups: Mapping[Key, RunGroup]
    architectures: Mapping[str, str]
    tickets: Sequence[KeptUnits]
    pretraining_macs: Mapping[str, int]
    reference_method: str


@dataclass(frozen=True)
class Cell:
    """What one backbone and task say.

    Attributes:
        backbone: id, of left.
        task: id, or what stands for several.
        scale: see :data:`SCALES`.
        seeds: of the pairs.
        left: one value per seed, in the quantity's unit.
        right: likewise; the claim's number where it names one.
        left_range: mean over the seeds of value, low and high of the runs over their examples;
            None if not recorded.
        right_range: likewise.
        collapsed: how many of the runs gave every example the same answer.
        one_task: False where ``task`` stands for several, or for none.
    """

    backbone: str
    task: str
    scale: Scale
    seeds: tuple[int, ...]
    left: tuple[float, ...]
    right: tuple[float, ...]
    left_range: Range | None = None
    right_range: Range | None = None
    collapsed: int = 0
    one_task: bool = True

    @property
    def differences(self) -> list[float]:
        """Left less right, pair by pair."""
        return [one - other for one, other in zip(self.left, self.right, strict=True)]


class _LeftOutError(Exception):
    """These runs do not count: which ones, and why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason


def cells_of(claim: Claim, evidence: Evidence) -> tuple[list[Cell], dict[str, list[str]]]:
    """Collect the cells of a claim.

    Args:
        claim: what is compared.
        evidence: the suite's.

    Returns:
        The cells in the suite's order; and reason -> the places that it leaves out.

    Raises:
        DataError: a value is missing from a record.
    """
    cells: list[Cell] = []
    left_out: dict[str, list[str]] = {}
    for attempt in _attempts(claim, evidence):
        try:
            cells.append(attempt())
        except _LeftOutError as error:
            left_out.setdefault(error.reason, []).append(error.place)
    return cells, left_out


def _attempts(claim: Claim, evidence: Evidence) -> Iterator[Any]:
    """One call for each cell that the suite could have."""
    own = [group for key, group in evidence.groups.items() if key[2] == claim.left]
    if claim.architectures:
        own = [g for g in own if evidence.architectures[g.key[0]] in claim.architectures]
    if claim.measure.group == "tickets":
        for backbone in dict.fromkeys(group.key[0] for group in own):
            members = [group for group in own if group.key[0] == backbone]
            yield lambda members=members: _tickets_cell(claim, members, evidence)
    elif claim.quantity == "pretraining-macs-saved":
        for backbone in dict.fromkeys(g.key[0] for g in own if g.key[0] in claim.twins):
            yield lambda backbone=backbone: _pretraining_cell(claim, backbone, evidence)
    else:
        for group in own:
            if claim.twins is None or group.key[0] in claim.twins:
                yield lambda group=group: _runs_cell(claim, group, evidence)


def _runs_cell(claim: Claim, left: RunGroup, evidence: Evidence) -> Cell:
    backbone, task, _ = left.key
    other = (claim.twins or {}).get(backbone, backbone)
    right = None
    if isinstance(claim.right, str):
        right = _group(evidence, (other, task, claim.right))
    sides = [left] if right is None else [left, right]
    _check_settings(claim, sides)
    for side in list(sides):
        if claim.measure.to_reference:
            sides.append(_group(evidence, (*side.key[:2], evidence.reference_method)))
    if claim.quantity == "seconds-saved":
        _check_devices(sides)
    lefts = _values(claim, left, evidence)
    rights = dict.fromkeys(lefts, claim.right) if right is None else _values(claim, right, evidence)
    seeds = tuple(seed for seed in lefts if seed in rights)
    if not seeds:
        raise _LeftOutError(f"{backbone}/{task}", "no seed for which both are defined")
    rows = [row for side in (left, right) if side for row in side.rows if row.seed in seeds]
    scored = claim.quantity == "score" and right is not None
    return Cell(
        backbone, task, _scale(claim, backbone, (task,)), seeds,
        tuple(lefts[seed] for seed in seeds), tuple(rights[seed] for seed in seeds),
        _range(left, seeds) if scored else None, _range(right, seeds) if scored else None,
        collapsed=sum(row.collapsed for row in rows) if claim.quantity == "score" else 0,
    )  # fmt: skip


def _group(evidence: Evidence, key: Key) -> RunGroup:
    if key not in evidence.groups:
        raise _LeftOutError(f"{key[0]}/{key[1]}", f"no run of {key[2]}")
    return evidence.groups[key]


def _values(claim: Claim, group: RunGroup, evidence: Evidence) -> dict[int, float]:
    """Value by seed; a seed whose value is undefined is not there."""
    reference = evidence.groups.get((*group.key[:2], evidence.reference_method))
    found = zip(group.seeds, _fractions(claim.quantity, group, reference), strict=True)
    return {seed: 100 * value for seed, value in found if value is not None}


def _fractions(
    quantity: str, group: RunGroup, reference: RunGroup | None
) -> Sequence[float | None]:
    match quantity:
        case "score":
            return [row.metrics[row.headline_metric] for row in group.rows]
        case "inference-macs-saved":
            return [saved_inference(row) for row in group.rows]
        case "backbone-macs-saved":
            return [saved_inference(row, without_update=True) for row in group.rows]
        case "trained-share":
            return trained_shares(group, reference)
    effort = {"training-macs-saved": macs_of, "seconds-saved": seconds_of}[quantity]
    dense = mean_effort([effort(row) for row in reference.rows])
    return [saving(effort(row), dense).whole for row in group.rows]


def _range(group: RunGroup, seeds: Sequence[int]) -> Range | None:
    """The headline metric with its interval over the examples, where every run recorded one.

    Seeds answer the same examples, so their intervals are averaged: more seeds do not narrow them.
    """
    ranges = []
    for row in (row for row in group.rows if row.seed in seeds):
        metric = row.headline_metric
        found = (row.records["evaluate"]["measured"].get("intervals") or {}).get(metric)
        if found is None:
            return None
        # Rounding may leave the value a hair outside.
        value, (low, high) = row.metrics[metric], found
        ranges.append((100 * value, 100 * min(low, value), 100 * max(high, value)))
    value, low, high = (statistics.fmean(part) for part in zip(*ranges, strict=True))
    return value, low, high


def _check_settings(claim: Claim, groups: Sequence[RunGroup]) -> None:
    for need in claim.requires:
        for row in (row for g in groups if g.key[2] == need["method"] for row in g.rows):
            found: Any = row.records["tune"]["asked"]["settings"]
            for part in need["setting"].split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found != need["value"]:
                raise _LeftOutError(
                    "/".join(row.key[:2]),
                    f"{need['otherwise']} ({need['setting']} is {found}, not {need['value']})",
                )


def _check_devices(groups: Sequence[RunGroup]) -> None:
    names = {str(row.records["tune"]["where"]["device"]["name"]) for g in groups for row in g.rows}
    if len(names) > 1:
        place = "/".join(groups[0].key[:2])
        raise _LeftOutError(place, f"timed on different devices: {', '.join(sorted(names))}")


def _pretraining_cell(claim: Claim, backbone: str, evidence: Evidence) -> Cell:
    dense = claim.twins[backbone]
    for name in (backbone, dense):
        if name not in evidence.pretraining_macs:
            raise _LeftOutError(backbone, f"{name} is not pre-trained in this suite")
    macs = evidence.pretraining_macs
    saved = 100 * (1 - macs[backbone] / macs[dense])
    scale = _scale(claim, backbone, ())
    right = (float(claim.right),)
    return Cell(backbone, "pre-training", scale, (0,), (saved,), right, one_task=False)


def _tickets_cell(claim: Claim, groups: Sequence[RunGroup], evidence: Evidence) -> Cell:
    """What the tickets of all tasks have in common, seed by seed."""
    _check_settings(claim, groups)
    backbone = groups[0].key[0]
    recipes = {row.records["tune"]["asked"].get("ticket") for g in groups for row in g.rows}
    tasks = [group.key[1] for group in groups]
    unit = claim.quantity.partition("-")[0]
    kept: dict[int, list[Any]] = {}
    for ticket in evidence.tickets:
        if (ticket.backbone, ticket.recipe in recipes, ticket.task in tasks) == (backbone, 1, 1):
            kept.setdefault(ticket.seed, []).append(getattr(ticket, unit))
    shares: dict[int, list[float]] = {}
    for seed, masks in kept.items():
        for one, other in combinations(masks, 2):
            share, chance = share_in_common(one, other)
            shares.setdefault(seed, []).append(100 * (share - chance))
    if not shares:
        raise _LeftOutError(backbone, f"no tickets of {claim.left} on two tasks")
    seeds = tuple(sorted(shares))
    means = tuple(statistics.fmean(shares[seed]) for seed in seeds)
    right = (float(claim.right),) * len(seeds)
    scale = _scale(claim, backbone, tasks)
    told = f"between {len(tasks)} tasks"
    return Cell(backbone, told, scale, seeds, means, right, one_task=False)


def _scale(claim: Claim, backbone: str, tasks: Sequence[str]) -> Scale:
    if backbone in claim.backbones and set(tasks) <= set(claim.tasks):
        return "published"
    generated = any(name.startswith(GENERATED_PREFIX) for name in (backbone, *tasks))
    return "generated" if generated else "real"

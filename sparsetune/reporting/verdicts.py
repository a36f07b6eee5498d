"""Whether a claim holds: pairs of runs, the difference it is about, its noise, the verdict.

A cell is one backbone and task, with one value for left and for right from each seed. What does
not count is left out by name and with the reason.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, get_args

import pandas as pd

from sparsetune.config.claim import Claim
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.intervals import Interval, over_seeds, over_tasks, widened_to
from sparsetune.reporting.load import Key, is_generated
from sparsetune.reporting.savings import Unit, saved_inference, saved_shares, trained_shares
from sparsetune.reporting.tickets import KeptUnits, share_in_common

Verdict = Literal["holds", "fails", "within noise", "not tested at this scale"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Scale = Literal["published", "real", "generated"]
"""Where a cell stands, from the paper's own backbones and tasks down."""
Pair = tuple[Any, Any]
"""Left and right run of one seed, rows of their groups."""


@dataclass(frozen=True)
class Evidence:
    """Everything a suite has to say.

    Attributes:
        groups: (backbone, task, method) -> its finished runs, a line a seed.
        architectures: backbone id -> architecture.
        tickets: what the suite's tickets keep.
        pretraining_macs: of the backbones that are pre-trained here.
        over_examples: pairs of runs cell by cell -> the interval of their mean difference in
            points, left less right, if other examples were drawn; None where the metric cannot
            be drawn again.
    """

    groups: Mapping[Key, pd.DataFrame]
    architectures: Mapping[str, str]
    tickets: Sequence[KeptUnits]
    pretraining_macs: Mapping[str, int]
    over_examples: Callable[[Sequence[Sequence[Pair]]], Interval | None]


@dataclass(frozen=True)
class Cell:
    """What one backbone and task say.

    Attributes:
        backbone: id, of left.
        task: id, or what stands for several.
        left: one value per seed, in the quantity's unit.
        right: likewise; the claim's number where it names one.
        pairs: of runs, one per seed, where one method's score is compared with another's.
        collapsed: how many of the runs gave every example the same answer.
        one_task: False where ``task`` stands for several, or for none.
    """

    backbone: str
    task: str
    scale: Scale
    seeds: tuple[int, ...]
    left: tuple[float, ...]
    right: tuple[float, ...]
    pairs: tuple[Pair, ...] = ()
    collapsed: int = 0
    one_task: bool = True

    @property
    def differences(self) -> list[float]:
        """Left less right, pair by pair."""
        return [one - other for one, other in zip(self.left, self.right, strict=True)]


@dataclass(frozen=True)
class Judgement:
    """What became of a claim.

    Attributes:
        reason: in one sentence.
        scale: of the cells that decide; None if none does.
        cells: that decide, or that were measured although they cannot.
        interval: of the mean difference over the cells; None without cells.
        over_tasks: the same with the tasks as a sample of all tasks; None unless the seeds decide
            and there are several cells.
        left_out: reason -> the places that do not count for it.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    scale: Scale | None = None
    cells: tuple[Cell, ...] = ()
    interval: Interval | None = None
    over_tasks: Interval | None = None
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """Give a claim its verdict.

    Cells of the paper's own backbones and tasks decide alone if there are any; else those of other
    real tasks; else generated ones. Generated and real tasks are never mixed.
    """
    cells, left_out = _cells_of(claim, evidence)
    scale = next((one for one in get_args(Scale) if any(c.scale == one for c in cells)), None)
    if scale is None:
        reason = _why_nothing(claim, evidence, left_out)
        return Judgement(claim, "not tested at this scale", reason, left_out=left_out)
    chosen = tuple(cell for cell in cells if cell.scale == scale)
    smaller = [f"{cell.backbone}/{cell.task}" for cell in cells if cell.scale != scale]
    if smaller:
        left_out = {**left_out, "a smaller scale than what decides": smaller}
    if claim.only_there and scale != "published":
        reason = claim.only_there
        return Judgement(claim, "not tested at this scale", reason, cells=chosen, left_out=left_out)
    interval, wider = _interval_of(claim, chosen, evidence), None
    if interval.over == "seeds" and len(chosen) > 1:
        wider = over_tasks([cell.differences for cell in chosen])
    verdict, reason = _decide(claim, interval, chosen)
    return Judgement(claim, verdict, reason, scale, chosen, interval, wider, left_out)


def _interval_of(claim: Claim, cells: Sequence[Cell], evidence: Evidence) -> Interval:
    """The mean difference over the cells, at least one, with its noise.

    Counted quantities have none. Else the seeds tell it where every cell has two; else the spread
    between the tasks; neither is narrower than the noise of the examples, where that is known,
    and it alone is left for one pair of runs.
    """
    differences = [cell.differences for cell in cells]
    if claim.measure.counted:
        mean = statistics.fmean(map(statistics.fmean, differences))
        return Interval(mean, mean, mean, "nothing")
    pairs = [cell.pairs for cell in cells]
    examples = evidence.over_examples(pairs) if all(pairs) else None
    if len(cells) == 1 == len(differences[0]):
        return examples or Interval(differences[0][0], None, None, "nothing")
    found = (over_seeds if min(map(len, differences)) > 1 else over_tasks)(differences)
    return widened_to(found, examples) if examples else found


def allowed(claim: Claim) -> tuple[float, float]:
    """Where the difference left - right must lie, ends included except for ``above``.

    In the quantity's unit; infinite where there is no end.
    """
    low = -math.inf if claim.relation == "at-most" else 0.0 - claim.tolerance
    return low, claim.tolerance if claim.relation in ("at-most", "within") else math.inf


def _decide(claim: Claim, interval: Interval, cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """What follows from the interval of the mean difference of cells, and why in one sentence.

    The claim holds if the whole interval is allowed, and fails if nothing of it is.
    """
    if interval.low is None:
        return "within noise", "a single value cannot decide: its noise is not known"
    low, high = allowed(claim)
    strict = claim.relation == "above"
    lower, upper = interval.ends
    inside = lower >= low and upper <= high and not (strict and lower == 0)
    outside = upper < low or lower > high or (strict and upper <= 0)
    verdict: Verdict = "holds" if inside else "fails" if outside else "within noise"
    return verdict, _how(claim, interval, cells)


def _how(claim: Claim, interval: Interval, cells: Sequence[Cell]) -> str:
    fewest, most = (pick(len(cell.seeds) for cell in cells) for pick in (min, max))
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    places = f"{len(cells)} places" if len(cells) > 1 else "one place"
    if claim.measure.counted:
        low, high = allowed(claim)
        single = [statistics.fmean(cell.differences) for cell in cells]
        good = sum(low <= one <= high for one in single)
        return f"counted, without noise; so in {good} of {len(cells)}"
    widened = ", widened to the noise of the examples" if interval.widened else ""
    match interval.over:
        case "seeds":
            return f"spread of {seeds} seeds in {places}{widened}"
        case "tasks":
            return f"spread of {places}, {seeds} seed{'s' if most > 1 else ''} each{widened}"
    return "one pair of runs; noise of the examples only, not of seeds"


def _why_nothing(claim: Claim, evidence: Evidence, left_out: Mapping[str, Sequence[str]]) -> str:
    run = {key[2] for key in evidence.groups}
    missing = [method for method in claim.methods if method not in run]
    if missing:
        return f"no run of {' or '.join(missing)} in this suite"
    if left_out:
        return "; ".join(left_out)
    if claim.twins:
        return f"no run on {' or '.join(claim.twins)} in this suite"
    return f"no run of {claim.left} on {' or '.join(claim.architectures)} in this suite"


class _LeftOutError(Exception):
    """These runs do not count: which ones, and why."""

    def __init__(self, place: Iterable[str], reason: str) -> None:
        super().__init__(reason)
        self.place, self.reason = "/".join(place), reason


def _cells_of(claim: Claim, evidence: Evidence) -> tuple[list[Cell], dict[str, list[str]]]:
    """Collect the cells of a claim in the suite's order; and reason -> the places left out."""
    own = [
        key
        for key in evidence.groups
        if key[2] == claim.left
        and (not claim.architectures or evidence.architectures[key[0]] in claim.architectures)
        and (claim.twins is None or key[0] in claim.twins)
    ]
    make: Callable[..., Cell] = _runs_cell
    places: Iterable[Any] = own
    if claim.measure.group == "tickets" or claim.quantity == "pretraining-macs-saved":
        make = _tickets_cell if claim.measure.group == "tickets" else _pretraining_cell
        places = dict.fromkeys(key[0] for key in own)
    cells: list[Cell] = []
    left_out: dict[str, list[str]] = {}
    for place in places:
        try:
            cells.append(make(claim, place, evidence))
        except _LeftOutError as error:
            left_out.setdefault(error.reason, []).append(error.place)
    return cells, left_out


def _runs_cell(claim: Claim, key: Key, evidence: Evidence) -> Cell:
    backbone, task, _ = key
    keys = [key]
    if isinstance(claim.right, str):
        keys.append(((claim.twins or {}).get(backbone, backbone), task, claim.right))
    sides = [_group(evidence, one) for one in keys]
    _check_settings(claim, keys, evidence)
    references: list[Any] = [None] * len(keys)
    if claim.measure.to_reference:
        references = [_group(evidence, (*one[:2], REFERENCE_METHOD)) for one in keys]
    if claim.quantity == "seconds-saved":
        timed = pd.concat([*sides, *references])["devices"]
        if len(names := sorted({trained for trained, _ in timed})) > 1:
            raise _LeftOutError(key[:2], f"timed on different devices: {', '.join(names)}")
    values = [_values(claim.quantity, *one) for one in zip(sides, references, strict=True)]
    right = values[-1] if claim.number is None else claim.number
    pairs = pd.DataFrame({"left": values[0], "right": right}).dropna()
    if pairs.empty:
        raise _LeftOutError((backbone, task), "no seed for which both are defined")
    paired = [side[side["seed"].isin(pairs.index)] for side in sides]
    scored = claim.quantity == "score"
    runs = [list(side.itertuples()) for side in paired]
    return Cell(
        backbone, task, _scale(claim, backbone, (task,)), tuple(pairs.index), tuple(pairs["left"]),
        tuple(pairs["right"]), tuple(zip(*runs, strict=True)) if scored and len(keys) > 1 else (),
        collapsed=sum(sum(side["collapsed"]) for side in paired) if scored else 0,
    )  # fmt: skip


def _group(evidence: Evidence, key: Key) -> pd.DataFrame:
    if key not in evidence.groups:
        raise _LeftOutError(key[:2], f"no run of {key[2]}")
    return evidence.groups[key]


def _values(quantity: str, runs: pd.DataFrame, reference: pd.DataFrame | None) -> pd.Series:
    """Value by seed, NaN where it is undefined."""
    found: Sequence[float | None]
    match quantity:
        case "score":
            found = list(runs["score"])
        case "inference-macs-saved" | "backbone-macs-saved":
            found = saved_inference(runs, without_update=quantity == "backbone-macs-saved")
        case "trained-share":
            found = trained_shares(runs, reference)
        case _:
            unit: Unit = "seconds" if quantity == "seconds-saved" else "macs"
            found = saved_shares(runs, reference, unit)
    return 100 * pd.Series(found, runs["seed"], dtype=float)


def _check_settings(claim: Claim, keys: Iterable[Key], evidence: Evidence) -> None:
    for need in claim.requires:
        for key in (key for key in keys if key[2] == need.method):
            for found in evidence.groups[key]["settings"]:
                if not need.met_by(found):
                    told = f"{need.setting} is {need.found_in(found)}, not {need.value}"
                    raise _LeftOutError(key[:2], f"{need.otherwise} ({told})")


def _pretraining_cell(claim: Claim, backbone: str, evidence: Evidence) -> Cell:
    macs, dense = evidence.pretraining_macs, (claim.twins or {})[backbone]
    for name in (backbone, dense):
        if name not in macs:
            raise _LeftOutError((backbone,), f"{name} is not pre-trained in this suite")
    saved = 100 * (1 - macs[backbone] / macs[dense])
    scale = _scale(claim, backbone, ())
    right = (float(claim.right),)
    return Cell(backbone, "pre-training", scale, (0,), (saved,), right, one_task=False)


def _tickets_cell(claim: Claim, backbone: str, evidence: Evidence) -> Cell:
    """What the tickets of all tasks have in common, seed by seed."""
    own = [key for key in evidence.groups if (key[0], key[2]) == (backbone, claim.left)]
    _check_settings(claim, own, evidence)
    recipes = {recipe for key in own for recipe in evidence.groups[key]["ticket"]}
    tasks = [task for _, task, _ in own]
    unit = claim.quantity.partition("-")[0]
    shares: dict[int, list[float]] = {}
    chosen = [
        one
        for one in evidence.tickets
        if one.backbone == backbone and one.recipe in recipes and one.task in tasks
    ]
    for one, other in combinations(chosen, 2):
        if one.seed == other.seed:
            share, chance = share_in_common(getattr(one, unit), getattr(other, unit))
            shares.setdefault(one.seed, []).append(100 * (share - chance))
    if not shares:
        raise _LeftOutError((backbone,), f"no tickets of {claim.left} on two tasks")
    seeds = tuple(sorted(shares))
    means = tuple(statistics.fmean(shares[seed]) for seed in seeds)
    right = (float(claim.right),) * len(seeds)
    told = f"between {len(tasks)} tasks"
    return Cell(backbone, told, _scale(claim, backbone, tasks), seeds, means, right, one_task=False)


def _scale(claim: Claim, backbone: str, tasks: Sequence[str]) -> Scale:
    if backbone in claim.backbones and set(tasks) <= set(claim.tasks):
        return "published"
    return "generated" if is_generated((backbone, *tasks)) else "real"

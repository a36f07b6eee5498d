"""Whether a claim holds: the difference it is about, the noise of that difference, the verdict."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sparsetune.config.claim import Claim
from sparsetune.reporting.evidence import SCALES, Cell, Evidence, Scale, cells_of
from sparsetune.reporting.intervals import (
    Interval,
    over_examples,
    over_seeds,
    over_tasks,
    widened_to,
)

Verdict = Literal["holds", "fails", "within noise", "not tested at this scale"]
VERDICTS: tuple[Verdict, ...] = ("holds", "fails", "within noise", "not tested at this scale")


@dataclass(frozen=True)
class Judgement:
    """What became of a claim.

    Attributes:
        claim: which.
        verdict: see :data:`VERDICTS`.
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

    Args:
        claim: which.
        evidence: what the suite has.

    Returns:
        The verdict with the numbers that decide it.

    Raises:
        DataError: a value is missing from a record.
    """
    cells, left_out = cells_of(claim, evidence)
    scale = next((one for one in SCALES if any(cell.scale == one for cell in cells)), None)
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
    interval = interval_of(claim, chosen)
    wider = None
    if interval.over == "seeds" and len(chosen) > 1:
        wider = over_tasks([cell.differences for cell in chosen])
    verdict, reason = decide(claim, interval, chosen)
    return Judgement(claim, verdict, reason, scale, chosen, interval, wider, left_out)


def interval_of(claim: Claim, cells: Sequence[Cell]) -> Interval:
    """The mean difference over the cells, with its noise.

    Counted quantities have none. Else the seeds tell it where every cell has two; else the spread
    between the tasks; neither is narrower than the noise of the examples, where that is known,
    and it alone is left for one pair of runs.

    Args:
        claim: what is compared.
        cells: at least one.
    """
    differences = [cell.differences for cell in cells]
    mean = statistics.fmean(statistics.fmean(cell) for cell in differences)
    if claim.measure.counted:
        return Interval(mean, mean, mean, "nothing")
    ranges = [(cell.left_range, cell.right_range) for cell in cells]
    examples = over_examples(ranges) if all(map(all, ranges)) else None
    if len(cells) == 1 == len(differences[0]):
        return examples or Interval(mean, None, None, "nothing")
    spread = over_seeds if min(map(len, differences)) > 1 else over_tasks
    found = spread(differences)
    return widened_to(found, examples) if examples else found


def allowed(claim: Claim) -> tuple[float, float]:
    """Where the difference left - right must lie, ends included except for ``above``.

    Args:
        claim: which.

    Returns:
        Lower and upper end in the quantity's unit; infinite where there is none.
    """
    match claim.relation:
        case "above":
            return 0.0, math.inf
        case "at-least":
            return -claim.tolerance, math.inf
        case "at-most":
            return -math.inf, claim.tolerance
    return -claim.tolerance, claim.tolerance


def decide(claim: Claim, interval: Interval, cells: Sequence[Cell]) -> tuple[Verdict, str]:
    """Hold the interval of the difference against what the claim allows.

    Args:
        claim: which.
        interval: of the mean difference.
        cells: that it is of.

    Returns:
        ``holds`` if the whole interval is allowed, ``fails`` if nothing of it is, else
        ``within noise``; and the reason in one sentence.
    """
    if interval.low is None:
        return "within noise", "a single value cannot decide: its noise is not known"
    low, high = allowed(claim)
    strict = claim.relation == "above"
    inside = interval.low >= low and interval.high <= high and not (strict and interval.low == 0)
    outside = interval.high < low or interval.low > high or (strict and interval.high <= 0)
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

"""A claim and its verdict in words: what was measured, what is claimed, how it is checked."""

import statistics
from collections.abc import Callable, Sequence

from sparsetune.config.claim import Claim
from sparsetune.reporting.render import ABSENT
from sparsetune.reporting.untested import Missing
from sparsetune.reporting.verdicts import Judgement, Scale, allowed

SCALES: dict[Scale, str] = {
    "published": "the paper's own backbones and tasks",
    "real": "real, but other backbones or tasks than the paper's",
    "generated": "small scale: generated tasks or backbones",
}
_RELATIONS = {
    "above": (">", "above", ""),
    "at-least": ("≥", "at least", "less"),
    "at-most": ("≤", "at most", "plus"),
    "within": ("±", "equal to", "give or take"),
}
"""How a relation is printed: its sign, in words, and the word before a tolerance."""


def measured(judgement: Judgement) -> str:
    """What was measured: a difference, or the value that a number is claimed of."""
    interval, claim = judgement.interval, judgement.claim
    if interval is None:
        return ABSENT
    shift, show = _shown(claim)
    between = ""
    if interval.over != "nothing":
        ends = [show(end + shift) for end in interval.ends]
        between = f" [{', '.join(ends)}]"
    return f"{show(interval.mean + shift)}{between} {claim.measure.unit}"


def by_place(judgement: Judgement) -> str:
    """The same at each place, where several decide: their mean may hide that they disagree."""
    cells = judgement.cells
    if judgement.interval is None or len(cells) < 2:
        return ""
    shift, show = _shown(judgement.claim)
    alone = len({cell.backbone for cell in cells}) == 1
    told = [
        f"{cell.task if alone else f'{cell.backbone}/{cell.task}'} "
        f"{show(statistics.fmean(cell.differences) + shift)}"
        for cell in cells
    ]
    return ", ".join(told)


def _shown(claim: Claim) -> tuple[float, Callable[[float], str]]:
    """What to add to a difference, and how to print the sum."""
    if claim.number is None:
        return 0.0, signed
    # Against a number the value itself is the clearer thing to print.
    return claim.number, ("{:z.2f}" if claim.measure.counted else "{:z.1f}").format


def claimed(claim: Claim) -> str:
    """What a claim demands, in the terms of :func:`measured`."""
    unit = claim.measure.unit
    what = "difference" if claim.twins else f"{claim.left} less {claim.right}"
    if claim.relation == "within":
        room = f"± {number(claim.tolerance)} {unit}"
        return f"{what} within {room}" if claim.number is None else f"{number(claim.number)} {room}"
    low, high = allowed(claim)
    end = high if claim.relation == "at-most" else low
    if claim.number is None:
        return f"{what} {_RELATIONS[claim.relation][0]} {signed(end)} {unit}"
    return f"{_RELATIONS[claim.relation][0]} {number(end + claim.number)} {unit}"


def number(value: float) -> str:
    """A claimed number, as people write it."""
    return f"{round(value, 2 if abs(value) < 2 else 1) + 0.0:g}"


def signed(value: float) -> str:
    """A difference with its sign and one decimal."""
    return f"{value:+z.1f}" if round(value, 1) else "0"


def details(judgement: Judgement) -> list[str]:
    """What is said of a claim beside its sentence, its verdict and its numbers."""
    claim = judgement.claim
    lines = [
        f"Source: {claim.source}.",
        f"Checked as: {_statement(claim)}. Published scale: {', '.join(claim.backbones)} on "
        f"{', '.join(claim.tasks)}.",
    ]
    if judgement.scale is not None:
        lines.append(f"Decided by: {judgement.reason}. Scale: {SCALES[judgement.scale]}.")
    if judgement.over_tasks is not None:
        low, high = map(signed, judgement.over_tasks.ends)
        lines.append(
            "With the places as a sample of all places the interval of the difference is "
            f"[{low}, {high}] {claim.measure.unit}."
        )
    return lines


def _statement(claim: Claim) -> str:
    """The expression that is tested, in words."""
    unit = claim.measure.unit
    right = f"`{claim.right}`" if claim.number is None else f"{number(claim.number)} {unit}"
    _, relation, word = _RELATIONS[claim.relation]
    told = f"{claim.measure.heading}, of `{claim.left}`, {relation} {right}"
    if claim.tolerance:
        told += f" {word} {number(claim.tolerance)} {unit}, since {claim.because}"
    twins = [f"{one} against {other}" for one, other in (claim.twins or {}).items()]
    return told + (f" ({', '.join(twins)})" if twins else "")


def needed(judgement: Judgement, missing: Missing) -> str:
    """What would test a claim: the missing methods or backbones, and the suites that have it."""
    names = " and ".join(f"`{name}`" for name in missing.methods)
    if missing.backbones:
        twins = [
            f"`{one}` beside `{other}`" for one, other in (judgement.claim.twins or {}).items()
        ]
        names = _either(twins or [f"`{name}`" for name in missing.backbones])
    told = f"Needs {names}" if names else judgement.reason.capitalize()
    if missing.backbones and judgement.claim.only_there:
        told += f", since {judgement.claim.only_there}"
    suites = _either([f"`{name}`" for name in missing.suites])
    return f"{told}; {f'suite {suites} has it' if suites else 'no suite of the catalogue has it'}"


def _either(names: Sequence[str]) -> str:
    """One of several, as a sentence lists them."""
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))

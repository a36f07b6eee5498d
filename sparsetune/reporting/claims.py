"""The claims of both papers with their verdicts: one page, one line each, then the numbers.

Nothing is judged here; see ``verdicts``.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean as _mean
from typing import Any

import pandas as pd

from sparsetune.config.claim import Claim
from sparsetune.records import write_text_atomically
from sparsetune.reporting.render import ABSENT, Column, page, rendered, table_of, text_column
from sparsetune.reporting.verdicts import VERDICTS, Judgement, allowed

_UNTESTED = VERDICTS[-1]
_SCALES = {
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
_NOTES = (
    "A claim holds if the whole 95 % interval is on its side, fails if nothing of it is, and is "
    "within noise otherwise. One interval in twenty misses the true value.",
    "The interval is of the mean difference of pairs: same backbone, task and seed. It comes from "
    "the spread of the seeds where every place (a backbone and task) has two, else from the spread "
    "between places, and is never narrower than the noise of the examples, which is all that a "
    "single pair has. Counted quantities have no noise. More seeds narrow an interval.",
    "At small scale a verdict is about what a method does on small backbones and generated tasks. "
    "It confirms or refutes the mechanism there, and no number of the papers.",
)


def write_claims(suite: str, judgements: Sequence[Judgement], stem: Path) -> None:
    """Write ``<stem>.md``, ``.csv`` and ``.html`` of a suite, each atomically.

    ``stem`` is in the suite's folder: links lead to its tables.
    """
    lines = pd.DataFrame([_as_line(one) for one in judgements], dtype=object)
    texts = {
        "md": page("claims.md", **_content(suite, judgements, "md")),
        "html": page("claims.html", **_content(suite, judgements, "html")),
        "csv": rendered([Column("", (), lines)], "csv"),
    }
    for suffix, text in texts.items():
        write_text_atomically(stem.with_name(f"{stem.name}.{suffix}"), text)


def _as_line(judgement: Judgement) -> dict[str, Any]:
    """One claim as a flat line: None where there is nothing, differences in the claim's unit."""
    claim, cells = judgement.claim, judgement.cells
    interval, wider = judgement.interval, judgement.over_tasks
    ends = ("mean", "low", "high")
    return {
        "id": claim.id, "claim": claim.says, "source": claim.source,
        "verdict": judgement.verdict, "reason": judgement.reason, "scale": judgement.scale,
        "quantity": claim.quantity, "unit": claim.measure.unit,
        "left": claim.left, "right": claim.right,
        "relation": claim.relation, "tolerance": claim.tolerance,
        "left_mean": _mean(_mean(cell.left) for cell in cells) if cells else None,
        "right_mean": _mean(_mean(cell.right) for cell in cells) if cells else None,
        **{f"difference_{end}": getattr(interval, end, None) for end in ends},
        "interval_over": interval and interval.over,
        "degrees_of_freedom": interval and interval.freedom,
        **{f"difference_{end}_over_tasks": getattr(wider, end, None) for end in ends[1:]},
        "places_count": len(cells),
        "pairs_count": sum(len(cell.seeds) for cell in cells),
    }  # fmt: skip


def as_data(judgement: Judgement) -> dict[str, Any]:
    """One claim with everything that decides it, as JSON-like data."""
    cells = [{**asdict(cell), "differences": cell.differences} for cell in judgement.cells]
    left_out = {reason: list(places) for reason, places in judgement.left_out.items()}
    return {**_as_line(judgement), "cells": cells, "left_out": left_out}


def counts(judgements: Iterable[Judgement]) -> dict[str, int]:
    """How many claims have each verdict; every verdict is there."""
    found = Counter(judgement.verdict for judgement in judgements)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _content(suite: str, judgements: Sequence[Judgement], form: str) -> dict[str, Any]:
    """What the page says, in the terms of its template."""

    def table(columns: Sequence[Column]) -> Any:
        return table_of(columns) if form == "html" else rendered(columns, "md")

    def named(chosen: Sequence[Judgement]) -> Column:
        texts, targets = [one.claim.says for one in chosen], [f"#{one.claim.id}" for one in chosen]
        return _leading("claim", texts, targets, form)

    tested = [one for one in judgements if one.verdict != _UNTESTED]
    untested = [one for one in judgements if one.verdict == _UNTESTED]
    return {
        "title": f"Claims of the papers, in suite {suite}",
        "overview": table([
            named(tested),
            text_column("verdict", "", [one.verdict for one in tested], strong=True),
            text_column("measured", "", list(map(_measured, tested))),
            text_column("claimed", "", list(map(_claimed, tested))),
            text_column("decided by", "", [one.reason for one in tested]),
            text_column("source", "", [one.claim.source for one in tested]),
        ]),
        "summary": _summary(judgements),
        "notes": _NOTES,
        "untested": untested and table([
            named(untested),
            text_column("why not", "", [one.reason for one in untested]),
            text_column("source", "", [one.claim.source for one in untested]),
        ]),
        "claims": [
            {
                "id": one.claim.id,
                "told": _told(one),
                "cells": one.cells and table(_cells(one, form)),
                "left_out": [
                    f"Left out: {', '.join(places)}: {reason}."
                    for reason, places in one.left_out.items()
                ],
            }
            for one in judgements
        ],
    }  # fmt: skip


def _summary(judgements: Sequence[Judgement]) -> str:
    plural = {"holds": "hold", "fails": "fail"}
    told = [
        f"{count} {verdict if count == 1 else plural.get(verdict, verdict)}"
        for verdict, count in counts(judgements).items()
    ]
    scales = dict.fromkeys(_SCALES[one.scale] for one in judgements if one.scale)
    where = f" Decided on {'; '.join(scales)}." if scales else ""
    return f"Of {len(judgements)} claims: {', '.join(told)}.{where}"


def _leading(
    heading: str, texts: Sequence[str], targets: Sequence[str | None], form: str
) -> Column:
    """A column whose cells lead somewhere, if they have a target."""
    if form == "html":
        return text_column(heading, "", texts, targets=targets)
    pairs = zip(texts, targets, strict=True)
    return text_column(heading, "", [f"[{text}]({to})" if to else text for text, to in pairs])


def _measured(judgement: Judgement) -> str:
    """What was measured: a difference, or the value that a number is claimed of."""
    interval, claim = judgement.interval, judgement.claim
    if interval is None:
        return ABSENT
    # Against a number the value itself is the clearer thing to print.
    shift, show = 0.0, _signed
    if claim.number is not None:
        shift, show = claim.number, ("{:z.2f}" if claim.measure.counted else "{:z.1f}").format
    between = ""
    if interval.over != "nothing":
        ends = [show(end + shift) for end in interval.ends]
        between = f" [{', '.join(ends)}]"
    return f"{show(interval.mean + shift)}{between} {claim.measure.unit}"


def _claimed(judgement: Judgement) -> str:
    """What the claim demands, in the terms of :func:`_measured`."""
    claim, unit = judgement.claim, judgement.claim.measure.unit
    what = "difference" if claim.twins else f"{claim.left} less {claim.right}"
    if claim.relation == "within":
        room = f"± {_number(claim.tolerance)} {unit}"
        return (
            f"{what} within {room}" if claim.number is None else f"{_number(claim.number)} {room}"
        )
    low, high = allowed(claim)
    end = high if claim.relation == "at-most" else low
    if claim.number is None:
        return f"{what} {_RELATIONS[claim.relation][0]} {_signed(end)} {unit}"
    return f"{_RELATIONS[claim.relation][0]} {_number(end + claim.number)} {unit}"


def _number(value: float) -> str:
    return f"{round(value, 2 if abs(value) < 2 else 1) + 0.0:g}"


def _signed(value: float) -> str:
    return f"{value:+z.1f}" if round(value, 1) else "0"


def _told(judgement: Judgement) -> list[str]:
    """What is said of a claim before its numbers."""
    claim = judgement.claim
    lines = [
        f"{claim.says} ({claim.source})",
        f"Checked as: {_statement(claim)}. Published scale: {', '.join(claim.backbones)} on "
        f"{', '.join(claim.tasks)}.",
    ]
    if judgement.interval is None or judgement.scale is None:
        return [*lines, f"{judgement.verdict.capitalize()}: {judgement.reason}."]
    told = (
        f"{judgement.verdict.capitalize()}: {_measured(judgement)}, claimed {_claimed(judgement)}"
    )
    lines.append(f"{told}; {judgement.reason}. Scale: {_SCALES[judgement.scale]}.")
    if judgement.over_tasks is not None:
        low, high = map(_signed, judgement.over_tasks.ends)
        lines.append(
            "With the places as a sample of all places the interval of the difference is "
            f"[{low}, {high}] {claim.measure.unit}."
        )
    return lines


def _statement(claim: Claim) -> str:
    """The expression that is tested, in words."""
    unit = claim.measure.unit
    right = f"`{claim.right}`" if claim.number is None else f"{_number(claim.number)} {unit}"
    _, relation, word = _RELATIONS[claim.relation]
    told = f"{claim.measure.heading}, of `{claim.left}`, {relation} {right}"
    if claim.tolerance:
        told += f" {word} {_number(claim.tolerance)} {unit}, since {claim.because}"
    twins = [f"{one} against {other}" for one, other in (claim.twins or {}).items()]
    return told + (f" ({', '.join(twins)})" if twins else "")


def _cells(judgement: Judgement, form: str) -> list[Column]:
    cells, claim = judgement.cells, judgement.claim
    pages = [f"tables/{c.backbone}/{c.task}.{form}" if c.one_task else None for c in cells]
    twins = claim.twins or {}
    backbones = [
        ", ".join(filter(None, (cell.backbone, twins.get(cell.backbone)))) for cell in cells
    ]
    right = str(claim.right) if claim.number is None else _number(claim.number)
    columns = [
        text_column("backbone", "", backbones),
        _leading("task", [cell.task for cell in cells], pages, form),
        Column(claim.left, [f"{_mean(cell.left):z.2f}" for cell in cells]),
        Column(f"against {right}", [f"{_mean(cell.right):z.2f}" for cell in cells]),
        Column("difference", [f"{_mean(cell.differences):+z.2f}" for cell in cells]),
        Column("pairs", [str(len(cell.seeds)) for cell in cells]),
    ]
    if any(cell.collapsed for cell in cells):
        columns.append(Column("collapsed runs", [str(cell.collapsed or ABSENT) for cell in cells]))
    return columns

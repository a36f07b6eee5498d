"""The claims of both papers with their verdicts: one page, one line each, then the numbers.

Nothing is judged here; see ``verdicts``.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from sparsetune.config.claim import Claim
from sparsetune.records import write_text_atomically
from sparsetune.reporting.render import ABSENT, Column, page, rendered, table_of, text_column, way
from sparsetune.reporting.verdicts import VERDICTS, Cell, Judgement, allowed

_UNTESTED = VERDICTS[-1]
_SCALES = {
    "published": "the paper's own backbones and tasks",
    "real": "real, but other backbones or tasks than the paper's",
    "generated": "small scale: generated tasks or backbones",
}
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
    lines = [as_line(one) for one in judgements]
    texts = {
        "md": page("claims.md", **_content(suite, judgements, stem.parent, "md")),
        "html": page("claims.html", **_content(suite, judgements, stem.parent, "html")),
        "csv": rendered([Column("", (), pd.DataFrame(lines, dtype=object))], "csv"),
    }
    for suffix, text in texts.items():
        write_text_atomically(stem.with_name(f"{stem.name}.{suffix}"), text)


def as_line(judgement: Judgement) -> dict[str, Any]:
    """One claim as a flat line: None where there is nothing, differences in the claim's unit."""
    claim, cells, interval = judgement.claim, judgement.cells, judgement.interval
    wider = judgement.over_tasks
    left, right = (
        statistics.fmean(statistics.fmean(getattr(cell, side)) for cell in cells) if cells else None
        for side in ("left", "right")
    )
    return {
        "id": claim.id,
        "claim": claim.says,
        "source": claim.source,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "scale": judgement.scale,
        "quantity": claim.quantity,
        "unit": claim.measure.unit,
        "left": claim.left,
        "right": claim.right,
        "relation": claim.relation,
        "tolerance": claim.tolerance,
        "left_mean": left,
        "right_mean": right,
        "difference_mean": interval and interval.mean,
        "difference_low": interval and interval.low,
        "difference_high": interval and interval.high,
        "interval_over": interval and interval.over,
        "degrees_of_freedom": interval and interval.freedom,
        "difference_low_over_tasks": wider and wider.low,
        "difference_high_over_tasks": wider and wider.high,
        "places_count": len(cells),
        "pairs_count": sum(len(cell.seeds) for cell in cells),
    }


def as_data(judgement: Judgement) -> dict[str, Any]:
    """One claim with everything that decides it, as JSON-like data."""
    cells = [{**asdict(cell), "differences": cell.differences} for cell in judgement.cells]
    left_out = {reason: list(places) for reason, places in judgement.left_out.items()}
    return {**as_line(judgement), "cells": cells, "left_out": left_out}


def counts(judgements: Iterable[Judgement]) -> dict[str, int]:
    """How many claims have each verdict; every verdict is there."""
    found = Counter(judgement.verdict for judgement in judgements)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _content(
    suite: str, judgements: Sequence[Judgement], folder: Path, form: str
) -> dict[str, Any]:
    """What the page says, in the terms of its template."""

    def table(columns: Sequence[Column]) -> Any:
        return table_of(columns, folder) if form == "html" else rendered(columns, "md")

    tested = [one for one in judgements if one.verdict != _UNTESTED]
    untested = [one for one in judgements if one.verdict == _UNTESTED]
    return {
        "title": f"Claims of the papers, in suite {suite}",
        "overview": table([
            _named(tested, form),
            text_column("verdict", "", [one.verdict for one in tested], strong=True),
            text_column("measured", "", list(map(measured, tested))),
            text_column("claimed", "", list(map(claimed, tested))),
            text_column("decided by", "", [one.reason for one in tested]),
            text_column("source", "", [one.claim.source for one in tested]),
        ]),
        "summary": _summary(judgements),
        "notes": _NOTES,
        "untested": untested and table([
            _named(untested, form),
            text_column("why not", "", [one.reason for one in untested]),
            text_column("source", "", [one.claim.source for one in untested]),
        ]),
        "claims": [
            {
                "id": one.claim.id,
                "told": _told(one),
                "cells": one.cells and table(_cells(one, folder, form)),
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


def _named(judgements: Sequence[Judgement], form: str) -> Column:
    if form == "md":
        texts = [f"[{one.claim.says}](#{one.claim.id})" for one in judgements]
        return Column("claim", texts, left=True)
    targets = [f"#{one.claim.id}" for one in judgements]
    return Column("claim", [one.claim.says for one in judgements], left=True, targets=targets)


def measured(judgement: Judgement) -> str:
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


def claimed(judgement: Judgement) -> str:
    """What the claim demands, in the terms of :func:`measured`."""
    claim = judgement.claim
    difference = "difference" if claim.twins else f"{claim.left} less {claim.right}"
    what = "" if claim.number is not None else f"{difference} "
    return what + _bound(claim)


def _bound(claim: Claim) -> str:
    low, high = allowed(claim)
    if claim.relation == "within":
        if claim.number is not None:
            return f"{_number(claim.number)} ± {_number(claim.tolerance)} {claim.measure.unit}"
        return f"within ± {_number(claim.tolerance)} {claim.measure.unit}"
    sign, end = {"above": (">", low), "at-least": ("≥", low), "at-most": ("≤", high)}[
        claim.relation
    ]
    shift, show = (0.0, _signed) if claim.number is None else (claim.number, _number)
    return f"{sign} {show(end + shift)} {claim.measure.unit}"


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
    told = f"{judgement.verdict.capitalize()}: {measured(judgement)}, claimed {claimed(judgement)}"
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
    relation, word = {
        "above": ("above", ""),
        "at-least": ("at least", "less"),
        "at-most": ("at most", "plus"),
        "within": ("equal to", "give or take"),
    }[claim.relation]
    told = f"{claim.measure.heading}, of `{claim.left}`, {relation} {right}"
    if claim.tolerance:
        told += f" {word} {_number(claim.tolerance)} {unit}, since {claim.because}"
    twins = [f"{one} against {other}" for one, other in (claim.twins or {}).items()]
    return told + (f" ({', '.join(twins)})" if twins else "")


def _cells(judgement: Judgement, folder: Path, form: str) -> list[Column]:
    cells, claim = judgement.cells, judgement.claim
    pages = [
        folder / "tables" / cell.backbone / f"{cell.task}.{form}" if cell.one_task else None
        for cell in cells
    ]
    other = claim.twins or {}
    backbones = [
        ", ".join(filter(None, (one, other.get(one)))) for one in (c.backbone for c in cells)
    ]
    tasks = [cell.task for cell in cells]
    if form == "md":
        tasks = [
            f"[{task}]({way(target, folder)})" if target else task
            for task, target in zip(tasks, pages, strict=True)
        ]
    right = str(claim.right) if claim.number is None else _number(claim.number)

    def mean(heading: str, values: Callable[[Cell], Sequence[float]], show: str) -> Column:
        return Column(heading, [format(statistics.fmean(values(cell)), show) for cell in cells])

    columns = [
        Column("backbone", backbones, left=True),
        Column("task", tasks, left=True, targets=pages if form == "html" else ()),
        mean(claim.left, lambda cell: cell.left, "z.2f"),
        mean(f"against {right}", lambda cell: cell.right, "z.2f"),
        mean("difference", lambda cell: cell.differences, "+z.2f"),
        Column("pairs", [str(len(cell.seeds)) for cell in cells]),
    ]
    if any(cell.collapsed for cell in cells):
        columns.append(Column("collapsed runs", [str(cell.collapsed or ABSENT) for cell in cells]))
    return columns

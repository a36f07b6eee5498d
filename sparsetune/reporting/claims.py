"""The claims of both papers with their verdicts: one page, one line each, then the numbers.

Nothing is judged here; see ``verdicts``.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sparsetune.config.claim import Claim
from sparsetune.records import write_text_atomically
from sparsetune.reporting.columns import Column, way
from sparsetune.reporting.html import anchored, html_table, listed, page, paragraph
from sparsetune.reporting.layout import ABSENT, csv_text, markdown_lines, text_column
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
    """Write ``<stem>.md``, ``.csv`` and ``.html``, each atomically.

    Args:
        suite: id, for the heading.
        judgements: in the order to print.
        stem: path without suffix, in the suite's folder: links lead to its tables.
    """
    title = f"Claims of the papers, in suite {suite}"
    write_text_atomically(_with(stem, "md"), _markdown(title, judgements, stem.parent))
    write_text_atomically(_with(stem, "html"), _html(title, judgements, stem.parent))
    lines = [as_line(one) for one in judgements]
    fields = [(name, [line[name] for line in lines]) for name in lines[0]] if lines else []
    write_text_atomically(_with(stem, "csv"), csv_text([Column("", (), fields)]))


def as_line(judgement: Judgement) -> dict[str, Any]:
    """One claim as a flat line.

    Args:
        judgement: which.

    Returns:
        Field -> value; None where there is nothing. Differences are in the claim's unit.
    """
    claim, cells, interval = judgement.claim, judgement.cells, judgement.interval
    wider = judgement.over_tasks
    left, right = _means(cells) if cells else (None, None)
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


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def _markdown(title: str, judgements: Sequence[Judgement], folder: Path) -> str:
    tested, untested = _split(judgements)
    lines = [f"# {title}", "", *markdown_lines(_overview(tested, _markdown_link)), ""]
    lines += [_summary(judgements), ""]
    lines += [*(f"- {note}" for note in _NOTES), ""]
    if untested:
        lines += ["## Not tested at this scale", ""]
        lines += [*markdown_lines(_untested(untested, _markdown_link)), ""]
    for one in judgements:
        lines += [f"## {one.claim.id}", "", *(f"{text}\n" for text in _told(one))]
        if one.cells:
            lines += [*markdown_lines(_cells(one, folder, linked=True)), ""]
        lines += [f"- {text}" for text in _left_out(one)]
        lines += [""] if one.left_out else []
    return "\n".join(lines)


def _html(title: str, judgements: Sequence[Judgement], folder: Path) -> str:
    tested, untested = _split(judgements)
    parts = [html_table(_overview(tested, _plain, anchors=True), folder)]
    parts += [paragraph(_summary(judgements)), listed(_NOTES)]
    if untested:
        parts.append(anchored("not-tested", "Not tested at this scale"))
        parts.append(html_table(_untested(untested, _plain, anchors=True), folder))
    for one in judgements:
        parts += [anchored(one.claim.id, one.claim.id), *map(paragraph, _told(one))]
        if one.cells:
            parts.append(html_table(_cells(one, folder), folder))
        parts.append(listed(_left_out(one)))
    return page(title, parts)


def _split(judgements: Sequence[Judgement]) -> tuple[list[Judgement], list[Judgement]]:
    tested = [one for one in judgements if one.verdict != _UNTESTED]
    return tested, [one for one in judgements if one.verdict == _UNTESTED]


def _summary(judgements: Sequence[Judgement]) -> str:
    plural = {"holds": "hold", "fails": "fail"}
    told = [
        f"{count} {verdict if count == 1 else plural.get(verdict, verdict)}"
        for verdict, count in counts(judgements).items()
    ]
    scales = dict.fromkeys(_SCALES[one.scale] for one in judgements if one.scale)
    where = f" Decided on {'; '.join(scales)}." if scales else ""
    return f"Of {len(judgements)} claims: {', '.join(told)}.{where}"


def _markdown_link(judgement: Judgement) -> str:
    return f"[{judgement.claim.says}](#{judgement.claim.id})"


def _plain(judgement: Judgement) -> str:
    return judgement.claim.says


def _overview(
    judgements: Sequence[Judgement],
    name: Callable[[Judgement], str],
    *,
    anchors: bool = False,
) -> list[Column]:
    return [
        _named(judgements, name, anchors=anchors),
        replace(_texts("verdict", judgements, lambda one: one.verdict), strong=True),
        _texts("measured", judgements, measured),
        _texts("claimed", judgements, claimed),
        _texts("decided by", judgements, lambda one: one.reason),
        _texts("source", judgements, lambda one: one.claim.source),
    ]


def _untested(
    judgements: Sequence[Judgement],
    name: Callable[[Judgement], str],
    *,
    anchors: bool = False,
) -> list[Column]:
    return [
        _named(judgements, name, anchors=anchors),
        _texts("why not", judgements, lambda one: one.reason),
        _texts("source", judgements, lambda one: one.claim.source),
    ]


def _named(
    judgements: Sequence[Judgement], name: Callable[[Judgement], str], *, anchors: bool
) -> Column:
    targets = [f"#{one.claim.id}" for one in judgements] if anchors else ()
    return Column("claim", [name(one) for one in judgements], [], left=True, targets=targets)


def _texts(
    heading: str, judgements: Sequence[Judgement], tell: Callable[[Judgement], str]
) -> Column:
    return text_column(heading, heading, [tell(one) for one in judgements])


def measured(judgement: Judgement) -> str:
    """What was measured: a difference, or the value that a number was claimed of.

    Args:
        judgement: which.

    Returns:
        The mean and its interval, with the unit.
    """
    interval, claim = judgement.interval, judgement.claim
    if interval is None:
        return ABSENT
    # Against a number the value itself is the clearer thing to print.
    shift, show = (0.0, _signed)
    if claim.number is not None:
        shift, show = claim.number, (_two if claim.measure.counted else _one)
    between = ""
    if interval.over != "nothing":
        ends = [show(end + shift) for end in (interval.low, interval.high)]
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
    if judgement.interval is None:
        return [*lines, f"{judgement.verdict.capitalize()}: {judgement.reason}."]
    told = f"{judgement.verdict.capitalize()}: {measured(judgement)}, claimed {claimed(judgement)}"
    lines.append(f"{told}; {judgement.reason}. Scale: {_SCALES[judgement.scale]}.")
    wider = judgement.over_tasks
    if wider is not None:
        lines.append(
            "With the places as a sample of all places the interval of the difference is "
            f"[{_signed(wider.low)}, {_signed(wider.high)}] {claim.measure.unit}."
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


def _left_out(judgement: Judgement) -> list[str]:
    return [
        f"Left out: {', '.join(places)}: {reason}." for reason, places in judgement.left_out.items()
    ]


def _cells(judgement: Judgement, folder: Path, *, linked: bool = False) -> list[Column]:
    cells, claim = judgement.cells, judgement.claim
    pages = [_page(cell, folder, "md" if linked else "html") for cell in cells]
    tasks = [
        f"[{cell.task}]({way(target, folder)})" if linked and target else cell.task
        for cell, target in zip(cells, pages, strict=True)
    ]
    right = str(claim.right) if claim.number is None else _number(claim.number)

    def mean(values: Callable[[Cell], Sequence[float]], show: Callable[[float], str]) -> list[str]:
        return [show(statistics.fmean(values(cell))) for cell in cells]

    columns = [
        text_column("backbone", "", [_backbones(cell.backbone, claim.twins) for cell in cells]),
        Column("task", tasks, [], left=True, targets=() if linked else pages),
        Column(claim.left, mean(lambda cell: cell.left, _two), []),
        Column(f"against {right}", mean(lambda cell: cell.right, _two), []),
        Column("difference", mean(lambda cell: cell.differences, _two_signed), []),
        Column("pairs", [str(len(cell.seeds)) for cell in cells], []),
    ]
    if any(cell.collapsed for cell in cells):
        collapsed = [str(cell.collapsed or ABSENT) for cell in cells]
        columns.append(Column("collapsed runs", collapsed, []))
    return columns


def _backbones(backbone: str, twins: Mapping[str, str] | None) -> str:
    return f"{backbone}, {twins[backbone]}" if twins else backbone


def _page(cell: Cell, folder: Path, form: str) -> Path | None:
    return folder / "tables" / cell.backbone / f"{cell.task}.{form}" if cell.one_task else None


def _one(value: float) -> str:
    return f"{value:z.1f}"


def _two(value: float) -> str:
    return f"{value:z.2f}"


def _two_signed(value: float) -> str:
    return f"{value:+z.2f}"


def _means(cells: Sequence[Cell]) -> tuple[float, float]:
    return (
        statistics.fmean(statistics.fmean(cell.left) for cell in cells),
        statistics.fmean(statistics.fmean(cell.right) for cell in cells),
    )

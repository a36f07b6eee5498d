"""The claims of both papers with their verdicts: by paper, one sentence each, then the untested.

Nothing is judged here; see ``verdicts``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean as _mean
from typing import Any

import pandas as pd

from sparsetune.config.claim import PAPERS
from sparsetune.records import write_text_atomically
from sparsetune.reporting.forest import inline
from sparsetune.reporting.render import ABSENT, Column, page, rendered, table_of, text_column
from sparsetune.reporting.sentences import (
    SCALES,
    by_place,
    claimed,
    details,
    measured,
    needed,
    number,
)
from sparsetune.reporting.untested import Missing
from sparsetune.reporting.verdicts import VERDICTS, Cell, Judgement, Verdict, allowed

_UNTESTED = VERDICTS[-1]
_SIGNS: Mapping[Verdict, tuple[str, str]] = {
    "holds": ("✓", "hold"),
    "fails": ("✗", "fail"),
    "within noise": ("≈", "within noise"),
    "not tested at this scale": ("○", "not tested"),
}
"""How a verdict is marked, and what is said of several claims that have it."""
_NOTES = (
    "A claim holds if the whole 95 % interval is on its side, fails if nothing of it is, and is "
    "within noise otherwise. One interval in twenty misses the true value.",
    "The interval is of the mean difference of pairs: same backbone, task and seed. It comes from "
    "the spread of the seeds where every place (a backbone and task) has two, else from the spread "
    "between places. It is never narrower than the noise of the examples, which is all that a "
    "single pair has: a bootstrap in which both sides answer the same draw. Counted quantities "
    "have no noise. More seeds narrow an interval.",
    "At small scale a verdict is about what a method does on small backbones and generated tasks. "
    "It confirms or refutes the mechanism there, and no number of the papers.",
)


@dataclass(frozen=True)
class Reported:
    """A claim's verdict, and what would test it where nothing did."""

    judgement: Judgement
    missing: Missing = field(default_factory=Missing)

    @property
    def tested(self) -> bool:
        """Whether there is a verdict."""
        return self.judgement.verdict != _UNTESTED


def write_claims(suite: str, reported: Sequence[Reported], stem: Path, *, forest: Path) -> None:
    """Write ``<stem>.md``, ``.csv`` and ``.html`` of a suite, each atomically.

    Args:
        suite: its id.
        reported: every claim, in the order to print.
        stem: in the suite's folder: links lead to its tables.
        forest: the plot of these claims, in the same folder; HTML holds it, Markdown links it.
    """
    lines = pd.DataFrame([_as_line(one) for one in reported], dtype=object)
    for name in ("missing_methods", "missing_backbones", "suites"):
        lines[name] = [" ".join(names) for names in lines[name]]
    content = {**_overview(suite, reported), "forest": forest.name, "drawing": inline(forest)}
    texts = {
        "md": page("claims.md", **content, **_claims(reported, "md")),
        "html": page("claims.html", **content, **_claims(reported, "html")),
        "csv": rendered([Column("", (), lines)], "csv"),
    }
    for suffix, text in texts.items():
        write_text_atomically(stem.with_name(f"{stem.name}.{suffix}"), text)


def _as_line(reported: Reported) -> dict[str, Any]:
    """One claim as a flat line: None where there is nothing, differences in the claim's unit."""
    judgement, missing = reported.judgement, reported.missing
    claim, cells = judgement.claim, judgement.cells
    interval, wider = judgement.interval, judgement.over_tasks
    ends = ("mean", "low", "high")
    room = [end if abs(end) < float("inf") else None for end in allowed(claim)]
    return {
        "id": claim.id, "paper": claim.paper, "claim": claim.says, "source": claim.source,
        "verdict": judgement.verdict, "reason": judgement.reason, "scale": judgement.scale,
        "measured": None if interval is None else measured(judgement), "claimed": claimed(claim),
        "by_place": by_place(judgement),
        "quantity": claim.quantity, "unit": claim.measure.unit,
        "left": claim.left, "right": claim.right,
        "relation": claim.relation, "tolerance": claim.tolerance,
        "left_mean": _mean(_mean(cell.left) for cell in cells) if cells else None,
        "right_mean": _mean(_mean(cell.right) for cell in cells) if cells else None,
        **{f"difference_{end}": getattr(interval, end, None) for end in ends},
        "difference_allowed_low": room[0], "difference_allowed_high": room[1],
        "interval_over": interval and interval.over,
        "degrees_of_freedom": interval and interval.freedom,
        **{f"difference_{end}_over_tasks": getattr(wider, end, None) for end in ends[1:]},
        "places_count": len(cells),
        "pairs_count": sum(len(cell.seeds) for cell in cells),
        "missing_methods": [] if reported.tested else list(missing.methods),
        "missing_backbones": [] if reported.tested else list(missing.backbones),
        "suites": [] if reported.tested else list(missing.suites),
    }  # fmt: skip


def as_data(reported: Reported) -> dict[str, Any]:
    """One claim with everything that decides it, as JSON-like data."""
    judgement = reported.judgement
    cells = [_cell_data(cell) for cell in judgement.cells]
    left_out = {reason: list(places) for reason, places in judgement.left_out.items()}
    return {**_as_line(reported), "cells": cells, "left_out": left_out}


def _cell_data(cell: Cell) -> dict[str, Any]:
    # The runs themselves stay out: their records are named by backbone, task, method and seed.
    kept = {name: value for name, value in vars(cell).items() if name != "pairs"}
    return {**kept, "differences": cell.differences}


def counts(judgements: Iterable[Judgement]) -> dict[str, int]:
    """How many claims have each verdict; every verdict is there."""
    found = Counter(judgement.verdict for judgement in judgements)
    return {verdict: found[verdict] for verdict in VERDICTS}


def counts_by_paper(judgements: Sequence[Judgement]) -> dict[str, dict[str, int]]:
    """The same for the claims about each paper; every paper is there."""
    return {
        paper: counts(one for one in judgements if one.claim.paper == paper) for paper in PAPERS
    }


def _overview(suite: str, reported: Sequence[Reported]) -> dict[str, Any]:
    """What the page opens with: the verdicts by paper."""
    judgements = [one.judgement for one in reported]
    strip = [
        {
            "paper": paper,
            "counts": list(found.values()),
            "claims": [
                {"id": one.claim.id, "says": one.claim.says, **_marked(one)}
                for verdict in VERDICTS
                for one in judgements
                if (one.claim.paper, one.verdict) == (paper, verdict)
            ],
        }
        for paper, found in counts_by_paper(judgements).items()
    ]
    return {
        "title": f"Claims of the papers, in suite {suite}",
        "summary": _summary(judgements),
        "verdicts": [{"sign": _SIGNS[one][0], "told": _SIGNS[one][1]} for one in VERDICTS],
        "strip": strip,
        "notes": _NOTES,
    }


def _claims(reported: Sequence[Reported], form: str) -> dict[str, Any]:
    """The claims by paper and the untested ones, in the terms of the template."""
    told = [(one, _told(one, form)) for one in reported]
    papers = {
        paper: [text for one, text in told if one.tested and one.judgement.claim.paper == paper]
        for paper in PAPERS
    }
    return {
        "papers": {paper: texts for paper, texts in papers.items() if texts},
        "untested": [text for one, text in told if not one.tested],
    }


def _marked(judgement: Judgement) -> dict[str, str]:
    """A verdict as the page shows it: in a word, by a sign, and by a name for its style."""
    sign, several = _SIGNS[judgement.verdict]
    word = several if judgement.verdict == _UNTESTED else judgement.verdict
    return {"sign": sign, "verdict": word, "style": word.replace(" ", "-")}


def _told(reported: Reported, form: str) -> dict[str, Any]:
    judgement, claim = reported.judgement, reported.judgement.claim
    cells: Any = None
    if judgement.cells:
        columns = _cells(judgement, form)
        cells = table_of(columns) if form == "html" else rendered(columns, "md")
    return {
        **_marked(judgement),
        "id": claim.id,
        "paper": claim.paper,
        "says": claim.says,
        "measured": measured(judgement),
        "claimed": claimed(claim),
        "needs": "" if reported.tested else needed(judgement, reported.missing),
        "details": details(judgement),
        "cells": cells,
        "left_out": [
            f"Left out: {', '.join(places)}: {reason}."
            for reason, places in judgement.left_out.items()
        ],
    }


def _summary(judgements: Sequence[Judgement]) -> str:
    plural = {"holds": "hold", "fails": "fail"}
    told = [
        f"{count} {verdict if count == 1 else plural.get(verdict, verdict)}"
        for verdict, count in counts(judgements).items()
    ]
    scales = dict.fromkeys(SCALES[one.scale] for one in judgements if one.scale)
    where = f" Decided on {'; '.join(scales)}." if scales else ""
    return f"Of {len(judgements)} claims: {', '.join(told)}.{where}"


def _cells(judgement: Judgement, form: str) -> list[Column]:
    cells, claim = judgement.cells, judgement.claim
    twins = claim.twins or {}
    backbones = [
        ", ".join(filter(None, (cell.backbone, twins.get(cell.backbone)))) for cell in cells
    ]
    right = str(claim.right) if claim.number is None else number(claim.number)
    columns = [
        text_column("backbone", "", backbones),
        _tasks(cells, form),
        Column(claim.left, [f"{_mean(cell.left):z.2f}" for cell in cells]),
        Column(f"against {right}", [f"{_mean(cell.right):z.2f}" for cell in cells]),
        Column("difference", [f"{_mean(cell.differences):+z.2f}" for cell in cells]),
        Column("pairs", [str(len(cell.seeds)) for cell in cells]),
    ]
    if any(cell.collapsed for cell in cells):
        columns.append(Column("collapsed runs", [str(cell.collapsed or ABSENT) for cell in cells]))
    return columns


def _tasks(cells: Sequence[Cell], form: str) -> Column:
    """The tasks; each leads to its table."""
    texts = [cell.task for cell in cells]
    targets = [f"tables/{c.backbone}/{c.task}.{form}" if c.one_task else None for c in cells]
    if form == "html":
        return text_column("task", "", texts, targets=targets)
    pairs = zip(texts, targets, strict=True)
    return text_column("task", "", [f"[{text}]({to})" if to else text for text, to in pairs])

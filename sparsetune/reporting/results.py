"""A suite's results as the repository keeps them: small data, and pages that follow from them.

The data have the digests of the records behind every number; a page is made from the data alone,
so that the two cannot disagree. The records themselves are not kept.
"""

import hashlib
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.metric import scale_of
from sparsetune.config.task import GENERATED_PREFIX
from sparsetune.errors import DataError
from sparsetune.records import ClaimsRecord, read_record, sha256_of
from sparsetune.reporting.contents import REFERENCE_METHOD, RUN_STAGES
from sparsetune.reporting.load import Finished, deviation_of, is_generated, mean_of
from sparsetune.reporting.render import (
    ABSENT,
    Column,
    number_column,
    percent,
    rendered,
    spread_text,
    text_column,
)
from sparsetune.reporting.savings import saved_inference, savings_of, trained_shares
from sparsetune.reporting.verdicts import VERDICTS

Data = dict[str, Any]

FIRST_METHODS = (
    REFERENCE_METHOD, "full-2ep", "lora", "earlybert", "earlybert-random", "dsee",
    "dsee-unstructured", "dsee-unstructured-weight", "dsee-structured",
)  # fmt: skip
"""What a reader sees first: the methods of the papers and the controls nearest to them."""

_MARKED = re.compile(
    r"(<!-- results of (?P<suite>[a-z0-9.-]+): .*? -->\n)(?P<block>.*?)(<!-- end of results -->)",
    flags=re.S,
)
_FOLDER = Path("docs/results")
_DIGITS = 16
_TOLD = {"holds": "hold", "fails": "fail", "not tested at this scale": "not tested"}
_NUMBERS = (
    ("training_macs_saved_fraction", "training saved %"),
    ("inference_macs_saved_fraction", "inference saved %"),
    ("trained_fraction", "trained %"),
)


def data_of(
    suite: Finished,
    *,
    name: str,
    description: str,
    planned: int | None = None,
    claims: Path | None = None,
) -> Data:
    """Everything that the repository keeps of a suite, as plain data.

    Args:
        suite: the finished runs.
        name: the suite's id.
        description: what its file says of it; empty if there is none.
        planned: how many runs the suite asks for; None = not known.
        claims: the record of its verdicts; None = not judged.

    Returns:
        JSON-like data. Scores are as stored, shares fractions; ``cells`` has a backbone, task and
        method each, with the records' digests (the first 16 hex digits of their sha256) seed by
        seed; ``backbones`` has each method's means over the tasks that are percentages and have
        a dense run, and its own digest over the records of those cells.

    Raises:
        DataError: the record of the verdicts is damaged.
    """
    runs = suite.runs
    cells = _cells(suite)
    order = list(dict.fromkeys(backbone for backbone, *_ in suite.groups))
    return {
        "suite": name,
        "description": description,
        "generated": is_generated(runs["task"]),
        "runs_count": len(runs),
        "planned_runs_count": planned,
        "seeds": sorted(set(runs["seed"])),
        "where": {
            "commits": sorted(set().union(*runs["commits"])),
            "uncommitted_changes": bool(any(runs["dirty"])),
            "devices": sorted({one for found in runs["devices"] for one in found}),
            "host_threads": sorted(
                set().union(*runs["computed_with_threads"]) or set(runs["threads"]) - {None}
            ),
            "started": min(runs["started"]),
            "ended": max(runs["ended"]),
        },
        "backbones": [_backbone(cells, one) for one in order],
        "cells": cells,
        "claims": _claims(claims) if claims else None,
    }


def _cells(suite: Finished) -> list[Data]:
    saved = savings_of(suite.groups, "macs")
    cells = []
    for key, runs in suite.groups.items():
        dense = suite.groups.get((*key[:2], REFERENCE_METHOD))
        scores = list(runs["score"])
        mean = mean_of(scores)
        reference = None if dense is None else mean_of(dense["score"])
        trained = None if dense is None else mean_of(trained_shares(runs, dense))
        cells.append({
            "backbone": key[0], "task": key[1], "method": key[2], "metric": runs["metric"].iloc[0],
            "seeds": list(runs["seed"]), "scores": scores,
            "score_mean": mean, "score_sd": deviation_of(scores),
            "difference": None if None in (mean, reference) else mean - reference,
            "collapsed_count": int(sum(runs["collapsed"])),
            "training_macs_saved_fraction": saved[key].whole if key in saved else None,
            "inference_macs_saved_fraction": mean_of(saved_inference(runs)),
            "trained_fraction": trained,
            "records": [
                {stage: sha256_of(folder / f"{stage}.json")[:_DIGITS] for stage in RUN_STAGES}
                for folder in runs["folder"]
            ],
        })  # fmt: skip
    return cells


def _backbone(cells: Sequence[Data], backbone: str) -> Data:
    """Means over the tasks of one backbone, method by method."""
    own = [cell for cell in cells if cell["backbone"] == backbone]
    comparable = {
        cell["task"] for cell in own
        if cell["method"] == REFERENCE_METHOD and cell["score_mean"] is not None
        and scale_of(cell["metric"]).factor == 100 and not scale_of(cell["metric"]).lower_is_better
    }  # fmt: skip
    methods = []
    for method in dict.fromkeys(cell["method"] for cell in own):
        found = [one for one in own if one["method"] == method and one["task"] in comparable]
        found = [one for one in found if one["score_mean"] is not None]
        if found:
            methods.append({"method": method, **_means(found)})
    return {"backbone": backbone, "tasks": sorted(comparable), "methods": methods}


def _means(cells: Sequence[Data]) -> Data:
    """One method over its tasks; the spread is that of the seeds' means, where all tasks have them.

    The dense run has no savings: it is what others save of.
    """
    shared = set.intersection(*(set(cell["seeds"]) for cell in cells))
    by_seed = [
        statistics.fmean(cell["scores"][cell["seeds"].index(seed)] for cell in cells)
        for seed in sorted(shared)
        if all(cell["scores"][cell["seeds"].index(seed)] is not None for cell in cells)
    ]
    return {
        "tasks_count": len(cells),
        "seeds_count": min(len(cell["seeds"]) for cell in cells),
        "score_mean": statistics.fmean(cell["score_mean"] for cell in cells),
        "score_sd": deviation_of(by_seed),
        "difference": statistics.fmean(cell["difference"] for cell in cells),
        **{name: mean_of(cell[name] for cell in cells) for name, _ in _NUMBERS},
        "records": digest_of_records(one for cell in cells for one in cell["records"]),
    }


def digest_of_records(records: Iterable[Mapping[str, str]]) -> str:
    """One digest for the records of several runs: of their digests, sorted and joined.

    Args:
        records: of each run, stage -> digest.
    """
    lines = sorted(one for record in records for one in record.values())
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGITS]


def _claims(path: Path) -> Data:
    judged = read_record(path, ClaimsRecord).measured
    kept = (
        "id", "paper", "claim", "verdict", "measured", "claimed", "reason", "unit", "by_place",
        "difference_mean", "difference_low", "difference_high",
    )  # fmt: skip
    try:
        claims = [{name: one[name] for name in kept} for one in judged.claims]
    except KeyError as error:
        raise DataError(f"{path}: measured.claims: missing key {error}; judge again") from None
    digest = sha256_of(path)[:_DIGITS]
    return {"record": digest, "verdicts": dict(judged.verdicts), "claims": claims}


def page_of(data: Data) -> str:
    """The page of a suite, in Markdown, from its data alone."""
    name = data["suite"]
    lines = [
        f"# Results of suite `{name}`", "",
        *([data["description"], ""] if data["description"] else []),
        ran_text(data), "", *_drawn(data, f"{name}.svg"), *_notes(data), "",
    ]  # fmt: skip
    for backbone in data["backbones"]:
        if backbone["methods"]:
            tasks = ", ".join(backbone["tasks"])
            lines += [f"## {backbone['backbone']}", "", f"Means over {tasks}.", ""]
            lines += [rendered(_summary(backbone["methods"], digests=True), "md")]
        else:
            lines += [f"## {backbone['backbone']}", ""]
        lines += ["Scores by task:", "", rendered(_by_task(data, backbone["backbone"]), "md")]
    lines += [*_verdicts(data), *_sources(data), ""]
    return "\n".join(lines)


def block_of(data: Data | None, *, folder: Path = _FOLDER) -> str:
    """What README shows of a suite: a figure, few rows, and what they mean.

    Args:
        data: of the suite; None = nothing has been run yet.
        folder: of the pages, as README leads to it.
    """
    first = _first(data) if data else None
    if data is None or first is None:
        return "`make results` puts the results of finished suites here.\n"
    page = (folder / f"{data['suite']}.md").as_posix()
    claims = f"; [what the papers claim, and what holds here]({page}#claims)"
    lines = [
        *_drawn(data, (folder / f"{data['suite']}.svg").as_posix()),
        rendered(_summary(_chosen(first["methods"]), digests=False), "md"),
        f"{_meaning(data, first)} {_spread(data)}",
        "",
        f"{ran_text(data)} [All results, with the digests of their records]({page})"
        f"{claims if data['claims'] else ''}.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def shown_suite(text: str) -> str | None:
    """Which suite a README shows between its marks; None if it has none."""
    found = _MARKED.search(text)
    return found and found["suite"]


def with_block(text: str, block: str) -> str:
    """A README with another block between its marks.

    Raises:
        DataError: it has no marks.
    """
    if not _MARKED.search(text):
        raise DataError("README: received no marks; allowed: <!-- results of SUITE: ... --> and "
                        "<!-- end of results -->")  # fmt: skip
    return _MARKED.sub(lambda found: f"{found[1]}{block}{found[4]}", text, count=1)


def index_of(found: Iterable[Data]) -> str:
    """The page that leads to those of all suites."""
    suites = list(found)
    lines = [
        "# Results",
        "",
        "One page a suite, made by `make results` from the records of its runs.",
        "",
    ]
    columns = [
        text_column("suite", "", [f"[{one['suite']}]({one['suite']}.md)" for one in suites]),
        text_column("what", "", [one["description"] for one in suites]),
        number_column("runs", "", [one["runs_count"] for one in suites]),
        number_column("seeds", "", [len(one["seeds"]) for one in suites]),
        text_column("claims", "", [_counted(one) for one in suites]),
        text_column("run", "", [one["where"]["ended"][:10] for one in suites]),
    ]  # fmt: skip
    return "\n".join([*lines, rendered(columns, "md")]) if suites else "\n".join([*lines[:3], ""])


def _first(data: Data) -> Data | None:
    """The backbone that README shows: the one with the most tasks, of several the first."""
    found = [one for one in data["backbones"] if one["methods"]]
    return max(found, key=lambda one: len(one["tasks"]), default=None)


def _chosen(methods: Sequence[Data]) -> list[Data]:
    """The methods that come first, where a suite has most of them: a study has its own."""
    by_name = {one["method"]: one for one in methods}
    found = [by_name[name] for name in FIRST_METHODS if name in by_name]
    return found if len(found) > len(FIRST_METHODS) / 2 else list(methods)


def drawn_methods(data: Data) -> tuple[list[Data], list[Data]]:
    """What the figure shows: README's rows, and the cells that they are means of; or nothing."""
    first = _first(data)
    if first is None:
        return [], []
    rows = _chosen(first["methods"])
    names = {one["method"] for one in rows}
    cells = [
        cell for cell in data["cells"]
        if cell["backbone"] == first["backbone"] and cell["task"] in first["tasks"]
        and cell["method"] in names and cell["difference"] is not None
    ]  # fmt: skip
    return rows, cells


def _summary(methods: Sequence[Data], *, digests: bool) -> list[Column]:
    tasks = max(one["tasks_count"] for one in methods)
    names = [
        f"`{one['method']}`" + ("" if one["tasks_count"] == tasks
                                else f" ({one['tasks_count']} of {tasks} tasks)")
        for one in methods
    ]  # fmt: skip
    # A mean over fewer tasks is of other tasks: only the difference stands beside those above.
    scores = [
        spread_text(one["score_mean"], one["score_sd"], percent)
        if one["tasks_count"] == tasks else ABSENT
        for one in methods
    ]  # fmt: skip
    beside = [
        None if one["method"] == REFERENCE_METHOD else one["difference"] for one in methods
    ]  # fmt: skip
    columns = [
        text_column("method", "", names),
        Column("score %", scores),
        number_column(f"beside `{REFERENCE_METHOD}`", "", beside, lambda v: f"{100 * v:+z.1f}"),
        *(
            number_column(heading, "", [one[name] for one in methods], percent)
            for name, heading in _NUMBERS
        ),
    ]
    if digests:
        columns.append(text_column("records", "", [f"`{one['records']}`" for one in methods]))
    return columns


def _by_task(data: Data, backbone: str) -> list[Column]:
    own: dict[str, dict[str, Data]] = {}
    for cell in data["cells"]:
        if cell["backbone"] == backbone:
            own.setdefault(cell["task"], {})[cell["method"]] = cell
    methods = list(dict.fromkeys(name for cells in own.values() for name in cells))
    columns = [text_column("method", "", [f"`{one}`" for one in methods])]
    for task, cells in own.items():
        scale = scale_of(next(iter(cells.values()))["metric"])
        texts = [
            spread_text(cells[one]["score_mean"], cells[one]["score_sd"], scale.text)
            + (" *" if cells[one]["collapsed_count"] else "") if one in cells else ABSENT
            for one in methods
        ]  # fmt: skip
        columns.append(Column(f"{task} ({scale.heading})", texts))
    return columns


def _drawn(data: Data, path: str) -> list[str]:
    first = _first(data)
    if first is None:
        return []
    told = f"Methods beside the dense run on {first['backbone']}: scores, and what they save"
    return [f"![{told}]({path})", ""]


def _meaning(data: Data, backbone: Data) -> str:
    count = len(backbone["tasks"])
    kind = "generated " if data["generated"] else ""
    told = (
        f"Means of the primary metrics of {count} {kind}task{'s' * (count > 1)} on "
        f"{backbone['backbone']}, beside dense fine-tuning (`{REFERENCE_METHOD}`); savings are in "
        "multiply-adds."
    )
    if data["generated"]:
        told += " Generated tasks compare methods fairly and say nothing about a real benchmark."
    return told


def _spread(data: Data) -> str:
    seeds = len(data["seeds"])
    if seeds == 1:
        return "One seed: the spread is not known, and a difference of some points may be chance."
    return f"± is the standard deviation over {seeds} seeds."


def ran_text(data: Data) -> str:
    """Where, when and how much of a suite was run."""
    where, runs = data["where"], f"{data['runs_count']:,}"
    if data["planned_runs_count"] not in (None, data["runs_count"]):
        runs += f" of {data['planned_runs_count']:,}"
    begun, ended = where["started"][:10], where["ended"][:10]
    threads = "/".join(map(str, where["host_threads"]))
    commits = ", ".join(one[:9] for one in where["commits"]) or "not known"
    return (
        f"{runs} runs at commit {commits}"
        + (" with uncommitted changes" if where["uncommitted_changes"] else "")
        + f", on {', '.join(where['devices'])} with {threads} CPU thread(s) a job, "
        + (begun if begun == ended else f"{begun} to {ended}")
        + "."
    )


def _notes(data: Data) -> list[str]:
    notes = [
        f"- Beside `{REFERENCE_METHOD}`: points of the primary metric less the dense run's, "
        "the mean over the row's tasks. A method that lacks a task has no mean score here.",
        f"- Training saved: multiply-adds of search and training, in % of `{REFERENCE_METHOD}`'s; "
        "inference saved: those of one example in % of the dense model's, zeros left out, the "
        "update counted. Negative costs more.",
        "- Trained: parameters that train, without the task head, in % of the model's.",
        f"- {_spread(data)}",
    ]
    if data["generated"]:
        notes.append(
            f"- Tasks called {GENERATED_PREFIX}... are generated and small: they compare methods, "
            "and their scores compare with nobody else's."
        )
    if any(cell["collapsed_count"] for cell in data["cells"]):
        notes.append("- A star marks a method with a run that gave every example the same answer.")
    return notes


def _counted(data: Data) -> str:
    if data["claims"] is None:
        return ABSENT
    found = data["claims"]["verdicts"]
    return ", ".join(f"{found.get(name, 0)} {_TOLD.get(name, name)}" for name in VERDICTS)


def _verdicts(data: Data) -> list[str]:
    if data["claims"] is None:
        return []
    tested = [
        one for one in data["claims"]["claims"] if not one["verdict"].startswith("not tested")
    ]
    shown = [
        text_column("claim", "", [one["claim"] for one in tested]),
        text_column("paper", "", [one["paper"] for one in tested]),
        text_column("verdict", "", [f"**{one['verdict']}**" for one in tested]),
        text_column("measured", "", [one["measured"] for one in tested]),
        text_column("by place", "", [one["by_place"] for one in tested]),
        text_column("claimed", "", [one["claimed"] for one in tested]),
        text_column("decided by", "", [one["reason"] for one in tested]),
    ]
    return [
        "## Claims", "", f"{_counted(data)}; record `{data['claims']['record']}`.", "",
        *([rendered(shown, "md")] if tested else []),
    ]  # fmt: skip


def _sources(data: Data) -> list[str]:
    return [
        "## Where the numbers come from", "",
        f"[`{data['suite']}.json`]({data['suite']}.json) has every number of this page at full "
        f"precision, and for every run the first {_DIGITS} hex digits of the sha256 of its records "
        "(`tune.json`, `evaluate.json`, `cost.json`). *Records* of a row is the digest of those "
        "digests, sorted and joined. `make results` writes page and data; neither is edited.",
    ]  # fmt: skip

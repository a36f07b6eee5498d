"""What MLflow shows of a whole suite: means over seeds, verdicts, and files to attach."""

from collections.abc import Mapping
from pathlib import Path

from sparsetune.config.load import Suite
from sparsetune.errors import SparsetuneError
from sparsetune.records import read_record
from sparsetune.reporting.headline import Headline, RunId, columns_of, spread
from sparsetune.reporting.layout import csv_text, markdown, markdown_lines
from sparsetune.tracking import descriptions
from sparsetune.tracking.suite_run import Standing, SuitePages

_CLAIMS = [f"claims.{form}" for form in ("html", "md", "csv", "json")]
_ROOMS = {
    "tables": ("`tables`: the suite's and the papers', in four forms", ["tables"]),
    "figures": ("`figures`: in `pareto.html`, pointing at a run tells its numbers", ["figures"]),
    "": (
        "`claims.html`: each claim of the papers with its verdict; `report.html`: all on one "
        "page, once `make report` has made it",
        [*_CLAIMS, "report.html"],
    ),
}
"""Folder below the artifacts -> what it holds, and the files or folders to put there."""


def suite_pages(suite: Suite, folder: Path, numbers: Mapping[RunId, Headline]) -> SuitePages:
    """Put together what the suite shows beside its runs.

    Args:
        suite: resolved.
        folder: the suite's results.
        numbers: (backbone, task, method, seed) -> headline of the finished runs.
    """
    verdicts = _verdicts(folder / "claims.json")
    rooms = {room: [folder / name for name in names] for room, (_, names) in _ROOMS.items()}
    told = [text for text, _ in _ROOMS.values()]
    return SuitePages(
        note=descriptions.suite_note(suite),
        methods=list(dict.fromkeys(run.key for run in suite.runs)),
        parents={group: _parent(suite, group, numbers) for group in suite.groups()},
        overview=Standing(
            metrics={f"claims/{_name(verdict)}": count for verdict, count in verdicts.items()},
            note=descriptions.overview_note(suite, verdicts, told),
        ),
        rooms=rooms,
    )


def _parent(suite: Suite, group: tuple[str, str], numbers: Mapping[RunId, Headline]) -> Standing:
    runs = [run for run in suite.runs if run.key[:2] == group]
    methods: dict[str, list[Headline]] = {}
    for run in runs:
        if (*run.key, run.seed) in numbers:
            methods.setdefault(run.method.id, []).append(numbers[*run.key, run.seed])
    spreads = {method: spread(of_seeds) for method, of_seeds in methods.items()}
    columns = columns_of(spreads)
    table = markdown_lines(columns) if spreads else []
    title = f"{group[0]} on {group[1]}"
    return Standing(
        metrics={
            f"{name}/{method}": value
            for name in dict.fromkeys(name for told in spreads.values() for name in told)
            for method, told in spreads.items()
            if (value := told.get(name)) is not None
        },
        note=descriptions.group_note(runs, table),
        texts={"methods.md": markdown(title, columns, []), "methods.csv": csv_text(columns)}
        if spreads
        else {},
    )


def _verdicts(record: Path) -> dict[str, int]:
    try:
        return dict(read_record(record, "claims")["measured"]["verdicts"])
    except (SparsetuneError, KeyError):
        return {}


def _name(verdict: str) -> str:
    return verdict.replace(" ", "_")

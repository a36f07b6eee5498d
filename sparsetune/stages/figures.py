"""Stage ``figures``: a suite's pictures, from records, training histories and searches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsetune.config.load import Suite
from sparsetune.records import read_record
from sparsetune.reporting.collect import RunRow, collect, group_runs
from sparsetune.reporting.tables import REFERENCE_METHOD
from sparsetune.stages.garbage import seldom_collected
from sparsetune.stages.tables import record_paths

SCORES = "scores-against-savings.svg"
INTERACTIVE = "pareto.html"
_MOST_SEARCHES = 60
_RULES = {"fixed": "fixed_step", "settled": "settled_step"}


def figure_names(suite: Suite) -> list[str]:
    """Files that :func:`make_figures` writes, relative to its output folder."""
    pairs = suite.groups()
    names = [SCORES, INTERACTIVE] if _has_reference(suite) else []
    for backbone in dict.fromkeys(backbone for backbone, _ in pairs):
        names.append(f"layers-{backbone}.svg")
        if backbone in _compared(suite):
            names += [f"pareto-{backbone}.svg", f"saved-{backbone}.svg"]
    names += [f"curves/{backbone}/{task}.svg" for backbone, task in pairs]
    return names + [f"masks/{name}.svg" for name in _drawn_searches(suite)]


@seldom_collected()
def make_figures(suite: Suite, *, results: Path, output: Path) -> None:
    """Draw every figure of a suite.

    Args:
        suite: which runs, and in which order.
        results: the suite's results folder.
        output: folder for the figures.

    Raises:
        DataError: a record, a run's history or a search's history is missing or does not fit,
            by name.
    """
    rows = collect(path for run in suite.runs for path in record_paths(results, run))
    _draw_trade_offs(suite, rows, output)
    _draw_runs(suite, rows, output)
    _draw_searches(suite, results, output)


def _draw_trade_offs(suite: Suite, rows: list[RunRow], output: Path) -> None:
    # Here and not above, since the workflow asks this module for names only.
    from sparsetune.reporting.figures import write_scores_against_savings
    from sparsetune.reporting.interactive import write_interactive
    from sparsetune.reporting.pareto import write_pareto
    from sparsetune.reporting.saved import write_saved

    told: dict[str, Any] = {
        "order": list(dict.fromkeys(run.key for run in suite.runs)),
        "reference_method": REFERENCE_METHOD,
    }
    if _has_reference(suite):
        write_scores_against_savings(rows, output / SCORES, **told)
        title = f"Suite {suite.id}: what methods reach and what they cost"
        write_interactive(rows, output / INTERACTIVE, title=title, **told)
    for backbone in _compared(suite):
        own = [row for row in rows if row.backbone == backbone]
        write_pareto(own, output / f"pareto-{backbone}.svg", **told)
        write_saved(own, output / f"saved-{backbone}.svg", **told)


def _draw_runs(suite: Suite, rows: list[RunRow], output: Path) -> None:
    from sparsetune.reporting.curves import write_curves
    from sparsetune.reporting.layers import write_layers

    order = list(dict.fromkeys(run.key for run in suite.runs))
    groups = group_runs(rows, order)
    for backbone in dict.fromkeys(backbone for backbone, _ in suite.groups()):
        own = [row for row in rows if row.backbone == backbone]
        write_layers(own, output / f"layers-{backbone}.svg", order=order)
    for backbone, task in suite.groups():
        write_curves(
            [group for group in groups if group.key[:2] == (backbone, task)],
            output / "curves" / backbone / f"{task}.svg",
            reference_method=REFERENCE_METHOD,
        )


def _draw_searches(suite: Suite, results: Path, output: Path) -> None:
    from sparsetune.reporting.figures import write_mask_distances

    for name in _drawn_searches(suite):
        folder = results / "tickets" / name
        measured = read_record(folder / "record.json", "ticket")["measured"]
        write_mask_distances(
            folder / "gates.npz",
            output / "masks" / f"{name}.svg",
            title=name,
            stops=_stops_reached(measured["stopping"]),
        )


def _drawn_searches(suite: Suite) -> list[str]:
    """All searches, or of many the first seed's: the others are in the records of their tickets."""
    names = suite.tickets(searched=True)
    if len(names) <= _MOST_SEARCHES:
        return names
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.rpartition("/")[0], name)
    return list(first.values())


def _stops_reached(stopping: Mapping[str, Any]) -> dict[str, int]:
    """Rule -> step at which it stops, of the rules whose step the search came to."""
    steps = {rule: stopping[key] for rule, key in _RULES.items()}
    last = stopping["check_steps"][-1]
    return {rule: step for rule, step in steps.items() if step is not None and step <= last}


def _has_reference(suite: Suite) -> bool:
    return any(run.method.id == REFERENCE_METHOD for run in suite.runs)


def _compared(suite: Suite) -> list[str]:
    """Backbones with a task that has the dense run and another method to compare."""
    methods: dict[tuple[str, str], set[str]] = {}
    for run in suite.runs:
        methods.setdefault(run.key[:2], set()).add(run.method.id)
    pairs = [
        pair for pair, found in methods.items() if REFERENCE_METHOD in found and len(found) > 1
    ]
    return list(dict.fromkeys(backbone for backbone, _ in pairs))

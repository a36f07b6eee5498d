"""Stage ``figures``: a suite's pictures, from records, training histories and searches."""

from pathlib import Path

from sparsetune.config.load import Suite
from sparsetune.records import TicketRecord, read_record
from sparsetune.records.parts import Stopping
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.stages.tables import record_paths

INTERACTIVE = "pareto.html"
_MOST_SEARCHES = 60


def figure_names(suite: Suite) -> list[str]:
    """Files that :func:`make_figures` writes, relative to its output folder."""
    pairs = suite.groups()
    names = [INTERACTIVE] if _has_reference(suite) else []
    for backbone in dict.fromkeys(backbone for backbone, _ in pairs):
        names.append(f"layers-{backbone}.svg")
        if backbone in _compared(suite):
            names += [f"pareto-{backbone}.svg", f"saved-{backbone}.svg"]
    names += [f"curves/{backbone}/{task}.svg" for backbone, task in pairs]
    return names + [f"masks/{name}.svg" for name in _drawn_searches(suite)]


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
    # Here and not above, since the workflow asks this module for names only.
    from sparsetune.reporting import figures
    from sparsetune.reporting.load import collect
    from sparsetune.reporting.page import write_interactive

    records = (path for run in suite.runs for path in record_paths(results, run))
    done = collect(records, [run.key for run in suite.runs])
    if _has_reference(suite):
        title = f"Suite {suite.id}: what methods reach and what they cost"
        write_interactive(done, output / INTERACTIVE, title=title)
    compared = _compared(suite)
    for backbone in dict.fromkeys(backbone for backbone, _ in suite.groups()):
        own = done.only(backbone)
        figures.write_layers(own, output / f"layers-{backbone}.svg")
        if backbone in compared:
            figures.write_pareto(own, output / f"pareto-{backbone}.svg")
            figures.write_saved(own, output / f"saved-{backbone}.svg")
    for backbone, task in suite.groups():
        path = output / "curves" / backbone / f"{task}.svg"
        figures.write_curves(done.only(backbone, task), path)
    for name in _drawn_searches(suite):
        folder = results / "tickets" / name
        record = read_record(folder / "record.json", TicketRecord)
        figures.write_mask_distances(
            folder / "gates.npz",
            output / "masks" / f"{name}.svg",
            title=name,
            stops=_stops_reached(record.measured.stopping),
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


def _stops_reached(stopping: Stopping | None) -> dict[str, int]:
    """Rule -> step at which it stops, of the rules whose step the search came to."""
    if stopping is None:
        return {}
    steps = {"fixed": stopping.fixed_step, "converged": stopping.settled_step}
    last = stopping.check_steps[-1]
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

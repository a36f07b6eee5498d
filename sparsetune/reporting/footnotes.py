"""What the tables of a suite share: means over seeds, and footnotes on how the runs came about."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sparsetune.config.rules import GENERATED_PREFIX
from sparsetune.reporting.collect import RUN_STAGES, Key, RunGroup, RunRow

NO_REFUSALS: Mapping[Key, str] = MappingProxyType({})
"""For suites in which everything that is asked for can run."""


def mean_of(values: Sequence[Any]) -> Any:
    """Mean, exact where all values agree; None if any is undefined."""
    if any(value is None for value in values):
        return None
    return values[0] if len(set(values)) == 1 else statistics.fmean(values)


def common_notes(
    groups: Sequence[RunGroup], order: Sequence[Key], refusals: Mapping[Key, str]
) -> list[str]:
    """Footnotes about what is absent, unlike the rest, or not to be compared with others.

    Args:
        groups: the runs of the table.
        order: (backbone, task, method) of everything that the table should have.
        refusals: (backbone, task, method) that cannot run -> why.

    Returns:
        Sentences; none if there is nothing to tell.
    """
    notes = []
    if any(group.key[1].startswith(GENERATED_PREFIX) for group in groups):
        notes.append(
            f"Tasks called {GENERATED_PREFIX}... are generated and small: they are not the "
            "published benchmarks, and their scores compare with nobody else's."
        )
    done = {group.key for group in groups}
    absent = ["/".join(key) for key in dict.fromkeys(order) if key not in done]
    if absent:
        notes.append(f"Not run: {', '.join(absent)}.")
    told = [f"{key[2]} on {key[0]}: not run: {why}." for key, why in refusals.items()]
    notes.extend(dict.fromkeys(told))
    seeds = sorted({seed for group in groups for seed in group.seeds})
    gaps = {"/".join(g.key): [n for n in seeds if n not in g.seeds] for g in groups}
    missing = [f"{name} ({', '.join(map(str, gap))})" for name, gap in gaps.items() if gap]
    if missing:
        notes.append(f"Missing seeds: {', '.join(missing)}.")
    dirty = ["/".join(g.key) for g in groups if any(_is_dirty(row) for row in g.rows)]
    if dirty:
        names = "all of them" if len(dirty) == len(groups) else ", ".join(dirty)
        notes.append(f"Run from a work tree with uncommitted changes: {names}.")
    devices = devices_of(groups)
    if len(devices) > 1:
        notes.append(f"Run on different devices: {', '.join(devices)}.")
    return notes


def _is_dirty(row: RunRow) -> bool:
    return any(row.records[stage]["where"]["dirty"] for stage in RUN_STAGES)


def devices_of(groups: Iterable[RunGroup]) -> list[str]:
    """Names of the devices that runs were trained and evaluated on, sorted."""
    # The cost stage only counts, so where it ran does not matter.
    return sorted(
        {
            str(row.records[stage]["where"]["device"]["name"])
            for group in groups
            for row in group.rows
            for stage in ("tune", "evaluate")
        }
    )

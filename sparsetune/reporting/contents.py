"""What is reported of a suite: names of tables and their forms, and the report's contents.

Names only: nothing is read, and nothing heavy is imported, since the workflow asks here.
"""

import re
from typing import NamedTuple

REFERENCE_METHOD = "full"
"""The dense method that every other one of a task is compared with."""
RUN_STAGES = ("tune", "evaluate", "cost")
"""The stages whose records are reported of a run."""
TABLE_FORMS = ("md", "csv", "tex", "html")
"""Suffixes of the files that a table is written as."""
SUITE_TABLES = (
    "headline",
    "paired",
    "savings",
    "savings-time",
    "costs",
    "costs-by-module",
    "timings",
    "tickets",
)
"""Tables of a whole suite, beside one for each backbone and task and the papers' tables."""
_SHOWN = (".svg", ".html")


class Entry(NamedTuple):
    """Where a result stands in the report.

    Attributes:
        category: heading in the report's menu; the number orders it.
        caption: stem of a text in ``workflow/report``.
        labels: columns of the category's list, the same for all its results.
    """

    category: str
    caption: str
    labels: dict[str, str]


# First match wins. A name in a pattern is a column of the category's list.
_ENTRIES = (
    ("1 Headline", "headline", r"tables/(?P<table>headline)"),
    ("2 Claims", "claims", r"(?P<page>claims)"),
    ("2 Claims", "forest", r"(?P<page>claims-forest)"),
    ("3 Pareto view", "pareto", r"figures/(?P<figure>pareto-.+)"),
    ("4 Training saved", "saved", r"figures/(?P<figure>saved-.+)"),
    ("4 Training saved", "savings", r"tables/(?P<figure>savings|savings-time)"),
    ("5 The papers' tables", "published", r"tables/published/(?P<table>.+)"),
    ("6 Tables", "task", r"tables/(?P<table>[^/]+/[^/]+)"),
    ("6 Tables", "table", r"tables/(?P<table>[^/]+)"),
    ("7 Zeros by layer", "layers", r"figures/layers-(?P<backbone>.+)"),
    ("8 Training curves", "curves", r"figures/curves/(?P<backbone>[^/]+)/(?P<task>[^/]+)"),
    ("9 Ticket searches", "masks",
     r"figures/masks/(?P<backbone>[^/]+)/(?P<task>[^/]+)/(?P<ticket>[^/]+)/(?P<seed>[^/]+)"),
)  # fmt: skip


def entry_of(name: str) -> Entry | None:
    """Find a file's place in the report.

    Args:
        name: path below the suite's results; wildcards may stand in braces.

    Returns:
        The entry; None for a file that a reader does not open there.

    Example:
        >>> entry_of("figures/pareto-mini-bert.svg").category
        '3 Pareto view'
        >>> entry_of("tables/headline.csv") is None
        True
    """
    stem, dot, suffix = name.rpartition(".")
    if dot + suffix not in _SHOWN:
        return None
    for category, caption, pattern in _ENTRIES:
        if found := re.fullmatch(pattern, stem):
            return Entry(category, caption, found.groupdict())
    return None

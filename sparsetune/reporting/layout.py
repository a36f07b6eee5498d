"""Tables written as Markdown, CSV, LaTeX and HTML, and the usual kinds of columns.

The same columns always give the same bytes. What the columns hold is not decided here.
"""

import csv
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsetune.records import write_text_atomically
from sparsetune.reporting.columns import Column, RunLink, way
from sparsetune.reporting.html import table_page

ABSENT = "-"
FORMS = ("md", "csv", "tex", "html")
"""Suffixes of the files that a table is written as."""

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "Δ": r"$\Delta$",
}  # fmt: skip


def text_column(heading: str, field: str, texts: Sequence[str]) -> Column:
    """A left-aligned column whose texts are also its CSV field."""
    return Column(heading, texts, [(field, texts)], left=True)


def name_columns(keys: Sequence[tuple[str, str, str]]) -> list[Column]:
    """Backbone, task and method, of which each row is.

    Args:
        keys: (backbone, task, method) of each row.
    """
    names = ("backbone", "task", "method")
    return [text_column(name, name, [key[at] for key in keys]) for at, name in enumerate(names)]


def number_column(
    heading: str, field: str, values: Sequence[Any], show: Callable[[Any], str] = str
) -> Column:
    """A right-aligned column: values in the CSV, ``show`` of them in print; None is absent."""
    texts = [ABSENT if value is None else show(value) for value in values]
    return Column(heading, texts, [(field, values)])


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return ABSENT if value is None else f"{100 * value:z.1f}"


def write_table(
    stem: Path,
    title: str,
    columns: Sequence[Column],
    notes: Sequence[str],
    *,
    runs: Sequence[Sequence[RunLink]] = (),
) -> list[Path]:
    """Write one table as Markdown, CSV, LaTeX and HTML, each atomically.

    Args:
        stem: path without its suffix.
        title: heading.
        columns: equally long.
        notes: footnotes; not in the CSV.
        runs: behind each row; rows at the end may be without. Empty = no row has any. HTML has
            them beside the row, Markdown below the table if the first columns, those of text,
            name its rows.

    Returns:
        The files, in the order of :data:`FORMS`.
    """
    texts = {
        "md": markdown(title, columns, notes) + _run_lines(stem.parent, columns, runs),
        "csv": csv_text(columns),
        "tex": _latex(title, columns, notes),
        "html": table_page(stem, title, columns, notes, runs=runs),
    }
    paths = []
    for suffix in FORMS:
        path = stem.with_name(f"{stem.name}.{suffix}")
        write_text_atomically(path, texts[suffix])
        paths.append(path)
    return paths


def markdown(title: str, columns: Sequence[Column], notes: Sequence[str]) -> str:
    """One table as Markdown.

    Args:
        title: heading.
        columns: equally long.
        notes: footnotes.
    """
    footnotes = [f"- {note}" for note in notes]
    return "\n".join([f"# {title}", "", *markdown_lines(columns), "", *footnotes, ""])


def markdown_lines(columns: Sequence[Column]) -> list[str]:
    """A table's lines as Markdown, without heading and footnotes.

    Args:
        columns: equally long.
    """
    cells = [[text.replace("|", "\\|") for text in (c.heading, *c.texts)] for c in columns]
    widths = [max(3, *(len(text) for text in column)) for column in cells]
    lines = []
    for texts in zip(*cells, strict=True):
        padded = [
            text.ljust(width) if column.left else text.rjust(width)
            for text, width, column in zip(texts, widths, columns, strict=True)
        ]
        lines.append(f"| {' | '.join(padded)} |")
    rules = [
        ":" + "-" * (width - 1) if column.left else "-" * (width - 1) + ":"
        for width, column in zip(widths, columns, strict=True)
    ]
    lines.insert(1, f"| {' | '.join(rules)} |")
    return lines


def _run_lines(folder: Path, columns: Sequence[Column], runs: Sequence[Sequence[RunLink]]) -> str:
    """Links to the runs, below the table: within, they would make its cells unreadable."""
    naming = itertools.takewhile(lambda column: column.left, columns)
    named = zip(*(column.texts[: len(runs)] for column in naming), strict=True)
    names = [", ".join(texts) for texts in named]
    if not any(runs) or len(set(names)) < len(runs):
        return ""
    lines = [
        f"- {name}: " + ", ".join(f"[{link.label}]({way(link.record, folder)})" for link in links)
        for name, links in zip(names, runs, strict=True)
        if links
    ]
    return "\n".join(["", "Runs:", "", *lines, ""])


def csv_text(columns: Sequence[Column]) -> str:
    """The fields of a table's columns as CSV: full precision, empty where there is nothing.

    Args:
        columns: with equally long fields.
    """
    fields = [field for column in columns for field in column.fields]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name for name, _ in fields])
    # csv writes floats with repr (shortest exact form) and None as an empty cell.
    writer.writerows(zip(*(values for _, values in fields), strict=True))
    return text.getvalue()


def _latex(title: str, columns: Sequence[Column], notes: Sequence[str]) -> str:
    lines = [
        f"% {title}; needs \\usepackage{{booktabs}}",
        r"\begin{tabular}{" + "".join("l" if c.left else "r" for c in columns) + "}",
        r"\toprule",
        " & ".join(_escaped(c.heading) for c in columns) + r" \\",
        r"\midrule",
    ]
    for texts in zip(*(c.texts for c in columns), strict=True):
        lines.append(" & ".join(_escaped(text) for text in texts) + r" \\")
    lines.append(r"\bottomrule")
    for note in notes:
        span = rf"\multicolumn{{{len(columns)}}}{{p{{0.9\linewidth}}}}"
        lines.append(span + rf"{{\footnotesize {_escaped(note)}}} \\")
    return "\n".join([*lines, r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    if text[:1] in ("+", "-") and text[1:2].isdigit():
        return f"${text}$"  # outside mathematics a minus is set as a hyphen
    return "".join(_TEX.get(character, character) for character in text)

"""Tables as HTML pages that need nothing else: no script, no other file, light and dark.

What the tables hold is not decided here; neither is where files are, only the way to them.
"""

from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

from sparsetune.reporting.columns import Column, RunLink, way

_SHOWN_DIGITS = 8
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 90rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid; vertical-align: bottom; }
td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
tbody tr:hover { background: color-mix(in srgb, currentColor 8%, transparent); }
td:not(.left) { white-space: nowrap; }
.left { text-align: left; }
.strong { font-weight: bold; }
.runs, .notes, .forms { font-size: .85rem; }
.runs { text-align: left; }
"""


def table_page(
    stem: Path,
    title: str,
    columns: Sequence[Column],
    notes: Sequence[str],
    *,
    runs: Sequence[Sequence[RunLink]] = (),
) -> str:
    """One table as a page of its own.

    Args:
        stem: path of the page without its suffix: links are relative to its folder.
        title: heading.
        columns: equally long.
        notes: footnotes.
        runs: behind each row; rows at the end may be without. Empty = no row has any.

    Returns:
        The page.
    """
    others = " ".join(
        f'<a href="{escape(stem.name)}.{form}">{name}</a>'
        for form, name in (("csv", "CSV"), ("md", "Markdown"), ("tex", "LaTeX"))
    )
    parts = [
        html_table(columns, stem.parent, runs=runs),
        listed(notes),
        f'<p class="forms">The same table as {others}.</p>',
    ]
    return page(title, parts)


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        parts: HTML.

    Returns:
        The page.
    """
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>\n<style>{_STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def html_table(
    columns: Sequence[Column], folder: Path, *, runs: Sequence[Sequence[RunLink]] = ()
) -> str:
    """A table, with a last column of links to the runs behind each row.

    Args:
        columns: equally long.
        folder: of the page.
        runs: see :func:`table_page`.

    Returns:
        HTML.
    """
    headings = [
        f'<th scope="col"{_side(column)}>{escape(column.heading)}</th>' for column in columns
    ]
    if any(runs):
        headings.append('<th scope="col" class="runs">runs (MLflow run)</th>')
    lines = [f"<tr>{''.join(headings)}</tr>", "</thead>", "<tbody>"]
    count = len(columns[0].texts) if columns else 0
    for row, links in zip_longest(range(count), runs, fillvalue=()):
        cells = [_cell(column, row, folder) for column in columns]
        if any(runs):
            told = "<br>".join(_run(link, folder) for link in links)
            cells.append(f'<td class="runs">{told}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join(['<div class="wide"><table>', "<thead>", *lines, "</tbody>", "</table></div>"])


def _cell(column: Column, row: int, folder: Path) -> str:
    text = escape(column.texts[row])
    target = column.targets[row] if column.targets else None
    if target is not None:
        href = target if isinstance(target, str) else way(target, folder)
        text = f'<a href="{escape(href)}">{text}</a>'
    return f"<td{_side(column)}>{text}</td>"


def _side(column: Column) -> str:
    names = [name for name in ("left", "strong") if getattr(column, name)]
    return f' class="{" ".join(names)}"' if names else ""


def _run(link: RunLink, folder: Path) -> str:
    text = f'<a href="{escape(way(link.record, folder))}">{escape(link.label)}</a>'
    if link.mlflow_run_id is None:
        return text
    run_id = escape(link.mlflow_run_id)
    return f'{text} <code title="MLflow run {run_id}">{run_id[:_SHOWN_DIGITS]}</code>'


def anchored(anchor: str, heading: str) -> str:
    """A second-level heading that ``#anchor`` leads to."""
    return f'<h2 id="{escape(anchor)}">{escape(heading)}</h2>'


def paragraph(text: str) -> str:
    """Plain text as a paragraph; what stands between backquotes is set as code."""
    parts = escape(text).split("`")
    return (
        "<p>" + "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)) + "</p>"
    )


def listed(notes: Sequence[str]) -> str:
    """Plain texts as a list; nothing without any."""
    items = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">\n{items}\n</ul>' if notes else ""

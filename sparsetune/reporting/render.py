"""One table as Markdown, CSV, LaTeX or HTML, through pandas; and pages, through jinja2.

The same columns always give the same bytes. What the columns hold is not decided here.
"""

import functools
import html
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from sparsetune.records import write_text_atomically
from sparsetune.reporting.contents import TABLE_FORMS

ABSENT = "-"
_SHOWN_DIGITS = 8
_TEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "Δ": r"$\Delta$",
})  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One printed column and the CSV fields behind it.

    Attributes:
        heading: as printed.
        texts: one cell per row, as printed.
        fields: name -> values for the CSV, at full precision; None = nothing there.
        left: aligned to the left.
        strong: set in bold in HTML.
        targets: where a cell leads to in HTML, one per row: a file, or ``#id`` on the same page;
            None = nowhere. Empty = no cell leads anywhere.
    """

    heading: str
    texts: Sequence[str]
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    left: bool = False
    strong: bool = False
    targets: Sequence[Path | str | None] = ()


@dataclass(frozen=True)
class RunLink:
    """A run behind a row, for a reader who wants to see it.

    Attributes:
        label: as printed, such as ``seed 1``.
        record: of the run's scores.
        mlflow_run_id: None if MLflow does not know the run.
    """

    label: str
    record: Path
    mlflow_run_id: str | None = None


def text_column(heading: str, name: str, texts: Sequence[str], *, strong: bool = False) -> Column:
    """A left-aligned column whose texts are also its CSV field."""
    return Column(heading, texts, {name: texts}, left=True, strong=strong)


def number_column(
    heading: str, name: str, values: Sequence[Any], show: Callable[[Any], str] = str
) -> Column:
    """A right-aligned column: values in the CSV, ``show`` of them in print; None is absent."""
    texts = [ABSENT if value is None else show(value) for value in values]
    return Column(heading, texts, {name: list(values)})


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return ABSENT if value is None else f"{100 * value:z.1f}"


def rendered(
    columns: Sequence[Column],
    form: str,
    *,
    folder: Path = Path(),
    runs: Sequence[Sequence[RunLink]] = (),
) -> str:
    """A table in one of its forms, without title and footnotes.

    Args:
        columns: equally long.
        form: one of :data:`sparsetune.reporting.contents.TABLE_FORMS`.
        folder: of the page on which the table stands; HTML links are relative to it.
        runs: behind each row, as a last column in HTML; rows at the end may be without. Empty =
            no row has any.

    Returns:
        The table's text, which ends with a newline. ``csv`` has the fields, all other forms the
        printed texts.

    Example:
        >>> print(rendered([text_column("method", "method", ["full"])], "md"), end="")
        | method   |
        |:---------|
        | full     |
    """
    if form == "csv":
        fields = {name: values for column in columns for name, values in column.fields.items()}
        return pd.DataFrame(fields, dtype=object).to_csv(index=False, lineterminator="\n")
    headings = [column.heading for column in columns]
    cells = [[column.texts[row] for column in columns] for row in range(_length(columns))]
    if form == "md":
        printed = pd.DataFrame(cells, columns=headings).map(_barless).rename(columns=_barless)
        sides = ["left" if column.left else "right" for column in columns] if cells else None
        return printed.to_markdown(index=False, disable_numparse=True, colalign=sides) + "\n"
    if form == "tex":
        printed = pd.DataFrame(cells, columns=headings).map(_tex).rename(columns=_tex)
        aligned = "".join("l" if column.left else "r" for column in columns)
        return printed.to_latex(index=False, escape=False, column_format=aligned)
    linked = [[_linked(column, row, folder) for column in columns] for row in range(len(cells))]
    if any(runs):
        headings = [*headings, "runs (MLflow run)"]
        behind = [*runs, *[()] * (len(cells) - len(runs))]
        for line, links in zip(linked, behind, strict=True):
            line.append("<br>".join(_run(link, folder) for link in links))
    page = pd.DataFrame(linked, columns=list(map(html.escape, headings)))
    with pd.option_context("display.max_colwidth", None):
        return page.to_html(index=False, escape=False, border=0, justify="unset") + "\n"


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
        The files, in the order of :data:`sparsetune.reporting.contents.TABLE_FORMS`.
    """
    footnotes = [rf"\par\noindent{{\footnotesize {_tex(note)}}}" for note in notes]
    texts = {
        "md": markdown(title, columns, notes) + _run_lines(stem.parent, columns, runs),
        "csv": rendered(columns, "csv"),
        "tex": "\n".join(
            [f"% {title}; needs \\usepackage{{booktabs}}", rendered(columns, "tex"), *footnotes, ""]
        ),
        "html": page(
            "table.html",
            title=title,
            table=table_of(columns, stem.parent, runs=runs),
            notes=notes,
            name=stem.name,
        ),
    }
    paths = [stem.with_name(f"{stem.name}.{form}") for form in TABLE_FORMS]
    for path, form in zip(paths, TABLE_FORMS, strict=True):
        write_text_atomically(path, texts[form])
    return paths


def markdown(title: str, columns: Sequence[Column], notes: Sequence[str]) -> str:
    """One table as Markdown, with its title and its footnotes."""
    footnotes = [f"- {note}" for note in notes]
    return "\n".join([f"# {title}", "", rendered(columns, "md"), *footnotes, ""])


def table_of(
    columns: Sequence[Column], folder: Path, *, runs: Sequence[Sequence[RunLink]] = ()
) -> dict[str, Any]:
    """A table for the template of a page in ``folder``: its HTML, and its left-aligned columns."""
    left = [place for place, column in enumerate(columns, start=1) if column.left]
    if any(runs):
        left.append(len(columns) + 1)
    return {"html": rendered(columns, "html", folder=folder, runs=runs), "left": left}


def page(template: str, **content: Any) -> str:
    """A page that needs nothing else: no script from elsewhere, no other file, light and dark.

    ``template`` is a file in ``reporting/templates``; plain texts are escaped in HTML.
    """
    return _environment().get_template(template).render(**content)


def way(target: Path, folder: Path) -> str:
    """The way from a folder where a link stands to a file, with slashes.

    Relative, so that a results folder can be moved and looked at elsewhere.
    """
    return Path(os.path.relpath(target.absolute(), folder.absolute())).as_posix()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _with_code
    return environment


def _with_code(text: str) -> str:
    """Plain text as HTML; what stands between backquotes is set as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _length(columns: Sequence[Column]) -> int:
    return len(columns[0].texts) if columns else 0


def _barless(text: str) -> str:
    return text.replace("|", r"\|")


def _tex(text: str) -> str:
    """Plain text as LaTeX; pandas knows no signs but ASCII's, and sets a minus as a hyphen."""
    if text[:1] in ("+", "-") and text[1:2].isdigit():
        return f"${text}$"
    return text.translate(_TEX)


def _linked(column: Column, row: int, folder: Path) -> str:
    text = html.escape(column.texts[row])
    target = column.targets[row] if column.targets else None
    if target is not None:
        href = target if isinstance(target, str) else way(target, folder)
        text = f'<a href="{html.escape(href)}">{text}</a>'
    return f"<b>{text}</b>" if column.strong else text


def _run(link: RunLink, folder: Path) -> str:
    text = f'<a href="{html.escape(way(link.record, folder))}">{html.escape(link.label)}</a>'
    if link.mlflow_run_id is None:
        return text
    run_id = html.escape(link.mlflow_run_id)
    return f'{text} <code title="MLflow run {run_id}">{run_id[:_SHOWN_DIGITS]}</code>'


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

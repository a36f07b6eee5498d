"""One table as Markdown, CSV, LaTeX or HTML, through pandas; and pages, through jinja2.

The same columns always give the same bytes. What the columns hold is not decided here.
"""

import functools
import html
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap, takewhile
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from sparsetune.records import write_text_atomically
from sparsetune.reporting.contents import TABLE_FORMS

ABSENT = "-"
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
        targets: where a cell leads to in HTML, one per row, relative to the page; None = nowhere.
            Empty = no cell leads anywhere.
        markup: whether the texts are HTML already.
    """

    heading: str
    texts: Sequence[str]
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    left: bool = False
    strong: bool = False
    targets: Sequence[str | None] = ()
    markup: bool = False

    def html(self) -> list[str]:
        """The cells as HTML."""
        cells = list(self.texts if self.markup else map(html.escape, self.texts))
        for row, target in enumerate(self.targets):
            if target is not None:
                cells[row] = f'<a href="{html.escape(target)}">{cells[row]}</a>'
        return [f"<b>{cell}</b>" for cell in cells] if self.strong else cells


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


def text_column(heading: str, name: str, texts: Sequence[str], **options: Any) -> Column:
    """A left-aligned column whose texts are also its CSV field, unless the name is empty."""
    return Column(heading, texts, {name: texts} if name else {}, left=True, **options)


def number_column(
    heading: str, name: str, values: Iterable[Any], show: Callable[[Any], str] = str
) -> Column:
    """A right-aligned column: values in the CSV, ``show`` of them in print; None is absent."""
    kept = list(values)
    return Column(heading, [spread_text(value, None, show) for value in kept], {name: kept})


def spread_text(mean: Any, deviation: Any, show: Callable[[Any], str]) -> str:
    """A mean, with its standard deviation where there is one; absent if the mean is None."""
    if mean is None:
        return ABSENT
    return show(mean) if deviation is None else f"{show(mean)} ± {show(deviation)}"


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:z.1f}"


def rendered(columns: Sequence[Column], form: str) -> str:
    """A table in one of its forms, without title and footnotes.

    Args:
        columns: at least one; equally long.
        form: one of :data:`sparsetune.reporting.contents.TABLE_FORMS`.

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
    escapes: Mapping[str, Callable[[str], str]] = {"md": _barless, "tex": _tex, "html": html.escape}
    escape = escapes[form]
    cells = [c.html() if form == "html" else list(map(escape, c.texts)) for c in columns]
    # Headings may be alike, so they are no keys.
    printed = pd.DataFrame(dict(enumerate(cells)), dtype=object)
    printed = printed.set_axis([escape(column.heading) for column in columns], axis=1)
    if form == "md":
        sides = ["left" if column.left else "right" for column in columns] if cells[0] else None
        return printed.to_markdown(index=False, disable_numparse=True, colalign=sides) + "\n"
    if form == "tex":
        aligned = "".join("l" if column.left else "r" for column in columns)
        return printed.to_latex(index=False, escape=False, column_format=aligned)
    with pd.option_context("display.max_colwidth", None):
        return printed.to_html(index=False, escape=False, border=0, justify="unset") + "\n"


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
        columns: at least one; equally long.
        notes: footnotes; not in the CSV.
        runs: behind each row; rows at the end may be without. Empty = no row has any. HTML has
            them beside the row, Markdown below the table if the first columns, those of text,
            name its rows.

    Returns:
        The files, in the order of :data:`sparsetune.reporting.contents.TABLE_FORMS`.
    """
    ways = [[(link, _way(link.record, stem.parent)) for link in links] for links in runs]
    shown = list(columns)
    if any(ways):
        behind = ["<br>".join(starmap(_run, links)) for links in ways]
        behind += [""] * (len(columns[0].texts) - len(behind))
        shown.append(Column("runs (MLflow run)", behind, left=True, markup=True))
    footnotes = [rf"\par\noindent{{\footnotesize {_tex(note)}}}" for note in notes]
    latex = [f"% {title}; needs \\usepackage{{booktabs}}", rendered(columns, "tex"), *footnotes, ""]
    texts = {
        "md": markdown(title, columns, notes) + _run_lines(columns, ways),
        "csv": rendered(columns, "csv"),
        "tex": "\n".join(latex),
        "html": page("table.html", title=title, table=table_of(shown), notes=notes, name=stem.name),
    }
    paths = [stem.with_name(f"{stem.name}.{form}") for form in TABLE_FORMS]
    for path, form in zip(paths, TABLE_FORMS, strict=True):
        write_text_atomically(path, texts[form])
    return paths


def markdown(title: str, columns: Sequence[Column], notes: Sequence[str]) -> str:
    """One table as Markdown, with its title and its footnotes."""
    footnotes = [f"- {note}" for note in notes]
    return "\n".join([f"# {title}", "", rendered(columns, "md"), *footnotes, ""])


def table_of(columns: Sequence[Column]) -> dict[str, Any]:
    """A table for the template of a page: its HTML, and which columns are left-aligned."""
    left = [place for place, column in enumerate(columns, start=1) if column.left]
    return {"html": rendered(columns, "html"), "left": left}


def page(template: str, **content: Any) -> str:
    """A page that needs nothing else: no script from elsewhere, no other file, light and dark.

    ``template`` is a file in ``reporting/templates``; plain texts are escaped in HTML.
    """
    return _environment().get_template(template).render(**content)


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


def _barless(text: str) -> str:
    return text.replace("|", r"\|")


def _tex(text: str) -> str:
    """Plain text as LaTeX; pandas knows no signs but ASCII's, and sets a minus as a hyphen."""
    if text[:1] in ("+", "-") and text[1:2].isdigit():
        return f"${text}$"
    return text.translate(_TEX)


def _way(target: Path, folder: Path) -> str:
    """The way from a folder to a file, relative: results can be moved and looked at elsewhere."""
    return Path(os.path.relpath(target.absolute(), folder.absolute())).as_posix()


def _run(link: RunLink, way: str) -> str:
    text = f'<a href="{html.escape(way)}">{html.escape(link.label)}</a>'
    if link.mlflow_run_id is None:
        return text
    run_id = html.escape(link.mlflow_run_id)
    return f'{text} <code title="MLflow run {run_id}">{run_id[:8]}</code>'


def _run_lines(columns: Sequence[Column], ways: Sequence[Sequence[tuple[RunLink, str]]]) -> str:
    """Links to the runs, below the table: within, they would make its cells unreadable."""
    naming = takewhile(lambda column: column.left, columns)
    named = zip(*(column.texts[: len(ways)] for column in naming), strict=True)
    names = [", ".join(texts) for texts in named]
    if not any(ways) or len(set(names)) < len(ways):
        return ""
    lines = [
        f"- {name}: " + ", ".join(f"[{link.label}]({way})" for link, way in links)
        for name, links in zip(names, ways, strict=True)
        if links
    ]
    return "\n".join(["", "Runs:", "", *lines, ""])

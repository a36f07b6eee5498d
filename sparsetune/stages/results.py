"""Sub-command ``results``: what the repository keeps of finished suites, from their records."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsetune.config.load import Catalogue, Suite
from sparsetune.config.reading import read_yaml
from sparsetune.config.study import read_studies
from sparsetune.errors import ConfigError, DataError
from sparsetune.records import read_json, write_json, write_text_atomically
from sparsetune.reporting.contents import RUN_STAGES
from sparsetune.stages.mirror import suite_file

INDEX = "index"
_OF_ANOTHER_FORM = (AttributeError, IndexError, KeyError, TypeError, ValueError)
_ANOTHER_FORM = "not as this version writes it ({!r}); delete it, or run that suite again"


def make_results(
    catalogue: Catalogue,
    *,
    results: Path,
    output: Path,
    readme: Path | None,
    studies: Path | None = None,
) -> list[str]:
    """Write a page, its data and a figure for each suite, the list of them, and what shows them.

    What shows them is README's block and the pages of studies.

    A suite that is not among ``results`` keeps the page that it has. All is computed before the
    first file is written.

    Args:
        catalogue: whose suites tell order and description; a suite that it lacks goes without.
        results: the folder with the suites' results.
        output: folder for the pages.
        readme: whose block between the marks is written, for the suite that they name; None =
            leave it.
        studies: folder of the studies' pages, whose blocks are written; one that is not there
            begins with its answer to be written; None = leave them.

    Returns:
        A line for each suite.

    Raises:
        ConfigError: a file of the catalogue breaks its schema; README or a study's page cannot
            be read.
        DataError: no suite has a finished run; a record is damaged or does not fit the others; a
            page's data, or the marks of README or of a study's page, are not as this writes them.
    """
    # Here and not above: they need pandas and matplotlib.
    from sparsetune.reporting import results as pages
    from sparsetune.reporting.figures import write_methods

    made = {one["suite"]: one for one in _suites(catalogue, results)}
    if not made:
        told = "received no suite with a finished run; allowed: run one first, or name its folder"
        raise ConfigError(f"--results: {results}: {told}")
    kept = {path.stem: read_json(path, what="results") for path in sorted(output.glob("*.json"))}
    known = dict(sorted({**kept, **made}.items()))
    texts = {}
    for name, data in known.items():
        try:
            texts[output / f"{name}.md"] = pages.page_of(data)
        except _OF_ANOTHER_FORM as error:
            raise DataError(f"{output / name}.json: {_ANOTHER_FORM.format(error)}") from None
    texts[output / f"{INDEX}.md"] = pages.index_of(known.values())
    if readme is not None:
        text = _text_of("--readme", readme)
        shown = known.get(pages.shown_suite(text) or "")
        texts[readme] = pages.with_block(text, pages.block_of(shown))
    if studies is not None:
        try:
            texts |= _studies(catalogue, known, studies)
        except _OF_ANOTHER_FORM as error:
            raise DataError(f"{output}: {_ANOTHER_FORM.format(error)}") from None
    for name, data in made.items():
        rows, cells = pages.drawn_methods(data)
        if rows:
            write_methods(rows, cells, output / f"{name}.svg", title=name)
        write_json(output / f"{name}.json", data)
    for path, text in texts.items():
        write_text_atomically(path, text)
    return [f"{output / name}.md: {data['runs_count']} runs" for name, data in made.items()]


def _text_of(option: str, path: Path) -> str:
    """What stands in a page that is partly written by hand."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: received {path}: cannot be read: {error}") from None


def _studies(
    catalogue: Catalogue, known: Mapping[str, dict[str, Any]], folder: Path
) -> dict[Path, str]:
    """The pages of all studies and the list of them."""
    from sparsetune.reporting.studies import index_of, page_of

    asked = read_studies(catalogue.root / "studies", catalogue)
    pages = {}
    for name, study in asked.items():
        path = folder / f"{name}.md"
        text = _text_of("--studies", path) if path.exists() else None
        pages[name] = page_of(name, study, known, text)
    index = {folder / f"{INDEX}.md": index_of(asked, pages)} if asked else {}
    return {folder / f"{name}.md": text for name, text in pages.items()} | index


def _suites(catalogue: Catalogue, results: Path) -> Iterator[dict[str, Any]]:
    """The data of every suite with a run all of whose records are there."""
    from sparsetune.reporting.load import collect
    from sparsetune.reporting.results import data_of

    for folder in sorted(results.glob("*/runs")):
        name = folder.parent.name
        suite, description = _planned(catalogue, name)
        runs = [path.parent for path in folder.glob("*/*/*/seed-*/cost.json")]
        runs = [run for run in runs if all((run / f"{one}.json").exists() for one in RUN_STAGES)]
        order = None
        if suite is not None:
            # What the suite does not ask for any more is no result of it.
            order = [run.key for run in suite.runs]
            asked = {run.path for run in suite.runs}
            runs = [run for run in runs if run.relative_to(folder).as_posix() in asked]
        if runs:
            claims = folder.parent / "claims.json"
            yield data_of(
                collect(runs, order),
                name=name,
                description=description,
                planned=len(suite.runs) if suite else None,
                claims=claims if claims.exists() else None,
            )


def _planned(catalogue: Catalogue, name: str) -> tuple[Suite | None, str]:
    """The suite of this id and what it is, as the catalogue tells; nothing if it lacks it."""
    try:
        path = suite_file(catalogue.root, name)
    except ConfigError:
        return None, ""
    content = read_yaml(path)
    return catalogue.suite(content, origin=str(path)), str(content["description"])

"""The generated world behind the default suite: labelled tasks and running text, by seed.

Files have the published layouts, so the loaders that read them read the real data sets too.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sparsetune.data.synthetic.grammar import Vocabulary, document, stream, vocabulary
from sparsetune.data.synthetic.tasks import GLUE_ROWS, e2e_rows, squad_paragraph
from sparsetune.errors import ConfigError

LAYOUTS: tuple[str, ...] = (*GLUE_ROWS, "squad", "e2e")
SPLITS: tuple[str, ...] = ("train", "dev", "test")
# References of one meaning representation, as in the challenge: several where scores are computed.
E2E_REFERENCES: Mapping[str, int] = {"train": 1, "dev": 4, "test": 4}
_E2E_FILES: Mapping[str, str] = {
    "train": "trainset.csv",
    "dev": "devset.csv",
    "test": "testset_w_refs.csv",
}
_GLUE_HEADERS: Mapping[str, tuple[str, ...]] = {
    "sst2": ("sentence", "label"),
    "cola": (),  # the published train and dev files have no header line
    "rte": ("index", "sentence1", "sentence2", "label"),
    "stsb": (
        *("index", "genre", "filename", "year", "old_index", "source1", "source2"),
        *("sentence1", "sentence2", "score"),
    ),
}
_QUESTIONS_PER_PARAGRAPH = 2


def write_task(layout: str, directory: Path, *, seed: int, sizes: Mapping[str, int]) -> None:
    """Write one task of the world in the layout of a published data set.

    Train examples use a part of the open word classes only; dev and test use them all, and
    running text (``write_corpus``) tells what the other words mean.

    Args:
        layout: ``sst2``, ``cola``, ``rte``, ``stsb``, ``squad`` or ``e2e``.
        directory: where the files go; made if missing.
        seed: any integer; the same seed gives the same bytes.
        sizes: split (``train``, ``dev``, ``test``) -> number of examples, >= 1. A split left
            out is not written. Counts questions for ``squad`` (which has no test split) and
            meaning representations for ``e2e``.

    Raises:
        ConfigError: unknown layout or split, or a size below 1.
    """
    _check(layout, sizes)
    directory.mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        words = vocabulary(labelled_only=split == "train")
        if layout == "squad":
            _write_squad(directory, split, seed=seed, size=size, words=words)
        elif layout == "e2e":
            rows = e2e_rows(stream(seed, layout, split), size, E2E_REFERENCES[split])
            _write_e2e(directory / _E2E_FILES[split], rows)
        else:
            draws = stream(seed, layout, split)
            rows = [GLUE_ROWS[layout](draws, words, index) for index in range(size)]
            _write_glue(directory / f"{split}.tsv", layout, split, rows)


def write_corpus(path: Path, *, seed: int, documents: int) -> None:
    """Write running text for pre-training, one document on each line.

    Args:
        path: the text file; its folder is made if missing.
        seed: any integer; the same seed gives the same bytes.
        documents: number of lines, >= 1.

    Raises:
        ConfigError: if ``documents`` is below 1.
    """
    if documents < 1:
        raise ConfigError(f"corpus: documents is {documents}, allowed: 1 or more")
    draws = stream(seed, "corpus")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{document(draws)}\n" for _ in range(documents))


def _check(layout: str, sizes: Mapping[str, int]) -> None:
    """Refuse what cannot be written, before anything is."""
    if layout not in LAYOUTS:
        raise ConfigError(f"generated task: layout {layout!r}, allowed: {', '.join(LAYOUTS)}")
    allowed = SPLITS[:2] if layout == "squad" else SPLITS
    for split, size in sizes.items():
        if split not in allowed:
            raise ConfigError(f"{layout}: split {split!r}, allowed: {', '.join(allowed)}")
        if size < 1:
            raise ConfigError(f"{layout}: size of {split} is {size}, allowed: 1 or more")


def _write_glue(path: Path, layout: str, split: str, rows: Iterable[Sequence[str]]) -> None:
    """Tab-separated without quoting; test files carry an index and no label."""
    header = _GLUE_HEADERS[layout]
    if split == "test":
        header, rows = _without_labels(layout, rows)
    lines = [header, *rows] if header else rows
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines("\t".join(row) + "\n" for row in lines)


def _without_labels(
    layout: str, rows: Iterable[Sequence[str]]
) -> tuple[tuple[str, ...], list[Sequence[str]]]:
    """Header and rows of a published test file."""
    if layout in ("sst2", "cola"):
        column = {"sst2": 0, "cola": 3}[layout]
        numbered = [(str(index), row[column]) for index, row in enumerate(rows)]
        return ("index", "sentence"), numbered
    return _GLUE_HEADERS[layout][:-1], [row[:-1] for row in rows]


def _write_squad(directory: Path, split: str, *, seed: int, size: int, words: Vocabulary) -> None:
    """The official JSON of version 1.1; every paragraph but the last has two questions."""
    draws = stream(seed, "squad", split)
    paragraphs = [
        squad_paragraph(
            draws, words, f"{split}-{start:05d}", min(_QUESTIONS_PER_PARAGRAPH, size - start)
        )
        for start in range(0, size, _QUESTIONS_PER_PARAGRAPH)
    ]
    content = {"version": "1.1", "data": [{"title": "People", "paragraphs": paragraphs}]}
    text = json.dumps(content, ensure_ascii=False)
    (directory / f"{split}-v1.1.json").write_text(text, encoding="utf-8", newline="\n")


def _write_e2e(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Quoted CSV with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(("mr", "ref"))
        writer.writerows(rows)

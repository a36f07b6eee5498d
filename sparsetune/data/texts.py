"""Where running text comes from, gathered into one file with a document on each line.

The generated world, local files (plain, gzip or parquet), or a data set of the hub.
"""

import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from sparsetune.data.hub import hub_snapshot
from sparsetune.data.synthetic.world import write_corpus
from sparsetune.data.text_files import matching_files, text_files
from sparsetune.errors import DataError, first_line
from sparsetune.records import replacing, sha256_of

COLUMN = "text"  # of parquet files


def gather_corpus(
    source: Mapping[str, Any], destination: Path, *, lock_file: Path
) -> dict[str, Any]:
    """Write a backbone's running text to one file, a document on each line.

    White space within a document becomes single blanks; documents without words are left out.

    Args:
        source: of kind ``world``, ``text`` or ``hub-text``.
        destination: UTF-8 file; appears only when complete.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        ``documents``, ``sha256`` and ``stored_bytes`` of the file, ``revision`` (hub commit; None
        for other sources) and, of the hub's text alone, ``files`` (path -> sha256).

    Raises:
        DataError: the source cannot be reached or read, or holds no document.
    """
    revision, listed = None, dict[str, Any]()
    if source["kind"] == "world":
        with replacing(destination) as partial:
            write_corpus(partial, seed=source["seed"], documents=source["documents"])
        documents = source["documents"]
    else:
        if source["kind"] == "hub-text":
            revision, folder, files = _hub_files(source, lock_file)
            listed["files"] = {str(path.relative_to(folder)): sha256_of(path) for path in files}
        else:
            files = text_files(source)
        documents = _write(destination, files, source.get("documents"))
    return {
        "documents": documents,
        **listed,
        "revision": revision,
        "sha256": sha256_of(destination),
        "stored_bytes": destination.stat().st_size,
    }


def _hub_files(source: Mapping[str, Any], lock_file: Path) -> tuple[str, Path, list[Path]]:
    commit, folder = hub_snapshot(
        source,
        kind="dataset",
        patterns=source["files"],
        lock_file=lock_file,
        advice="use a mirror: --config mirror=PATH with these files in "
        f"PATH/datasets/{source['repository'].rpartition('/')[2]}/",
    )
    origin = f"{source['repository']}@{commit[:12]}/"
    return commit, folder, matching_files(source["files"], folder, origin)


def _write(destination: Path, files: Sequence[Path], most: int | None) -> int:
    texts = itertools.chain.from_iterable(_texts(path) for path in files)
    folded = (" ".join(text.split()) for text in texts)
    count = 0
    with replacing(destination) as partial, partial.open("w", encoding="utf-8") as file:
        for text in itertools.islice(filter(None, folded), most):
            file.write(text + "\n")
            count += 1
        if not count:
            raise DataError(f"{files[0]}: the corpus has no document")
    return count


def _texts(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            yield from _column(path)
        else:
            open_text = gzip.open if path.suffix == ".gz" else open
            with open_text(path, "rt", encoding="utf-8") as file:
                yield from file
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not readable text: {first_line(error)}") from None


def _column(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if COLUMN not in names:
            raise DataError(f"{path}: columns: got {', '.join(names)}; need {COLUMN}")
        for batch in file.iter_batches(columns=[COLUMN]):
            yield from (text for text in batch.column(0).to_pylist() if text)

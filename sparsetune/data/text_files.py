"""Local files of running text, found by name; nothing heavy is imported, nothing is opened."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.errors import DataError


def text_files(source: Mapping[str, Any]) -> list[Path]:
    """Find the local files of a corpus.

    Args:
        source: of a backbone; ``paths`` of kind ``text`` are files or patterns.

    Returns:
        Files in the order of the patterns, each pattern's sorted; none for other kinds.

    Raises:
        DataError: a path or pattern matches no file.
    """
    if source["kind"] != "text":
        return []
    return matching_files(source["paths"], Path(), "")


def planned_inputs(source: Mapping[str, Any]) -> list[str]:
    """Name the local files of a corpus before they need to be there.

    Args:
        source: of a backbone.

    Returns:
        What :func:`text_files` finds; the patterns themselves if one has no file, so that
        whoever plans with them can say what is missing.
    """
    try:
        return [str(path) for path in text_files(source)]
    except DataError:
        return list(source["paths"])


def matching_files(patterns: Sequence[str], folder: Path, origin: str) -> list[Path]:
    """Find the files that patterns name.

    Args:
        patterns: relative ones are those below ``folder``; absolute ones stand for themselves.
        folder: where to look.
        origin: what a message writes before a pattern.

    Returns:
        Files in the order of the patterns, each pattern's sorted, each once.

    Raises:
        DataError: a pattern without a file.
    """
    found: list[Path] = []
    for pattern in patterns:
        whole = Path(glob.escape(str(folder))) / pattern
        root = Path(whole.anchor)
        files = sorted(one for one in root.glob(str(whole.relative_to(root))) if one.is_file())
        if not files:
            raise DataError(f"{origin}{pattern}: no such text; need text, text.gz or parquet")
        found.extend(files)
    return list(dict.fromkeys(found))

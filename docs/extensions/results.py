"""The pages of docs/results and docs/studies, which `make results` writes, in the site's menu."""

from pathlib import Path
from typing import Any

_SECTION = "Results"
_FOLDERS = {"results": ("Results", "Suite "), "studies": ("Studies", "Study ")}
"""Folder -> name of its list, and what stands before a page's own."""


def on_config(config: Any) -> Any:
    """Add them to their section; of each folder the list comes first."""
    docs = Path(config["docs_dir"])
    found = [
        {first if page.stem == "index" else f"{word}{page.stem}": page.relative_to(docs).as_posix()}
        for folder, (first, word) in _FOLDERS.items()
        for page in sorted(
            docs.glob(f"{folder}/*.md"), key=lambda page: (page.stem != "index", page.stem)
        )
    ]
    for section in config["nav"] or []:
        if _SECTION in section:
            section[_SECTION][:0] = found
    return config

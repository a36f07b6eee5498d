"""The pages of docs/results, which `make results` writes, in the site's menu."""

from pathlib import Path
from typing import Any

_SECTION = "Results"


def on_config(config: Any) -> Any:
    """Add them to their section; the list of suites comes first."""
    folder = Path(config["docs_dir"])
    pages = sorted(folder.glob("results/*.md"), key=lambda page: (page.stem != "index", page.stem))
    for section in config["nav"] or []:
        if _SECTION in section:
            section[_SECTION][:0] = [
                {_SECTION if page.stem == "index" else f"Suite {page.stem}":
                 page.relative_to(folder).as_posix()}
                for page in pages
            ]  # fmt: skip
    return config

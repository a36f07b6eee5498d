"""Names that move to ``reading``, until every room imports them from there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsetune.config.reading import read_yaml, suite_content, validated
from sparsetune.config.suite import SuiteFile
from sparsetune.config.table import PublishedTable

__all__ = ["read_checked", "read_yaml", "suite_content"]


def read_checked(path: Path, schema: str) -> Mapping[str, Any]:
    """Read a suite or a published table."""
    raw = read_yaml(path)
    validated({"suite": SuiteFile, "table": PublishedTable}[schema], raw, origin=path)
    return raw

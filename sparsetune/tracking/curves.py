"""The points of a run's curves: in its history file, in MLflow, and what the one lacks."""

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sparsetune.errors import DataError
from sparsetune.tracking.names import flatten

Point = tuple[str, float, int]
"""Metric, value, step."""

_TEXT_COLUMN = "phase"


class CurveDigest:
    """Count and order-free digest of curve points: equal text = the same points."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0

    def add(self, name: str, value: float, step: int) -> None:
        """Take one more point."""
        told = hashlib.blake2b(f"{name} {step} {value!r}".encode(), digest_size=8).digest()
        self._count += 1
        self._sum = (self._sum + int.from_bytes(told)) % 2**64

    @property
    def text(self) -> str:
        """The tag's value."""
        return f"{self._count}-{self._sum:016x}"


def lacking_points(present: Iterable[Point], wanted: Sequence[Point]) -> list[Point] | None:
    """What must be added to curves that cannot be changed, so that they become the wanted ones.

    Args:
        present: what MLflow holds, in any order.
        wanted: what it must hold.

    Returns:
        The wanted points that are not present, in the order of ``wanted``; None if a point is
        present that is not wanted, or a value is not a number, which equals nothing.
    """
    left = Counter(wanted)
    left.subtract(present)
    return None if any(count < 0 for count in left.values()) else list(left.elements())


def read_points(path: Path) -> list[Point]:
    """The points of a history file, in its order, named as live logging names them.

    Args:
        path: CSV with a ``step`` column, then one column per metric; an empty cell = no point, and
            the text column ``phase`` is left out.

    Raises:
        DataError: naming file, row and column.
    """
    points: list[Point] = []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if "step" not in (rows.fieldnames or ()):
            raise DataError(f"{path}: columns are {rows.fieldnames}, need 'step'")
        for number, row in enumerate(rows, start=2):
            if None in row:
                raise DataError(f"{path}: row {number}: more cells than columns")
            step = _number(path, number, "step", row.pop("step"))
            row.pop(_TEXT_COLUMN, None)
            for name, cell in flatten(row).items():
                if cell:
                    points.append((name, _number(path, number, name, cell), int(step)))
    return points


def _number(path: Path, row: int, column: str, cell: str | None) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        raise DataError(f"{path}: row {row}: {column} is {cell!r}, need a number") from None
    if column == "step" and not math.isfinite(value):
        raise DataError(f"{path}: row {row}: step is {cell!r}, need a whole number")
    return value

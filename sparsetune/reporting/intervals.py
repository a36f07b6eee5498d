"""The interval of a mean difference: from seeds or tasks, no narrower than the examples allow.

Pure mathematics on lists of numbers; what a difference is of is not known here. All t intervals
are at :data:`LEVEL`, of the mean of the cells' means; too few cells or values are a ValueError.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie.

    Attributes:
        mean: of the means of the cells.
        low: lower end; None where nothing tells the noise.
        high: upper end; likewise.
        over: what varied: ``seeds``, ``tasks`` or ``examples``; ``nothing`` if the numbers are
            counted and exact, or if nothing tells the noise.
        freedom: degrees of freedom of Student's t; None without it.
        widened: whether the noise of the examples is larger and stands instead.
    """

    mean: float
    low: float | None
    high: float | None
    over: Literal["seeds", "tasks", "examples", "nothing"]
    freedom: float | None = None
    widened: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end, where the noise is known."""
        if self.low is None or self.high is None:
            raise ValueError("the noise of this mean is not known")
        return self.low, self.high


def over_seeds(cells: Sequence[Sequence[float]]) -> Interval:
    """Interval of the mean over these very cells, from the spread of seeds within each.

    Seeds are nested in cells: each cell has its own mean and its own variance, and a cell counts
    once however many seeds it has.

    Args:
        cells: differences of paired runs, one list per cell, each of at least two.

    Source:
        Student's paired t for one cell; for several, Satterthwaite 1946, "An approximate
        distribution of estimates of variance components", Biometrics Bulletin 2.
    Differs:
        Nothing.

    Example:
        >>> found = over_seeds([[1.0, 3.0], [4.0, 4.0]])
        >>> found.mean, found.freedom
        (3.0, 1.0)
    """
    if not cells or min(map(len, cells)) < 2:
        raise ValueError("need at least one cell, and two values in each")
    parts = [statistics.variance(cell) / len(cell) / len(cells) ** 2 for cell in cells]
    spread = sum(parts)
    mean = statistics.fmean(statistics.fmean(cell) for cell in cells)
    if spread == 0:
        return Interval(mean, mean, mean, "seeds")
    freedom = spread**2 / sum(
        part**2 / (len(cell) - 1) for part, cell in zip(parts, cells, strict=True)
    )
    return _around(mean, math.sqrt(spread), freedom, "seeds")


def over_tasks(cells: Sequence[Sequence[float]]) -> Interval:
    """Interval of the mean over cells like these, from the spread between the cells' means.

    Wider than :func:`over_seeds` where tasks disagree; it also holds with one seed, whose noise
    is part of the spread between cells.

    Args:
        cells: differences of paired runs, one non-empty list per cell, at least two lists.

    Source:
        Student's t on the means of the cells (a random effect of the cell, seeds nested in it).
    Differs:
        Nothing.

    Example:
        >>> found = over_tasks([[1.0, 3.0], [4.0]])
        >>> found.mean, found.freedom
        (3.0, 1.0)
    """
    if len(cells) < 2 or not all(cells):
        raise ValueError("need at least two cells, and a value in each")
    means = [statistics.fmean(cell) for cell in cells]
    error = statistics.stdev(means) / math.sqrt(len(means))
    return _around(statistics.fmean(means), error, len(means) - 1, "tasks")


def widened_to(interval: Interval, examples: Interval) -> Interval:
    """Make an interval from few numbers no narrower than the examples alone allow.

    Two or three differences may agree by chance, and then their spread says that there is no
    noise. The result is the union of both, which are of the same mean.

    Example:
        >>> widened_to(over_tasks([[1.0], [1.0]]), Interval(1.0, -2.0, 4.0, "examples")).low
        -2.0
    """
    low, high = (pick(interval.ends[at], examples.ends[at]) for at, pick in enumerate((min, max)))
    return replace(interval, low=low, high=high, widened=(low, high) != interval.ends)


def _around(mean: float, error: float, freedom: float, over: Literal["seeds", "tasks"]) -> Interval:
    # Here and not above: the workflow reads names from this package without the library.
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Interval(mean, mean - half, mean + half, over, float(freedom))

"""The numbers that a reader wants first of a run, and their spread over seeds.

Percentages are rounded to two decimals: this is for lists of runs; records hold the exact values.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.load import RunRow, finished
from sparsetune.reporting.render import ABSENT, Column, number_column, text_column
from sparsetune.reporting.savings import saved_shares

SCORE = "score_percent"
MACS = "macs_effective_percent"
TRAINED = "parameters_trained"
SAVED = "time_saved_percent"
HEADINGS = {
    SCORE: "score %",
    MACS: "effective MACs %",
    TRAINED: "trained parameters",
    SAVED: "time saved %",
}
"""Name -> how a table calls it, in the order to show."""

_DECIMALS = 2

RunId = tuple[str, str, str, int]
"""(backbone, task, method, seed)."""
Headline = Mapping[str, float]
"""Name out of :data:`HEADINGS` -> value; what a run has no value for is absent."""


def headlines(rows: Iterable[RunRow]) -> dict[RunId, Headline]:
    """What each run reached, and what it cost.

    Args:
        rows: from :func:`sparsetune.reporting.load.collect`, all runs of their tasks.

    Returns:
        (backbone, task, method, seed) -> ``score_percent`` (primary metric x 100),
        ``macs_effective_percent`` (of the dense model's for one example),
        ``parameters_trained`` and ``time_saved_percent`` (of the dense runs' mean seconds, search
        included, negative if it took longer; dense runs have none).

    Raises:
        DataError: a value is missing from a record.
    """
    known = list(rows)
    groups = finished(known, [row.key for row in known]).groups
    told: dict[RunId, Headline] = {}
    for key, runs in groups.items():
        saved: Sequence[float | None] = [None] * len(runs)
        dense = groups.get((*key[:2], REFERENCE_METHOD))
        if dense is not None and key[2] != REFERENCE_METHOD:
            saved = saved_shares(runs, dense, "seconds")
        macs = runs["macs_effective_per_example"] / runs["macs_dense_per_example"]
        for seed, score, share, trained, part in zip(
            runs["seed"], runs["score"], macs, runs["parameters_trained"], saved, strict=True
        ):
            fractions = {SCORE: score, MACS: share, SAVED: part}
            told[(*key, seed)] = {TRAINED: float(trained)} | {
                name: round(100 * value, _DECIMALS)
                for name, value in fractions.items()
                if value is not None
            }
    return told


def spread(of_seeds: Sequence[Headline]) -> dict[str, float]:
    """Mean, sample standard deviation and count of one method's headlines.

    Args:
        of_seeds: one per seed, at least one.

    Returns:
        ``<name>_mean`` for every name that a seed has, ``<name>_sd`` where two or more have it,
        and ``seeds_count``.

    Example:
        >>> spread([{"score_percent": 80.0}, {"score_percent": 82.0}])
        {'score_percent_mean': 81.0, 'score_percent_sd': 1.41, 'seeds_count': 2.0}
    """
    told: dict[str, float] = {}
    for name in HEADINGS:
        values = [headline[name] for headline in of_seeds if name in headline]
        if values:
            told[f"{name}_mean"] = round(statistics.fmean(values), _DECIMALS)
        if len(values) > 1:
            told[f"{name}_sd"] = round(statistics.stdev(values), _DECIMALS)
    return {**told, "seeds_count": float(len(of_seeds))}


def columns_of(methods: Mapping[str, Mapping[str, float]]) -> list[Column]:
    """A table with one line per method.

    Args:
        methods: method id -> :func:`spread`, in the order to print.
    """
    spreads = list(methods.values())
    columns = [text_column("method", "method", list(methods))]
    for name, heading in HEADINGS.items():
        fields = {
            f"{name}_{part}": [told.get(f"{name}_{part}") for told in spreads]
            for part in ("mean", "sd")
        }
        columns.append(Column(heading, [_text(name, told) for told in spreads], fields))
    counts = [int(told["seeds_count"]) for told in spreads]
    return [*columns, number_column("seeds", "seeds_count", counts)]


def _text(name: str, told: Mapping[str, float]) -> str:
    mean, deviation = told.get(f"{name}_mean"), told.get(f"{name}_sd")
    if mean is None:
        return ABSENT
    form = "{:,.0f}" if name == TRAINED else "{:z.1f}"
    # A count that is the same for all seeds needs no spread.
    varies = deviation is not None and not (name == TRAINED and deviation == 0)
    return form.format(mean) + (f" ± {form.format(deviation)}" if varies else "")

"""Two methods on the same examples: the table of all methods against one, and one pair in full.

What is compared, and how, is computed elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsetune.config.metric import scale_of
from sparsetune.reporting.load import KEY, Key
from sparsetune.reporting.render import (
    ABSENT,
    Column,
    markdown,
    number_column,
    spread_text,
    text_column,
    write_table,
)


@dataclass(frozen=True)
class Comparison:
    """One method against another on one task, by one metric.

    Attributes:
        against: the other method, the first of the pair.
        metric: name; a fraction or a correlation.
        seeds: that both methods have, increasing.
        examples: of the evaluation split.
        scores: mean over the seeds, (other method, method); None where undefined.
        difference: method minus other, as ``value low high p_value``; None where undefined, or
            where the metric cannot be resampled.
        right: McNemar's test of each seed, as ``only_first only_second p_value``; empty where no
            answer is plainly right or wrong.
    """

    key: Key
    against: str
    metric: str
    seeds: tuple[int, ...]
    examples: int
    scores: tuple[float | None, float | None]
    difference: Any
    right: tuple[Any, ...]


def write_paired(
    comparisons: Sequence[Comparison],
    directory: Path,
    *,
    against: str,
    left_out: Sequence[str],
    level: float,
    resamples: int,
) -> list[Path]:
    """Write ``paired``: the primary metric of every method against one, with its tests.

    Args:
        comparisons: in the order to print; may be empty.
        directory: where the four files go.
        against: the method that the others are compared with.
        left_out: one line for each comparison that cannot be made.
        level: of the intervals, in (0, 1).
        resamples: how often examples were drawn.
    """
    columns = [
        *(
            text_column(name, name, [one.key[at] for one in comparisons])
            for at, name in enumerate(KEY)
        ),
        text_column("metric", "metric", [one.metric for one in comparisons]),
        number_column("seeds", "seeds_count", [len(one.seeds) for one in comparisons]),
        number_column("examples", "examples_count", [one.examples for one in comparisons]),
        *_difference_columns(comparisons, against, level),
    ]
    for heading, name, part in (
        (f"only {against} right", "only_reference_right", "only_first"),
        ("only it right", "only_method_right", "only_second"),
    ):
        totals = [
            sum(getattr(t, part) for t in one.right) if one.right else None for one in comparisons
        ]
        columns.append(number_column(heading, name, totals))
    by_seed = [[test.p_value for test in one.right] for one in comparisons]
    texts = [", ".join(map(_p_value, values)) or ABSENT for values in by_seed]
    kept = [";".join(map(str, values)) or None for values in by_seed]
    columns.append(Column("McNemar p by seed", texts, {"mcnemar_p_values": kept}))
    notes = [*_notes(comparisons, against, resamples), *left_out]
    return write_table(directory / "paired", f"Against {against}, paired", columns, notes)


def comparison_text(comparisons: Sequence[Comparison], *, level: float, resamples: int) -> str:
    """Tell one pair of methods by every metric, and its right answers by seed, as Markdown.

    The comparisons, at least one, are of the same two methods, task and seeds, one per metric; for
    the rest see :func:`write_paired`.
    """
    first = comparisons[0]
    (backbone, task, method), against = first.key, first.against
    columns = [
        text_column("metric", "metric", [one.metric for one in comparisons]),
        *(
            Column(
                name,
                [
                    spread_text(one.scores[at], None, scale_of(one.metric).text)
                    for one in comparisons
                ],
            )
            for at, name in enumerate((against, method))
        ),
        *_difference_columns(comparisons, against, level),
    ]
    seeds = ", ".join(str(seed) for seed in first.seeds)
    notes = [
        f"{first.examples} examples; seeds: {seeds}.",
        *_notes(comparisons, against, resamples),
    ]
    for seed, test in zip(first.seeds, first.right, strict=False):
        notes.append(
            f"Seed {seed}: only {against} right on {test.only_first}, only {method} on "
            f"{test.only_second}, McNemar p {_p_value(test.p_value)}."
        )
    return markdown(f"{method} against {against}: {backbone} on {task}", columns, notes)


def _difference_columns(
    comparisons: Sequence[Comparison], against: str, level: float
) -> list[Column]:
    found = {
        name: [getattr(one.difference, name, None) for one in comparisons]
        for name in ("value", "low", "high", "p_value")
    }
    scales = [scale_of(one.metric) for one in comparisons]

    def texts(form: str, *names: str) -> list[str]:
        parts = zip(*(found[name] for name in names), strict=True)
        return [
            form.format(*(scale.text(value, signed=True) for value in values))
            if values[0] is not None
            else ABSENT
            for scale, values in zip(scales, parts, strict=True)
        ]

    ends = {"difference_low": found["low"], "difference_high": found["high"]}
    return [
        Column(f"Δ {against}", texts("{}", "value"), {"difference": found["value"]}),
        Column(f"{100 * level:g} % interval", texts("[{}, {}]", "low", "high"), ends),
        number_column("p", "p_value", found["p_value"], _p_value),
    ]


def _notes(comparisons: Sequence[Comparison], against: str, resamples: int) -> list[str]:
    notes = [
        f"Δ {against} is in points (NIST and CIDEr: in their own units), mean over the seeds that "
        "both methods have. Interval and p "
        f"(two-sided) are of a paired bootstrap with {resamples:,} resamples: each draw "
        "of examples is applied to both methods and all seeds. They tell what other examples "
        "would do to these trained models, not what other seeds would do.",
    ]
    if any(one.right for one in comparisons):
        notes.append(
            "McNemar's test is exact, on right and wrong answers, seed by seed: seeds share "
            "their examples, so their counts are no independent sample."
        )
    return [*notes, "No p is corrected for how many comparisons are made."]


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

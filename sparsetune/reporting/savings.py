"""What training costs beside the dense run's, and where the difference comes from.

Two tables of the same form: in multiply-adds (exact, the same on every machine) and in seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs, links_of
from sparsetune.reporting.layout import Column, name_columns, number_column, percent, write_table

_NOT_TRAINING = ("inference", "total")


@dataclass(frozen=True)
class Effort:
    """What one run's training took, in one unit (MACs or seconds).

    Attributes:
        search: before training, 0 without a search.
        training: of all training phases together.
        examples: sequences that the training phases saw, epochs counted.
    """

    search: float
    training: float
    examples: int

    @property
    def total(self) -> float:
        """Search and training."""
        return self.search + self.training


@dataclass(frozen=True)
class Saving:
    """How much less than the reference, as fractions of the reference's total.

    Attributes:
        whole: ``fewer_examples + cheaper_examples + search``.
        fewer_examples: from seeing fewer sequences, at the reference's price of one.
        cheaper_examples: from what a sequence costs less, smaller model and smaller update.
        search: 0 or negative.
    """

    whole: float
    fewer_examples: float
    cheaper_examples: float
    search: float


def saving(effort: Effort, reference: Effort) -> Saving:
    """Split what a run saves against a reference.

    Args:
        effort: of the run.
        reference: of the dense run, same unit; without search, total above 0.

    Returns:
        The parts; they add up to ``1 - effort.total / reference.total``.

    Source:
        EarlyBERT (arXiv:2101.00063), section 4.1: time saved is search and training over the full
        training.
    Differs:
        The paper gives the sum only; two thirds of three epochs is a third saved by any model.

    Example:
        >>> dense, small = Effort(0, 300, 30), Effort(10, 150, 20)
        >>> [round(part, 3) for part in (saving(small, dense).whole,
        ...     saving(small, dense).fewer_examples, saving(small, dense).cheaper_examples)]
        [0.467, 0.333, 0.167]
    """
    price = reference.total / reference.examples
    fewer = (reference.examples - effort.examples) * price
    cheaper = effort.examples * price - effort.training
    return Saving(
        whole=1 - effort.total / reference.total,
        fewer_examples=fewer / reference.total,
        cheaper_examples=cheaper / reference.total,
        search=-effort.search / reference.total,
    )


def macs_of(row: RunRow) -> Effort:
    """Training MACs of one run, from its cost record."""
    life = row.measured("cost", "breakdown")["whole_life"]
    search = life.get("search", 0)
    training = sum(n for name, n in life.items() if name not in (*_NOT_TRAINING, "search"))
    return Effort(search, training, row.measured("tune", "examples_seen"))


def seconds_of(row: RunRow) -> Effort:
    """Training seconds of one run, optimiser steps included, making batches not."""
    training = row.measured("tune", "train_seconds") - row.measured("tune", "loading_seconds")
    return Effort(
        row.measured("cost", "search_seconds"), training, row.measured("tune", "examples_seen")
    )


def saved_inference(row: RunRow, *, without_update: bool = False) -> float:
    """Effective inference MACs saved against the dense model without an update.

    Args:
        row: the run.
        without_update: leave out what the update itself adds beside the weights.

    Returns:
        Fraction of the dense model's MACs for one example; negative if the run needs more.

    Source:
        DSEE (arXiv:2111.00160), abstract: inference FLOPs saved.
    Differs:
        The paper does not tell whether it counts the update, unmerged beside sparse weights; both
        are offered here.
    """
    spent = row.measured("cost", "macs_effective_per_example")
    if without_update:
        spent -= row.measured("cost", "breakdown")["effective"].get("update", 0)
    return 1 - spent / row.measured("cost", "macs_dense_per_example")


def trained_shares(group: RunGroup, reference: RunGroup) -> list[float]:
    """Parameters of the update over all of the dense model's, seed by seed.

    Args:
        group: runs of a method.
        reference: runs of the dense method on the same backbone and task.

    Returns:
        Fractions; the task head is trained too, and not counted.
    """
    whole = reference.rows[0].measured("cost", "parameters_total")
    return [trained / whole for trained in group.values("cost", "parameters_trained")]


def write_savings(
    rows: Sequence[RunRow], directory: Path, *, order: Sequence[Key], reference_method: str
) -> list[Path]:
    """Write ``savings`` (MACs) and ``savings-time`` (seconds), a line per method and task.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`.
        directory: where the files go.
        order: (backbone, task, method) of the whole suite, in the order to print.
        reference_method: the dense run that the others are compared with.

    Returns:
        Eight files.

    Raises:
        DataError: a value is missing from a record.
    """
    groups = group_runs(rows, order)
    written = []
    for name, title, effort, note in (
        ("savings", "Training cost in multiply-adds", macs_of,
         "MACs of search and training (docs: cost/macs.py); the same on every machine."),
        ("savings-time", "Training cost in seconds", seconds_of,
         "Seconds of search and training, optimiser steps included, making batches and start-up "
         "not; they change from run to run and with what else the machine does."),
    ):  # fmt: skip
        notes = [
            note,
            f"Saved is against {reference_method}, in % of its total, means over seeds. It is the "
            "sum of three parts: seeing fewer examples, cheaper examples (a smaller model, fewer "
            "gradients), and the search (negative).",
        ]
        columns = _columns(groups, effort, reference_method, unit=name)
        written += write_table(directory / name, title, columns, notes, runs=links_of(groups))
    return written


def _columns(
    groups: Sequence[RunGroup],
    effort: Callable[[RunRow], Effort],
    reference_method: str,
    *,
    unit: str,
) -> list[Column]:
    means = [mean_effort([effort(row) for row in group.rows]) for group in groups]
    references = {
        group.key[:2]: mean
        for group, mean in zip(groups, means, strict=True)
        if group.key[2] == reference_method
    }
    savings = [
        saving(mean, references[group.key[:2]])
        if group.key[:2] in references and group.key[2] != reference_method
        else None
        for group, mean in zip(groups, means, strict=True)
    ]
    seconds = unit == "savings-time"
    kind, scale = ("seconds", 1.0) if seconds else ("macs", 1e12)
    heading = "s" if seconds else "T MACs"

    def amount(name: str) -> Column:
        values = [getattr(mean, name) for mean in means]
        field = f"{name}_{kind}"
        return number_column(f"{name} {heading}", field, values, lambda v: f"{v / scale:.2f}")

    def part(heading: str, name: str) -> Column:
        values = [None if one is None else getattr(one, name) for one in savings]
        return number_column(heading, f"saved_{name}_fraction", values, percent)

    return [
        *name_columns([group.key for group in groups]),
        amount("search"),
        amount("training"),
        part("saved %", "whole"),
        part("fewer examples", "fewer_examples"),
        part("cheaper examples", "cheaper_examples"),
        part("search", "search"),
    ]


def mean_effort(efforts: Sequence[Effort]) -> Effort:
    """Mean over the seeds of one method."""
    count = len(efforts)
    return Effort(
        sum(one.search for one in efforts) / count,
        sum(one.training for one in efforts) / count,
        round(sum(one.examples for one in efforts) / count),
    )

"""What training costs beside the dense run's, and where the difference comes from.

In multiply-adds (exact, the same on every machine) or in seconds. ``runs`` are always lines of
:class:`sparsetune.reporting.load.Finished`, of one method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.load import Key

Unit = Literal["macs", "seconds"]


@dataclass(frozen=True)
class Effort:
    """What training took, in one unit: numbers of one run, or columns of several runs.

    Attributes:
        search: before training, 0 without a search.
        training: of all training phases together; seconds without making batches.
        examples: sequences that the training phases saw, epochs counted.
    """

    search: Any
    training: Any
    examples: Any

    @classmethod
    def of(cls, runs: pd.DataFrame, unit: Unit) -> "Effort":
        """What each run took."""
        return cls(runs[f"search_{unit}"], runs[f"training_{unit}"], runs["examples_seen"])

    @classmethod
    def mean(cls, runs: pd.DataFrame, unit: Unit) -> "Effort":
        """Mean over the seeds, in whole examples."""
        own, count = cls.of(runs, unit), len(runs)
        return cls(
            sum(own.search) / count, sum(own.training) / count, round(sum(own.examples) / count)
        )

    @property
    def total(self) -> Any:
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

    whole: Any
    fewer_examples: Any
    cheaper_examples: Any
    search: Any


def saving(effort: Effort, reference: Effort) -> Saving:
    """Split what a run saves against a dense run, whose total in the same unit is above 0.

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


def saved_shares(runs: pd.DataFrame, reference: pd.DataFrame, unit: Unit) -> list[float]:
    """What each run's training saves against the mean of the dense runs, as a fraction."""
    return list(saving(Effort.of(runs, unit), Effort.mean(reference, unit)).whole)


def savings_of(groups: Mapping[Key, pd.DataFrame], unit: Unit) -> dict[Key, Saving]:
    """What each method's mean saves; methods without a dense run, and dense runs, are left out."""
    means = {key: Effort.mean(group, unit) for key, group in groups.items()}
    return {
        key: saving(mean, means[*key[:2], REFERENCE_METHOD])
        for key, mean in means.items()
        if key[2] != REFERENCE_METHOD and (*key[:2], REFERENCE_METHOD) in means
    }


def saved_inference(runs: pd.DataFrame, *, without_update: bool = False) -> list[float]:
    """Effective inference MACs saved against the dense model without an update.

    Args:
        runs: of one method.
        without_update: leave out what the update itself adds beside the weights.

    Returns:
        Fraction of the dense model's MACs for one example, run by run; negative if the run needs
        more.

    Source:
        DSEE (arXiv:2111.00160), abstract: inference FLOPs saved.
    Differs:
        The paper does not tell whether it counts the update, unmerged beside sparse weights; both
        are offered here.
    """
    spent = runs["macs_effective_per_example"]
    if without_update:
        spent = spent - [modules.get("update", 0) for modules in runs["macs_by_module"]]
    return list(1 - spent / runs["macs_dense_per_example"])


def trained_shares(runs: pd.DataFrame, reference: pd.DataFrame) -> list[float]:
    """Parameters of the update over all of the dense model's, seed by seed.

    The task head is trained too, and not counted.
    """
    return list(runs["parameters_trained"] / reference["parameters_total"].iloc[0])

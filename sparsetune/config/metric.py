"""What is known of each metric without computing it; imports nothing heavy.

The functions are bound to these names in ``sparsetune.evaluation.metrics``.
"""

from dataclasses import dataclass

from sparsetune.errors import ConfigError, refusal


@dataclass(frozen=True)
class Scale:
    """How to read a metric, and of which tasks it may be asked.

    Attributes:
        heading: name in print.
        kind: of the tasks that it scores.
        labels: how many labels such a task must have; None = any number.
        lower_is_better: whether a smaller value is the better one.
        factor: what a stored value is multiplied with in print: 100 makes a percentage.
        decimals: digits after the point in print.
    """

    heading: str
    kind: str
    labels: int | None = None
    lower_is_better: bool = False
    factor: float = 100.0
    decimals: int = 1

    def is_above(self, value: float | None) -> bool:
        """Whether a value lies above the end of a fraction's scale, which is 1."""
        fraction = self.factor == 100 and not self.lower_is_better
        return fraction and value is not None and value > 1 + 1e-9  # beyond rounding

    def text(self, value: float, *, signed: bool = False) -> str:
        """Print a stored value, or a difference of two with its sign; never ``-0.0``."""
        return format(self.factor * value, f"{'+' if signed else ''}z.{self.decimals}f")


SCALES = {
    "accuracy_fraction": Scale("accuracy", "classification"),
    "f1_fraction": Scale("F1", "classification", labels=2),
    "matthews_correlation": Scale("Matthews", "classification"),
    "pearson_correlation": Scale("Pearson", "regression"),
    "spearman_correlation": Scale("Spearman", "regression"),
    "exact_match_fraction": Scale("exact match", "span"),
    "span_f1_fraction": Scale("span F1", "span"),
    "bleu_fraction": Scale("BLEU", "generation"),
    "ter_fraction": Scale("TER", "generation", lower_is_better=True),
    "chrf_fraction": Scale("chrF", "generation"),
    "e2e_bleu_fraction": Scale("BLEU (E2E script)", "generation"),
    "e2e_nist_score": Scale("NIST (E2E script)", "generation", factor=1.0, decimals=2),
    "coco_rouge_l_fraction": Scale("ROUGE-L (COCO)", "generation"),
    "coco_cider_score": Scale("CIDEr (COCO)", "generation", factor=1.0, decimals=2),
    "meteor_1_5_fraction": Scale("METEOR 1.5", "generation"),
}
"""Metric -> how to read it: the one list of names, in the order in which they are told."""


def metrics_of(kind: str, labels: int | None = None) -> list[str]:
    """Metrics that a task may ask for.

    Args:
        kind: of the task: ``classification regression span generation``.
        labels: how many it has; None for kinds without labels.

    Example:
        >>> metrics_of("classification", 3)
        ['accuracy_fraction', 'matthews_correlation']
    """
    return [
        name
        for name, scale in SCALES.items()
        if scale.kind == kind and scale.labels in (None, labels)
    ]


def scale_of(metric: str) -> Scale:
    """How to read a metric.

    Args:
        metric: key of :data:`SCALES`.

    Raises:
        ConfigError: another name.
    """
    if metric not in SCALES:
        raise ConfigError(refusal("metrics", "name", metric, SCALES))
    return SCALES[metric]


def lower_is_better(metric: str) -> bool:
    """Whether the smaller of two values is the better one: the only home of that answer.

    Args:
        metric: key of :data:`SCALES`.

    Raises:
        ConfigError: another name.

    Example:
        >>> lower_is_better("ter_fraction"), lower_is_better("bleu_fraction")
        (True, False)
    """
    return scale_of(metric).lower_is_better

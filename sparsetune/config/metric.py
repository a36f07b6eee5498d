"""How each metric is called and printed, and which way is better; imports nothing heavy."""

from dataclasses import dataclass

from sparsetune.errors import ConfigError


@dataclass(frozen=True)
class Scale:
    """How to read a metric.

    Attributes:
        heading: name in print.
        lower_is_better: whether a smaller value is the better one.
        factor: what a stored value is multiplied with in print: 100 makes a percentage.
        decimals: digits after the point in print.
    """

    heading: str
    lower_is_better: bool = False
    factor: float = 100.0
    decimals: int = 1

    def text(self, value: float, *, signed: bool = False) -> str:
        """Print a stored value, or a difference of two with its sign; never ``-0.0``."""
        return format(self.factor * value, f"{'+' if signed else ''}z.{self.decimals}f")


SCALES = {
    "accuracy_fraction": Scale("accuracy"),
    "f1_fraction": Scale("F1"),
    "matthews_correlation": Scale("Matthews"),
    "pearson_correlation": Scale("Pearson"),
    "spearman_correlation": Scale("Spearman"),
    "exact_match_fraction": Scale("exact match"),
    "span_f1_fraction": Scale("span F1"),
    "bleu_fraction": Scale("BLEU"),
    "ter_fraction": Scale("TER", lower_is_better=True),
    "chrf_fraction": Scale("chrF"),
    "e2e_bleu_fraction": Scale("BLEU (E2E script)"),
    "e2e_nist_score": Scale("NIST (E2E script)", factor=1.0, decimals=2),
    "coco_rouge_l_fraction": Scale("ROUGE-L (COCO)"),
    "coco_cider_score": Scale("CIDEr (COCO)", factor=1.0, decimals=2),
    "meteor_1_5_fraction": Scale("METEOR 1.5"),
}
"""Metric -> how to read it. Every metric of ``metrics.METRICS`` is here, and no other."""


def scale_of(metric: str) -> Scale:
    """How to read a metric.

    Args:
        metric: key of :data:`SCALES`.

    Raises:
        ConfigError: another name.
    """
    if metric not in SCALES:
        raise ConfigError(f"metric: got {metric!r}; allowed: {', '.join(SCALES)}")
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

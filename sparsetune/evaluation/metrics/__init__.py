"""Official metrics, one module a family; importing this package binds them all."""

from sparsetune.evaluation.metrics import classification, coco, generation, qa
from sparsetune.evaluation.metrics.registry import METRICS, assess, score

__all__ = ["METRICS", "assess", "classification", "coco", "generation", "qa", "score"]

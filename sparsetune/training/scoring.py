"""Scores of a model at the end of each epoch, which leave its training as it would be without."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsetune.training.plan import TrainingPlan


@dataclass(frozen=True)
class EpochScoring:
    """How a model is scored.

    Attributes:
        headline: the metric that joins the curves.
        score: model -> metrics, ``headline`` among them; None where undefined. It may put the
            model into evaluation mode, but must not draw random numbers.
    """

    headline: str
    score: Callable[[nn.Module], Mapping[str, float | None]]


class EpochScores:
    """The scores of one phase so far, and the seconds that they took.

    Args:
        scoring: None = nothing is ever scored.
        plan: says where epochs end; a last one that is cut short ends with training.
    """

    def __init__(self, scoring: EpochScoring | None, plan: TrainingPlan) -> None:
        self._scoring = scoring
        self._plan = plan
        self.entries: list[dict[str, Any]] = []
        self.seconds = 0.0

    def due(self, step: int) -> bool:
        """Whether an epoch ends with this step, counted from 1, and is to be scored."""
        ends = step % self._plan.steps_per_epoch == 0 or step == self._plan.steps
        return self._scoring is not None and ends

    def take(self, model: nn.Module, step: int) -> float:
        """Score the model as it is after this step; every part keeps its training mode.

        Returns:
            Seconds that it took.
        """
        if self._scoring is None:
            return 0.0
        started = time.perf_counter()
        modes = [(part, part.training) for part in model.modules()]
        try:
            metrics = dict(self._scoring.score(model))
        finally:
            for part, training in modes:
                part.training = training
        epoch = round(step / self._plan.steps_per_epoch, 3)
        self.entries.append({"epoch": epoch, "step": step, "metrics": metrics})
        seconds = time.perf_counter() - started
        self.seconds += seconds
        return seconds

    def points(self) -> list[tuple[int, dict[str, float]]]:
        """Step and curve value of every score so far; see :func:`score_point`."""
        if self._scoring is None:
            return []
        return [(e["step"], score_point(e, self._scoring.headline)) for e in self.entries]

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, and a phase's result tells; nothing without scoring."""
        if self._scoring is None:
            return {}
        return {"epoch_scores": list(self.entries), "scoring_seconds": round(self.seconds, 3)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state; other keys are left alone."""
        self.entries = list(state.get("epoch_scores", ()))
        self.seconds = state.get("scoring_seconds", 0.0)


def curve_of(headline: str) -> str:
    """Name of the primary metric's curve, so that it is not taken for a training value."""
    return f"evaluation_{headline}"


def score_point(entry: Mapping[str, Any], headline: str) -> dict[str, float]:
    """Curve name and value of one epoch's primary metric; empty where it is undefined."""
    value = entry["metrics"][headline]
    return {} if value is None else {curve_of(headline): float(value)}

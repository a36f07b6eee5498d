"""How far two masks are apart, and when the masks of a search have stopped moving."""

from collections import deque
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsetune.earlybert.drawing import DrawConfig, draw_masks
from sparsetune.errors import ConfigError


def mask_distance(earlier: Tensor, later: Tensor) -> float:
    """Fraction of sites on which two ticket masks disagree.

    Takes masks, not scores, so that ties are broken in one place only: where masks are made.

    Args:
        earlier: bool, ``(L, H)`` for heads or ``(L, F)`` for neurons; True = kept.
        later: same dtype, shape and device.

    Returns:
        Normalised Hamming distance, in [0, 1]; 0 = identical.

    Raises:
        TypeError: if a mask is not ``torch.bool``.
        ValueError: if the shapes differ or a mask is empty.

    Source:
        You et al. 2020, arXiv:1909.11957 (mask distance of early-bird tickets).
    Differs:
        Nothing; the stopping rule is ``SettleDetector``.

    Example:
        >>> kept = torch.tensor([[True, True, False, False]])
        >>> mask_distance(kept, kept.roll(1, dims=1))
        0.5
    """
    if earlier.dtype != torch.bool or later.dtype != torch.bool:
        raise TypeError(f"need bool masks, got {earlier.dtype} and {later.dtype}")
    if earlier.shape != later.shape or earlier.numel() == 0:
        shapes = f"{tuple(earlier.shape)} and {tuple(later.shape)}"
        raise ValueError(f"need one non-empty shape, got {shapes}")
    return (earlier ^ later).sum().item() / earlier.numel()


def relative_distance(earlier: Tensor, later: Tensor) -> float:
    """Mask distance over what two independent masks would have.

    Args:
        earlier: bool mask.
        later: bool mask, same shape and keep rate.

    Returns:
        Distance over ``2 k (1 - k)`` with k the kept share of ``later``: 0 = identical, about 1 =
        unrelated; 0 if nothing or everything is kept in both.

    Raises:
        TypeError: as ``mask_distance``.
        ValueError: as ``mask_distance``.
    """
    distance = mask_distance(earlier, later)
    kept = later.sum().item() / later.numel()
    chance = 2 * kept * (1 - kept)
    return distance / chance if chance else distance


class SettleDetector:
    """Says when head and neuron masks have stopped moving.

    Keeps the last ``window`` masks of both kinds. Settled when the window is full and every
    compared pair is within ``epsilon``, in heads and in neurons. Do not show it masks of untrained
    gates: those are ties, and agree with each other.

    Source:
        You et al. 2020, arXiv:1909.11957: first-in-first-out window of 5, epsilon 0.1.
    Differs:
        Distances are relative to chance; heads and neurons must both be stable.
    """

    def __init__(
        self,
        window: int = 5,
        epsilon: float = 0.1,
        mode: Literal["newest_vs_window", "consecutive"] = "newest_vs_window",
    ) -> None:
        if window < 2 or not epsilon >= 0 or mode not in ("newest_vs_window", "consecutive"):
            raise ConfigError(
                f"settle detector: received window {window}, epsilon {epsilon}, mode {mode!r}; "
                "allowed: 2 or more, 0 or more, newest_vs_window or consecutive"
            )
        self._epsilon = epsilon
        self._mode = mode
        self._masks: deque[tuple[Tensor, Tensor]] = deque(maxlen=window)

    def update(self, heads: Tensor, neurons: Tensor) -> bool:
        """Add the newest masks.

        Args:
            heads: bool, ``(L, H)``; copied.
            neurons: bool, ``(L, F)``; copied.

        Returns:
            True if the masks have settled.

        Raises:
            TypeError: if a mask is not bool.
            ValueError: if a shape changed.
        """
        self._masks.append((heads.clone(), neurons.clone()))
        settled = len(self._masks) == self._masks.maxlen
        return (
            all(value <= self._epsilon for pair in self.distances() for value in pair) and settled
        )

    def distances(self) -> list[tuple[float, float]]:
        """Relative distances now in the window, oldest first.

        Returns:
            For heads and neurons: of the newest mask to each older one, or of each mask to its
            successor, by mode.
        """
        masks = list(self._masks)
        newest = masks[1:] if self._mode == "consecutive" else masks[-1:] * (len(masks) - 1)
        return [
            (relative_distance(old[0], new[0]), relative_distance(old[1], new[1]))
            for old, new in zip(masks[:-1], newest, strict=True)
        ]


class Check(NamedTuple):
    """How far a search's masks had moved at one check.

    Attributes:
        step: optimizer steps made.
        head_distance: largest distance of the newest mask to an older one of the window,
            relative to chance; None while there is no older one, or all coefficients are equal.
        neuron_distance: likewise.
    """

    step: int
    head_distance: float | None
    neuron_distance: float | None


class SettleWatch:
    """Draws masks from a search's coefficients, check by check, and notes when they settle.

    A pure function of the checks that it is shown, so showing a stored history again gives the
    same state.

    Attributes:
        checks: one entry for each check, in order.
        settled_step: steps made at the first check at which the masks had settled; None = not yet.
    """

    def __init__(self, draw: DrawConfig, *, window: int, epsilon: float) -> None:
        """Start without any check.

        Args:
            draw: how the ticket itself is drawn.
            window: checks that must agree, 2 or more.
            epsilon: largest distance allowed, relative to chance, 0 or more.

        Raises:
            ConfigError: a window or epsilon out of range.
        """
        self._draw = draw
        self._detector = SettleDetector(window, epsilon)
        self.checks: list[Check] = []
        self.settled_step: int | None = None

    def show(self, step: int, heads: Any, neurons: Any) -> None:
        """Look at the coefficients of one check.

        Args:
            step: optimizer steps made, increasing.
            heads: floating, ``(L, H)``.
            neurons: floating, ``(L, F)``.

        Raises:
            ModelError: a coefficient is NaN.
        """
        # While all coefficients are equal the masks are the tie rule's, which never moves.
        if any(np.ptp(np.asarray(values)) == 0 for values in (heads, neurons)):
            self.checks.append(Check(step, None, None))
            return
        settled = self._detector.update(*draw_masks(heads, neurons, self._draw))
        pairs = self._detector.distances()
        furthest = [max(values) for values in zip(*pairs, strict=True)] if pairs else [None, None]
        self.checks.append(Check(step, *furthest))
        if settled and self.settled_step is None:
            self.settled_step = step

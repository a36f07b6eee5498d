"""How far two masks are apart, and when the masks of a search have stopped moving."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsetune.earlybert.ticket import DrawConfig, draw_masks
from sparsetune.errors import ConfigError, shown


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
        Nothing; the stopping rule is ``ConvergenceWatch``.

    Example:
        >>> kept = torch.tensor([[True, True, False, False]])
        >>> mask_distance(kept, kept.roll(1, dims=1))
        0.5
    """
    if earlier.dtype != torch.bool or later.dtype != torch.bool:
        raise TypeError(f"need bool masks, received {earlier.dtype} and {later.dtype}")
    if earlier.shape != later.shape or earlier.numel() == 0:
        shapes = f"{tuple(earlier.shape)} and {tuple(later.shape)}"
        raise ValueError(f"need one non-empty shape, received {shapes}")
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


class ConvergenceWatch:
    """Draws masks from a search's coefficients, check by check, and notes when they converge.

    Keeps the last ``window`` masks; converged when the window is full and the newest is within
    ``epsilon`` of every older one, in heads and in neurons. A pure function of the checks that it
    is shown, so showing a stored history again gives the same state.

    Attributes:
        checks: one entry for each check, in order.
        converged_step: steps made at the first check at which the masks had converged; None = not
            yet.

    Source:
        You et al. 2020, arXiv:1909.11957: first-in-first-out window of 5, epsilon 0.1.
    Differs:
        Distances are relative to chance; heads and neurons must both be stable.
    """

    def __init__(self, draw: DrawConfig, *, window: int = 5, epsilon: float = 0.1) -> None:
        """Start without any check.

        Args:
            draw: how the ticket itself is drawn.
            window: checks that must agree, 2 or more.
            epsilon: largest distance allowed, relative to chance, 0 or more.

        Raises:
            ConfigError: a window or epsilon out of range.
        """
        numbers = type(window) is int and isinstance(epsilon, int | float)
        if not numbers or not 2 <= window < 2**31 or not epsilon >= 0:
            raise ConfigError(
                f"convergence: received window {shown(window)}, epsilon {shown(epsilon)}; "
                "allowed: 2 or more, 0 or more"
            )
        self._draw = draw
        self._epsilon = epsilon
        self._masks: deque[tuple[Tensor, Tensor]] = deque(maxlen=window)
        self.checks: list[Check] = []
        self.converged_step: int | None = None

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
        self._masks.append(draw_masks(heads, neurons, self._draw))
        *older, newest = self._masks
        if not older:
            self.checks.append(Check(step, None, None))
            return
        furthest = [
            max(relative_distance(old[kind], newest[kind]) for old in older) for kind in (0, 1)
        ]
        self.checks.append(Check(step, *furthest))
        full = len(self._masks) == self._masks.maxlen
        if full and max(furthest) <= self._epsilon and self.converged_step is None:
            self.converged_step = step

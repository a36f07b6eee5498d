"""EarlyBERT's search as an object that any training loop can drive.

search = TicketSearch(model)                  # before the optimizer: its coefficients train too
for batch in batches:
(model(**batch).loss + search.penalty()).backward()
optimizer.step(); optimizer.zero_grad()
if search.step():                         # the masks have converged
break
ticket = search.ticket()
search.detach()
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.earlybert.convergence import ConvergenceWatch
from sparsetune.earlybert.gates import Gates
from sparsetune.earlybert.ticket import DrawConfig, SearchEnd, Ticket, TicketLabel, draw_ticket
from sparsetune.errors import ModelError

_GATES = "early_gates"
_STEPS, _HEADS, _NEURONS = "history/steps", "history/heads", "history/neurons"


class TicketSearch:
    """Coefficients on heads and neurons, their penalty, and when their masks have converged.

    All weights and coefficients of the model train; the model is of no use as such afterwards:
    the ticket is for the weights that it began from.

    Attributes:
        gates: the coefficients; a submodule of the model, so that its optimizer sees them.
        points: at each check the steps made, and copies of the coefficients.
        watch: how far the masks moved from check to check; None if they are not drawn.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.
    Differs:
        The penalty counts once per optimizer step if it is added once; the released code adds it
        to each accumulated batch. The convergence rule is ours; the paper chose its length from a
        plot.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        penalties: tuple[float, float] = (1e-4, 1e-4),
        draw: DrawConfig | None = DrawConfig(),  # noqa: B008 (frozen)
        every: int = 1,
        last: int | None = None,
        window: int = 5,
        epsilon: float = 0.1,
    ) -> None:
        """Attach coefficients to a model and let all of it train.

        Args:
            model: of a known architecture, dense, with its head; changed in place.
            penalties: weights of the sums of the heads' and of the neurons' coefficients.
            draw: how masks are drawn at each check; None = they are not.
            every: optimizer steps from one check to the next.
            last: a step that is checked in any case.
            window: checks that must agree, see ``ConvergenceWatch``.
            epsilon: how far they may differ, relative to chance.

        Raises:
            ModelError: layers of different sizes, or an architecture that is not known.
            ConfigError: a window or epsilon out of range.
        """
        self._watch = (draw, window, epsilon)
        self.watch = self._new_watch()
        model.requires_grad_(True)
        self._model = model
        self.gates = Gates(model)
        model.add_module(_GATES, self.gates)
        self._penalties, self._every, self._last = penalties, every, last
        self._draw = draw
        self._steps = 0
        self.points: list[tuple[int, np.ndarray, np.ndarray]] = []

    def penalty(self) -> Tensor:
        """The term for the loss of one optimizer step, see ``Gates.penalty``."""
        return self.gates.penalty(*self._penalties)

    def step(self, number: int | None = None) -> bool:
        """Note that an optimizer step was made, and look at the coefficients if it is time.

        Args:
            number: steps made in all; None = one more than last time.

        Returns:
            True if the masks have converged.

        Raises:
            ModelError: a coefficient is NaN.
        """
        self._steps = self._steps + 1 if number is None else number
        if self._steps % self._every == 0 or self._steps == self._last:
            self.points.append((self._steps, *self.gates.snapshot()))
            if self.watch:
                self.watch.show(*self.points[-1])
        return self.converged

    @property
    def converged(self) -> bool:
        """Whether the masks have stopped moving."""
        return self.watch is not None and self.watch.converged_step is not None

    def history(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Show all checks: steps ``(C,)``, heads ``(C, L, H)`` and neurons ``(C, L, F)``."""
        steps, heads, neurons = zip(*self.points, strict=True)
        return np.array(steps), np.stack(heads), np.stack(neurons)

    def ticket(
        self,
        draw: DrawConfig | None = None,
        *,
        label: TicketLabel = TicketLabel(),  # noqa: B008 (frozen)
        end: SearchEnd | None = None,
    ) -> Ticket:
        """Draw the ticket from the coefficients as they are now.

        Args:
            draw: how; None = as at the checks.
            label: whose ticket.
            end: how the search ended, for the ticket's file.

        Raises:
            ModelError: a coefficient is NaN, a layer would be emptied, or nothing says how to draw.
        """
        draw = draw or self._draw
        if draw is None:
            raise ModelError("ticket: the search draws no masks; needed: a DrawConfig")
        return draw_ticket(*self.gates.snapshot(), draw, label=label, search=end)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the model's parameters, among which are the gates."""
        if not self.points:
            return {}
        names = (_STEPS, _HEADS, _NEURONS)
        return dict(zip(names, map(torch.from_numpy, self.history()), strict=True))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint; the loop says at the next ``step`` how many were made.

        Args:
            state: holds what ``state`` gave; other keys are left alone.
        """
        self.points, self.watch = [], self._new_watch()
        if _STEPS in state:
            steps = state[_STEPS].tolist()
            heads, neurons = state[_HEADS].numpy(), state[_NEURONS].numpy()
            self.points = list(zip(steps, heads, neurons, strict=True))
        if self.watch:
            for point in self.points:
                self.watch.show(*point)

    def detach(self) -> None:
        """Take the coefficients off the model."""
        self.gates.detach_hooks()
        delattr(self._model, _GATES)

    def _new_watch(self) -> ConvergenceWatch | None:
        draw, window, epsilon = self._watch
        return None if draw is None else ConvergenceWatch(draw, window=window, epsilon=epsilon)

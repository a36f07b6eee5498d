"""EarlyBERT's search: an object that any training loop can drive, and a loop of our own.

search = TicketSearch(model)                  # before the optimizer: its coefficients train too
for batch in batches:
    (model(**batch).loss + search.penalty()).backward()
    optimizer.step(); optimizer.zero_grad()
    if search.step():                         # the masks have converged
        break
search.detach()
ticket = search.ticket()
"""

import copy
import logging
import math
import types
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import check_has_values
from sparsetune.architectures.base import check_alone
from sparsetune.earlybert.convergence import ConvergenceWatch
from sparsetune.earlybert.gates import Gates
from sparsetune.earlybert.ticket import (
    DrawConfig,
    SearchEnd,
    Ticket,
    TicketLabel,
    check_share,
    draw_ticket,
)
from sparsetune.errors import (
    ConfigError,
    ModelError,
    SparsetuneError,
    TrainingError,
    first_line,
    is_full_gpu,
    is_full_memory,
    shown,
)
from sparsetune.randomness import derive

_log = logging.getLogger(__name__)
_GATES, _SAVE = "early_gates", "save_pretrained"
_MOST_NORM = 1.0  # of a gradient, as in the catalogue's searches
_STEPS, _HEADS, _NEURONS = "history/steps", "history/heads", "history/neurons"


class TicketSearch:
    """Coefficients on heads and neurons, their penalty, and when their masks have converged.

    All weights and coefficients of the model train until ``detach``. The ticket is for the weights
    that the model began from: draw it, load them again, and ``shrink`` those. While the search is
    attached the model cannot be saved, and nothing else can be attached to it.

    Attributes:
        gates: the coefficients; a submodule of the model, so that its optimizer sees them.
        points: at each check the steps made, and copies of the coefficients.
        watch: how far the masks moved from check to check; None if they are not drawn.

    Example:
        >>> from transformers.models.bert import BertConfig, BertForSequenceClassification
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertForSequenceClassification(
        ...     BertConfig(vocab_size=9, intermediate_size=10, **sizes)
        ... )
        >>> search = TicketSearch(model)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> batch = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "labels": torch.tensor([0, 1])}
        >>> (model(**batch).loss + search.penalty()).backward()
        >>> optimizer.step()
        >>> search.step()
        False
        >>> search.detach()
        >>> [len(kept) for kept in search.ticket(heads=0.5, neurons=0.4).kept_neurons]
        [6]

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
        every: int = 10,
        last: int | None = None,
        window: int = 5,
        epsilon: float = 0.1,
    ) -> None:
        """Attach coefficients to a model and let all of it train.

        Args:
            model: of a known architecture, dense, with its head; changed in place.
            penalties: weights of the sums of the heads' and of the neurons' coefficients.
            draw: how masks are drawn at each check; None = they are not.
            every: optimizer steps from one check to the next; one step moves a mask too little
                to say anything.
            last: a step that is checked in any case.
            window: checks that must agree, see ``ConvergenceWatch``.
            epsilon: how far they may differ, relative to chance.

        Raises:
            ModelError: layers of different sizes, an architecture that is not known, or something
                is attached already: another search, an update, adapters that wait.
            ConfigError: a penalty, ``every``, a window or epsilon out of range.
        """
        if not isinstance(penalties, tuple | list) or len(penalties) != 2:
            raise ConfigError(
                f"TicketSearch: penalties: received {shown(penalties)}; allowed: two numbers"
            )
        _check_draw("TicketSearch: draw", draw)
        if last is not None:
            check_number("TicketSearch: last", last, least=1, whole=True)
        for weight in penalties:
            check_number("TicketSearch: penalties", weight)
        check_number("TicketSearch: every", every, least=1, whole=True)
        self._watch = (draw, window, epsilon)
        self.watch = self._new_watch()
        check_has_values(model, "TicketSearch")
        refuse_search(model, "TicketSearch")
        check_alone(model, "TicketSearch")
        self.gates = Gates(model)
        self._model = model
        self._trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._saved = vars(model).get(_SAVE)
        model.requires_grad_(True)
        model.add_module(_GATES, self.gates)
        if hasattr(model, _SAVE):
            setattr(model, _SAVE, types.MethodType(_refuse_to_save, model))
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
        if number is not None:
            check_number("TicketSearch.step: number", number, whole=True)
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
        """Show all checks: steps ``(C,)``, heads ``(C, L, H)`` and neurons ``(C, L, F)``.

        Raises:
            ModelError: there was none yet.
        """
        if not self.points:
            raise ModelError("TicketSearch: no check of the coefficients yet; needed: its step()")
        steps, heads, neurons = zip(*self.points, strict=True)
        return np.array(steps), np.stack(heads), np.stack(neurons)

    def ticket(
        self,
        draw: DrawConfig | None = None,
        *,
        heads: float | None = None,
        neurons: float | None = None,
        label: TicketLabel = TicketLabel(),  # noqa: B008 (frozen)
        end: SearchEnd | None = None,
    ) -> Ticket:
        """Draw the ticket from the coefficients as they are now, or were at ``detach``.

        Args:
            draw: how; None = as at the checks.
            heads: fraction of the heads dropped, in [0, 1); None = as ``draw`` says.
            neurons: fraction of the neurons dropped, in [0, 1); likewise.
            label: whose ticket.
            end: how the search ended, for the ticket's file.

        Raises:
            ConfigError: a fraction out of range.
            ModelError: a coefficient is NaN, a layer would be emptied, or nothing says how to draw.
        """
        _check_draw("TicketSearch.ticket: draw", draw)
        if not isinstance(label, TicketLabel):
            raise ConfigError(
                f"TicketSearch.ticket: label: received {shown(label)}; allowed: a TicketLabel"
            )
        draw = draw or self._draw
        if draw is None:
            raise ModelError("ticket: the search draws no masks; needed: a DrawConfig")
        for name, share in (("heads", heads), ("neurons", neurons)):
            if share is not None:
                check_share(f"TicketSearch.ticket: {name}", share)
        draw = replace(
            draw,
            head_ratio=draw.head_ratio if heads is None else heads,
            neuron_ratio=draw.neuron_ratio if neurons is None else neurons,
        )
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
        if not isinstance(state, Mapping):
            raise ConfigError(
                f"TicketSearch.load_state: received {shown(state)}; allowed: what state() gave"
            )
        self.points, self.watch = [], self._new_watch()
        if _STEPS in state:
            steps = state[_STEPS].tolist()
            heads, neurons = state[_HEADS].numpy(), state[_NEURONS].numpy()
            self.points = list(zip(steps, heads, neurons, strict=True))
        if self.watch:
            for point in self.points:
                self.watch.show(*point)

    def detach(self) -> None:
        """Take the coefficients off the model; calling it again does nothing.

        The weights keep what they learned; what was frozen before the search is frozen again.
        """
        if getattr(self._model, _GATES, None) is not self.gates:
            return
        self.gates.detach_hooks()
        delattr(self._model, _GATES)
        for parameter, trained in self._trained:
            parameter.requires_grad_(trained)
        vars(self._model).pop(_SAVE, None)
        if self._saved is not None:
            setattr(self._model, _SAVE, self._saved)

    def _new_watch(self) -> ConvergenceWatch | None:
        draw, window, epsilon = self._watch
        return None if draw is None else ConvergenceWatch(draw, window=window, epsilon=epsilon)


def search_ticket(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    heads: float = 1 / 3,
    neurons: float = 0.4,
    stop: Literal["settled"] | int = "settled",
    learning_rate: float = 2e-5,
    penalty: float = 1e-4,
    every: int = 10,
    seed: int = 0,
) -> Ticket:
    """Find which heads and neurons of a model matter for a task, in a short training of a copy.

    The copy trains by AdamW at a constant rate, weights and coefficients alike, for one pass over
    the batches at most. The given model, and the global generators, are left as they were, so that
    ``shrink`` and the real training begin from its weights.

    Args:
        model: of a known architecture, dense, with its head.
        batches: each by the names of the model's arguments, with its labels; any device, any
            iterable, such as a ``DataLoader``. What draws from torch's global generator while it
            is iterated, such as shuffling, draws from ``seed``.
        heads: fraction of the heads dropped in every layer, in [0, 1).
        neurons: fraction of the neurons dropped over all layers, in [0, 1).
        stop: ``settled``: when the masks have stopped moving, at the latest with the batches
            (``ticket.search.settled_step`` is None then); or a number of batches, 1 or more.
        learning_rate: of AdamW, above 0.
        penalty: weight of the sums of absolute coefficients, 0 or more.
        every: batches from one look at the masks to the next, 1 or more.
        seed: of dropout and of what ``batches`` draws; the same seed and the same batches give the
            same ticket on the same machine.

    Returns:
        The ticket; ``ticket.search`` says where the search ended.

    Raises:
        ConfigError: an argument out of range.
        ModelError: something is attached to the model, it gives no loss, or the batches end
            before ``stop``.
        TrainingError: the loss became NaN or infinite.

    Source:
        Chen et al. 2021, arXiv:2101.00063 sections 3.1 and 4: ratios, penalty, rate.
    Differs:
        A constant rate instead of the schedule of a whole training; the stopping rule is You et
        al.'s (arXiv:1909.11957), see ``ConvergenceWatch``.

    Example:
        >>> from transformers.models.bert import BertConfig, BertForSequenceClassification
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertForSequenceClassification(
        ...     BertConfig(vocab_size=9, intermediate_size=10, **sizes)
        ... )
        >>> batch = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "labels": torch.tensor([0, 1])}
        >>> ticket = search_ticket(model, [batch] * 3, heads=0.5, stop=3)
        >>> ticket
        Ticket(heads [1] of 2, neurons [6] of 10, origin search)
    """
    if not isinstance(batches, Iterable) or isinstance(batches, Tensor):
        raise ConfigError(
            f"search_ticket: batches: received {shown(batches)}; allowed: an iterable of batches"
        )
    last = _last_step(stop, batches)
    check_share("search_ticket: heads", heads)
    check_share("search_ticket: neurons", neurons)
    check_number("search_ticket: learning_rate", learning_rate, above=True)
    check_number("search_ticket: penalty", penalty)
    check_number("search_ticket: every", every, least=1, whole=True)
    check_number("search_ticket: seed", seed, whole=True)
    check_has_values(model, "search_ticket")
    draw = DrawConfig(head_ratio=heads, neuron_ratio=neurons)
    refuse_search(model, "search_ticket")
    copied = copy.deepcopy(model).train()
    device = next(copied.parameters()).device
    search = TicketSearch(copied, penalties=(penalty, penalty), draw=draw, every=every, last=last)
    optimizer = torch.optim.AdamW(copied.parameters(), lr=learning_rate, weight_decay=0.0)
    steps = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "search"))
        for batch in batches:
            loss = _loss(_computed(copied, _moved(batch, device), steps))
            if not torch.isfinite(loss):
                raise TrainingError(f"search_ticket: batch {steps}: the loss is {loss.item()}")
            (loss + search.penalty()).backward()
            nn.utils.clip_grad_norm_(copied.parameters(), _MOST_NORM)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if (search.step() and last is None) or steps == last:
                break
    if steps == 0 or (last is not None and steps < last):
        raise ModelError(
            f"search_ticket: batches: received {steps}; needed: {1 if last is None else last}"
        )
    if last is None and not search.converged:
        _log.warning(
            "the masks have not settled in %d batches; the ticket is drawn as they are", steps
        )
    return search.ticket(label=TicketLabel(seed=seed), end=_end(search, steps, last))


def check_number(
    where: str, value: object, *, least: int = 0, above: bool = False, whole: bool = False
) -> None:
    """Refuse what is no number of a range that has no end.

    Args:
        where: what it is, for the message.
        value: as received.
        least: the smallest that is allowed.
        above: True = ``least`` itself is not.
        whole: True = only whole numbers are.

    Raises:
        ConfigError: it is none.
    """
    kinds = int if whole else int | float
    fine = isinstance(value, kinds) and not isinstance(value, bool)
    fine = fine and abs(value) < 2**63  # type: ignore[arg-type]
    if not (fine and math.isfinite(value) and (value > least or (value == least and not above))):  # type: ignore[arg-type,operator]
        told = "a whole number" if whole else "a number"
        told += f" above {least}" if above else f", {least} or more"
        raise ConfigError(f"{where}: received {shown(value)}; allowed: {told}")


def refuse_search(model: nn.Module, where: str) -> None:
    """Refuse a model to which a ticket search is attached.

    Args:
        model: any.
        where: what cannot be done meanwhile, for the message.

    Raises:
        ModelError: one is.
    """
    if isinstance(getattr(model, _GATES, None), Gates):
        raise ModelError(
            f"{where}: a ticket search is attached to this {type(model).__name__}; "
            "needed: its detach() first"
        )


def _refuse_to_save(model: nn.Module, *_: object, **__: object) -> NoReturn:
    raise ModelError(
        f"save_pretrained: a ticket search is attached to this {type(model).__name__}, which no "
        "saved folder can give back; needed: its detach() first (Trainer: save_strategy='no')"
    )


def _last_step(stop: object, batches: object) -> int | None:
    if stop == "settled":
        return None
    if type(stop) is not int or stop < 1:
        raise ConfigError(
            f"search_ticket: stop: received {shown(stop)}; allowed: 'settled', or a whole number "
            "of batches, 1 or more"
        )
    if isinstance(batches, Sized) and len(batches) < stop:
        raise ConfigError(
            f"search_ticket: stop: received {stop}; allowed: up to the {len(batches)} batches"
        )
    return stop


def _moved(batch: object, device: torch.device) -> dict[str, Tensor]:
    if not isinstance(batch, Mapping):
        raise ModelError(
            f"search_ticket: batches: received a {type(batch).__name__}; needed: tensors by name"
        )
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"search_ticket: batches: {name}: received {shown(value)}; needed: a tensor"
            )
    return {name: value.to(device) for name, value in batch.items()}


def _computed(model: nn.Module, batch: dict[str, Tensor], number: int) -> Any:
    try:
        return model(**batch)
    except Exception as error:  # of any kind, by whatever the model does with its input
        if isinstance(error, SparsetuneError) or is_full_gpu(error) or is_full_memory(error):
            raise
        raise ModelError(
            f"search_ticket: batch {number}: {type(model).__name__} cannot compute from "
            f"{', '.join(batch)}: {first_line(error)}"
        ) from error


def _check_draw(where: str, value: object) -> None:
    if value is not None and not isinstance(value, DrawConfig):
        raise ConfigError(f"{where}: received {shown(value)}; allowed: a DrawConfig, or None")


def _loss(output: Any) -> Tensor:
    """The loss that a model of transformers gives, whatever form its output has."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise ModelError(
            "search_ticket: the model gives no loss; needed: labels in every batch, and a model "
            "with a task head"
        )
    return loss


def _end(search: TicketSearch, steps: int, last: int | None) -> SearchEnd:
    watch = search.watch
    check = watch.checks[-1] if watch and watch.checks else None
    return SearchEnd(
        steps=steps,
        rule="settled" if last is None else "fixed",
        fixed_step=last,
        settled_step=watch.converged_step if watch else None,
        head_distance=check.head_distance if check else None,
        neuron_distance=check.neuron_distance if check else None,
    )

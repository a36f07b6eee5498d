"""The search in a loop of one's own; the pipeline's is in ``unit/training/test_search.py``."""

import numpy as np
import pytest
import torch
from unit.tiny import HEADS, KINDS, LAYERS, WIDTH, output_of, tiny_batch, tiny_model

from sparsetune.earlybert.search import TicketSearch
from sparsetune.earlybert.ticket import DrawConfig, TicketLabel
from sparsetune.errors import ModelError

LABELS = torch.tensor([0, 1, 2])
HALF = DrawConfig(0.5, 0.4)


def searched(kind="bert", steps=6, *, after=lambda search: None, **options):
    """A plain loop: loss and penalty, backward, step; stops by itself when masks converge."""
    model = tiny_model(kind)
    search = TicketSearch(
        model, **{"draw": HALF, "window": 3, "epsilon": 0.0, "every": 1, **options}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(steps):
        (model(**tiny_batch(), labels=LABELS).loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        after(search)
        if search.step():
            break
    return search, model


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_ones_own_ends_when_the_masks_converge_and_gives_a_ticket(kind):
    search, model = searched(kind, 30)
    assert search.converged
    assert search.watch.converged_step == search.points[-1][0] < 30
    ticket = search.ticket(label=TicketLabel(recipe="own"))
    steps, heads, neurons = search.history()
    assert (heads.shape, neurons.shape) == (
        (len(steps), LAYERS, HEADS),
        (len(steps), LAYERS, WIDTH),
    )
    # By hand: the two largest coefficients of each layer.
    order = np.argsort(-np.abs(heads[-1]), axis=1, kind="stable")[:, : HEADS // 2]
    assert [sorted(row) for row in order.tolist()] == [list(row) for row in ticket.kept_heads]
    names = {name for name, _ in model.named_parameters()}
    search.detach()
    assert names - {n for n, _ in model.named_parameters()} == {
        "early_gates.heads",
        "early_gates.neurons",
    }
    assert output_of(model, tiny_batch()).isfinite().all()


def test_checks_come_every_few_steps_and_at_the_last():
    search, _ = searched(steps=7, every=3, last=7, draw=None)
    assert [step for step, *_ in search.points] == [3, 6, 7]
    assert search.watch is None
    assert not search.converged
    with pytest.raises(ModelError, match="draws no masks; needed: a DrawConfig"):
        search.ticket()
    assert search.ticket(HALF).neuron_multiple == 1


def test_the_penalty_moves_coefficients_that_the_loss_leaves_alone():
    still, _ = searched(steps=1, penalties=(0.0, 0.0))
    pulled, _ = searched(steps=1, penalties=(1e-1, 0.0))
    moved = still.points[0][1] - pulled.points[0][1]
    # One step of 1e-3 against lambda * sign(c) = 0.1.
    assert np.allclose(moved, 1e-4, atol=1e-6)


def test_a_search_goes_on_from_its_state():
    whole, _ = searched(steps=6, epsilon=9.0)
    begun, _ = searched(steps=2, epsilon=9.0)
    again = TicketSearch(tiny_model("bert"), draw=HALF, window=3, epsilon=9.0, every=1)
    again.load_state({**begun.state(), "other": torch.zeros(1)})
    assert again.watch.checks == begun.watch.checks
    for point in whole.points[2:]:
        with torch.no_grad():
            again.gates.heads.copy_(torch.from_numpy(point[1]))
            again.gates.neurons.copy_(torch.from_numpy(point[2]))
        again.step(point[0])
    assert again.watch.converged_step == whole.watch.converged_step
    assert all(np.array_equal(a, b) for a, b in zip(again.history(), whole.history(), strict=True))
    fresh = TicketSearch(tiny_model("bert"), draw=HALF)
    assert fresh.state() == {}

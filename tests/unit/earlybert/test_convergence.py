import pytest
import torch

from sparsetune.earlybert.convergence import (
    Check,
    ConvergenceWatch,
    mask_distance,
    relative_distance,
)
from sparsetune.earlybert.ticket import DrawConfig
from sparsetune.errors import ConfigError


def mask(text):
    return torch.tensor([[letter == "1" for letter in text]])


def test_distance_by_hand():
    # 1100 and 1010 differ on two of four sites; keep rate 1/2, so chance is 1/2
    assert mask_distance(mask("1100"), mask("1010")) == 0.5
    assert relative_distance(mask("1100"), mask("1010")) == 1.0
    assert mask_distance(mask("1100"), mask("1100")) == 0.0


def test_independent_masks_are_at_chance():
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.rand(100, 100, generator=generator) < 2 / 3 for _ in range(2))
    assert mask_distance(one, two) == pytest.approx(4 / 9, abs=0.02)
    assert relative_distance(one, two) == pytest.approx(1.0, abs=0.05)


def test_relative_distance_is_zero_where_nothing_is_pruned():
    assert relative_distance(mask("1111"), mask("1111")) == 0.0


def test_bad_masks_are_named():
    with pytest.raises(TypeError, match=r"need bool masks, received torch.float32"):
        mask_distance(torch.ones(1, 2), mask("10"))
    with pytest.raises(ValueError, match="non-empty shape"):
        mask_distance(mask("100"), mask("10"))
    with pytest.raises(ValueError, match="non-empty shape"):
        mask_distance(mask("10")[:, :0], mask("10")[:, :0])


HALF = DrawConfig(head_ratio=0.5, neuron_ratio=0.5)
LOW, HIGH = [[0.9, 0.8, 0.2, 0.1]], [[0.1, 0.2, 0.8, 0.9]]
MIXED = [[0.9, 0.1, 0.8, 0.2]]
UNTRAINED = [[1.0, 1.0, 1.0, 1.0]]


def watched(*points, window=3, epsilon=0.1):
    watch = ConvergenceWatch(HALF, window=window, epsilon=epsilon)
    for step, (heads, neurons) in enumerate(points, start=1):
        watch.show(step, torch.tensor(heads), torch.tensor(neurons))
    return watch


def test_watch_notes_the_first_converged_step_and_every_distance():
    watch = watched((LOW, LOW), (LOW, MIXED), (LOW, LOW), (LOW, LOW), (LOW, LOW), (HIGH, LOW))
    assert watch.converged_step == 5
    assert watch.checks == [
        Check(1, None, None), Check(2, 0.0, 1.0), Check(3, 0.0, 1.0), Check(4, 0.0, 1.0),
        Check(5, 0.0, 0.0), Check(6, 2.0, 0.0),
    ]  # fmt: skip


def test_watch_never_converges_on_untrained_coefficients():
    still = [(UNTRAINED, UNTRAINED)] * 9
    assert watched(*still).converged_step is None
    assert watched((LOW, UNTRAINED), *still, (UNTRAINED, LOW)).converged_step is None
    # Ties do not count towards the window either.
    assert watched(*still, (LOW, LOW), (LOW, LOW)).converged_step is None
    assert watched(*still, (LOW, LOW), (LOW, LOW), (LOW, LOW)).converged_step == 12


def test_watch_needs_both_kinds_and_shown_again_says_the_same():
    calm, restless = [LOW] * 4, [LOW, MIXED, LOW, MIXED]
    assert watched(*zip(calm, restless, strict=True)).converged_step is None
    assert watched(*zip(restless, calm, strict=True)).converged_step is None
    points = [(LOW, LOW), (MIXED, LOW), (LOW, LOW), (LOW, LOW), (LOW, LOW)]
    assert watched(*points).checks == watched(*points).checks


def test_the_newest_masks_are_held_against_the_whole_window():
    # One swap of ten kept ones per check: 0.1 of the sites is 0.2 of chance; over two checks 0.4.
    drift = [[[1.0] * (10 - n) + [0.0] * 10 + [1.0] * n] for n in range(3)]
    watch = watched(*((one, one) for one in drift), epsilon=0.25)
    assert watch.checks[-1] == Check(3, pytest.approx(0.4), pytest.approx(0.4))
    assert watch.converged_step is None


@pytest.mark.parametrize("options", [{"window": 1}, {"epsilon": -0.1}, {"epsilon": float("nan")}])
def test_bad_settings_are_named(options):
    with pytest.raises(ConfigError, match="convergence: received window"):
        ConvergenceWatch(HALF, **options)

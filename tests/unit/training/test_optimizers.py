import math

import pytest
import torch
from torch import nn

from sparsetune.errors import ConfigError
from sparsetune.training.optimizers import optimizer_of


def lamb_of(parameters, **changes):
    found, options = optimizer_of("lamb", learning_rate=0.1)
    return found(parameters, **{**options, **changes})


def test_adamw_is_left_to_the_trainer():
    assert optimizer_of("adamw", learning_rate=1e-3) is None


def test_an_unknown_optimizer_is_refused_by_name():
    with pytest.raises(ConfigError, match="optimizer: received 'sgd'; allowed: adamw, lamb"):
        optimizer_of("sgd", learning_rate=1e-3)


def test_first_step_has_the_length_of_the_weights_times_the_learning_rate():
    # |w| = 5 and the gradient is constant: m = 0.1 g, v = 0.001 g^2, so m / sqrt(v) has equal
    # entries 3.1623 and norm 4.4721; the step is 0.1 * 5 / 4.4721 * 3.1623 = 0.35355 in each.
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = lamb_of([weight])
    weight.grad = torch.tensor([2.0, 2.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([3 - 0.35355, 4 - 0.35355], abs=1e-4)


def test_norms_above_ten_are_not_cut():
    # |w| = 50: the step is 0.1 * 50 / sqrt(2) in each entry; the library alone gives a fifth.
    weight = nn.Parameter(torch.tensor([30.0, 40.0]))
    optimizer = lamb_of([weight])
    weight.grad = torch.tensor([2.0, 2.0])
    optimizer.step()
    step = 0.1 * 50 / math.sqrt(2)
    assert weight.tolist() == pytest.approx([30 - step, 40 - step], rel=1e-4)


def test_many_steps_follow_the_printed_algorithm():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator)
    weight, plain = nn.Parameter(start.clone()), start.double()
    optimizer = lamb_of([weight], weight_decay=0.01)
    first, second = torch.zeros_like(plain), torch.zeros_like(plain)
    for _ in range(20):
        gradient = torch.randn(4, 3, generator=generator)
        weight.grad = gradient.clone()
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient.double()
        second = 0.999 * second + 0.001 * gradient.double() ** 2
        update = first / (second.sqrt() + 1e-6) + 0.01 * plain
        plain = plain - 0.1 * plain.norm() / update.norm() * update
    # Float32 against float64 over 20 steps.
    assert torch.allclose(weight.detach().double(), plain, atol=1e-4)

import math

import pytest
import torch
from torch import nn
from transformers import Trainer
from unit.tiny import tiny_model
from unit.training.tiny_jobs import PHASE, phases_of

from sparsetune.errors import ConfigError
from sparsetune.training.optimizers import decayed_parameters, make_optimizer, make_schedule


def settings(**changes):
    (found,) = phases_of({**PHASE, "learning_rate": 0.1, "weight_decay": 0.0, **changes})
    return found


def lamb_of(weight, **changes):
    model = nn.Module()
    model.weight = weight
    return make_optimizer("lamb", model, settings(**changes))


def test_an_unknown_optimizer_is_refused_by_name():
    with pytest.raises(ConfigError, match="optimizer: received 'sgd'; allowed: adamw, lamb"):
        make_optimizer("sgd", nn.Linear(1, 1), settings())


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_the_same_parameters_decay_as_in_the_trainer(kind):
    model = tiny_model(kind, task="lm" if kind == "gpt2" else "bare")
    expected = set(Trainer.get_decay_parameter_names(None, model))
    assert decayed_parameters(model) == expected
    assert 0 < len(expected) < len(list(model.parameters()))


def test_only_what_has_gradients_is_optimized_and_biases_do_not_decay():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    model[2].requires_grad_(False)
    groups = make_optimizer("adamw", model, settings(weight_decay=0.3)).param_groups
    assert [len(group["params"]) for group in groups] == [1, 3]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert groups[0]["params"][0] is model[0].weight


def test_the_rate_rises_and_falls_as_worked_by_hand():
    optimizer = make_optimizer("adamw", nn.Linear(1, 1), settings())
    schedule, rates = make_schedule(optimizer, settings(warmup_fraction=0.25), 8), []
    for _ in range(8):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(
        [0.1 * f for f in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    )


def test_first_step_has_the_length_of_the_weights_times_the_learning_rate():
    # |w| = 5 and the gradient is constant: m = 0.1 g, v = 0.001 g^2, so m / sqrt(v) has equal
    # entries 3.1623 and norm 4.4721; the step is 0.1 * 5 / 4.4721 * 3.1623 = 0.35355 in each.
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = lamb_of(weight)
    weight.grad = torch.tensor([2.0, 2.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([3 - 0.35355, 4 - 0.35355], abs=1e-4)


def test_norms_above_ten_are_not_cut():
    # |w| = 50: the step is 0.1 * 50 / sqrt(2) in each entry; the library alone gives a fifth.
    weight = nn.Parameter(torch.tensor([30.0, 40.0]))
    optimizer = lamb_of(weight)
    weight.grad = torch.tensor([2.0, 2.0])
    optimizer.step()
    step = 0.1 * 50 / math.sqrt(2)
    assert weight.tolist() == pytest.approx([30 - step, 40 - step], rel=1e-4)


def test_many_steps_follow_the_printed_algorithm():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator)
    weight, plain = nn.Parameter(start.clone()), start.double()
    optimizer = lamb_of(weight, weight_decay=0.01)
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

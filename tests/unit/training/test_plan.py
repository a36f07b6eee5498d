import math

import numpy as np
import pytest

from sparsetune.training.plan import lengths_of, make_plan

LENGTHS = np.random.default_rng(0).integers(3, 60, size=203).tolist()


def plan_of(lengths=LENGTHS, **options):
    return make_plan(lengths, **{"batch_size": 8, "epochs": 1.0, "seed": 1, **options})


def padding_of(batches, lengths):
    return sum(max(lengths[i] for i in batch) - lengths[j] for batch in batches for j in batch)


def test_an_epoch_shows_each_example_once():
    plan = plan_of(epochs=3.0)
    # 203 examples in batches of 8: 25 full ones and one of 3, so 26 an epoch.
    assert (plan.steps_per_epoch, plan.steps, len(plan)) == (26, 78, 78)
    for epoch in range(3):
        seen = [index for batch in plan.batches[26 * epoch : 26 * (epoch + 1)] for index in batch]
        assert sorted(seen) == list(range(203))
    assert plan.batches[:26] != plan.batches[26:52]


def test_tokens_and_steps_of_a_fraction_are_counted_by_hand():
    # Six examples, batches of 2, two batches a step: 3 batches, so 2 steps, make an epoch.
    # 1.5 epochs are 3 steps, 6 batches: two epochs' batches, each example twice.
    plan = make_plan([1, 2, 3, 4, 5, 6], batch_size=2, gradient_accumulation=2, epochs=1.5, seed=0)
    assert (plan.steps_per_epoch, plan.steps, len(plan.batches)) == (2, 3, 6)
    assert (plan.examples_seen, plan.tokens_seen) == (12, 2 * 21)
    # Half an epoch is 1 step, 2 batches, 4 examples; grouped by length they are neighbours.
    half = make_plan([1, 2, 3, 4, 5, 6], batch_size=2, gradient_accumulation=2, epochs=0.5, seed=0)
    assert half.steps == 1
    assert half.batches == plan.batches[:2]
    assert half.tokens_seen == sum(1 + index for batch in half.batches for index in batch)
    assert all(sorted(batch) in ([0, 1], [2, 3], [4, 5]) for batch in half.batches)


def test_at_least_one_step_is_made():
    assert plan_of(epochs=1e-6).steps == 1


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_every_step_has_its_share_of_batches(accumulation):
    plan = plan_of(epochs=2.0, gradient_accumulation=accumulation)
    assert plan.steps_per_epoch == math.ceil(26 / accumulation)
    assert len(plan.batches) == plan.steps * accumulation
    assert plan.examples_seen == sum(map(len, plan))
    assert plan.tokens_seen == sum(LENGTHS[index] for batch in plan for index in batch)


def test_the_seed_fixes_the_order():
    assert plan_of().batches == plan_of().batches
    assert plan_of().batches != plan_of(seed=2).batches


def test_a_horizon_keeps_the_first_steps_of_the_full_order():
    full = plan_of(epochs=3.0)
    early = plan_of(epochs=0.2, horizon_epochs=3.0)
    assert early.steps == round(0.2 * 26)
    assert early.batches == full.batches[: early.steps]


def test_grouping_by_length_pads_far_less_than_a_random_order():
    plan = plan_of()
    order = np.random.default_rng(1).permutation(len(LENGTHS)).tolist()
    random_batches = [order[start : start + 8] for start in range(0, len(order), 8)]
    assert padding_of(plan, LENGTHS) < 0.2 * padding_of(random_batches, LENGTHS)
    # Long batches do not all come first: the mean length does not fall along the epoch.
    means = [np.mean([LENGTHS[index] for index in batch]) for batch in plan]
    assert abs(np.corrcoef(range(len(means)), means)[0, 1]) < 0.5


@pytest.mark.parametrize(
    "wrong",
    [{"lengths": []}, {"batch_size": 0}, {"gradient_accumulation": 0}, {"epochs": 0.0},
     {"epochs": -1.0}],
)  # fmt: skip
def test_sizes_that_are_not_positive_are_refused(wrong):
    with pytest.raises(ValueError, match="above 0, received"):
        plan_of(**wrong)


def test_a_plan_broken_off_counts_what_was_seen_until_then():
    whole = make_plan(LENGTHS, batch_size=3, gradient_accumulation=2, epochs=2.0, seed=1)
    part = whole.until(3)
    assert part.batches == whole.batches[:6]
    seen = [index for batch in whole.batches[:6] for index in batch]
    assert (part.steps, part.examples_seen) == (3, len(seen))
    assert part.tokens_seen == sum(LENGTHS[index] for index in seen)
    assert whole.until(whole.steps) == whole


def test_lengths_are_asked_for_only_where_they_are_not_known():
    class Known:
        lengths = (4, 2)

    assert lengths_of(Known()) == [4, 2]
    assert lengths_of([{"input_ids": [1, 2, 3]}, {"input_ids": [1]}]) == [3, 1]

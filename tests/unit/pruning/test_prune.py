"""Zeros in anyone's model, and that they stay zero through any training."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from unit.tiny import HIDDEN, KINDS, LAYERS, WIDTH, adapted, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune import DseeConfig
from sparsetune.architectures.anatomy import Anatomy
from sparsetune.errors import ConfigError, ModelError
from sparsetune.pruning.prune import prune
from sparsetune.pruning.zeros import check_zeros, zero_counts, zero_masks

LABELS = torch.tensor([0, 1, 2])
ENTRIES = LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * WIDTH)  # by hand: 8448


def zeros_in(model):
    return sum(zero for zero, _ in zero_counts(model).values())


def weights_of(model):
    return {s.key: s.weight_view().detach().clone() for s in Anatomy.of(model).sites()}


def trained(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        model(**tiny_batch(), labels=LABELS).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def adam(model, **options):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1, **options)


def peft_model(kind):
    target = "c_attn" if kind == "gpt2" else "query"
    config = LoraConfig(task_type="SEQ_CLS", target_modules=[target], fan_in_fan_out=kind == "gpt2")
    return get_peft_model(tiny_model(kind), config)


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_weights_of_the_whole_model_go(kind):
    model, whole = tiny_model(kind), weights_of(tiny_model(kind))
    assert prune(model, 0.3) is model
    pruned = math.floor(0.3 * ENTRIES + 0.5)
    assert zeros_in(model) == pruned
    # By an independent way: sort all magnitudes.
    ordered = torch.cat([one.abs().reshape(-1) for one in whole.values()]).sort().values
    for key, weight in weights_of(model).items():
        assert torch.equal(weight, whole[key].masked_fill(whole[key].abs() < ordered[pruned], 0.0))


@pytest.mark.parametrize("make", [tiny_model, adapted, peft_model])
@pytest.mark.parametrize("kind", KINDS)
def test_repeated_calls_prune_gradually_and_zeros_stay(kind, make):
    model = make(kind)
    earlier = {}
    for sparsity in (0.2, 0.5, 0.75):
        prune(model, sparsity)
        zero = {key: weight == 0 for key, weight in weights_of(model).items()}
        assert zeros_in(model) == math.floor(sparsity * ENTRIES + 0.5)
        assert all(zero[key][was].all() for key, was in earlier.items())
        earlier = zero
        trained(model, adam(model))
        assert zeros_in(model) == math.floor(sparsity * ENTRIES + 0.5)
    check_zeros(model)


@pytest.mark.parametrize("kind", KINDS)
def test_no_optimizer_revives_a_zero_even_with_momentum_from_before(kind):
    model = tiny_model(kind)
    for optimizer in (
        adam(model, weight_decay=0.5),
        torch.optim.SGD(model.parameters(), 0.01, momentum=0.9),
    ):
        trained(model, optimizer)
        prune(model, 0.5)
        zero = {key: weight == 0 for key, weight in weights_of(model).items()}
        before = weights_of(model)
        trained(model, optimizer)
        after = weights_of(model)
        assert all(torch.equal(after[key] == 0, zero[key]) for key in zero)
        assert any((after[key] != before[key]).any() for key in zero)
        check_zeros(model)


def test_gradients_of_zeros_are_zero_and_hooks_do_not_pile_up():
    model = tiny_model("bert")
    prune(model, 0.2)
    prune(model, 0.6)
    model(**tiny_batch(), labels=LABELS).loss.backward()
    for site in Anatomy.of(model).sites():
        assert not site.weight_view(site.module.weight.grad)[site.weight_view() == 0].any()
        assert len(site.module.weight._backward_hooks) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_pools_keep_their_own_counts(kind):
    two = prune(tiny_model(kind), 0.5, pools="two")
    counts = zero_counts(two)
    adapted_zeros = sum(n for key, (n, _) in counts.items() if key.endswith(("query", "value")))
    assert adapted_zeros == LAYERS * 2 * HIDDEN * HIDDEN // 2
    each = prune(tiny_model(kind), 0.5, pools="matrix")
    assert all(2 * zero == total for zero, total in zero_counts(each).values())
    pattern = prune(tiny_model(kind), 0.5, pattern="2:4")
    for weight in weights_of(pattern).values():
        assert ((weight == 0).reshape(-1, 4).sum(1) == 2).all()
    # Gradually too: a quarter, then half.
    prune(prune(tiny_model(kind), 0.25, pattern="3:4"), 0.5, pattern="2:4")


@pytest.mark.parametrize("score", ["delta", "weight+delta", "inverse"])
def test_scores_of_the_update_are_taken_where_it_is(score):
    model = adapted("bert", targets=("key", "value"))
    branches = {branch.key: layer.delta(branch.key.rpartition(".")[2])
                for layer, branch in sparsetune.dsee.layer.dsee_branches(model)}  # fmt: skip
    whole = weights_of(model)
    prune(model, 0.5, score=score, pools="matrix")
    for key, delta in branches.items():
        # By hand: half of the matrix, those of the smallest score.
        told = (whole[key] + delta).abs() if "+" in score else delta.abs()
        told = -told if score == "inverse" else told
        kept = weights_of(model)[key] != 0
        assert told[kept].min() >= told[~kept].max()
    with pytest.raises(ModelError, match=f"score '{score.replace('+', '.')}' needs an update"):
        prune(tiny_model("bert"), 0.5, score=score)


def test_a_layer_without_an_update_is_scored_by_its_weights():
    model = adapted("bert", targets=("key",), layers=[1])
    (layer, branch), whole = next(sparsetune.dsee.layer.dsee_branches(model)), weights_of(model)
    assert branch.key == "layer.1.key"
    told = {key: one.abs() for key, one in whole.items() if key.endswith("key")}
    told["layer.1.key"] = (whole["layer.1.key"] + layer.delta("key")).abs()
    prune(model, 0.5, score="weight+delta", pools="two")
    # One pool of both layers: half of it, the smallest of either.
    kept = {key: weights_of(model)[key] != 0 for key in told}
    assert sum(int(one.sum()) for one in kept.values()) == HIDDEN * HIDDEN
    lowest = min(float(told[key][kept[key]].min()) for key in told)
    assert lowest >= max(float(told[key][~kept[key]].max()) for key in told)
    with pytest.raises(ModelError, match=r"'delta' needs an update on layer\.0\.key"):
        prune(adapted("bert", targets=("key",), layers=[1]), 0.5, score="delta")


def test_random_zeros_follow_the_seed():
    kept = [zero_masks(prune(tiny_model("bert"), 0.5, score="random", seed=n)) for n in (1, 1, 2)]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])
    assert not all(torch.equal(kept[0][key], kept[2][key]) for key in kept[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_pruned_elsewhere_is_taken_as_it_is(kind, tmp_path):
    model = tiny_model(kind)
    with torch.no_grad():
        Anatomy.of(model).site(1, "ffn_in").weight_view()[:5] = 0.0
    before = output_of(model, tiny_batch())
    prune(model, None)
    assert torch.equal(output_of(model, tiny_batch()), before)
    trained(model, adam(model))
    assert zeros_in(model) == 5 * HIDDEN
    sparsetune.save(model, tmp_path)
    again = prune(sparsetune.load(tmp_path), None)
    trained(again, adam(again))
    assert zeros_in(again) == 5 * HIDDEN
    with pytest.raises(ModelError, match=r"received None; .*has no zeros"):
        prune(tiny_model(kind), None)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_are_watched_after_shrinking_updating_and_merging(kind):
    model = prune(tiny_model(kind), 0.5)
    sparsetune.shrink(model, sparsetune.random_ticket(model, heads=0.5, neurons=0.5))
    zeros = zeros_in(model)
    trained(model, adam(model))
    assert zeros_in(model) == zeros > 0
    sparsetune.apply_dsee(model, DseeConfig(rank=2, n_sparse=4, init="normal"))
    trained(model, adam(model))
    sparsetune.merge(model, "masked")
    assert zeros_in(model) == zeros
    model.requires_grad_(True)
    trained(model, adam(model))
    assert zeros_in(model) == zeros
    check_zeros(model)


def test_what_something_else_revived_is_dropped_by_the_next_call():
    model = prune(tiny_model("bert"), 0.5)
    weight = Anatomy.of(model).site(0, "query").weight_view()
    zero = weight == 0
    with torch.no_grad():
        weight[zero] = 9.0
    with pytest.raises(ModelError, match="not zero any more"):
        check_zeros(model)
    prune(model, 0.6)
    assert not weight[zero].any()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((1.5,), {}, ConfigError, "sparsity: received 1.5; allowed: a number from 0 to 1, or None"),
        (("half",), {}, ConfigError, "sparsity: received 'half'; allowed"),
        ((True,), {}, ConfigError, "sparsity: received True; allowed"),
        ((float("nan"),), {}, ConfigError, "sparsity: received nan; allowed"),
        ((0.5,), {"score": "wieght"}, ConfigError, "score: .*did you mean 'weight'"),
        ((0.5,), {"pools": "three"}, ConfigError, "pools: received 'three'; allowed: one, two, ma"),
        ((0.5,), {"seed": -1}, ConfigError, "seed: received -1; allowed: a whole number from 0"),
        ((0.5,), {"pattern": "4:2"}, ConfigError, "pattern: received '4:2'; allowed: N:M with N"),
        ((0.5,), {"pattern": 2}, ConfigError, "pattern: received 2; allowed: N:M"),
        ((0.6,), {"pattern": "2:4"}, ConfigError, "received 0.6; allowed: 0.5 with pattern 2:4"),
        ((0.5,), {"pattern": "2:4", "pools": "two"}, ConfigError, "pools: received 'two'; .*none"),
        ((0.5,), {"pattern": "8:16", "score": "delta"}, ModelError, "needs an update"),
        ((0.4,), {}, ModelError, r"received 0.4; allowed: 0.5 to 1, as 4224 of 8448 weights of th"),
        ((0.1,), {"pools": "matrix"}, ModelError, r"weights of matrix layer\.0\.query are zero al"),
        ((0.1,), {"pools": "two"}, ModelError, "weights of the pool of query, value are zero alre"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(arguments, options, error, message):
    model = prune(tiny_model("bert"), 0.5)
    before = weights_of(model)
    with pytest.raises(error, match=message) as caught:
        prune(model, *arguments, **options)
    assert "\n" not in str(caught.value)
    after = weights_of(model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_weights_that_cannot_be_pruned_are_refused_by_name():
    model = tiny_model("bert")
    Anatomy.of(model).site(1, "key").module.weight = torch.nn.Parameter(
        torch.zeros(HIDDEN, HIDDEN, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(ModelError, match=r"layer\.1\.attention\.self\.key: received torch\.int8"):
        prune(model, 0.5)
    broken = tiny_model("bert")
    with torch.no_grad():
        Anatomy.of(broken).site(1, "key").weight_view()[0, 0] = float("nan")
    with pytest.raises(ModelError, match="1 of 8448 scores are NaN"):
        prune(broken, 0.5)

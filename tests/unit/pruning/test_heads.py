import pytest
import torch
from unit.tiny import HEADS, HIDDEN, KINDS, SMALL_DSEE, adapted, output_of, tiny_batch, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.base import PROJECTIONS
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import head_scores, heads_to_keep, remove, shapes

SIZE = HIDDEN // HEADS
KEPT = [[0, 2, 3], [1]]
ALL = [list(range(HEADS))] * 2


def updates(model):
    return {branch.key: branch.dense(layer.scale) for layer, branch in dsee_branches(model)}


def rows_of(heads):
    return [head * SIZE + offset for head in heads for offset in range(SIZE)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", ["delta", "weight+delta"])
def test_scores_are_sums_over_the_rows_of_a_head(kind, choice):
    model = adapted(kind)
    anatomy, deltas = Anatomy.of(model), updates(model)
    for layer, found in enumerate(head_scores(model, choice=choice)):
        for head in range(HEADS):
            expected = 0.0
            for projection in ("query", "value"):
                key, rows = f"layer.{layer}.{projection}", slice(head * SIZE, (head + 1) * SIZE)
                expected += float(deltas[key][rows].double().abs().sum())
                if choice == "weight+delta":
                    weight = anatomy.site_of(key).weight_view()[rows].detach().double()
                    expected += float(weight.abs().sum())
            assert float(found[head]) == pytest.approx(expected, rel=1e-12)


def test_random_scores_follow_the_generator():
    model = tiny_model("bert")
    one, two, other = (
        head_scores(model, choice="random", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert [len(layer) for layer in one] == [HEADS, HEADS]


def test_the_smallest_scores_are_dropped_in_each_layer():
    # A quarter of 12 is 3: the three smallest of the first layer; of equal ones the last three.
    first = torch.tensor([5.0, 1.0, 7.0, 2.0, 9.0, 8.0, 3.0, 6.0, 4.0, 11.0, 12.0, 10.0])
    kept = heads_to_keep([first, torch.ones(12)], 0.25)
    assert kept == [[0, 2, 4, 5, 7, 8, 9, 10, 11], list(range(9))]


@pytest.mark.parametrize(("sparsity", "left"), [(0.0, 4), (0.124, 4), (0.125, 3), (0.99, 1)])
def test_counts_are_rounded_half_up_and_one_head_stays(sparsity, left):
    assert [len(kept) for kept in heads_to_keep([torch.rand(4)], sparsity)] == [left]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [("query", "value"), PROJECTIONS])
def test_removed_model_answers_like_the_one_with_zeroed_heads(kind, targets):
    removed, masked, dense = (adapted(kind, targets) for _ in range(3))
    remove(removed, KEPT)
    anatomy = Anatomy.of(masked)
    for layer in range(2):
        gone = rows_of([head for head in range(HEADS) if head not in KEPT[layer]])
        site = anatomy.site(layer, "attention_output")
        with torch.no_grad():
            site.weight_view()[:, gone] = 0.0
            if "attention_output" in targets:
                branch = site.module.branches["attention_output"]
                branch.V[:, gone] = 0.0
                branch.S2[torch.isin(branch.coordinates()[1], torch.tensor(gone))] = 0.0
    expected = output_of(masked, tiny_batch())
    # float32 sums in another order: 1e-5 is a hundred roundings on outputs of order one
    torch.testing.assert_close(output_of(removed, tiny_batch()), expected, atol=1e-5, rtol=1e-5)
    assert (expected - output_of(dense, tiny_batch())).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_kept_values_are_carried_over_bit_for_bit(kind):
    removed, whole = adapted(kind), adapted(kind)
    remove(removed, KEPT)
    before, now = updates(whole), updates(removed)
    branches = {branch.key: branch for _, branch in dsee_branches(whole)}
    for _, branch in dsee_branches(removed):
        layer = int(branch.key.split(".")[1])
        rows = rows_of(KEPT[layer])
        assert torch.equal(branch.U, branches[branch.key].U[rows])
        assert torch.equal(branch.V, branches[branch.key].V)
        assert torch.equal(now[branch.key], before[branch.key][rows])
        weight, old = (Anatomy.of(m).site_of(branch.key).weight_view() for m in (removed, whole))
        assert torch.equal(weight, old[rows])
    trained = {name for name, p in removed.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in whole.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_removed_model_trains_its_smaller_update_alone(kind):
    model = adapted(kind)
    remove(model, KEPT)
    assert shapes(model)["heads"] == [3, 1]
    model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    for layer, branch in dsee_branches(model):
        assert layer.weight.grad is None
        heads = (3, 1)[int(branch.key.split(".")[1])]
        assert branch.U.grad.shape == (heads * SIZE, SMALL_DSEE.rank)
        assert branch.S2.grad.shape == branch.positions.shape


def test_keeping_everything_changes_nothing():
    model = adapted("gpt2")
    before = output_of(model, tiny_batch())
    remove(model, ALL)
    assert torch.equal(output_of(model, tiny_batch()), before)


def test_a_model_without_an_update_loses_heads_too():
    model = tiny_model("bert")
    remove(model, KEPT)
    assert shapes(model)["heads"] == [3, 1]


@pytest.mark.parametrize(
    ("kept", "message"),
    [([[0]], "name 1 layers"), ([[0], []], "no head kept"), ([[0], [4]], r"the layer has 0..3")],
)
def test_heads_that_do_not_fit_are_refused_and_nothing_changes(kept, message):
    model = adapted("bert")
    before = output_of(model, tiny_batch())
    with pytest.raises(ModelError, match=message):
        remove(model, kept)
    assert torch.equal(output_of(model, tiny_batch()), before)


def test_other_attachments_and_unknown_scores_are_refused():
    from peft import LoraConfig, inject_adapter_in_model

    model = tiny_model("bert")
    with pytest.raises(ModelError, match=r"needs an update on layer\.0\.query"):
        head_scores(model, choice="delta")
    with pytest.raises(ModelError, match="'random' needs a generator"):
        head_scores(model, choice="random")
    with pytest.raises(ModelError, match=r"known: delta, weight\+delta, random"):
        head_scores(model, choice="inverse")
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["query"]), model)
    with pytest.raises(ModelError, match="is wrapped already"):
        remove(model, KEPT)

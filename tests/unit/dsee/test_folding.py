"""The fold of all updates at once, forced on the CPU, beside the formula and the layers' kernel."""

import copy

import pytest
import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from unit.tiny import HIDDEN, KINDS, adapted, attach, tiny_batch, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.choice import way_of
from sparsetune.dsee.config import DseeConfig
from sparsetune.dsee.folding import Fold, Plan
from sparsetune.dsee.layer import dsee_branches, fold_together, folds_held
from sparsetune.dsee.merge import merge
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import apply_masks_, two_pool_masks
from sparsetune.pruning.structured import remove

LABELS = torch.tensor([0, 1, 2])
EVERYTHING = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
UNEVEN = ([[0, 3], [1]], [[0, 4, 5, 7], [5, 6, 9]])  # what the two layers keep


def model_of(kind, case):
    """Updates that differ from each other, on weights whole, masked or of uneven sizes."""
    if case == "every projection":
        return adapted(kind, EVERYTHING)
    if case == "patterned":  # of the thirds of GPT-2's fused matrix too
        return adapted(kind, EVERYTHING, rank_pattern={"query": 5, "layer.0.value": 2, "ffn_.*": 1})
    model = adapted(kind)
    if case == "masked":
        apply_masks_(model, two_pool_masks(model, 0.5))
    if case == "uneven":
        remove(model, *UNEVEN)
    return model


CASES = ("whole", "every projection", "patterned", "masked", "uneven")


def stepped(model, use):
    fold_together(model, use)
    model.zero_grad()
    result = model(**tiny_batch(), labels=LABELS)
    result.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": result.logits.detach(), **copy.deepcopy(gradients)}


def dense_formula(model):
    """Logits and gradients with every adapted weight written out, differentiated by autograd."""
    plain = copy.deepcopy(model)
    weights, leaves = {}, {}
    for layer, branch in dsee_branches(model):
        site = Anatomy.of(model).site_of(branch.key)
        u, v, s2 = (p.detach().clone().requires_grad_() for p in (branch.U, branch.V, branch.S2))
        sparse = torch.zeros(branch.shape, dtype=s2.dtype)
        rows, columns = (
            branch.positions.long() // branch.shape[1],
            branch.positions.long() % (branch.shape[1]),
        )
        delta = branch.scale * (u @ v + sparse.index_put((rows, columns), s2))
        stored = weights.get(site.path, layer.weight.detach().clone())
        whole = stored.t() if layer.stored_in_by_out else stored
        first = site.out_slice(whole.shape[0]).start
        delta = torch.nn.functional.pad(delta, (0, 0, first, whole.shape[0] - first - len(delta)))
        whole = whole + delta
        weights[site.path] = whole.t() if layer.stored_in_by_out else whole
        leaves |= {f"{site.path}.branches.{site.projection}.{n}": leaf
                   for n, leaf in (("U", u), ("V", v), ("S2", s2))}  # fmt: skip
    merge(plain, "dense")
    head = {name: p.detach().clone().requires_grad_() for name, p in plain.named_parameters()
            if p.requires_grad}  # fmt: skip
    values = {f"{path}.weight": weight for path, weight in weights.items()}
    result = functional_call(plain, {**values, **head}, kwargs={**tiny_batch(), "labels": LABELS})
    result.loss.backward()
    gradients = {name: leaf.grad for name, leaf in {**leaves, **head}.items()}
    return {"logits": result.logits.detach(), **gradients}


def assert_close(received, expected, tolerance):
    assert received.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(received[name], one, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("use", ["always", "never"])
def test_both_ways_equal_the_dense_formula_in_float64(kind, case, use):
    model = model_of(kind, case).double()
    assert_close(stepped(model, use), dense_formula(model), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_float32_stays_within_its_rounding(kind, case):
    model = model_of(kind, case)
    assert_close(stepped(model, "always"), stepped(model, "never"), 5e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradcheck_of_the_fold(transposed):
    # two layers, two blocks of 2 and 3 of the 6 outputs, 4 inputs, ranks 2 and 1 and so other
    # scales, three entries in all
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    stored = (4, 6) if transposed else (6, 4)
    plan = Plan(
        (drawn(*stored), drawn(*stored)), ((0, 2), (3, 3)), (1.5, 3.0), transposed,
        torch.tensor([1, 23, 30]), torch.tensor([1.5, 3.0, 3.0]), torch.float64,
    )  # fmt: skip
    leaves = [drawn(3), drawn(2, 2, 2), drawn(2, 2, 4), drawn(2, 3, 1), drawn(2, 1, 4)]
    leaves = [one.requires_grad_() for one in leaves]
    assert torch.autograd.gradcheck(lambda *given: Fold.apply(plan, *given), leaves)


def test_fold_worked_by_hand():
    # One layer of 1 x 2: W = (1, 2), U = 3, V = (4, 5), S2 = 6 at column 1, s = 2, G = (1, 10):
    # W + s (U V + S2) = (1 + 2 * 12, 2 + 2 * (15 + 6)) = (25, 44);
    # dU = s G V^T = 2 * (4 + 50) = 108; dV = s U^T G = (6, 60); dS2 = s G[1] = 20
    weight = torch.tensor([[1.0, 2.0]])
    plan = Plan((weight,), ((0, 1),), (2.0,), False, torch.tensor([1]), 2.0, torch.float32)
    s2 = torch.tensor([6.0], requires_grad=True)
    u = torch.tensor([[[3.0]]], requires_grad=True)
    v = torch.tensor([[[4.0, 5.0]]], requires_grad=True)
    folded = Fold.apply(plan, s2, u, v)
    assert folded.tolist() == [[[25.0, 44.0]]]
    (folded * torch.tensor([1.0, 10.0])).sum().backward()
    assert (u.grad.tolist(), v.grad.tolist(), s2.grad.tolist()) == (
        [[[108.0]]], [[[6.0, 60.0]]], [20.0],
    )  # fmt: skip
    assert weight.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_is_as_close_to_float32_as_the_kernel_is(kind):
    model = model_of(kind, "masked")
    expected = stepped(model, "never")
    with torch.autocast("cpu", torch.bfloat16):
        together, apart = stepped(model, "always"), stepped(model, "never")
    for name, one in expected.items():
        assert name == "logits" or together[name].dtype == torch.float32
        error, other = ((way[name].float() - one).norm() for way in (together, apart))
        # 8 bits of mantissa through two layers and back; neither way is exact
        assert error < max(2 * other, 0.03 * one.norm())


def test_autocast_that_begins_inside_the_model_gets_close_gradients_too():
    model = model_of("bert", "whole")
    expected = stepped(model, "never")
    forward = model.forward

    def cast(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **kwargs)

    model.forward = cast
    for name, one in stepped(model, "always").items():
        assert (one.float() - expected[name]).norm() < 0.05 * expected[name].norm()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_same_bits_twice_and_after_scoring_in_inference_mode(kind):
    model = model_of(kind, "uneven")
    fold_together(model, "always")
    with torch.inference_mode():
        model(**tiny_batch())
    first, second = stepped(model, "always"), stepped(model, "always")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_are_not_folded_and_have_the_same_gradients(kind):
    model = model_of(kind, "whole")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    expected = stepped(model, "always")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_close(stepped(model, "always"), expected, 2e-5)


class Watch(TorchDispatchMode):
    """Lists the operators that run, forward and backward."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


WAITING = {"_local_scalar_dense", "nonzero", "item", "unique_dim", "_unique2", "masked_select"}


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("case", CASES)
def test_no_operator_waits_for_the_device_or_has_a_size_that_values_decide(kind, case):
    model = model_of(kind, case)
    fold_together(model, "always")
    seen, batch = [], tiny_batch()
    model.register_forward_pre_hook(lambda *_: seen.append(len(watch.seen)))  # after the fold's own
    with torch.autocast("cpu", torch.bfloat16), Watch() as watch:
        model(**batch, labels=LABELS).loss.backward()
    folding = watch.seen[: seen[0]]
    assert "baddbmm_" in folding
    assert "index_add_" in folding
    # Nor does a tensor come from the host, which a graph could not be captured with.
    assert not {"lift_fresh", "scalar_tensor", "arange"} & set(folding)
    plain = tiny_model(kind)
    with Watch() as bare:  # GPT-2 itself looks for the last token
        plain(**batch, labels=LABELS).loss.backward()
    waits = [name for name in watch.seen if name in WAITING]
    assert waits == [name for name in bare.seen if name in WAITING]


def test_few_operators_stand_for_many():
    batch = tiny_batch()
    counts = {}
    for use in ("always", "never"):
        model = model_of("bert", "whole")
        fold_together(model, use)
        model(**batch).logits.sum().backward()  # what is made once is made
        with Watch() as watch:
            model(**batch).logits.sum().backward()
        counts[use] = len(watch.seen)
    assert counts["always"] < counts["never"]


def test_the_cpu_never_folds_together_unless_told_so(monkeypatch):
    model = model_of("bert", "whole")
    monkeypatch.setattr(Fold, "apply", lambda *_: pytest.fail("folded together"))
    model(**tiny_batch())
    fold_together(model, "never")
    model(**tiny_batch())
    with pytest.raises(ModelError, match="use: received 'often'; allowed: auto, always, never"):
        fold_together(model, "often")
    with pytest.raises(ModelError, match="nothing to fold"):
        fold_together(tiny_model("bert"), "always")


def test_nothing_is_left_after_a_pass_that_failed():
    model = model_of("bert", "whole")
    fold_together(model, "always")
    layers = [layer for layer, _ in dsee_branches(model)]
    inside = []
    model.classifier.register_forward_pre_hook(lambda *_: inside.append(layers[0].folded))
    model(**tiny_batch())
    assert inside[0].shape == (HIDDEN, HIDDEN)
    model.classifier.weight = torch.nn.Parameter(torch.zeros(3, 1))
    with pytest.raises(RuntimeError):
        model(**tiny_batch())
    assert all(layer.folded is None for layer in layers)


def test_passes_without_gradients_share_a_fold_where_it_is_held(monkeypatch):
    model = model_of("bert", "uneven")
    fold_together(model, "always")
    with torch.no_grad():
        expected = model(**tiny_batch()).logits
    folds, fold = [], Fold.apply
    monkeypatch.setattr(Fold, "apply", lambda *given: folds.append(1) or fold(*given))
    with folds_held(model):
        with torch.inference_mode():
            assert torch.equal(model(**tiny_batch()).logits, expected)
        groups = len(folds)
        with torch.no_grad():
            assert torch.equal(model(**tiny_batch()).logits, expected)
        assert len(folds) == groups
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():  # another dtype, another fold
            model(**tiny_batch())
        assert len(folds) == 2 * groups
        model(**tiny_batch(), labels=LABELS).loss.backward()
        assert len(folds) == 3 * groups
    with torch.no_grad():
        next(dsee_branches(model))[1].U.mul_(2.0)
        assert not torch.equal(model(**tiny_batch()).logits, expected)


def test_a_copy_folds_its_own_and_a_merged_model_folds_no_more():
    model = model_of("gpt2", "whole")
    fold_together(model, "always")
    expected = model(**tiny_batch()).logits
    other = copy.deepcopy(model)
    with torch.no_grad():
        for _, branch in dsee_branches(model):
            branch.U.zero_()
    assert torch.equal(other(**tiny_batch()).logits, expected)
    merge(other, "unmerged")
    assert torch.equal(other(**tiny_batch()).logits, expected)
    merge(other, "dense")
    assert not other._forward_pre_hooks
    assert not other._forward_hooks
    torch.testing.assert_close(other(**tiny_batch()).logits, expected, atol=1e-5, rtol=1e-5)


def test_entries_may_be_absent_and_layers_of_one_shape_may_hold_unlike_many():
    supports = {"layer.0.query": torch.tensor([3, 5]), "layer.1.query": torch.tensor([7])}
    for given in (supports, {key: one[:0] for key, one in supports.items()}):
        config = DseeConfig(rank=2, n_sparse=2, targets=("query",), init="normal", support=given)
        model = attach(tiny_model("bert"), config).double()
        assert_close(stepped(model, "always"), dense_formula(model), 1e-10)


def test_a_branch_that_is_loaded_with_other_positions_folds_there():
    model, other = model_of("bert", "whole"), adapted("bert", seed=5)
    fold_together(model, "always")
    model(**tiny_batch())
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(
        model(**tiny_batch()).logits, other(**tiny_batch()).logits, atol=1e-5, rtol=1e-5
    )


def chosen(device, dtype, tokens, *, stored=torch.float32, side=768, together=True):
    return way_of(
        device, dtype, stored=stored, tokens=tokens, shape=(side, side), together=together
    )


def test_the_way_is_chosen_by_device_dtype_and_tokens():
    # on the CPU: tokens * 1,536 >= 589,824 from 384 tokens on
    float32, bfloat16 = torch.float32, torch.bfloat16
    assert [chosen("cpu", float32, n) for n in (383, 384)] == ["beside", "folded"]
    assert chosen("cpu", bfloat16, 4096) == "beside"
    assert chosen("cuda", bfloat16, 1) == chosen("cuda", float32, 4096) == "together"
    assert chosen("cuda", bfloat16, 4096, together=False) == "beside"
    assert chosen("cuda", float32, 4096, together=False) == "folded"
    assert chosen("cuda", bfloat16, 4096, stored=bfloat16) == "beside"
    # 22 * 4,096^2 = 369e6 bytes, 18 starts of 9e6 = 162e6; 16 * 8,192 a token: from 1,581 on
    assert [chosen("cuda", bfloat16, n, side=4096) for n in (1580, 1581)] == ["beside", "together"]

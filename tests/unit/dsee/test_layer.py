import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertForSequenceClassification
from unit.tiny import HIDDEN, KINDS, adapted, attach, output_of, tiny_batch, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.config import DseeConfig
from sparsetune.dsee.layer import DseeLinear, dsee_branches
from sparsetune.dsee.merge import merge
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import remove

LABELS = torch.tensor([0, 1, 2])


def naive(layer, sites, x):
    """The published formula with dense float64 matrices, differentiated by autograd."""
    weight = layer.weight.detach().double()
    weight = weight.t() if layer.stored_in_by_out else weight
    out = x @ weight.t() + layer.bias.detach().double()
    leaves = {}
    for site in sites:
        branch = layer.branches[site.projection]
        u, v, s2 = (p.detach().double().requires_grad_() for p in (branch.U, branch.V, branch.S2))
        dense = torch.zeros(site.shape, dtype=torch.float64)
        for value, position in zip(s2, branch.positions.tolist(), strict=True):
            one = torch.zeros_like(dense)
            one[position // site.shape[1], position % site.shape[1]] = 1.0
            dense = dense + value * one
        branch_out = branch.scale * (x @ (u @ v).t()) + branch.scale * (x @ dense.t())
        first = site.out_slice(weight.shape[0]).start
        out = out + nn.functional.pad(
            branch_out, (first, weight.shape[0] - first - branch_out.shape[-1])
        )
        leaves[site.projection] = (u, v, s2)
    return out, leaves


def compare(layer, sites, x, tolerance, run=None):
    exact = x.detach().double().requires_grad_()
    expected, leaves = naive(layer, sites, exact)
    out = (run or layer)(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    (out * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    pairs = [(out, expected), (x.grad, exact.grad)]
    for projection, (u, v, s2) in leaves.items():
        branch = layer.branches[projection]
        pairs += [(branch.U.grad, u.grad), (branch.V.grad, v.grad), (branch.S2.grad, s2.grad)]
    for ours, oracle in pairs:
        error = (ours.double() - oracle).norm() / oracle.norm()
        assert error < tolerance


def layer_and_sites(kind, targets=("query", "value")):
    anatomy = Anatomy.of(adapted(kind, targets))
    sites = [anatomy.site(1, name) for name in targets]
    if kind != "gpt2":
        sites = sites[-1:]
    return sites[0].module, sites


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(9, HIDDEN), (2, 5, HIDDEN), (40, HIDDEN), (4, 10, HIDDEN)])
def test_forward_and_gradients_equal_the_dense_formula(kind, shape):
    # 9 and 10 tokens: the update stays beside the weight; 40: it is folded into a temporary one
    layer, sites = layer_and_sites(kind)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), requires_grad=True)
    compare(layer, sites, x, 2e-6)  # float32 against float64


@pytest.mark.parametrize("tokens", [4, 60])
@pytest.mark.parametrize("target", ["ffn_in", "ffn_out", "attention_output", "key"])
def test_other_projections_of_conv1d_can_be_adapted(target, tokens):
    layer, sites = layer_and_sites("gpt2", (target,))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(tokens, sites[0].shape[1], generator=generator, requires_grad=True)
    compare(layer, sites, x, 2e-6)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_bfloat16_autocast_stays_within_its_rounding(kind):
    layer, sites = layer_and_sites(kind)
    x = torch.randn(30, HIDDEN, generator=torch.Generator().manual_seed(2), requires_grad=True)

    def run(value):
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(value)
        assert out.dtype == torch.bfloat16
        return out

    compare(layer, sites, x, 2e-2, run)  # 8 bits of mantissa: 2**-8 per rounding
    assert x.grad.dtype == layer.branches[sites[0].projection].U.grad.dtype == torch.float32


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    layer, sites = layer_and_sites("gpt2")
    x = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(2), requires_grad=True)
    compare(layer, sites, x, 2e-6, lambda v: checkpoint(layer, v, use_reentrant=reentrant))


@pytest.mark.parametrize(("tokens", "fast"), [(3, False), (20, True)])
def test_gradcheck_in_float64(tokens, fast):
    layer, _ = layer_and_sites("gpt2")
    layer = layer.double()
    x = torch.randn(tokens, HIDDEN, dtype=torch.float64, requires_grad=True)
    parameters = list(layer.branches.parameters())
    assert torch.autograd.gradcheck(lambda v, *_: layer(v), (x, *parameters), fast_mode=fast)


def test_s2_gradient_worked_by_hand():
    # one output row, inputs (2, 3); S2 at column 1 only, s = 4 / 2 = 2, gradient of y is 5:
    # dS2 = 2 * 5 * 3 = 30
    model = tiny_model("bert")
    site = Anatomy.of(model).site(0, "query")
    config = DseeConfig(rank=2, alpha=4.0, n_sparse=1)
    layer = DseeLinear([site], config, [torch.tensor([1])])
    x = torch.zeros(1, HIDDEN)
    x[0, :2] = torch.tensor([2.0, 3.0])
    (5.0 * layer(x)[0, 0]).backward()
    assert layer.branches["query"].S2.grad.tolist() == [30.0]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_start_is_the_backbone_and_normal_start_is_not(kind):
    before = output_of(tiny_model(kind), tiny_batch())
    zero = attach(tiny_model(kind), DseeConfig(rank=3, n_sparse=11))
    torch.testing.assert_close(output_of(zero, tiny_batch()), before, atol=1e-6, rtol=1e-6)
    assert (output_of(adapted(kind), tiny_batch()) - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_step_moves_updates_and_head_only(kind):
    model = attach(tiny_model(kind))
    before = copy.deepcopy(model.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    model(**tiny_batch(), labels=LABELS).loss.backward()
    optimizer.step()
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    expected = {n for n, p in model.named_parameters() if p.requires_grad}
    assert changed == expected
    assert all(".branches." in n or n.startswith(("classifier", "score")) for n in changed)


def test_bert_base_trains_the_published_number_of_parameters():
    # 24 matrices x (16 x (768 + 768) + 64) = 591,360; with a 2-class head + 1,538
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(num_labels=2))
        positions = torch.arange(64)
    config = DseeConfig()
    layers = [
        DseeLinear([site], config, [positions]) for site in Anatomy.of(model).sites(config.targets)
    ]
    count = sum(p.numel() for layer in layers for p in layer.branches.parameters())
    head = sum(p.numel() for p in model.classifier.parameters())
    assert (len(layers), count, count + head) == (24, 591_360, 592_898)


def test_backbone_state_still_loads_and_reaches_the_frozen_weight():
    model, other = attach(tiny_model("bert")), tiny_model("bert", seed=5)
    missing, unexpected = model.load_state_dict(other.state_dict(), strict=False)
    assert unexpected == []
    assert all(".branches." in name for name in missing)


def test_attaches_to_the_smaller_shapes():
    model = tiny_model("gpt2")
    remove(model, [[0, 3], [1]], [[0], [5, 6]])
    model = attach(model)
    assert [branch.shape for _, branch in dsee_branches(model)] == [(12, 24)] * 2 + [(6, 24)] * 2


def test_attaching_twice_merging_nothing_and_training_the_weight_are_refused():
    model = adapted("bert")
    with pytest.raises(ModelError, match="wrapped already"):
        attach(model)
    with pytest.raises(ModelError, match="allowed: unmerged, dense, masked"):
        merge(model, "sum")
    with pytest.raises(ModelError, match="nothing to merge"):
        merge(tiny_model("bert"), "dense")
    with pytest.raises(ModelError, match="must stay frozen"):
        model.requires_grad_(True)(**tiny_batch())

"""The layer on a GPU: bfloat16 autocast beside float32 on the CPU, and what training leaves."""

import copy

import pytest
import torch
from unit.tiny import KINDS, adapted, tiny_batch

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.layer import DseeLinear, dsee_branches
from sparsetune.pruning.masks import apply_masks_, two_pool_masks
from sparsetune.pruning.zeros import check_zeros

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def pruned(kind):
    model = adapted(kind)
    apply_masks_(model, two_pool_masks(model, 0.5))
    return model


def relative_error(received, expected):
    return float((received.float().cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_agrees_with_float32_on_the_cpu(kind):
    model = pruned(kind)
    site = Anatomy.of(model).site(1, "value")
    layer, remote = site.module, copy.deepcopy(site.module).cuda()
    x = torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(3))
    g = torch.randn(4, 9, layer(x).shape[-1], generator=torch.Generator().manual_seed(4))
    here, there = x.clone().requires_grad_(), x.cuda().requires_grad_()
    expected = layer(here)
    expected.backward(g)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        received = remote(there)
    assert received.dtype == torch.bfloat16
    received.backward(g.cuda().to(torch.bfloat16))
    # bfloat16 has 8 bits: 2**-9 = 0.002 for each rounding, and a few of them meet in a sum.
    assert relative_error(received.detach(), expected.detach()) < 0.01
    assert relative_error(there.grad, here.grad) < 0.01
    for own, other in zip(layer.branches.values(), remote.branches.values(), strict=True):
        for name in ("U", "V", "S2"):
            assert relative_error(getattr(other, name).grad, getattr(own, name).grad) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_with_the_cpu(kind):
    model = pruned(kind)
    batch = tiny_batch()
    expected = model(**batch).logits
    received = model.cuda()(**{name: tensor.cuda() for name, tensor in batch.items()}).logits
    # float32 on both sides, summed in another order.
    torch.testing.assert_close(received.cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_are_bit_identical_after_five_steps(kind):
    model = pruned(kind).cuda().train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.1)
    batch = {name: tensor.cuda() for name, tensor in tiny_batch().items()}
    for _ in range(5):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch, labels=torch.tensor([0, 1, 2]).cuda()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = dict(model.named_parameters())
    frozen = before.keys() - trained.keys()
    assert any(isinstance(module, DseeLinear) for module in model.modules())
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert all(bool((branch.U != 0).any()) for _, branch in dsee_branches(model))
    assert not any(torch.equal(before[name], after[name]) for name in trained)
    check_zeros(model)

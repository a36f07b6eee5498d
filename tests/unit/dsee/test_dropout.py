import pytest
import torch
from unit.tiny import KINDS, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune import ConfigError, DseeConfig
from sparsetune.dsee.layer import dsee_branches, fold_together, folds_held

CONFIG = DseeConfig(
    rank=3, n_sparse=11, init="normal", support="random", targets=["query"], lora_dropout=0.5
)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_low_rank_part_sees_dropped_inputs(kind):
    model = sparsetune.apply_dsee(tiny_model(kind), CONFIG)
    layer, branch = next(dsee_branches(model))
    x = torch.randn(5, 7, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer.train()
    torch.manual_seed(3)
    got = layer(x)
    torch.manual_seed(3)
    dropped = torch.nn.functional.dropout(x, 0.5)
    weight = layer.weight.t() if layer.stored_in_by_out else layer.weight
    sparse = torch.zeros(branch.shape).view(-1).index_add(0, branch.positions.long(), branch.S2)
    update = x @ sparse.view(branch.shape).t() + dropped @ (branch.U @ branch.V).t()
    expected = torch.nn.functional.linear(x, weight, layer.bias)
    expected[..., branch.start : branch.start + branch.shape[0]] += branch.scale * update
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    wanted = (x, branch.U, branch.V, branch.S2)
    pairs = (torch.autograd.grad(one.square().sum(), wanted) for one in (got, expected))
    for own, other in zip(*pairs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)


def test_dropout_is_kept_idle_in_evaluation_and_never_folded(tmp_path):
    model = sparsetune.apply_dsee(tiny_model("bert"), CONFIG)
    first = output_of(model, tiny_batch())
    assert torch.equal(output_of(model, tiny_batch()), first)
    sparsetune.save(model, tmp_path)
    again = sparsetune.load(tmp_path, tiny_model("bert"))
    assert {layer.dropout for layer, _ in dsee_branches(again)} == {0.5}
    for module in again.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fold_together(again.train(), "always")
    assert not torch.equal(output_of(again, tiny_batch()), output_of(again, tiny_batch()))


@pytest.mark.parametrize("wrong", [1, -0.1, "0.1", float("nan")])
def test_a_dropout_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"dsee dropout: received .*, allowed: 0 or more, below"):
        DseeConfig(dropout=wrong)


def test_a_model_set_to_train_under_held_folds_drops_inputs():
    model = sparsetune.apply_dsee(tiny_model("bert"), CONFIG)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fold_together(model, "always")
    with folds_held(model):
        evaluated = output_of(model, tiny_batch())
        model.train()
        torch.manual_seed(3)
        held = output_of(model, tiny_batch())
        model.eval()
        assert torch.equal(output_of(model, tiny_batch()), evaluated)
    model.train()
    torch.manual_seed(3)
    assert torch.equal(output_of(model, tiny_batch()), held)
    assert not torch.equal(held, evaluated)

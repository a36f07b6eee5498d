import copy

import pytest
import torch
from unit.tiny import HEADS, HIDDEN, KINDS, WIDTH, output_of, tiny_batch, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.earlybert.gates import Gates
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import remove

LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_gates_at_one_change_no_bit(kind):
    model = tiny_model(kind)
    before, names = output_of(model, tiny_batch()), list(model.state_dict())
    gates = Gates(model)
    assert torch.equal(output_of(model, tiny_batch()), before)
    assert list(model.state_dict()) == names
    assert (gates.heads.shape, gates.neurons.shape) == ((2, HEADS), (2, WIDTH))
    assert gates.heads.dtype == gates.neurons.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_gate_at_zero_equals_removal(kind):
    gated, removed = tiny_model(kind), tiny_model(kind)
    gates = Gates(gated)
    kept_heads, kept_neurons = [[0, 2], [1, 2, 3]], [list(range(5, WIDTH)), list(range(WIDTH - 1))]
    with torch.no_grad():
        gates.heads[0, [1, 3]] = 0.0
        gates.heads[1, 0] = 0.0
        gates.neurons[0, :5] = 0.0
        gates.neurons[1, -1] = 0.0
    remove(removed, kept_heads, kept_neurons)
    expected = output_of(removed, tiny_batch())
    torch.testing.assert_close(output_of(gated, tiny_batch()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gate_folds_into_the_columns_it_scales(kind):
    gated, folded = tiny_model(kind), tiny_model(kind)
    gates, anatomy = Gates(gated), Anatomy.of(folded)
    with torch.no_grad():
        gates.heads.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
        gates.neurons.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
        for layer in range(2):
            columns = gates.heads[layer].repeat_interleave(HIDDEN // HEADS)
            anatomy.site(layer, "attention_output").weight_view().mul_(columns)
            anatomy.site(layer, "ffn_out").weight_view().mul_(gates.neurons[layer])
    expected = output_of(folded, tiny_batch())
    torch.testing.assert_close(output_of(gated, tiny_batch()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_a_gate_equals_a_finite_difference(kind):
    model = tiny_model(kind).double()
    gates = Gates(model).double()
    model(**tiny_batch(), labels=LABELS).loss.backward()
    losses = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            gates.heads[1, 2] += step
            losses.append(model(**tiny_batch(), labels=LABELS).loss.item())
            gates.heads[1, 2] -= step
    slope = (losses[0] - losses[1]) / 2e-5
    assert gates.heads.grad[1, 2].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)
    assert gates.neurons.grad.abs().min() >= 0
    assert gates.neurons.grad.abs().max() > 0


def test_penalty_and_its_gradient_by_hand():
    gates = Gates(tiny_model("bert"))
    with torch.no_grad():
        gates.heads[0, 0] = -2.0
        gates.neurons[1, 3] = 0.0
    # heads: 7 ones and |-2| = 9; neurons: 79 ones and a zero = 79
    penalty = gates.penalty(0.1, 0.01)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.9 + 0.79)
    assert gates.heads.grad[0].tolist() == pytest.approx([-0.1, 0.1, 0.1, 0.1])
    assert gates.neurons.grad[1, 2:5].tolist() == pytest.approx([0.01, 0.0, 0.01])


@pytest.mark.parametrize("kind", KINDS)
def test_gates_stay_float32_and_get_gradients_under_bfloat16_autocast(kind):
    model = tiny_model(kind)
    gates = Gates(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**tiny_batch(), labels=LABELS).loss
    loss.backward()
    half = gates.heads.grad.clone()
    assert half.dtype == torch.float32
    gates.zero_grad()
    model(**tiny_batch(), labels=LABELS).loss.backward()
    # bfloat16 has 8 bits and the random model is deep in its rounding: direction, not digits
    assert torch.cosine_similarity(half.flatten(), gates.heads.grad.flatten(), dim=0) > 0.9


def test_gradient_checkpointing_gives_the_same_gate_gradients():
    grads = []
    for recompute in (False, True):
        model = tiny_model("bert").train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        gates = Gates(model)
        if recompute:
            model.gradient_checkpointing_enable()
        model(**tiny_batch(), labels=LABELS).loss.backward()
        grads.append((gates.heads.grad, gates.neurons.grad))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-5)


def test_snapshot_is_a_true_copy():
    gates = Gates(tiny_model("bert"))
    before = gates.snapshot()
    with torch.no_grad():
        gates.heads.zero_()
        gates.neurons.zero_()
    assert before.heads.min() == before.neurons.min() == 1.0


def test_detached_gates_no_longer_act():
    model = tiny_model("gpt2")
    before = output_of(model, tiny_batch())
    gates = Gates(model)
    with torch.no_grad():
        gates.heads.zero_()
    assert not torch.equal(output_of(model, tiny_batch()), before)
    gates.detach_hooks()
    gates.detach_hooks()
    assert torch.equal(output_of(model, tiny_batch()), before)


def test_removal_under_gates_and_gates_on_uneven_layers_are_refused():
    model = tiny_model("bert")
    kept = ([[0], [0, 1]], [[0], [0]])
    gates = Gates(model)
    with pytest.raises(ModelError, match=r"has gates or other hooks.*detach them first"):
        remove(model, *kept)
    gates.detach_hooks()
    remove(model, *kept)
    with pytest.raises(ModelError, match=r"layers of one size; received heads \[1, 2\]"):
        Gates(model)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_casting_the_model_leaves_its_coefficients_in_float32(cast):
    model = tiny_model("bert")
    gates = Gates(model)
    model.add_module("early_gates", gates)
    with torch.no_grad():
        gates.heads[0, 0] = 1.0 + 1e-5  # half precision would lose it
    model.to(cast)
    assert model.classifier.weight.dtype == cast
    assert cast == torch.float16 or output_of(model, tiny_batch()).dtype == cast
    assert gates.heads.dtype == gates.neurons.dtype == torch.float32
    assert gates.heads[0, 0].item() == pytest.approx(1.0 + 1e-5, abs=1e-7)
    assert Gates(tiny_model("bert")).double().heads.dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [True, False])
def test_coefficients_move_in_half_precision_training(kind, autocast):
    model = tiny_model(kind) if autocast else tiny_model(kind).bfloat16()
    gates = Gates(model)
    model.add_module("early_gates", gates)
    optimizer = torch.optim.AdamW(gates.parameters(), lr=2e-5, weight_decay=0.0)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(**tiny_batch(), labels=LABELS).loss
        (loss + gates.penalty(1e-4, 1e-4)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for gate in (gates.heads, gates.neurons):
        assert gate.dtype == torch.float32
        moved = gate.detach() - 1.0
        # Three steps of 2e-5, up or down; bfloat16 next to 1.0 has steps of 4e-3
        assert 1e-5 < moved.abs().max() < 7e-5
        assert len(moved.unique()) >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_of_weights_are_those_of_scaled_activations(kind):
    model, gated = tiny_model(kind).double(), tiny_model(kind).double()
    gates = Gates(gated).double()
    factor = torch.linspace(0.5, 1.5, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        gates.neurons[1] = factor
    module = Anatomy.of(model).site(1, "ffn_out").module
    module.register_forward_pre_hook(lambda _module, args: (args[0] * factor,))
    for one in (model, gated):
        one(**tiny_batch(), labels=LABELS).loss.backward()
    expected = dict(model.named_parameters())
    for name, parameter in gated.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_a_gated_model_computes_with_its_own_weights_and_gates(kind):
    model = tiny_model(kind)
    model.add_module("early_gates", Gates(model))
    before = output_of(model, tiny_batch())
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.early_gates.heads.zero_()
        Anatomy.of(other).site(0, "ffn_out").weight_view().zero_()
    assert torch.equal(output_of(model, tiny_batch()), before)
    changed = output_of(other, tiny_batch())
    assert not torch.equal(changed, before)
    other(**tiny_batch(), labels=LABELS).loss.backward()
    assert other.early_gates.neurons.grad is not None
    assert model.early_gates.neurons.grad is None
    other.early_gates.detach_hooks()
    assert not torch.equal(output_of(other, tiny_batch()), changed)
    assert torch.equal(output_of(model, tiny_batch()), before)

import copy

import pytest
import torch
from unit.tiny import KINDS, adapted, attach, tiny_batch, tiny_model
from unit.training.tiny_jobs import PHASE, phases_of

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.copies import WeightCopies
from sparsetune.earlybert.gates import Gates
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import apply_masks_, gate_gradients, mask_n_of_m
from sparsetune.pruning.structured import remove
from sparsetune.training.optimizers import make_optimizer

LABELS = torch.tensor([0, 1, 2])
HEADS, NEURONS = [[0, 2, 3], [1, 2]], [list(range(30)), list(range(5, 40))]


def ticket(kind):
    """A model of 30 and 35 neurons, in evaluation mode: no dropout."""
    model = tiny_model(kind)
    remove(model, HEADS, NEURONS)
    return model


def stepped(model, attached=None):
    """Logits and gradients of one step."""
    if attached is not None:
        attached.attach()
    model.zero_grad()
    result = model(**tiny_batch(), labels=LABELS)
    result.loss.backward()
    if attached is not None:
        attached.detach()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": result.logits.detach(), **gradients}


def assert_close(received, expected, tolerance):
    assert received.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(received[name], one, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hold", ["nothing", "frozen", "everything"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_rounded_widths_give_the_same_outputs_and_gradients(kind, hold, dtype, tolerance):
    model = ticket(kind).to(dtype)
    expected = stepped(copy.deepcopy(model))
    copies = WeightCopies(model, hold=hold)
    assert copies.rounded == [0, 1]
    # Sums of 64 products are made in another order than sums of 30 or 35.
    assert_close(stepped(model, copies), expected, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_neurons_are_there_and_pass_exactly_zero(kind):
    model = ticket(kind)
    seen = []
    first = Anatomy.of(model).site(0, "ffn_in").module
    first.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    copies = WeightCopies(model)
    copies.attach()
    model(**tiny_batch())
    (hidden,) = seen
    # 30 neurons round up to 64.
    assert hidden.shape[-1] == 64
    assert not hidden[..., 30:].any()
    assert hidden[..., :30].all()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_training_and_its_state_are_those_of_the_plain_model(kind, name):
    (settings,) = phases_of({**PHASE, "learning_rate": 1e-3, "weight_decay": 0.1})
    plain, rounded = ticket(kind).double(), ticket(kind).double()
    WeightCopies(rounded).attach()
    states = []
    for model in (plain, rounded):
        optimizer = make_optimizer(name, model, settings)
        for _ in range(4):
            model(**tiny_batch(), labels=LABELS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        values = optimizer.state_dict()["state"].values()
        moments = {f"{n}.{k}": v for n, one in enumerate(values) for k, v in one.items()}
        states.append(({**model.state_dict()}, moments))
    (expected, expected_moments), (received, moments) = states
    assert_close(received, expected, 1e-9)
    assert moments.keys() == expected_moments.keys()
    sizes = {key: getattr(value, "shape", None) for key, value in moments.items()}
    assert sizes == {key: getattr(value, "shape", None) for key, value in expected_moments.items()}
    with torch.no_grad():  # a state goes from one to the other
        plain.load_state_dict(received)
        torch.testing.assert_close(rounded(**tiny_batch()).logits, plain(**tiny_batch()).logits)


def test_masked_weights_that_train_stay_zero():
    model = ticket("gpt2")
    sites = list(Anatomy.of(model).sites(("ffn_in", "ffn_out")))
    masks = {s.key: torch.rand(s.shape, generator=torch.Generator().manual_seed(1)) > 0.5
             for s in sites}  # fmt: skip
    apply_masks_(model, masks)
    gate_gradients(model, masks)
    WeightCopies(model).attach()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(**tiny_batch(), labels=LABELS).loss.backward()
    optimizer.step()
    assert all(not site.weight_view()[~masks[site.key]].any() for site in sites)


def test_a_layer_that_is_not_plain_or_does_not_keep_zero_is_not_rounded():
    dsee = adapted("bert", ("ffn_in",))
    assert WeightCopies(dsee).rounded == []
    gated = tiny_model("bert")
    Gates(gated)
    assert WeightCopies(gated).rounded == []
    sigmoid = tiny_model("bert")
    Anatomy.of(sigmoid).layer_list[1].intermediate.intermediate_act_fn = torch.nn.Sigmoid()
    assert WeightCopies(sigmoid).rounded == [0]
    assert WeightCopies(tiny_model("bert"), multiple=8).rounded == []  # 40 neurons


def test_what_would_break_the_copies_is_refused_until_they_are_detached():
    model = tiny_model("bert")
    copies = WeightCopies(model)
    copies.attach()
    with pytest.raises(ModelError, match="gates or other hooks"):
        remove(model, [[0], [1]])
    with pytest.raises(ModelError, match="gates or other hooks"):
        attach(model)
    with pytest.raises(ModelError, match="gates or other hooks"):
        Gates(model)
    copies.detach()
    remove(model, [[0], [1]])
    model(**tiny_batch())


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_frozen_weights_in_16_bits_give_what_autocast_gives_bit_for_bit(kind):
    model, held = adapted(kind), adapted(kind)
    before = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        expected = stepped(model)
        received = stepped(held, WeightCopies(held, multiple=1))
    assert received.keys() == expected.keys()
    assert all(torch.equal(received[name], expected[name]) for name in expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.state_dict().items())


def held_weight(model, key):
    """What a projection multiplies by, seen from what autograd or its forward pass keeps."""
    module = Anatomy.of(model).site_of(key).module
    return module.forward._held["weight"][2]


def test_a_held_copy_is_made_once_and_follows_masks_and_loading():
    model = adapted("bert")
    WeightCopies(model).attach()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(**tiny_batch())
    first = held_weight(model, "layer.0.ffn_in")
    assert (first.dtype, tuple(first.shape)) == (torch.bfloat16, (64, 24))
    with torch.autocast("cpu", torch.bfloat16):  # training after inference mode
        model(**tiny_batch(), labels=LABELS).loss.backward()
    assert held_weight(model, "layer.0.ffn_in") is first
    site = Anatomy.of(model).site_of("layer.0.ffn_in")
    apply_masks_(model, {site.key: mask_n_of_m(site.weight_view().detach().abs())})
    with torch.autocast("cpu", torch.bfloat16):
        model(**tiny_batch())
    second = held_weight(model, site.key)
    assert torch.equal(second[:40], site.weight_view().bfloat16())
    other = tiny_model("bert", seed=5)
    model.load_state_dict(other.state_dict(), strict=False)
    with torch.autocast("cpu", torch.bfloat16):
        model(**tiny_batch())
    loaded = Anatomy.of(other).site_of(site.key).weight_view()
    assert torch.equal(held_weight(model, site.key)[:40], loaded.bfloat16())


def test_holding_everything_still_trains_and_sees_steps_of_others():
    model = ticket("bert")
    plain = copy.deepcopy(model)
    assert_close(stepped(model, WeightCopies(model, hold="everything")), stepped(plain), 2e-5)
    WeightCopies(model, hold="everything").attach()
    with torch.no_grad():
        model(**tiny_batch())
        for one in (model, plain):
            Anatomy.of(one).site(1, "ffn_out").module.weight.mul_(2.0)
        torch.testing.assert_close(
            model(**tiny_batch()).logits, plain(**tiny_batch()).logits, atol=1e-5, rtol=1e-5
        )


def test_a_copy_of_the_model_computes_with_its_own_weights():
    model = ticket("bert")
    WeightCopies(model).attach()
    other = copy.deepcopy(model)
    expected = model(**tiny_batch()).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(other(**tiny_batch()).logits, expected)

"""DSEE's layer under the ways a model may be trained: compiled, checkpointed, split, spread out."""

import pytest
import torch
from safetensors.torch import load_file
from unit.tiny import HIDDEN, KINDS, adapted
from unit.two_processes import EXAMPLES, LIMIT_SECONDS, gradients_of, half_a_step, loss_of

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.layer import dsee_branches
from sparsetune.pruning.masks import apply_masks_, mask_n_of_m

pytestmark = pytest.mark.slow


def assert_same(ours, expected, tolerance):
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, atol=tolerance, rtol=tolerance)


def stepped(model):
    loss_of(model, slice(None)).backward()
    return gradients_of(model)


@pytest.mark.parametrize("tokens", [5, 40])
def test_compiled_as_one_graph_it_computes_the_same(tokens):
    # 5 tokens: the update beside the weight; 40: folded into a temporary one
    layers = [next(dsee_branches(adapted("gpt2")))[0] for _ in range(2)]
    runs = [layers[0], torch.compile(layers[1], backend="aot_eager", fullgraph=True)]
    results = []
    for layer, run in zip(layers, runs, strict=True):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(tokens, HIDDEN, generator=generator, requires_grad=True)
        out = run(x)
        out.square().sum().backward()
        results.append({"out": out, "x": x.grad, **gradients_of(layer)})
    assert_same(results[1], results[0], 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_model_has_the_same_gradients(kind, reentrant):
    expected = stepped(adapted(kind))
    model = adapted(kind)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train().gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:  # else nothing that enters a block needs a gradient, and its branches get none
        model.enable_input_require_grads()
    assert_same(stepped(model), expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_half_batches_accumulate_to_the_whole(kind):
    model = adapted(kind)
    for half in (slice(0, 2), slice(2, EXAMPLES)):
        (loss_of(model, half) / 2).backward()
    assert_same(gradients_of(model), stepped(adapted(kind)), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_under_bfloat16_autocast_a_model_gets_close_float32_gradients(kind):
    expected = stepped(adapted(kind))
    with torch.autocast("cpu", torch.bfloat16):
        ours = stepped(adapted(kind))
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert ours[name].dtype == torch.float32
        # 8 bits of mantissa, through two layers and back
        assert (ours[name] - gradient).norm() < 0.1 * gradient.norm()


def test_two_processes_get_the_gradients_of_the_joint_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = torch.multiprocessing.get_context("spawn")
    other = context.Process(target=half_a_step, args=(1, str(tmp_path)), daemon=True)
    other.start()
    try:
        half_a_step(0, str(tmp_path))
        other.join(LIMIT_SECONDS)
    finally:
        other.kill()
        other.join()
    expected = stepped(adapted("bert"))
    for rank in range(2):
        assert_same(load_file(tmp_path / f"{rank}.safetensors"), expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_training_never_changes_a_bit_of_the_frozen_weights(kind):
    model = adapted(kind)
    sites = list(Anatomy.of(model).sites(("query", "value")))
    masks = {s.key: mask_n_of_m(s.weight_view().detach().abs()) for s in sites}
    apply_masks_(model, masks)
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    before = {name: p.detach().clone() for name, p in frozen.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        loss_of(model, slice(None)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, before[name]) for name, p in frozen.items())
    assert all(not s.weight_view()[~masks[s.key]].any() for s in sites)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_many_and_few_tokens_give_the_same_function(kind):
    # Together they fold the update into a temporary weight; one by one it stays beside.
    layer = next(dsee_branches(adapted(kind)))[0]
    x = torch.randn(60, HIDDEN, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        single = torch.cat([layer(row[None]) for row in x])
        torch.testing.assert_close(layer(x), single, atol=1e-5, rtol=1e-5)

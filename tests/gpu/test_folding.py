"""All updates folded at once on a GPU: beside the kernel, in a captured graph, and with copies."""

import pytest
import torch
from unit.tiny import KINDS, adapted, tiny_batch, tiny_model

from sparsetune.architectures.copies import WeightCopies
from sparsetune.dsee.layer import dsee_branches, fold_together
from sparsetune.pruning.structured import remove

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
LABELS = torch.tensor([0, 1, 2])


def on_gpu():
    batch = {**tiny_batch(), "labels": LABELS}
    return {name: tensor.cuda() for name, tensor in batch.items()}


def loss_of(model, batch, dtype=None):
    with torch.autocast("cuda", dtype, enabled=dtype is not None, cache_enabled=False):
        return model(**batch).loss


def gradients(model, batch, dtype=None):
    model.zero_grad()
    loss_of(model, batch, dtype).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_folded_together_as_chosen_and_layer_by_layer_agree_in_float32(kind):
    model, batch = adapted(kind).cuda(), on_gpu()
    inside = []
    layer, _ = next(dsee_branches(model))
    layer.register_forward_pre_hook(lambda module, _inputs: inside.append(module.folded))
    together = gradients(model, batch)
    assert inside[0] is not None
    fold_together(model, "never")
    for name, one in gradients(model, batch).items():
        torch.testing.assert_close(together[name], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta"])  # GPT-2's head looks for the last token
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_captured_step_gives_the_gradients_of_an_eager_one(kind, dtype):
    model, batch = adapted(kind).cuda(), on_gpu()
    remove(model, [[0, 2], [1, 3]], [list(range(30)), list(range(35))])
    copies = WeightCopies(model)
    copies.attach()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            loss_of(model, batch, dtype).backward()
    torch.cuda.current_stream().wait_stream(aside)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss_of(model, batch, dtype).backward()
    with torch.no_grad():
        for _, branch in dsee_branches(model):
            branch.U.mul_(1.5)  # as an optimizer does between replays
    graph.replay()
    captured = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    for name, one in gradients(model, batch, dtype).items():
        torch.testing.assert_close(captured[name], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rounded_widths_agree_with_the_cpu(kind):
    model = tiny_model(kind)
    remove(model, [[0, 2], [1, 3]], [list(range(30)), list(range(35))])
    with torch.no_grad():
        expected = model(**tiny_batch()).logits
        model.cuda()
        copies = WeightCopies(model, hold="everything")
        copies.attach()
        received = model(**{name: one.cuda() for name, one in tiny_batch().items()}).logits
    assert copies.rounded == [0, 1]
    torch.testing.assert_close(received.cpu(), expected, rtol=1e-3, atol=1e-4)

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from unit.tiny import HEADS, HIDDEN, KINDS, WIDTH, output_of, tiny_batch, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import remove, shapes

KEPT_HEADS = [[0, 2, 3], [1]]
KEPT_NEURONS = [list(range(0, WIDTH, 2)), list(range(7, WIDTH))]
ALL_HEADS = [list(range(HEADS))] * 2
ALL_NEURONS = [list(range(WIDTH))] * 2


def silence(model, kept_heads, kept_neurons):
    """Zero what the second matrix reads from dropped units: masking, without removal."""
    anatomy = Anatomy.of(model)
    with torch.no_grad():
        for layer in range(anatomy.layers):
            output = anatomy.site(layer, "attention_output").weight_view()
            heads = output.unflatten(1, (HEADS, anatomy.head_size))
            heads[:, [h for h in range(HEADS) if h not in kept_heads[layer]]] = 0.0
            ffn = anatomy.site(layer, "ffn_out").weight_view()
            ffn[:, [n for n in range(WIDTH) if n not in kept_neurons[layer]]] = 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["bare", "classification", "qa"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_removed_model_answers_like_the_masked_one(kind, task, attention):
    removed, masked, dense = (tiny_model(kind, task=task) for _ in range(3))
    for model in (removed, masked, dense):
        model.set_attn_implementation(attention)
    remove(removed, KEPT_HEADS, KEPT_NEURONS)
    silence(masked, KEPT_HEADS, KEPT_NEURONS)
    batch = tiny_batch()
    real = batch["attention_mask"].bool() if task != "classification" else slice(None)
    expected = output_of(masked, batch)[real]
    # float32 sums in another order: 1e-5 is a hundred roundings on outputs of order one
    torch.testing.assert_close(output_of(removed, batch)[real], expected, atol=1e-5, rtol=1e-5)
    assert (expected - output_of(dense, batch)[real]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_everything_changes_nothing(kind):
    model = tiny_model(kind)
    before = output_of(model, tiny_batch())
    remove(model, ALL_HEADS, ALL_NEURONS)
    assert torch.equal(output_of(model, tiny_batch()), before)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_follow_the_removal_and_are_json(kind):
    model = tiny_model(kind)
    remove(model, KEPT_HEADS, KEPT_NEURONS)
    described = json.loads(json.dumps(shapes(model)))
    assert described == {
        "model_type": kind,
        "layers": 2,
        "head_size": HIDDEN // HEADS,
        "heads": [3, 1],
        "ffn_width": [20, 33],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_removal_frees_exactly_the_dropped_parameters(kind):
    model = tiny_model(kind)
    before = sum(p.numel() for p in model.parameters())
    remove(model, KEPT_HEADS, KEPT_NEURONS)
    # 4 of 8 heads of size 6: 24 rows of q, k, v with biases, 24 columns of the output;
    # 80 - 53 = 27 neurons: a row with its bias and a column each
    dropped = 24 * (3 * (HIDDEN + 1) + HIDDEN) + 27 * (2 * HIDDEN + 1)
    assert before - sum(p.numel() for p in model.parameters()) == dropped


@pytest.mark.parametrize("kind", KINDS)
def test_removed_model_trains(kind):
    model = tiny_model(kind)
    remove(model, KEPT_HEADS, KEPT_NEURONS)
    model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(site.module.weight.grad is not None for site in Anatomy.of(model).sites())


def test_gpt2_generates_with_a_cache_after_removal():
    model = tiny_model("gpt2", task="lm")
    remove(model, KEPT_HEADS, KEPT_NEURONS)
    ids = tiny_batch()["input_ids"][1:]
    both = [model.generate(ids, max_new_tokens=5, use_cache=c, do_sample=False) for c in (0, 1)]
    assert torch.equal(*both)


@pytest.mark.parametrize(
    ("heads", "neurons", "message"),
    [
        ([[0]], ALL_NEURONS, "name 1 layers; the model has 2"),
        ([[0], []], ALL_NEURONS, "layer 1: no head kept"),
        ([[0], [4]], ALL_NEURONS, r"heads 4..4; the layer has 0..3"),
        ([[0], [-1]], ALL_NEURONS, r"the layer has 0..3"),
        ([[0], [2, 1]], ALL_NEURONS, "not strictly increasing"),
        (ALL_HEADS, [[0], []], "layer 1: no neuron kept"),
        (ALL_HEADS, [[0], [WIDTH]], "the layer has 0..39"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(heads, neurons, message):
    model = tiny_model("bert")
    before = shapes(model)
    with pytest.raises(ModelError, match=message):
        remove(model, heads, neurons)
    assert shapes(model) == before


def test_wrapped_layers_are_refused():
    lora = LoraConfig(r=2, target_modules=["query"])
    model = get_peft_model(tiny_model("bert"), lora)
    with pytest.raises(ModelError, match="removal comes first"):
        remove(model, KEPT_HEADS, KEPT_NEURONS)

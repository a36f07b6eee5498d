import pytest
import torch
from peft import LoraConfig, get_peft_model
from unit.tiny import KINDS, output_of, tiny_batch, tiny_config, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.earlybert.gates import Gates
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import keep_layers, renumbered, shapes

KEPT = [0, 2, 3]


def deep_model(kind, *, layers=5, **options):
    """A tiny model of five layers, each really different from doing nothing."""
    model = type(tiny_model(kind, **options))
    config = tiny_config(kind)
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    made = model(config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                parameter.mul_(3.0)
    return made


def skip(model, layers):
    """Let layers hand on their input, without removing them."""

    def same(module, args, kwargs, output):
        x = args[0] if args else kwargs["hidden_states"]
        return (x, *output[1:]) if isinstance(output, tuple) else x

    for layer in layers:
        Anatomy.of(model).layer_list[layer].register_forward_hook(same, with_kwargs=True)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_layers_are_as_if_they_handed_on_their_input(kind):
    removed, skipped, dense = (deep_model(kind) for _ in range(3))
    keep_layers(removed, KEPT)
    skip(skipped, [1, 4])
    expected = output_of(skipped, tiny_batch())
    assert torch.equal(output_of(removed, tiny_batch()), expected)
    assert (expected - output_of(dense, tiny_batch())).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_configuration_and_parameters_follow(kind):
    model, dense = deep_model(kind), deep_model(kind)
    layer = sum(p.numel() for p in Anatomy.of(dense).layer_list[0].parameters())
    keep_layers(model, KEPT)
    assert shapes(model)["layers"] == model.config.num_hidden_layers == 3
    numbers = [sum(p.numel() for p in m.parameters()) for m in (dense, model)]
    assert numbers[0] - numbers[1] == 2 * layer
    assert [Anatomy.of(model).attention(n).layer_idx for n in range(3)] == [0, 1, 2]


def test_gpt2_generates_with_a_cache_after_removal():
    model = deep_model("gpt2", task="lm")
    keep_layers(model, [1, 4])
    ids = tiny_batch()["input_ids"][1:]
    both = [model.generate(ids, max_new_tokens=5, use_cache=c, do_sample=False) for c in (0, 1)]
    assert torch.equal(*both)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([], "at least one, strictly increasing"),
        ([1, 0], "at least one, strictly increasing"),
        ([0, 0], "at least one, strictly increasing"),
        ([0, 5], r"kept layers 0\.\.5; the model has 0\.\.4"),
        ([-1, 0], r"the model has 0\.\.4"),
    ],
)
def test_layers_that_do_not_fit_are_refused_and_nothing_changes(kept, message):
    model = deep_model("bert")
    with pytest.raises(ModelError, match=message):
        keep_layers(model, kept)
    assert shapes(model)["layers"] == 5


def test_wrapped_gated_and_layer_scaled_models_are_refused():
    lora = get_peft_model(deep_model("bert"), LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ModelError, match="removal comes first"):
        keep_layers(lora, KEPT)
    gated = deep_model("bert")
    Gates(gated)
    with pytest.raises(ModelError, match="detach them first"):
        keep_layers(gated, KEPT)
    scaled = deep_model("gpt2")
    scaled.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(ModelError, match="scale_attn_by_inverse_layer_idx is true"):
        keep_layers(scaled, KEPT)


def test_sites_are_numbered_anew():
    by_site = {f"layer.{layer}.query": layer for layer in (0, 1, 2, 10, 11)}
    found = renumbered(by_site, [0, 2, 11])
    assert found == {"layer.0.query": 0, "layer.1.query": 2, "layer.2.query": 11}
    assert renumbered(by_site, None) == by_site

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from unit.tiny import (
    HEADS,
    HIDDEN,
    KINDS,
    SMALL_DSEE,
    WIDTH,
    adapted,
    output_of,
    tiny_batch,
    tiny_config,
    tiny_model,
)

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.families import FAMILIES
from sparsetune.dsee.layer import dsee_branches
from sparsetune.earlybert.gates import Gates
from sparsetune.errors import ModelError
from sparsetune.pruning.structured import (
    head_scores,
    heads_to_keep,
    keep_layers,
    remove,
    renumbered,
    sizes_of,
)

SIZE = HIDDEN // HEADS
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
    described = json.loads(sizes_of(model).model_dump_json())
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
    before = sizes_of(model)
    with pytest.raises(ModelError, match=message):
        remove(model, heads, neurons)
    assert sizes_of(model) == before


def rows_of(heads):
    return [head * SIZE + offset for head in heads for offset in range(SIZE)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_follows_heads_and_neurons(kind):
    removed, masked = (adapted(kind, FAMILIES[kind].projections) for _ in range(2))
    remove(removed, KEPT_HEADS, KEPT_NEURONS)
    silence(masked, KEPT_HEADS, KEPT_NEURONS)
    anatomy = Anatomy.of(masked)
    for layer in range(2):
        kept = {"attention_output": rows_of(KEPT_HEADS[layer]), "ffn_out": KEPT_NEURONS[layer]}
        for projection, columns in kept.items():
            branch = anatomy.site(layer, projection).module.branches[projection]
            gone = torch.ones(branch.shape[1], dtype=torch.bool)
            gone[columns] = False
            with torch.no_grad():
                branch.V[:, gone] = 0.0
                branch.S2[gone[branch.coordinates()[1]]] = 0.0
    expected = output_of(masked, tiny_batch())
    torch.testing.assert_close(output_of(removed, tiny_batch()), expected, atol=1e-5, rtol=1e-5)


def updates(model):
    return {branch.key: branch.dense() for _, branch in dsee_branches(model)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", ["delta", "weight+delta"])
def test_scores_are_sums_over_the_rows_of_a_head(kind, choice):
    model = adapted(kind)
    anatomy, deltas = Anatomy.of(model), updates(model)
    for layer, found in enumerate(head_scores(model, choice=choice)):
        for head in range(HEADS):
            expected = 0.0
            for projection in ("query", "value"):
                key, rows = f"layer.{layer}.{projection}", slice(head * SIZE, (head + 1) * SIZE)
                expected += float(deltas[key][rows].double().abs().sum())
                if choice == "weight+delta":
                    weight = anatomy.site_of(key).weight_view()[rows].detach().double()
                    expected += float(weight.abs().sum())
            assert float(found[head]) == pytest.approx(expected, rel=1e-12)


def test_random_scores_follow_the_generator():
    model = tiny_model("bert")
    one, two, other = (
        head_scores(model, choice="random", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert [len(layer) for layer in one] == [HEADS, HEADS]


def test_the_smallest_scores_are_dropped_in_each_layer():
    # A quarter of 12 is 3: the three smallest of the first layer; of equal ones the last three.
    first = torch.tensor([5.0, 1.0, 7.0, 2.0, 9.0, 8.0, 3.0, 6.0, 4.0, 11.0, 12.0, 10.0])
    kept = heads_to_keep([first, torch.ones(12)], 0.25)
    assert kept == [[0, 2, 4, 5, 7, 8, 9, 10, 11], list(range(9))]


@pytest.mark.parametrize(("sparsity", "left"), [(0.0, 4), (0.124, 4), (0.125, 3), (0.99, 1)])
def test_counts_are_rounded_half_up_and_one_head_stays(sparsity, left):
    assert [len(kept) for kept in heads_to_keep([torch.rand(4)], sparsity)] == [left]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_values_are_carried_over_bit_for_bit(kind):
    removed, whole = adapted(kind), adapted(kind)
    remove(removed, KEPT_HEADS)
    before, now = updates(whole), updates(removed)
    branches = {branch.key: branch for _, branch in dsee_branches(whole)}
    for _, branch in dsee_branches(removed):
        layer = int(branch.key.split(".")[1])
        rows = rows_of(KEPT_HEADS[layer])
        assert torch.equal(branch.U, branches[branch.key].U[rows])
        assert torch.equal(branch.V, branches[branch.key].V)
        assert torch.equal(now[branch.key], before[branch.key][rows])
        weight, old = (Anatomy.of(m).site_of(branch.key).weight_view() for m in (removed, whole))
        assert torch.equal(weight, old[rows])
    trained = {name for name, p in removed.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in whole.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_removed_model_trains_its_smaller_update_alone(kind):
    model = adapted(kind)
    remove(model, KEPT_HEADS)
    assert sizes_of(model).heads == [3, 1]
    model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    for layer, branch in dsee_branches(model):
        assert layer.weight.grad is None
        heads = (3, 1)[int(branch.key.split(".")[1])]
        assert branch.U.grad.shape == (heads * SIZE, SMALL_DSEE.rank)
        assert branch.S2.grad.shape == branch.positions.shape


def test_other_attachments_and_unknown_scores_are_refused():
    from peft import LoraConfig, inject_adapter_in_model

    model = tiny_model("bert")
    with pytest.raises(ModelError, match=r"needs an update on layer\.0\.query"):
        head_scores(model, choice="delta")
    with pytest.raises(ModelError, match="'random' needs a generator"):
        head_scores(model, choice="random")
    with pytest.raises(ModelError, match=r"known: delta, weight\+delta, random"):
        head_scores(model, choice="inverse")
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["query"]), model)
    with pytest.raises(ModelError, match="is wrapped already"):
        remove(model, KEPT_HEADS)


KEPT_LAYERS = [0, 2, 3]


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
    keep_layers(removed, KEPT_LAYERS)
    skip(skipped, [1, 4])
    expected = output_of(skipped, tiny_batch())
    assert torch.equal(output_of(removed, tiny_batch()), expected)
    assert (expected - output_of(dense, tiny_batch())).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_configuration_and_parameters_follow(kind):
    model, dense = deep_model(kind), deep_model(kind)
    layer = sum(p.numel() for p in Anatomy.of(dense).layer_list[0].parameters())
    keep_layers(model, KEPT_LAYERS)
    assert sizes_of(model).layers == model.config.num_hidden_layers == 3
    numbers = [sum(p.numel() for p in m.parameters()) for m in (dense, model)]
    assert numbers[0] - numbers[1] == 2 * layer
    assert [Anatomy.of(model).attention(n).layer_idx for n in range(3)] == [0, 1, 2]


def test_gpt2_generates_with_a_cache_after_removal_of_layers():
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
    assert sizes_of(model).layers == 5


def test_layers_of_wrapped_gated_and_layer_scaled_models_stay():
    lora = get_peft_model(deep_model("bert"), LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ModelError, match="removal comes first"):
        keep_layers(lora, KEPT_LAYERS)
    gated = deep_model("bert")
    Gates(gated)
    with pytest.raises(ModelError, match="detach them first"):
        keep_layers(gated, KEPT_LAYERS)
    scaled = deep_model("gpt2")
    scaled.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(ModelError, match="scale_attn_by_inverse_layer_idx is true"):
        keep_layers(scaled, KEPT_LAYERS)


def test_sites_are_numbered_anew():
    by_site = {f"layer.{layer}.query": layer for layer in (0, 1, 2, 10, 11)}
    found = renumbered(by_site, [0, 2, 11])
    assert found == {"layer.0.query": 0, "layer.1.query": 2, "layer.2.query": 11}
    assert renumbered(by_site, None) == by_site

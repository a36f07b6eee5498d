import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from unit.tiny import KINDS, tiny_batch, tiny_model
from unit.training.tiny_jobs import (
    COLLATE,
    HEADS,
    KEPT,
    MASK,
    PHASES,
    UPDATES,
    build_tiny,
    changed,
    features,
    phases_of,
    save_backbone,
    workplace,
)

import sparsetune
from sparsetune.architectures.anatomy import Anatomy
from sparsetune.architectures.loading import load_model
from sparsetune.config.method import NOfMMask
from sparsetune.errors import ModelError
from sparsetune.methods.pruning import heads_for, masks_for
from sparsetune.methods.registry import update_of
from sparsetune.methods.tuned import Structure, build, load_tuned
from sparsetune.pruning.manifest import read_counts
from sparsetune.training.phases import run_phases

EVERY = {"kept_heads": [[0, 1, 2, 3]] * 2, "kept_neurons": [list(range(40))] * 2}
N_OF_M = NOfMMask(kind="n-of-m", n=2, m=4, score="delta")
CASES = {
    "full": ("full", None, None),
    "lora": ("lora", None, None),
    "bitfit": ("bitfit", None, None),
    "dsee": ("dsee", None, None),
    "dsee-unstructured": ("dsee", None, MASK),
    "dsee-2to4": ("dsee", None, N_OF_M),
    "dsee-structured-delta": ("dsee", None, HEADS),
    "magnitude": ("full", None, changed(MASK, score="weight")),
    "earlybert": ("full", KEPT, None),
    "dsee-structured": ("dsee", KEPT, None),
    "layerdrop": ("full", {**EVERY, "kept_layers": [1]}, None),
    "dsee-layerdrop": ("dsee", {**KEPT, "kept_layers": [1]}, None),
}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {kind: save_backbone(root, kind) for kind in KINDS}


def trained_like(backbone, case, *, seed=0):
    """A run of one method whose trained tensors have moved, as training moves them."""
    update, kept, mask = CASES[case]
    tuned = build_tiny(backbone, update, kept=kept)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.trained_parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    if mask == HEADS:
        tuned.remove_heads(heads_for(tuned.model, mask, seed=0))
    elif mask:
        tuned.prune(masks_for(tuned.model, mask, seed=0))
    tuned.model.eval()
    return tuned


def logits(tuned):
    with torch.no_grad():
        return tuned.model(**tiny_batch()).logits


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("case", CASES)
def test_a_saved_run_loads_with_bit_identical_logits(backbones, tmp_path, kind, case):
    tuned = trained_like(backbones[kind], case)
    path = tmp_path / "run" / "model.safetensors"
    tuned.save(path)
    loaded = load_tuned(path, backbones[kind])
    assert torch.equal(logits(loaded), logits(tuned))
    assert not torch.equal(logits(loaded), logits(trained_like(backbones[kind], case, seed=1)))
    assert loaded.structure == tuned.structure
    assert not loaded.model.training
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("case", ["lora", "dsee", "dsee-unstructured", "dsee-2to4"])
def test_the_frozen_backbone_is_bit_identical_and_not_in_the_file(backbones, tmp_path, kind, case):
    tuned = trained_like(backbones[kind], case)
    tuned.save(tmp_path / "model.safetensors")
    loaded = load_tuned(tmp_path / "model.safetensors", backbones[kind])
    dense = Anatomy.of(load_model(backbones[kind], kind="classification", label_count=3, seed=9))
    for site in dense.sites():
        own = _frozen(loaded.model, site)
        mask = loaded.masks.get(site.key, torch.ones_like(site.weight_view(), dtype=torch.bool))
        assert torch.equal(own, site.weight_view() * mask)
    stored = load_file(tmp_path / "model.safetensors")
    whole = sum(p.numel() for p in dense.site(0, "query").module.parameters())
    assert max(t.numel() for name, t in stored.items() if "classifier" not in name) <= whole
    assert sum(t.numel() for t in stored.values()) < 0.4 * sum(
        p.numel() for p in tuned.model.parameters()
    )


def _frozen(model, site):
    """A projection's own weight, whatever wraps it."""
    for part in site.path.split("."):
        model = getattr(model, part)
    base = getattr(model, "base_layer", model)
    return dataclasses.replace(site, module=base).weight_view(base.weight)


def test_masks_and_supports_travel_as_bits_and_positions(backbones, tmp_path):
    tuned = trained_like(backbones["bert"], "dsee-unstructured")
    tuned.save(tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    rooms = {name.partition("/")[0] for name in stored}
    assert rooms == {"support", "mask", *tuned.trained_parameters()}
    assert {t.dtype for name, t in stored.items() if name.startswith("mask/")} == {torch.uint8}
    # 24 x 24 bits are 72 bytes, 24 x 40 bits are 120.
    assert {t.numel() for name, t in stored.items() if name.startswith("mask/")} == {72, 120}
    assert {t.numel() for name, t in stored.items() if name.startswith("support/")} == {11}


def test_pruning_twice_keeps_the_first_zeros(backbones):
    tuned = trained_like(backbones["bert"], "dsee-unstructured")
    state = tuned.state()
    tuned.load_state(state)
    assert all(torch.equal(tuned.state()[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_lost_heads_is_a_smaller_model_from_its_file_on(backbones, tmp_path, kind):
    tuned = trained_like(backbones[kind], "dsee-structured-delta")
    tuned.save(tmp_path / "model.safetensors")
    loaded = load_tuned(tmp_path / "model.safetensors", backbones[kind])
    anatomy = Anatomy.of(loaded.model)
    assert [anatomy.heads(layer) for layer in (0, 1)] == [3, 3]
    assert loaded.structure.kept_neurons == [list(range(40))] * 2
    whole = build_tiny(backbones[kind], "dsee")
    for key, positions in loaded.supports.items():
        assert torch.equal(positions, tuned.supports[key])
        assert 0 < len(positions) < len(whole.supports[key])
        # What is left are the backbone's weights, bit for bit.
        site, dense = (Anatomy.of(one.model).site_of(key) for one in (loaded, whole))
        heads = loaded.structure.kept_heads[site.layer]
        rows = [head * 6 + offset for head in heads for offset in range(6)]
        assert torch.equal(site.weight_view(), dense.weight_view()[rows])


def stepped_with(tuned, steps):
    """Train some steps with dropout off; ``computing`` or not is the caller's affair."""
    trained = list(tuned.trained_parameters().values())
    optimizer = torch.optim.SGD(trained, lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        tuned.model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("case", CASES)
def test_copies_for_a_gpu_leave_a_run_as_it_is(backbones, tmp_path, case):
    plain, computing = (trained_like(backbones["bert"], case) for _ in range(2))
    sizes = {name: p.shape for name, p in plain.model.named_parameters()}
    with computing.computing("cuda", trains=True):  # of CPU tensors: the name only chooses
        stepped_with(computing, 1)
        middle = {name: one.clone() for name, one in computing.state().items()}
        stepped_with(computing, 2)
        assert {name: p.shape for name, p in computing.model.named_parameters()} == sizes
        computing.save(tmp_path / "inside" / "model.safetensors")
    computing.save(tmp_path / "outside" / "model.safetensors")
    inside, outside = ((tmp_path / f / "model.safetensors").read_bytes()
                       for f in ("inside", "outside"))  # fmt: skip
    assert inside == outside
    stepped_with(plain, 3)
    expected = plain.trained_values()
    for name, value in computing.trained_values().items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4)
    with plain.computing("cuda", trains=True):  # going on from a state, bit for bit
        plain.load_state(middle)
        stepped_with(plain, 2)
    assert all(torch.equal(plain.state()[name], one) for name, one in computing.state().items())
    loaded = load_tuned(tmp_path / "inside" / "model.safetensors", backbones["bert"])
    expected = logits(loaded)
    with loaded.computing("cuda", trains=False):
        torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(loaded), expected)


@pytest.mark.parametrize("mask", [MASK, HEADS, N_OF_M], ids=lambda mask: mask.kind)
def test_a_method_with_its_phases_runs_on_copies(backbones, tmp_path, mask):
    runs = {}
    for name, device in (("copies", "cuda"), ("plain", "cpu")):
        tuned = runs[name] = build_tiny(backbones["bert"], "dsee")
        for module in tuned.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with tuned.computing(device, trains=True):  # of CPU tensors: the name only chooses
            run_phases(
                tuned, phases_of(*PHASES), features=features(), collate=COLLATE, mask=mask,
                workplace=workplace(tmp_path / name),
            )  # fmt: skip
        tuned.model.eval()
    assert runs["copies"].structure == runs["plain"].structure
    assert runs["copies"].masks.keys() == runs["plain"].masks.keys()
    for key, one in runs["plain"].masks.items():  # drawn from weights that differ by rounding
        assert torch.equal(runs["copies"].masks[key], one)
    torch.testing.assert_close(logits(runs["copies"]), logits(runs["plain"]), atol=1e-4, rtol=1e-4)


def test_heads_are_removed_in_the_middle_of_computing(backbones):
    tuned, plain = (build_tiny(backbones["bert"], "dsee") for _ in range(2))
    kept = [[0, 1, 2], [1, 2, 3]]
    with tuned.computing("cuda", trains=True):
        logits(tuned)
        tuned.remove_heads(kept)
        plain.remove_heads(kept)
        torch.testing.assert_close(logits(tuned), logits(plain), atol=1e-5, rtol=1e-5)


def test_a_run_without_sparse_entries_travels_too(backbones, tmp_path):
    supports = dict.fromkeys(build_tiny(backbones["bert"], "dsee").supports, torch.empty(0).long())
    structure = Structure("classification", 3, 0, False, update_of(UPDATES["dsee"]))
    tuned = build(backbones["bert"], structure, supports)
    tuned.remove_heads([[0], [1, 2]])
    tuned.model.eval()
    tuned.save(tmp_path / "model.safetensors")
    loaded = load_tuned(tmp_path / "model.safetensors", backbones["bert"])
    assert torch.equal(logits(loaded), logits(tuned))


def test_heads_are_removed_once_and_before_masks(backbones):
    kept = [[0, 1, 2], [1, 2, 3]]
    masked = trained_like(backbones["bert"], "dsee-unstructured")
    for tuned in (masked, build_tiny(backbones["bert"], "dsee", kept=KEPT)):
        with pytest.raises(ModelError, match="heads can be removed once, and before"):
            tuned.remove_heads(kept)


@pytest.mark.parametrize("case", ["dsee-unstructured", "magnitude"])
def test_a_run_with_a_masked_weight_that_is_not_zero_is_not_saved(backbones, tmp_path, case):
    tuned = trained_like(backbones["bert"], case)
    site = Anatomy.of(tuned.model).site(1, "ffn_in")
    with torch.no_grad():
        site.weight_view().view(-1)[(~tuned.masks[site.key]).view(-1).nonzero()[:2]] = 1e-30
    with pytest.raises(ModelError, match=r"layer\.1\.ffn_in: 2 of its \d+ masked weights"):
        tuned.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["dsee-unstructured", "magnitude"])
def test_rewinding_puts_values_back_and_leaves_masks(backbones, case):
    start = build_tiny(backbones["bert"], CASES[case][0])
    tuned = trained_like(backbones["bert"], case)
    tuned.rewind(start.trained_values())
    for site in Anatomy.of(tuned.model).sites():
        dense = Anatomy.of(start.model).site_of(site.key).weight_view()
        assert torch.equal(site.weight_view(), dense * tuned.masks[site.key])
    own, begun = tuned.trained_parameters(), start.trained_parameters()
    assert all(torch.equal(own[name], begun[name]) for name in own if "layer" not in name)


def test_random_weights_are_rebuilt_from_the_seed(backbones, tmp_path):
    structure = Structure("classification", 3, 4, True, update_of(UPDATES["full"]))
    tuned = build(backbones["bert"], structure, {})
    tuned.model.eval()
    pretrained = build_tiny(backbones["bert"], "full", seed=4)
    pretrained.model.eval()
    assert not torch.equal(logits(tuned), logits(pretrained))
    tuned.save(tmp_path / "model.safetensors")
    assert torch.equal(
        logits(load_tuned(tmp_path / "model.safetensors", backbones["bert"])), logits(tuned)
    )


def test_a_state_that_does_not_fit_names_the_tensor(backbones):
    tuned = build_tiny(backbones["bert"], "lora")
    state = tuned.state()
    name = next(iter(state))
    with pytest.raises(ModelError, match=rf"{name} is nothing in the file"):
        tuned.load_state({key: value for key, value in state.items() if key != name})
    with pytest.raises(ModelError, match=r"other is \(1,\) in the file, the model needs nothing"):
        tuned.load_state({**state, "other": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"is \(1,\) in the file, the model needs"):
        tuned.load_state({**state, name: torch.zeros(1)})


def test_a_file_that_is_no_run_is_one_named_error(backbones, tmp_path):
    sparsetune.save(tiny_model("bert"), tmp_path)
    with pytest.raises(ModelError, match=r"model\.safetensors: not a saved run") as caught:
        load_tuned(tmp_path / "model.safetensors", backbones["bert"])
    assert "\n" not in str(caught.value)


def test_a_run_does_not_load_on_another_backbone(backbones, tmp_path):
    build_tiny(backbones["bert"], "dsee").save(tmp_path / "model.safetensors")
    with pytest.raises(ModelError):
        load_tuned(tmp_path / "model.safetensors", backbones["gpt2"])
    other = shutil.copytree(backbones["bert"], tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="trained on bert with other frozen weights"):
        load_tuned(tmp_path / "model.safetensors", other)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("case", ["full", "bitfit", "dsee", "dsee-unstructured"])
def test_the_api_loads_a_run_on_its_backbone(backbones, tmp_path, kind, case):
    tuned = trained_like(backbones[kind], case)
    tuned.save(tmp_path / "model.safetensors")
    plain = load_model(backbones[kind], kind="classification", label_count=3, seed=3)
    loaded = sparsetune.load(tmp_path, plain)
    with torch.no_grad():
        assert torch.equal(loaded(**tiny_batch()).logits, logits(tuned))


def test_the_manifest_says_how_to_rebuild_the_model(backbones, tmp_path):
    build_tiny(backbones["bert"], "full", kept=KEPT).save(tmp_path / "model.safetensors")
    manifest, _ = read_counts(tmp_path / "model.safetensors")
    assert manifest.kept.heads == [[0, 2, 3], [1, 2, 3]]
    assert (manifest.base.name, manifest.head.kind) == ("bert", "classification")


def test_layers_dropped_take_their_supports_along(backbones):
    whole = build_tiny(backbones["bert"], "dsee")
    dropped = build_tiny(backbones["bert"], "dsee", kept={**EVERY, "kept_layers": [1]})
    assert set(dropped.supports) == {"layer.0.query", "layer.0.value"}
    for projection in ("query", "value"):
        own, old = (t.supports for t in (dropped, whole))
        assert torch.equal(own[f"layer.0.{projection}"], old[f"layer.1.{projection}"])

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
from unit.tiny import HEADS, KINDS, LAYERS, WIDTH, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune import DseeConfig
from sparsetune.architectures.base import Anatomy, task_head_parameters
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import apply_masks_, two_pool_masks, zero_counts
from sparsetune.pruning.structured import remove, shapes
from sparsetune.records import sha256_of

CONFIG = DseeConfig(rank=3, alpha=7.0, n_sparse=11, init="normal", support="random")
KEPT = ([[0, 2], [1, 2, 3]], [[1, 3, 5], list(range(10, 30))])


def adapted(kind, *, support="random", config=CONFIG, seed=0, **options):
    model = tiny_model(kind, **options)
    sparsetune.apply_dsee(model, replace(config, support=support, seed=seed))
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():  # as after training: update and task head have moved
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, config_name, tensors_name, change):
    """Change a tensor file and its recorded digest: damage that the digest does not tell."""
    tensors = load_file(folder / tensors_name)
    change(tensors)
    save_file(tensors, folder / tensors_name)
    edit_json(folder / config_name, tensors_sha256=sha256_of(folder / tensors_name))


def edit_adapter(folder, change):
    edit_tensors(folder, "dsee_config.json", "dsee_model.safetensors", change)


def cut(tensors, name):
    tensors[name] = tensors[name][:-1].clone()


def recast(tensors, name, shape, dtype=None):
    tensors[name] = tensors[name].reshape(shape).to(dtype or tensors[name].dtype)


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, sparsetune; assert 'apply_dsee' in dir(sparsetune); "
        "heavy = {'torch', 'transformers', 'numpy', 'safetensors'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_exported_name_exists_and_no_other():
    assert all(getattr(sparsetune, name) is not None for name in sparsetune.__all__)
    with pytest.raises(AttributeError, match="apply_lora"):
        _ = sparsetune.apply_lora


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("support", ["grebsmo", "magnitude", "random", "empty"])
def test_attaching_keeps_the_function_and_trains_update_and_head_only(kind, support):
    model = tiny_model(kind)
    before = output_of(model, tiny_batch())
    config = DseeConfig(rank=3, n_sparse=11, targets=["query", "value"], support=support)
    assert sparsetune.apply_dsee(model, config) is model
    # The update starts at zero; its kernel may round otherwise than the fused matrix product.
    torch.testing.assert_close(output_of(model, tiny_batch()), before, rtol=1e-5, atol=1e-6)
    values = {branch.S2.numel() for _, branch in dsee_branches(model)}
    assert values == {0 if support == "empty" else 11}
    # By hand: 2 layers x (query, value), U 24 x 3, V 3 x 24, and the values of S2.
    head = sum(parameter.numel() for parameter in task_head_parameters(model).values())
    update = LAYERS * 2 * (24 * 3 + 3 * 24 + values.pop())
    expected = {"update": update, "head": head, "total": update + head}
    assert sparsetune.trainable_parameters(model) == expected


def test_positions_can_be_given_and_the_seed_decides_the_start():
    anatomy = Anatomy.of(tiny_model("bert"))
    given = {site.key: torch.tensor([5, 2]) for site in anatomy.sites(("query", "value"))}
    models = [adapted("bert", support=given, seed=seed) for seed in (1, 1, 2)]
    assert all(branch.positions.tolist() == [5, 2] for _, branch in dsee_branches(models[0]))
    starts = [[b.V.detach() for _, b in dsee_branches(model)] for model in models]
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert not torch.equal(starts[0][0], starts[2][0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["whole", "masked", "removed"])
def test_a_saved_update_gives_the_same_logits(kind, form, tmp_path):
    plain, model = tiny_model(kind), tiny_model(kind)
    if form == "removed":
        remove(plain, *KEPT)
        remove(model, *KEPT)
    sparsetune.apply_dsee(model, replace(CONFIG, support="magnitude"))
    if form == "masked":
        apply_masks_(model, two_pool_masks(model, 0.5))
    with torch.no_grad():
        for parameter in task_head_parameters(model).values():
            parameter += 0.3
    sparsetune.save_dsee(model, tmp_path / "adapter")
    assert sparsetune.load_dsee(plain, str(tmp_path / "adapter")) is plain
    assert torch.equal(output_of(plain, tiny_batch()), output_of(model, tiny_batch()))
    assert zero_counts(plain) == zero_counts(model)
    assert sparsetune.trainable_parameters(plain) == sparsetune.trainable_parameters(model)
    files = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert files == ["dsee_config.json", "dsee_model.safetensors"]


def test_a_folder_holds_update_and_head_and_no_frozen_weight(tmp_path):
    sparsetune.save_dsee(adapted("gpt2"), tmp_path)
    tensors = load_file(tmp_path / "dsee_model.safetensors")
    parts = {f"layer.{n}.{p}.{t}" for n in (0, 1) for p in ("query", "value") for t in "UV"}
    sparse = {name[:-1] + part for name in parts for part in ("S2", "positions")}
    assert tensors.keys() == parts | sparse | {"head.score.weight"}
    assert tensors["layer.0.query.positions"].dtype == torch.int32


@pytest.mark.parametrize(("rank", "alpha"), [(3, 0.1), (7, 1.1), (11, 0.7), (13, 3.3), (17, 32.0)])
def test_the_scale_is_kept_exactly(rank, alpha, tmp_path):
    sparsetune.save_dsee(adapted("bert", config=DseeConfig(rank, alpha, 2)), tmp_path)
    plain = tiny_model("bert")
    sparsetune.load_dsee(plain, tmp_path)
    assert {layer.scale for layer, _ in dsee_branches(plain)} == {alpha / rank}


def refused(model, folder, message, **options):
    before = weights_of(model)
    with pytest.raises(ModelError, match=message):
        sparsetune.load_dsee(model, folder, **options)
    assert same(before, weights_of(model))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_other_shapes_is_refused_naming_both_sides(kind, tmp_path):
    smaller = tiny_model(kind)
    remove(smaller, *KEPT)
    sparsetune.save_dsee(adapted(kind), tmp_path)
    refused(smaller, tmp_path, r"heads \[4, 4\], this model has \[2, 3\]")
    other = "gpt2" if kind == "bert" else "bert"
    refused(tiny_model(other), tmp_path, f"model_type {kind}, this model has {other}")
    refused(tiny_model(kind, task="qa"), tmp_path, r"in the file, the model needs")


def test_other_frozen_weights_are_refused_unless_asked_for(tmp_path):
    sparsetune.save_dsee(adapted("bert"), tmp_path)
    refused(tiny_model("bert", seed=1), tmp_path, "other frozen weights")
    sparsetune.load_dsee(tiny_model("bert", seed=1), tmp_path, check_backbone=False)


def test_other_kept_heads_of_the_same_number_are_refused(tmp_path):
    models = [tiny_model("roberta"), tiny_model("roberta")]
    remove(models[0], *KEPT)
    remove(models[1], [[0, 1], [1, 2, 3]], KEPT[1])
    sparsetune.apply_dsee(models[0], CONFIG)
    sparsetune.save_dsee(models[0], tmp_path)
    refused(models[1], tmp_path, "other kept heads")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format: received 2"),
        ({"dsee": {"rank": 3}}, "not a DSEE configuration"),
        ({"dsee": {"rank": 0, "alpha": 1, "n_sparse": 1, "targets": ["query"]}}, "dsee rank"),
        ({"dsee": {"rank": 4, "alpha": 2, "n_sparse": 11, "targets": ["query", "value"]}}, r"\.U"),
        (
            {"dsee": {"rank": 3, "alpha": 2, "n_sparse": 5, "targets": ["query", "value"]}},
            "at most",
        ),
        ({"tensors_sha256": "0"}, "missing, or not the file"),
    ],
)
def test_a_damaged_configuration_is_refused(changes, message, tmp_path):
    sparsetune.save_dsee(adapted("bert"), tmp_path)
    edit_json(tmp_path / "dsee_config.json", **changes)
    refused(tiny_model("bert"), tmp_path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer.1.value.S2"), r"value.S2 is nothing in the file"),
        (lambda t: t.update({"layer.9.query.U": torch.ones(2)}), "the model needs nothing"),
        (lambda t: t["layer.0.query.positions"].fill_(3), "a position occurs twice"),
        (lambda t: cut(t, "layer.0.query.positions"), r"S2 is \(11,\) in the file, .* \(10,\)"),
        (lambda t: cut(t, "layer.0.query.S2"), r"S2 is \(10,\) in the file, .* \(11,\)"),
        (lambda t: recast(t, "layer.0.query.positions", (11, 1)), r"positions is \(11, 1\)"),
        (lambda t: recast(t, "layer.0.query.positions", (11,), float), "received torch.float64"),
        (lambda t: t["layer.1.value.positions"][:1].fill_(-1), r"received -1\.\."),
        (lambda t: t["layer.0.query.positions"][:1].fill_(9999), "positions outside"),
        (lambda t: t.update({"mask.layer.0.key": torch.ones(3, dtype=torch.uint8)}), "packed mask"),
    ],
)
def test_damaged_tensors_are_refused(change, message, tmp_path):
    sparsetune.save_dsee(adapted("bert"), tmp_path)
    edit_adapter(tmp_path, change)
    refused(tiny_model("bert"), tmp_path, message)


def test_missing_and_unreadable_files_are_named(tmp_path):
    refused(tiny_model("bert"), tmp_path, "dsee_config.json: no such file")
    sparsetune.save_dsee(adapted("bert"), tmp_path)
    (tmp_path / "dsee_model.safetensors").write_bytes(b"damaged")
    edit_json(
        tmp_path / "dsee_config.json", tensors_sha256=sha256_of(tmp_path / "dsee_model.safetensors")
    )
    refused(tiny_model("bert"), tmp_path, "not a readable safetensors file")


def test_what_cannot_be_saved_as_an_update_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no DSEE update is attached"):
        sparsetune.save_dsee(tiny_model("bert"), tmp_path)
    model = adapted("bert")
    model.bert.encoder.layer[0].output.LayerNorm.weight.requires_grad_(True)
    with pytest.raises(ModelError, match=r"LayerNorm.weight trains"):
        sparsetune.save_dsee(model, tmp_path)
    uneven = adapted("bert")
    next(layer for layer, _ in dsee_branches(uneven)).scale = 9.0
    with pytest.raises(ModelError, match="one rank and scale"):
        sparsetune.save_dsee(uneven, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projection", ["query", "ffn_out"])
def test_a_masked_weight_that_came_alive_is_not_saved(kind, projection, tmp_path):
    model = adapted(kind)
    masks = two_pool_masks(model, 0.5)
    apply_masks_(model, masks)
    weight = Anatomy.of(model).site(1, projection).weight_view()
    alive = (~masks[f"layer.1.{projection}"]).nonzero()[:2]
    with torch.no_grad():
        weight[alive[:, 0], alive[:, 1]] = 0.25
    with pytest.raises(ModelError, match=rf"layer.1.{projection}: 2 of its \d+ masked weights"):
        sparsetune.save_dsee(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    apply_masks_(model, masks)
    sparsetune.save_dsee(model, tmp_path)


def test_a_dense_merge_forgets_the_mask_and_can_be_adapted_again(tmp_path):
    model = adapted("bert")
    apply_masks_(model, two_pool_masks(model, 0.5))
    report = sparsetune.merge(model, "dense")
    assert report.zero_share_before > 0.4 > report.zero_share_after
    sparsetune.save_dsee(sparsetune.apply_dsee(model, CONFIG), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_gives_plain_layers_with_the_same_function(kind):
    model = adapted(kind)
    unmerged = output_of(model, tiny_batch())
    report = sparsetune.merge(model, "dense")
    # One product instead of two: rounding of float32 only.
    torch.testing.assert_close(output_of(model, tiny_batch()), unmerged, rtol=1e-4, atol=1e-5)
    assert not any(type(m).__module__.startswith("sparsetune") for m in model.modules())
    assert (report.zero_share_before, report.zero_share_after) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "task"),
    [*itertools.product(KINDS, ("classification", "qa", "bare")), ("gpt2", "lm")],
)
def test_a_compact_model_gives_the_same_output(kind, task, tmp_path):
    model = tiny_model(kind, task=task)
    remove(model, *KEPT)
    if task != "bare":
        sparsetune.apply_dsee(model, CONFIG)
        sparsetune.merge(model, "dense")
    sparsetune.save_compact(model, tmp_path)
    random_state = torch.random.get_rng_state()
    loaded = sparsetune.load_compact(str(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert type(loaded) is type(model)
    assert shapes(loaded) == shapes(model)
    assert not loaded.training
    assert torch.equal(output_of(loaded, tiny_batch()), output_of(model, tiny_batch()))
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert stored == sum(parameter.numel() for parameter in model.parameters())


def test_a_compact_model_keeps_its_dtype_and_its_labels(tmp_path):
    model = tiny_model("bert").to(torch.bfloat16)
    model.config.id2label = {0: "no", 1: "perhaps", 2: "yes"}
    sparsetune.save_compact(model, tmp_path)
    loaded = sparsetune.load_compact(tmp_path)
    assert loaded.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert same(weights_of(loaded), weights_of(model))


def test_what_is_attached_or_of_another_class_is_not_saved_compactly(tmp_path):
    with pytest.raises(ModelError, match=r"DseeLinear.* merge it first"):
        sparsetune.save_compact(adapted("gpt2"), tmp_path)
    model = tiny_model("bert")
    model.classifier.to(torch.float64)
    with pytest.raises(ModelError, match=r"torch.float32, torch.float64; needed: one dtype"):
        sparsetune.save_compact(model, tmp_path)
    own = type("Own", (type(model),), {})
    with pytest.raises(ModelError, match="Own is not one of transformers' own"):
        sparsetune.save_compact(own(model.config), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sparsetune_shapes.json", {"heads": [2, HEADS + 1]}, f"layer 1: .* 1 to {HEADS} heads"),
        ("sparsetune_shapes.json", {"ffn_width": [0, 20]}, f"layer 0: .* 1 to {WIDTH} neurons"),
        ("sparsetune_shapes.json", {"heads": [True, 3]}, "received True"),
        ("sparsetune_shapes.json", {"heads": [2]}, "one for each layer"),
        ("sparsetune_shapes.json", {"heads": [3, 3]}, r"is \(24, 12\) in the file, .*\(24, 18\)"),
        ("sparsetune_shapes.json", {"head_size": 7}, "head_size: received 7, config.json says 6"),
        ("sparsetune_shapes.json", {"format": None}, "format: received None"),
        ("sparsetune_shapes.json", {"tensors_sha256": "0"}, "not the file that"),
        ("config.json", {"model_type": "t5"}, "model_type: received 't5'"),
        ("config.json", {"architectures": ["BertNothing"]}, "no model of type bert"),
        ("config.json", {"architectures": ["logger"]}, "no model of type bert"),
        ("config.json", {"num_attention_heads": 5}, "unusable"),
        ("config.json", {"dtype": "save"}, "unusable"),
    ],
)
def test_a_damaged_compact_folder_is_refused(name, changes, message, tmp_path):
    model = tiny_model("bert")
    remove(model, *KEPT)
    sparsetune.save_compact(model, tmp_path)
    edit_json(tmp_path / name, **changes)
    with pytest.raises(ModelError, match=message):
        sparsetune.load_compact(tmp_path)


def test_missing_files_of_a_compact_folder_are_named(tmp_path):
    model = tiny_model("bert")
    sparsetune.save_compact(model, tmp_path)
    for name in ("model.safetensors", "sparsetune_shapes.json", "config.json"):
        (tmp_path / name).unlink()
        with pytest.raises(ModelError, match=name):
            sparsetune.load_compact(tmp_path)


def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.split("## In your own work", 1)[1]
    example = section.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(tmp_path)
    names = {"model": tiny_model("bert"), "train": lambda model: None}
    exec(compile(example, "README.md", "exec"), names)
    plain = tiny_model("bert")
    sparsetune.load_dsee(plain, "adapter")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        output_of(loaded, tiny_batch()), output_of(plain, tiny_batch()), rtol=1e-4, atol=1e-5
    )

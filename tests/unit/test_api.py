import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification
from unit.tiny import KINDS, LAYERS, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune import DseeConfig
from sparsetune.architectures.anatomy import Anatomy, task_head_parameters
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import apply_masks_, two_pool_masks
from sparsetune.pruning.structured import remove
from sparsetune.pruning.zeros import zero_counts

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


def edit(folder, change=lambda tensors: None, **changes):
    """Change what a saved file holds, its manifest or its tensors."""
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        manifest, tensors = json.loads(file.metadata()["sparsetune"]), load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"sparsetune": json.dumps({**manifest, **changes})})


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
    sparsetune.save(model, tmp_path / "update")
    assert sparsetune.load(str(tmp_path / "update"), plain) is plain
    assert torch.equal(output_of(plain, tiny_batch()), output_of(model, tiny_batch()))
    assert zero_counts(plain) == zero_counts(model)
    assert sparsetune.trainable_parameters(plain) == sparsetune.trainable_parameters(model)
    names = sorted(path.name for path in (tmp_path / "update").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]


def test_a_saved_update_holds_what_trained_and_no_frozen_weight(tmp_path):
    sparsetune.save(adapted("gpt2"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    layers = [f"transformer.h.{n}.attn.c_attn.branches" for n in (0, 1)]
    parts = {f"{layer}.{p}.{t}" for layer in layers for p in ("query", "value")
             for t in ("U", "V", "S2")}  # fmt: skip
    places = {f"support/layer.{n}.{p}" for n in (0, 1) for p in ("query", "value")}
    assert tensors.keys() == parts | places | {"score.weight"}
    assert tensors["support/layer.0.query"].dtype == torch.int32


@pytest.mark.parametrize(("rank", "alpha"), [(3, 0.1), (7, 1.1), (11, 0.7), (13, 3.3), (17, 32.0)])
def test_the_scale_is_kept_exactly(rank, alpha, tmp_path):
    sparsetune.save(adapted("bert", config=DseeConfig(rank, alpha, 2)), tmp_path)
    plain = sparsetune.load(tmp_path, tiny_model("bert"))
    assert {branch.scale for _, branch in dsee_branches(plain)} == {alpha / rank}


def test_what_else_trains_is_saved_too(tmp_path):
    model = adapted("bert")
    model.bert.pooler.requires_grad_(True)
    torch.nn.init.constant_(model.bert.pooler.dense.bias, 0.5)
    sparsetune.save(model, tmp_path)
    loaded = sparsetune.load(tmp_path, tiny_model("bert"))
    assert torch.equal(output_of(loaded, tiny_batch()), output_of(model, tiny_batch()))
    assert loaded.bert.pooler.dense.bias.requires_grad


def refused(model, folder, message, **options):
    before = weights_of(model)
    with pytest.raises(ModelError, match=message) as caught:
        sparsetune.load(folder, model, **options)
    assert same(before, weights_of(model))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_other_shapes_is_refused_naming_both_sides(kind, tmp_path):
    smaller = tiny_model(kind)
    remove(smaller, *KEPT)
    sparsetune.save(adapted(kind), tmp_path)
    refused(smaller, tmp_path, r"heads \[4, 4\], this model has \[2, 3\]")
    other = "gpt2" if kind == "bert" else "bert"
    refused(tiny_model(other), tmp_path, f"model_type {kind}, this model has {other}")
    refused(tiny_model(kind, task="qa"), tmp_path, r"in the file, the model needs")


def test_other_frozen_weights_are_refused_unless_asked_for(tmp_path):
    sparsetune.save(adapted("bert"), tmp_path)
    refused(tiny_model("bert", seed=1), tmp_path, "other frozen weights")
    sparsetune.load(tmp_path, tiny_model("bert", seed=1), check_frozen=False)


def test_other_kept_heads_of_the_same_number_are_refused(tmp_path):
    models = [tiny_model("roberta"), tiny_model("roberta")]
    remove(models[0], *KEPT)
    remove(models[1], [[0, 1], [1, 2, 3]], KEPT[1])
    sparsetune.save(sparsetune.apply_dsee(models[0], CONFIG), tmp_path)
    refused(models[1], tmp_path, "other kept heads")


UPDATE = {"kind": "dsee", "rank": 3, "alpha": 7}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "manifest: format: received 2"),
        ({"other": 2}, "unknown key .other"),
        ({"update": {"kind": "dsee", "rank": 3}}, "update: 'alpha'"),
        ({"update": {**UPDATE, "rank": 0}}, "update: dsee rank: received 0"),
        ({"update": {**UPDATE, "rank": 4}}, r"\.U is"),
        ({"update": {"kind": "peft"}}, "update.kind: received 'peft'; allowed: dsee, full, bitfit"),
    ],
)
def test_a_damaged_manifest_is_refused(changes, message, tmp_path):
    sparsetune.save(adapted("bert"), tmp_path)
    edit(tmp_path, **changes)
    refused(tiny_model("bert"), tmp_path, message)


PLACES, BRANCHES = "support/layer.0.query", "bert.encoder.layer.0.attention.self.query.branches"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{BRANCHES}.query.S2"), r"query.S2 is nothing in the file"),
        (lambda t: t.update({"layer.9.query.U": torch.ones(2)}), "the model needs nothing"),
        (lambda t: t.pop(PLACES), r"query.S2 is \(11,\) in the file"),
        (lambda t: [t.pop(f"support/layer.{n}.value") for n in (0, 1)], "the model needs nothing"),
        (lambda t: t[PLACES].fill_(3), "a position occurs twice"),
        (lambda t: cut(t, PLACES), r"S2 is \(11,\) in the file, .* \(10,\)"),
        (lambda t: cut(t, f"{BRANCHES}.query.S2"), r"S2 is \(10,\) in the file, .* \(11,\)"),
        (lambda t: recast(t, PLACES, (11, 1)), "of 2 dimensions"),
        (lambda t: t[PLACES][:1].fill_(-1), r"received -1\.\."),
        (lambda t: t[PLACES][:1].fill_(9999), "positions outside"),
        (lambda t: t.update({"mask/layer.0.key": torch.ones(3, dtype=torch.uint8)}), "packed mask"),
    ],
)
def test_damaged_tensors_are_refused(change, message, tmp_path):
    sparsetune.save(adapted("bert"), tmp_path)
    edit(tmp_path, change)
    refused(tiny_model("bert"), tmp_path, message)


def test_missing_unreadable_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    refused(tiny_model("bert"), tmp_path, "model.safetensors: no such file")
    path.write_bytes(b"damaged")
    refused(tiny_model("bert"), tmp_path, "not a readable safetensors file")
    tiny_model("bert").save_pretrained(tmp_path)
    refused(tiny_model("bert"), tmp_path, "holds a whole model; received another beside it")
    (tmp_path / "config.json").unlink()
    refused(tiny_model("bert"), tmp_path, "no manifest in its metadata")


def test_an_update_needs_its_model_and_a_whole_model_none(tmp_path):
    sparsetune.save(adapted("bert"), tmp_path)
    with pytest.raises(ModelError, match=r"holds an update of .*; needed: .*load\(folder, model\)"):
        sparsetune.load(tmp_path)
    sparsetune.save(tiny_model("bert"), tmp_path)
    refused(tiny_model("bert"), tmp_path, "holds a whole model; received another beside it")


def test_updates_of_two_kinds_are_not_saved(tmp_path):
    uneven = adapted("bert")
    next(branch for _, branch in dsee_branches(uneven)).alpha = 9.0
    with pytest.raises(ModelError, match="one alpha and dropout"):
        sparsetune.save(uneven, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("form", "projection"), [("update", "query"), ("whole", "ffn_out")])
def test_a_masked_weight_that_came_alive_is_not_saved(kind, form, projection, tmp_path):
    model = adapted(kind) if form == "update" else tiny_model(kind)
    masks = two_pool_masks(model, 0.5, choice="weight")
    apply_masks_(model, masks)
    weight = Anatomy.of(model).site(1, projection).weight_view()
    alive = (~masks[f"layer.1.{projection}"]).nonzero()[:2]
    with torch.no_grad():
        weight[alive[:, 0], alive[:, 1]] = 0.25
    with pytest.raises(ModelError, match=rf"layer.1.{projection}: 2 of its \d+ masked weights"):
        sparsetune.save(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    apply_masks_(model, masks)
    sparsetune.save(model, tmp_path)


def test_a_dense_merge_forgets_the_mask_and_can_be_adapted_again(tmp_path):
    model = adapted("bert")
    apply_masks_(model, two_pool_masks(model, 0.5))
    report = sparsetune.merge(model, "dense")
    assert report.zero_share_before > 0.4 > report.zero_share_after
    sparsetune.save(sparsetune.apply_dsee(model, CONFIG), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_gives_plain_layers_with_the_same_function(kind):
    model = adapted(kind)
    unmerged = output_of(model, tiny_batch())
    report = sparsetune.merge(model, "dense")
    # One product instead of two: rounding of float32 only.
    torch.testing.assert_close(output_of(model, tiny_batch()), unmerged, rtol=1e-4, atol=1e-5)
    assert not any(type(m).__module__.startswith("sparsetune") for m in model.modules())
    assert (report.zero_share_before, report.zero_share_after) == (0, 0)


def loaded(kind, folder, **options):
    """As a user has it: from a folder of transformers."""
    tiny_model(kind, **options).save_pretrained(folder)
    return type(tiny_model(kind, **options)).from_pretrained(folder)


def told_in(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["sparsetune"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["whole", "shrunken", "saved", "half"])
def test_a_folder_finds_its_base_model(kind, form, tmp_path):
    base = tmp_path / "base"
    model = loaded(kind, base)
    if form == "half":
        model = model.to(torch.bfloat16)
    if form in ("shrunken", "saved"):
        for neurons in (0.0, 0.2):  # removal upon removal
            sparsetune.shrink(model, sparsetune.random_ticket(model, heads=0.3, neurons=neurons))
    if form == "saved":
        base = tmp_path / "small"
        sparsetune.save(model, base)
        model = sparsetune.load(base)
    sparsetune.prune(model, 0.4)
    sparsetune.apply_dsee(model, CONFIG)
    sparsetune.save(model, tmp_path / "update")
    state = torch.get_rng_state()
    again = sparsetune.load(tmp_path / "update")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))
    assert zero_counts(again) == zero_counts(model)
    assert sparsetune.trainable_parameters(again) == sparsetune.trainable_parameters(model)
    told = told_in(tmp_path / "update")["base"]
    digest = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert (told["source"], told["file_sha256"]) == (str(base), digest)
    sparsetune.save(again, tmp_path / "again")  # what was loaded names its base, too
    third = sparsetune.load(tmp_path / "again")
    assert torch.equal(output_of(third, tiny_batch()), output_of(model, tiny_batch()))


def test_a_base_of_shards_by_a_relative_path_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model("bert").save_pretrained("base", max_shard_size="20KB")
    assert len(list(Path("base").glob("*.safetensors"))) > 1
    model = BertForSequenceClassification.from_pretrained("base").eval()
    sparsetune.save(sparsetune.apply_dsee(model, CONFIG), "update")
    told = json.loads(Path("update/config.json").read_text())["transformers_weights"]
    assert told == "read it by sparsetune.load(folder)"  # which finds its base
    sparsetune.save(sparsetune.load("base"), "whole")
    sparsetune.save(sparsetune.apply_dsee(sparsetune.load("whole"), CONFIG), "of-whole")
    Path("elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder in ("update", "of-whole"):
        again = sparsetune.load(Path("..") / folder)
        assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))
        sparsetune.save(again, "again")
        saved = (Path(one) / "model.safetensors" for one in ("again", Path("..") / folder))
        assert len({one.read_bytes() for one in saved}) == 1
    assert told_in(tmp_path / "update")["base"]["source"] == str(tmp_path / "base")
    shard = next((tmp_path / "base").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-4] + b"1234")
    with pytest.raises(ModelError, match="holds other weights than when the update was trained"):
        sparsetune.load("../update")


def test_a_base_that_is_another_or_gone_is_refused_by_name(tmp_path):
    model = sparsetune.apply_dsee(loaded("bert", tmp_path / "base"), CONFIG)
    sparsetune.save(model, tmp_path / "update")
    tiny_model("bert", seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match=r"base: '.*base' holds other weights .*sha256 \w+; need"):
        sparsetune.load(tmp_path / "update")
    sparsetune.load(tmp_path / "update", tiny_model("bert"))
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(
        ModelError, match=r"base: received '.*base', which is no folder .*load\(fol"
    ):
        sparsetune.load(tmp_path / "update")
    nameless = sparsetune.apply_dsee(tiny_model("bert"), CONFIG)
    sparsetune.save(nameless, tmp_path / "update")
    with pytest.raises(ModelError, match=r"holds an update of Bert.*, whose base it does not tell"):
        sparsetune.load(tmp_path / "update")


def test_a_base_is_found_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    cache, commit = tmp_path / "models--own--tiny", "a" * 40
    model = loaded("bert", cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model.config.name_or_path = "own/tiny"
    sparsetune.save(sparsetune.apply_dsee(model, CONFIG), tmp_path / "update")
    told = told_in(tmp_path / "update")["base"]
    assert (told["source"], told["revision"]) == ("own/tiny", commit)
    again = sparsetune.load(tmp_path / "update")
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))


@pytest.mark.parametrize("form", ["update", "whole"])
def test_settings_of_generation_travel(form, tmp_path):
    model = loaded("gpt2", tmp_path / "base", task="lm")
    model.generation_config.max_new_tokens = 7
    if form == "update":
        sparsetune.apply_dsee(model, CONFIG)
    sparsetune.save(model, tmp_path / "out")
    again = sparsetune.load(tmp_path / "out")
    assert again.generation_config.max_new_tokens == 7
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))


def test_a_card_tells_what_was_done_and_leaves_a_readme_of_others_alone(tmp_path):
    card = tmp_path / "README.md"
    model = loaded("bert", tmp_path / "base")
    sparsetune.save(model, tmp_path)
    total = sum(p.numel() for p in model.parameters())
    assert f"- trained: {total:,} of {total:,} parameters (100.00%)" in card.read_text()
    sparsetune.prune(model, 0.5)
    sparsetune.apply_dsee(model, CONFIG)
    sparsetune.save(model, tmp_path)
    text = card.read_text()
    for line in (
        "An update (dsee, rank 3, alpha 7.0) of a frozen base model:",
        "- base model: base",
        "- heads of each layer: [4, 4]",
        "(50.00%)",
        "model = sparsetune.load(folder)",
    ):
        assert line in text
    assert str(tmp_path) not in text
    card.write_text("mine")
    sparsetune.save(model, tmp_path)
    assert card.read_text() == "mine"

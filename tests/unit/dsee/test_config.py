import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from unit.tiny import KINDS, adapted, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune import ConfigError, DseeConfig, ModelError
from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.config import sites_of
from sparsetune.dsee.layer import dsee_branches, folds_held
from sparsetune.pruning.checkpoint import read_file, write_file
from sparsetune.pruning.manifest import read_counts
from sparsetune.pruning.structured import remove

PATTERN = {"query": 5, "layer.0.value": 2}
# 24 x 24 matrices, 11 entries of S2 each: query 5 x 48 + 11 in both layers, value 2 x 48 + 11 in
# layer 0 and 3 x 48 + 11 in layer 1
PATTERNED_VALUES = 2 * 251 + 107 + 155
HEAD = {"bert": 24 * 3 + 3, "roberta": 24 * 24 + 24 + 24 * 3 + 3, "gpt2": 24 * 3}


def ranks_of(model):
    return {branch.key: branch.rank for _, branch in dsee_branches(model)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_trains_the_count_worked_by_hand(kind):
    model = adapted(kind, rank_pattern=PATTERN)
    assert ranks_of(model) == {
        "layer.0.query": 5, "layer.0.value": 2, "layer.1.query": 5, "layer.1.value": 3,
    }  # fmt: skip
    assert {b.key: b.scale for _, b in dsee_branches(model)} == {
        "layer.0.query": 6 / 5, "layer.0.value": 3.0, "layer.1.query": 6 / 5, "layer.1.value": 2.0,
    }  # fmt: skip
    counts = sparsetune.trainable_parameters(model)
    assert counts == {
        "update": PATTERNED_VALUES,
        "head": HEAD[kind],
        "total": PATTERNED_VALUES + HEAD[kind],
    }
    told, plain = (sparsetune.summary(one, tokens=5) for one in (model, tiny_model(kind)))
    assert told.trained == PATTERNED_VALUES + HEAD[kind]
    assert told.macs - plain.macs == 5 * PATTERNED_VALUES


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_named_layers_train_and_change(kind):
    model = adapted(kind, layers=[1])
    assert ranks_of(model) == {"layer.1.query": 3, "layer.1.value": 3}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".1." in name or name.startswith(("classifier", "score")) for name in trained)
    # 2 x (3 x 48 + 11)
    assert sparsetune.trainable_parameters(model)["update"] == 310
    plain = sparsetune.summary(tiny_model(kind), tokens=5).macs
    assert sparsetune.summary(model, tokens=5).macs - plain == 5 * 310
    places = {branch.key: branch.positions for _, branch in dsee_branches(model)}
    whole = {branch.key: branch.positions for _, branch in dsee_branches(adapted(kind))}
    assert all(torch.equal(whole[key], places[key]) for key in places)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [None, [1]])
def test_saved_loaded_merged_detached_and_disabled(kind, layers, tmp_path):
    pattern = PATTERN if layers is None else {"value": 4}
    model = adapted(kind, layers=layers, rank_pattern=pattern)
    expected, before = output_of(model, tiny_batch()), output_of(tiny_model(kind), tiny_batch())
    assert (expected - before).abs().max() > 1e-3
    sparsetune.save(model, tmp_path / "first")
    again = sparsetune.load(tmp_path / "first", tiny_model(kind))
    assert torch.equal(output_of(again, tiny_batch()), expected)
    assert ranks_of(again) == ranks_of(model)
    sparsetune.save(again, tmp_path / "second")
    files = [tmp_path / name / "model.safetensors" for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()
    manifest, counts = read_counts(files[0])
    told = {"rank": 3, "rank_pattern": {"value": 4}}
    if layers is None:
        told = {"rank": 5, "rank_pattern": {"layer.0.value": 2, "layer.1.value": 3}}
    assert manifest.update == {"kind": "dsee", "alpha": 6.0, **told}
    assert counts.supports == dict.fromkeys(ranks_of(model), 11)
    with sparsetune.disabled(again), folds_held(again):
        assert torch.equal(output_of(again, tiny_batch()), before)
    merged = copy.deepcopy(model)
    assert sparsetune.merge(merged, "dense").rounding_change < 1e-5
    torch.testing.assert_close(output_of(merged, tiny_batch()), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(output_of(sparsetune.detach(again), tiny_batch()), before)


def test_one_rank_is_saved_as_one_rank_however_it_was_asked_for(tmp_path):
    sparsetune.save(adapted("bert", rank_pattern={"query": 5, "value": 5}), tmp_path)
    manifest, _ = read_counts(tmp_path / "model.safetensors")
    assert manifest.update == {"kind": "dsee", "rank": 5, "alpha": 6.0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_follows_a_removal(kind, tmp_path):
    model = adapted(kind, layers=[0], rank_pattern={"layer.0.query": 5})
    remove(model, [[0, 3], [1]], [[0], [5, 6]])
    expected = output_of(model, tiny_batch())
    sparsetune.save(model, tmp_path)
    plain = tiny_model(kind)
    remove(plain, [[0, 3], [1]], [[0], [5, 6]])
    again = sparsetune.load(tmp_path, plain)
    assert torch.equal(output_of(again, tiny_batch()), expected)


def peft_ranks(kind, targets, **asked):
    model = get_peft_model(
        tiny_model(kind), LoraConfig(r=3, lora_alpha=6, target_modules=targets, **asked)
    )
    return {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def own_ranks(kind, **asked):
    model = adapted(kind, **asked)
    anatomy = Anatomy.of(model)
    return {
        anatomy.site_of(branch.key).path: (branch.rank, branch.scale)
        for _, branch in dsee_branches(model)
    }


@pytest.mark.parametrize(
    "pattern",
    [
        {"query": 5},
        {"layer.1.attention.self.value": 2, "value": 7},
        {r".*layer\.0\.attention.*": 1},
        {"query|value": 4},
        {r"encoder\.layer\.[1-9]\d*\..*query": 6, r"self\.\w+": 2},
        {"^bert.encoder.layer.1.attention.self.query": 8},
    ],
)
@pytest.mark.parametrize("layers", [None, [1], [0, 1]])
def test_keys_match_module_paths_as_in_peft(pattern, layers):
    theirs = peft_ranks("bert", ["query", "value"], rank_pattern=pattern,
                        layers_to_transform=layers)  # fmt: skip
    every = own_ranks("bert", layers=[0, 1] if layers is None else layers)
    if {rank for rank, _ in theirs.values()} == {3}:  # PEFT warns of a key that matches nothing
        with pytest.raises(ModelError, match="which matches nothing"):
            own_ranks("bert", rank_pattern=pattern, layers=layers)
        return
    ours = own_ranks("bert", rank_pattern=pattern, layers=layers)
    assert ours == theirs
    assert ours.keys() == every.keys()


def test_the_fused_matrix_has_one_rank_by_its_path_and_three_by_projection():
    theirs = peft_ranks("gpt2", ["c_attn"], rank_pattern={"h.1.attn.c_attn": 5})
    model = adapted("gpt2", ("query", "key", "value"), rank_pattern={"h.1.attn.c_attn": 5})
    anatomy = Anatomy.of(model)
    for _, branch in dsee_branches(model):
        assert (branch.rank, branch.scale) == theirs[anatomy.site_of(branch.key).path]
    apart = adapted("gpt2", ("query", "value"), rank_pattern={"layer.1.value": 5})
    assert [branch.rank for _, branch in dsee_branches(apart)] == [3, 3, 3, 5]


def test_the_words_of_peft_are_read_as_ours():
    assert DseeConfig(layers_to_transform=[3, 1]) == DseeConfig(layers=(1, 3))
    assert DseeConfig(layers_to_transform=3) == DseeConfig(layers=[3])
    assert DseeConfig(layers=range(2, 4), rank_pattern={}) == DseeConfig(layers=[2, 3])
    numbers = DseeConfig(np.int64(4), layers=list(np.arange(2)), rank_pattern={"q": np.int32(2)})
    assert numbers == DseeConfig(4, layers=[0, 1], rank_pattern={"q": 2})
    assert type(numbers.rank) is type(numbers.layers[0]) is type(numbers.rank_pattern["q"]) is int
    with pytest.raises(ConfigError, match=r"layers_to_transform: .*beside layers.* one of the two"):
        DseeConfig(layers=[1], layers_to_transform=[1])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"layers": []}, r"dsee layers: received \[\], allowed: .* at least one; None = all"),
        ({"layers": [-1]}, r"dsee layers: received \[-1\], allowed: .* from 0"),
        ({"layers": [1, 1]}, r"received \[1, 1\], allowed: distinct"),
        ({"layers": [True]}, r"received \[True\], allowed: distinct numbers"),
        ({"layers": [0.0]}, r"received \[0.0\], allowed: distinct numbers"),
        ({"layers": 1}, "received 1, allowed: distinct numbers"),
        ({"layers": "1"}, "received '1', allowed: distinct numbers"),
        ({"rank": True}, "dsee rank: received True, allowed: a whole number"),
        ({"rank_pattern": ["query"]}, "rank_pattern: received .*, allowed: pattern -> rank"),
        ({"rank_pattern": {"query": 0}}, "rank_pattern: query: received 0, allowed: 1 or more"),
        ({"rank_pattern": {"query": 2.0}}, "rank_pattern: query: received 2.0, allowed: a whole"),
        ({"rank_pattern": {"query": True}}, "query: received True, allowed: a whole number"),
        ({"rank_pattern": {"(": 2}}, r"received '\(', allowed: a regular expression"),
        ({"rank_pattern": {3: 2}}, "received 3, allowed: names"),
    ],
)
def test_what_is_no_layer_and_no_pattern_is_refused(given, told):
    with pytest.raises(ConfigError, match=told) as refused:
        DseeConfig(**given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"layers": [0, 2]}, "dsee layers: received 2; allowed: 0 to 1, of this bert"),
        (
            {"rank_pattern": {"qurey": 2}},
            "rank_pattern: received 'qurey', which matches nothing .*; there are query, value of "
            r"layer.0 to layer.1, such as layer.0.query \(bert.encoder.layer.0.*query\)",
        ),
        ({"rank_pattern": {"ffn_in": 2}}, "received 'ffn_in', which matches nothing"),
        ({"layers": [1], "rank_pattern": {"layer.0": 2}}, "of layer.1 to layer.1"),
        (
            {"rank_pattern": {"query": 2, "layer.0.query": 4}},
            "received 'layer.0.query' after 'query', which has all that it matches and more",
        ),
        (
            {"rank_pattern": {"value": 25}},
            "layer.0.value of 24 x 24: dsee rank_pattern 'value': received 25, allowed: 1 to 24",
        ),
        (
            {"layers": [1], "support": {"layer.0.query": torch.arange(3)}},
            r"support has positions for layer.0.query; .* has query, value in layers \[1\]",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_and_changes_nothing(given, told):
    model = tiny_model("bert")
    with pytest.raises(ModelError, match=told) as refused:
        sparsetune.apply_dsee(model, DseeConfig(**{"rank": 3, "support": "random", **given}))
    assert "\n" not in str(refused.value)
    assert list(dsee_branches(model)) == []
    assert all(p.requires_grad for p in model.parameters())


def test_a_rank_that_no_projection_has_is_not_looked_at():
    asked = {"rank": 99, "layers": [0], "rank_pattern": {"layer.0": 2}}
    assert set(ranks_of(adapted("bert", **asked)).values()) == {2}


def test_sites_are_in_the_order_of_layers_and_projections():
    config = DseeConfig(targets=["value", "query"], layers=[1, 0])
    assert [site.key for site in sites_of(Anatomy.of(tiny_model("gpt2")), config)] == [
        "layer.0.query", "layer.0.value", "layer.1.query", "layer.1.value",
    ]  # fmt: skip


def test_the_card_tells_other_ranks_and_the_layers(tmp_path):
    config = DseeConfig(3, 6.0, 5, layers=[1], rank_pattern={"value": 2}, support="random")
    sparsetune.save(sparsetune.apply_dsee(tiny_model("bert"), config), tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "An update (dsee, rank 3, alpha 6.0, rank_pattern (value: 2)) of" in card
    assert "- layers with an update: [1], of 2\n" in card


def moved(name, to):
    room, found, key = name.partition("layer.1")
    return room + to + key if found and room == "support/" else name


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("layer.9", "dsee layers: received 9; allowed: 0 to 1"),
        ("block.1", "site 'block.1.query' is not of the form"),
    ],
)
def test_places_of_no_layer_are_refused_with_the_file(to, told, tmp_path):
    sparsetune.save(adapted("bert", layers=[1]), tmp_path)
    path = tmp_path / "model.safetensors"
    manifest, tensors = read_file(path)
    write_file(path, {moved(name, to): one for name, one in tensors.items()}, manifest)
    with pytest.raises(ModelError, match=rf"model.safetensors: update: {told}"):
        sparsetune.load(tmp_path, tiny_model("bert"))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_other_layers_and_ranks_stand_on_one_backbone(kind, tmp_path):
    asked = {"low": {"layers": [0], "rank_pattern": {"query": 5}}, "high": {"layers": [1]}}
    model, expected = tiny_model(kind), {}
    for name, own in asked.items():
        config = DseeConfig(3, 6.0, 11, init="normal", support="random", **own)
        sparsetune.apply_dsee(model, config, name=name)
        expected[name] = output_of(model, tiny_batch())
    assert not torch.equal(*expected.values())
    for name in ("low", "high", "low"):
        sparsetune.use(model, name)
        assert torch.equal(output_of(model, tiny_batch()), expected[name])
        assert {key.split(".")[1] for key in ranks_of(model)} == {"0" if name == "low" else "1"}
        sparsetune.save(model, tmp_path / name)
        again = sparsetune.load(tmp_path / name, tiny_model(kind))
        assert torch.equal(output_of(again, tiny_batch()), expected[name])

"""Everything that the API offers, on every family and every head of transformers that it has."""

import copy
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel
from unit.tiny_families import (
    HEADS,
    LAYERS,
    OWN_SIZES,
    PAIRS,
    TASKS,
    VOCAB,
    WIDTH,
    class_of,
    family_batch,
    family_model,
    outputs_of,
)

import sparsetune
from sparsetune import DseeConfig, Ticket, TicketSearch
from sparsetune.architectures.anatomy import Anatomy, drawn_modules, task_head_parameters
from sparsetune.architectures.base import PROJECTIONS
from sparsetune.architectures.families import FAMILIES, UNLIKE
from sparsetune.cost.parameters import dense_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.dsee.layer import dsee_branches, fold_together
from sparsetune.errors import ModelError
from sparsetune.pruning.zeros import zero_counts

UPDATE = DseeConfig(rank=2, n_sparse=5, init="normal", support="random")
KEPT_HEADS, KEPT_NEURONS = ((0, 2), (1, 2, 3)), (tuple(range(0, WIDTH, 2)), (1, 3, 5))
EVERY_HEAD = pytest.mark.parametrize(("kind", "task"), PAIRS)
STAYING = {("modernbert", 0)}  # the first layer, which is built otherwise
EVERY_FAMILY = pytest.mark.parametrize("kind", FAMILIES)


def ticket(**changes):
    told = {"kept_heads": KEPT_HEADS, "kept_neurons": KEPT_NEURONS} | changes
    return Ticket(heads=HEADS, neurons=WIDTH, origin="random", **told)


def without_layer(gone):
    whole = {"kept_heads": (tuple(range(HEADS)),), "kept_neurons": (tuple(range(WIDTH)),)}
    kept = tuple(layer for layer in range(LAYERS) if layer != gone)
    return ticket(**{name: kept * LAYERS for name, kept in whole.items()}, kept_layers=kept)


def all_layers(kind):
    """Every projection of the family adapted."""
    return DseeConfig(
        rank=2, n_sparse=5, init="normal", support="random", targets=FAMILIES[kind].projections
    )


def close(left, right):
    # Products of other shapes add up in another order.
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@EVERY_HEAD
def test_an_update_from_zero_changes_nothing_and_exactly_it_and_the_head_train(kind, task):
    model, batch = family_model(kind, task), family_batch(task)
    before = outputs_of(model, batch)
    frozen = {name: one.clone() for name, one in model.named_parameters()}
    sparsetune.apply_dsee(model, DseeConfig(rank=2, n_sparse=5, support="magnitude"))
    close(outputs_of(model, batch), before)
    own = {id(one) for _, branch in dsee_branches(model) for one in branch.parameters()}
    own |= {id(one) for one in task_head_parameters(model).values()}
    assert {id(one) for one in model.parameters() if one.requires_grad} == own
    if task != "language":  # its head came with the checkpoint
        assert task_head_parameters(model)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    losses = []
    for _ in range(8):
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        assert all(one.grad is not None for one in trained)
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    for name, one in model.named_parameters():
        assert one.requires_grad or torch.equal(one, frozen[name])


def zero_in_place(model):
    """Everything that the ticket removes has no effect, and is still there."""
    anatomy = Anatomy.of(model)
    size = len(anatomy.features_of("attention_output", [0]))
    for layer in range(LAYERS):
        for projection, kept, features, of in (
            ("attention_output", KEPT_HEADS, size, HEADS),
            ("ffn_out", KEPT_NEURONS, 1, WIDTH),
        ):
            view = anatomy.site(layer, projection).weight_view()
            assert view.shape[1] == of * features
            for unit in set(range(of)) - set(kept[layer]):
                with torch.no_grad():
                    view[:, unit * features : (unit + 1) * features] = 0.0


@EVERY_HEAD
def test_a_removal_equals_zeros_in_its_place(kind, task):
    model, batch = family_model(kind, task), family_batch(task)
    shrunken = sparsetune.shrink(copy.deepcopy(model), ticket())
    zero_in_place(model)
    assert not torch.allclose(outputs_of(family_model(kind, task), batch), outputs_of(model, batch))
    close(outputs_of(shrunken, batch), outputs_of(model, batch))
    small = Anatomy.of(shrunken)
    assert [small.heads(n) for n in range(LAYERS)] == [2, 3]
    assert [small.ffn_width(n) for n in range(LAYERS)] == [10, 3]
    assert small.heads_per_group == Anatomy.of(model).heads_per_group


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@EVERY_FAMILY
def test_a_removal_is_exact_beyond_windows_and_buckets_of_positions(kind, attention):
    if attention == "sdpa" and not class_of(kind, "language")._supports_sdpa:
        return
    model = family_model(kind, "language", attn_implementation=attention)
    shrunken = sparsetune.shrink(copy.deepcopy(model), ticket())
    zero_in_place(model)
    ids = torch.arange(72).view(2, 36) % (VOCAB - 2) + 2  # GPT-2 and BERT know 40 positions
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["attention_mask"][0, -9:] = 0
    close(outputs_of(shrunken, batch), outputs_of(model, batch))
    if attention == "eager":  # the maps of what is left, in either layer
        shapes = [tuple(one.shape) for one in shrunken(**batch, output_attentions=True).attentions]
        group = Anatomy.of(model).heads_per_group
        assert shapes == [(2, heads * group, 36, 36) for heads in (2, 3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@EVERY_FAMILY
def test_half_precision_trains_and_is_loaded_bit_for_bit(kind, dtype, tmp_path):
    batch = family_batch("sequence")
    model, plain = (
        sparsetune.shrink(family_model(kind, "sequence").to(dtype), ticket()) for _ in range(2)
    )
    sparsetune.apply_dsee(model, all_layers(kind))
    model(**batch).loss.backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)
    sparsetune.save(model, tmp_path / "update")
    sparsetune.load(tmp_path / "update", plain)
    assert torch.equal(outputs_of(plain, batch), outputs_of(model, batch))
    assert 0 < sparsetune.merge(model, "dense").rounding_change < 0.1
    sparsetune.save(model, tmp_path / "whole")
    whole = sparsetune.load(tmp_path / "whole")
    assert torch.equal(outputs_of(whole, batch), outputs_of(model, batch))


@EVERY_FAMILY
def test_recomputed_activations_give_the_same_gradients(kind):
    found = []
    for recomputed in (False, True):
        model = sparsetune.apply_dsee(family_model(kind, "sequence"), all_layers(kind)).train()
        for module in model.modules():  # nothing is drawn
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        if recomputed:
            model.gradient_checkpointing_enable()
        model(**family_batch("sequence")).loss.backward()
        found.append([one.grad for one in model.parameters() if one.requires_grad])
    assert len(found[0]) > 12
    for own, again in zip(*found, strict=True):
        torch.testing.assert_close(own, again, rtol=1e-5, atol=1e-7)


@EVERY_FAMILY
def test_two_backbones_and_heads_of_other_names_are_refused(kind):
    model = family_model(kind, "sequence")
    model.second = copy.deepcopy(model.base_model)
    with pytest.raises(ModelError, match=r"holds 2 backbones, with layers at .* and second"):
        sparsetune.apply_dsee(model, UPDATE)
    model = family_model(kind, "sequence")
    model.fc = torch.nn.Linear(3, 3)
    with pytest.raises(ModelError, match="fc: no part of the backbone and no head that is known"):
        sparsetune.apply_dsee(model, UPDATE)


@EVERY_FAMILY
def test_what_a_checkpoint_lacked_trains_or_is_named(kind, tmp_path):
    family_model(kind, "language").base_model.save_pretrained(tmp_path)
    model = class_of(kind, "sequence").from_pretrained(tmp_path, num_labels=3)
    trained = set(task_head_parameters(model))
    new = {
        n for n, one in model.named_parameters() if not getattr(one, "_is_hf_initialized", False)
    }
    assert trained <= new
    named = drawn_modules(model)
    assert {name.rpartition(".")[0] for name in new - trained} == set(named)
    if named:
        with pytest.raises(ModelError, match=f"{named[0]}.*: not in the checkpoint, so drawn anew"):
            sparsetune.apply_dsee(model, UPDATE)
    assert drawn_modules(sparsetune.shrink(model, ticket())) == named


def test_matrices_of_relative_positions_that_are_wrapped_are_refused():
    model = family_model("deberta-v2", "sequence", config=OTHER_SIZES["deberta-v2"])
    attention = model.deberta.encoder.layer[1].attention.self
    attention.pos_key_proj = torch.nn.Sequential(attention.pos_key_proj)
    with pytest.raises(ModelError, match=r"layer\.1\.attention\.self\.pos_key_proj is wrapped"):
        sparsetune.shrink(model, ticket())
    assert Anatomy.of(model).heads(0) == HEADS


@EVERY_HEAD
@pytest.mark.parametrize("smaller", [False, True])
def test_what_was_saved_is_loaded_bit_for_bit(kind, task, smaller, tmp_path):
    batch = family_batch(task)
    model, plain = family_model(kind, task), family_model(kind, task)
    if smaller:
        sparsetune.shrink(model, ticket())
        sparsetune.shrink(plain, ticket())
    sparsetune.apply_dsee(model, UPDATE)
    with torch.no_grad():
        for parameter in task_head_parameters(model).values():
            parameter += 0.3
    sparsetune.save(model, tmp_path / "update")
    sparsetune.load(tmp_path / "update", plain)
    assert torch.equal(outputs_of(plain, batch), outputs_of(model, batch))
    sparsetune.merge(model, "dense")
    sparsetune.save(model, tmp_path / "whole")
    whole = sparsetune.load(tmp_path / "whole")
    assert type(whole) is type(model)
    assert torch.equal(outputs_of(whole, batch), outputs_of(model, batch))


@EVERY_HEAD
def test_merging_keeps_the_function_or_the_zeros(kind, task):
    batch = family_batch(task)
    dense, masked = (family_model(kind, task) for _ in range(2))
    sparsetune.apply_dsee(dense, all_layers(kind))
    before = outputs_of(dense, batch)
    fold_together(dense, "always")
    close(outputs_of(dense, batch), before)
    sparsetune.merge(dense, "dense")
    close(outputs_of(dense, batch), before)
    sparsetune.prune(masked, 0.5, score="weight")
    zeros = zero_counts(masked)
    sparsetune.apply_dsee(masked, all_layers(kind))
    sparsetune.merge(masked, "masked")
    assert zero_counts(masked) == zeros


@EVERY_FAMILY
def test_every_projection_is_pruned_and_zeros_stay_in_training(kind):
    model = family_model(kind, "sequence")
    model.requires_grad_(True)
    sparsetune.prune(model, 0.5, score="weight", pools="matrix")
    counts = zero_counts(model)
    projections = FAMILIES[kind].projections
    assert {key.rpartition(".")[2] for key in counts} == set(projections)
    assert all(zeros == total // 2 for zeros, total in counts.values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        model(**family_batch("sequence")).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert zero_counts(model) == counts


@EVERY_FAMILY
def test_a_search_sees_each_head_and_neuron_and_leaves_no_trace(kind):
    model, batch = family_model(kind, "sequence"), family_batch("sequence")
    before = outputs_of(model, batch)
    search = TicketSearch(model)
    close(outputs_of(model, batch), before)
    assert search.gates.heads.shape == (LAYERS, HEADS)
    assert search.gates.neurons.shape == (LAYERS, WIDTH)
    with torch.no_grad():  # a coefficient of 0 is a removal
        for coefficients, kept in ((search.gates.heads, KEPT_HEADS),
                                   (search.gates.neurons, KEPT_NEURONS)):  # fmt: skip
            for row, indices in zip(coefficients, kept, strict=True):
                row[[unit for unit in range(len(row)) if unit not in indices]] = 0.0
    gated = outputs_of(model, batch)
    (model(**batch).loss + search.penalty()).backward()
    assert (search.gates.heads.grad != 0).any(dim=1).all()
    assert (search.gates.neurons.grad != 0).any(dim=1).all()
    search.detach()
    close(outputs_of(model, batch), before)
    close(outputs_of(sparsetune.shrink(model, ticket()), batch), gated)


@EVERY_FAMILY
def test_the_loop_finds_a_ticket_that_fits(kind, tmp_path):
    model = family_model(kind, "sequence")
    batches = [family_batch("sequence", seed=seed) for seed in range(3)]
    found = sparsetune.search_ticket(model, batches, heads=0.5, learning_rate=1e-3, stop=3)
    assert [len(row) for row in found.kept_heads] == [HEADS // 2] * LAYERS
    before = sum(one.numel() for one in model.parameters())
    assert sum(one.numel() for one in sparsetune.shrink(model, found).parameters()) < before


@pytest.mark.parametrize(
    ("kind", "gone"), [(k, n) for k in FAMILIES for n in range(LAYERS) if (k, n) not in STAYING]
)
def test_a_layer_is_removed_as_if_it_handed_on_its_input(kind, gone, tmp_path):
    model, batch = family_model(kind, "sequence"), family_batch("sequence")
    passed = copy.deepcopy(model)
    layer = Anatomy.of(passed).layer_list[gone]
    own = layer.forward

    def handed_on(hidden_states, *others, **named):
        output = own(hidden_states, *others, **named)
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

    layer.forward = handed_on
    sparsetune.shrink(model, without_layer(gone))
    assert Anatomy.of(model).layers == 1
    close(outputs_of(model, batch), outputs_of(passed, batch))
    sparsetune.save(model, tmp_path)
    assert torch.equal(outputs_of(sparsetune.load(tmp_path), batch), outputs_of(model, batch))


def test_the_first_layer_stays_where_the_others_are_built_otherwise():
    model, batch = family_model("modernbert", "sequence"), family_batch("sequence")
    before = outputs_of(model, batch)
    with pytest.raises(ModelError, match=r"received \[1\]; allowed: with 0, .* without the norm"):
        sparsetune.shrink(model, without_layer(0))
    assert torch.equal(outputs_of(model, batch), before)
    model = family_model("deberta-v2", "sequence", config={"conv_kernel_size": 3})
    with pytest.raises(ModelError, match=r"received \[1\]; allowed: with 0, .* convolution"):
        sparsetune.shrink(model, without_layer(0))
    sparsetune.shrink(model, without_layer(1))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_layer_that_stays_keeps_its_kind_of_attention(kind, tmp_path):
    windowed = {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1}
    model, batch = family_model(kind, "language", config=windowed), family_batch("language")
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    passed = copy.deepcopy(model)
    Anatomy.of(passed).layer_list[0].forward = lambda hidden_states, *_, **__: hidden_states
    sparsetune.shrink(model, without_layer(0))
    assert model.config.layer_types == ["sliding_attention"]
    close(outputs_of(model, batch), outputs_of(passed, batch))
    sparsetune.save(model, tmp_path)
    assert torch.equal(outputs_of(sparsetune.load(tmp_path), batch), outputs_of(model, batch))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_pruned_decoder_tuned_and_merged_keeps_its_zeros_and_loses_what_is_stated(kind):
    model, batch = family_model(kind, "language"), family_batch("language")
    sparsetune.prune(model, 0.5, score="weight")
    zeros, untuned = zero_counts(model), model(**batch).loss.item()
    assert sum(zero for zero, _ in zeros.values()) * 2 == sum(of for _, of in zeros.values())
    sparsetune.apply_dsee(model, DseeConfig(rank=2, n_sparse=5, support="magnitude"))
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(20):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned = model(**batch).loss.item()
    assert tuned < untuned
    # By hand: W of what is adapted gets its update except where it is zero.
    anatomy, whole, dropped = Anatomy.of(model), 0.0, 0.0
    expected = {}
    for layer, branch in dsee_branches(model):
        update = layer.delta(branch.key.rpartition(".")[2])
        weight = anatomy.site_of(branch.key).weight_view().detach()
        expected[branch.key] = weight + update * (weight != 0)
        whole += float(update.square().sum())
        dropped += float(update[weight == 0].square().sum())
    report = sparsetune.merge(model, "masked")
    assert report.relative_change == pytest.approx((dropped / whole) ** 0.5, rel=1e-5)
    assert 0 < report.relative_change < 1
    assert zero_counts(model) == zeros
    for key, weight in expected.items():
        torch.testing.assert_close(Anatomy.of(model).site_of(key).weight_view(), weight)
    assert model(**batch).loss.item() < untuned


@pytest.mark.parametrize("kind", [k for k, one in FAMILIES.items() if "generation" in one.heads])
def test_a_smaller_decoder_generates_with_its_cache_what_it_computes_without(kind):
    model = sparsetune.shrink(family_model(kind, "language"), ticket())
    sparsetune.apply_dsee(model, UPDATE)
    prompt = family_batch("language")["input_ids"][1:]
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    texts = [model.generate(prompt, use_cache=cache, **options) for cache in (True, False)]
    assert texts[0].shape == (2, 12)
    assert torch.equal(*texts)


@EVERY_HEAD
def test_multiply_adds_are_those_that_torch_counts_or_are_refused(kind, task):
    model = sparsetune.shrink(family_model(kind, task, attn_implementation="eager"), ticket())
    sparsetune.prune(model, 0.25, score="weight")
    if FAMILIES[kind].counted is None:
        with pytest.raises(ModelError, match=f"model_type: received '{kind}'; allowed: bert"):
            sparsetune.summary(model, tokens=7)
        return
    told = sparsetune.summary(model, tokens=7)
    model.requires_grad_(False)  # the counter trips over a parameter that is passed to a module
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=family_batch(task)["input_ids"][1:2])
    # A head that no run of the workflow has is left out: 24 features to 3 classes, 7 tokens.
    left_out = 7 * 24 * 3 if told.head is None else 0
    if kind == "modernbert":  # a layer before it
        left_out += 7 * 24 * 24 if told.head is None else 0
    assert (told.head is None) == (task == "token")
    assert told.macs + left_out == counter.get_total_flops() // 2
    # Eight relative positions go through the query and the key of a DeBERTa of version 3.
    saved = 7 * told.zeros
    if getattr(model.config, "share_att_key", False):
        counts = zero_counts(model).items()
        saved += 8 * sum(zeros for key, (zeros, _) in counts if key.endswith(("query", "key")))
    assert told.effective_macs == told.macs - saved


OTHER_CONFIGS = ({}, {"tie_word_embeddings": False}, {"attention_bias": True, "mlp_bias": True})


@EVERY_HEAD
@pytest.mark.parametrize("changed", OTHER_CONFIGS)
def test_parameters_and_biases_are_those_that_torch_holds_or_are_refused(kind, task, changed):
    head = {"sequence": "classification", "answer": "span", "token": "classification"}.get(
        task, FAMILIES[kind].language_model
    )
    model = family_model(kind, task, config=changed)
    told = model.config.to_dict() | {"model_type": kind}
    if FAMILIES[kind].counted is None:
        with pytest.raises(ModelError, match=f"received .*'{kind}'.*; allowed: bert"):
            dense_parameters(ModelShape.dense(told, head, 3))
        return
    sparsetune.shrink(model, ticket())
    shape = ModelShape.dense(told, head, 3).with_kept(KEPT_HEADS, KEPT_NEURONS)
    owned = dict(model.named_parameters())
    heads = task_head_parameters(model)
    if task == "language":
        beginnings, shared = FAMILIES[kind].language_head, model.get_input_embeddings().weight
        heads = {n: p for n, p in owned.items() if n.startswith(beginnings) and p is not shared}
    if task != "token":  # no run of the workflow has that head
        assert dense_parameters(shape) == sum(one.numel() for one in owned.values())
        assert shape.head_parameters() == sum(one.numel() for one in heads.values())
    biases = {n: p for n, p in owned.items() if n.endswith("bias") and n not in heads}
    pooled = any(".pooler." in name or name.startswith("head.") for name in owned)
    absent = shape.hidden_size if shape.pooler and not pooled else 0
    assert shape.bias_parameters() - absent == sum(one.numel() for one in biases.values())


OTHER_SIZES = {
    # Version 2: own matrices for positions, a convolution, token types, narrower embeddings.
    "deberta-v2": {
        "share_att_key": False,
        "conv_kernel_size": 3,
        "type_vocab_size": 2,
        "embedding_size": 16,
        "position_biased_input": True,
        "max_relative_positions": 4,
        "position_buckets": -1,
        "norm_rel_ebd": "none",
    },
    "modernbert": {
        "attention_bias": True,
        "mlp_bias": True,
        "norm_bias": True,
        "classifier_bias": True,
        "decoder_bias": False,
        "classifier_pooling": "mean",
    },
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", OTHER_SIZES)
def test_all_of_it_holds_for_models_of_the_family_that_are_built_otherwise(
    kind, task, tmp_path, monkeypatch
):
    sizes = OWN_SIZES[kind] | OTHER_SIZES[kind]
    monkeypatch.setitem(OWN_SIZES, kind, sizes)
    assert family_model(kind, task).config.to_dict().items() >= OTHER_SIZES[kind].items()
    test_an_update_from_zero_changes_nothing_and_exactly_it_and_the_head_train(kind, task)
    test_a_removal_equals_zeros_in_its_place(kind, task)
    test_what_was_saved_is_loaded_bit_for_bit(kind, task, True, tmp_path)
    test_multiply_adds_are_those_that_torch_counts_or_are_refused(kind, task)
    test_parameters_and_biases_are_those_that_torch_holds_or_are_refused(kind, task, {})


def test_what_looks_alike_and_is_not_supported_is_refused_with_the_reason():
    for kind, why in UNLIKE.items():
        config = AutoConfig.for_model(
            kind, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            vocab_size=9, num_key_value_heads=2, pad_token_id=0,
        )  # fmt: skip
        with pytest.raises(ModelError, match=re.escape(f"is not supported: {why}; known: bert")):
            sparsetune.summary(AutoModel.from_config(config))


def test_a_projection_that_a_family_lacks_is_refused_by_name():
    with pytest.raises(ModelError, match="a bert: projection: received 'ffn_gate'; allowed: query"):
        sparsetune.apply_dsee(family_model("bert", "sequence"), all_layers("llama"))


def test_every_projection_is_in_some_family_and_only_gemmas_lack_a_head():
    assert {name for one in FAMILIES.values() for name in one.projections} == set(PROJECTIONS)
    lacking = {(k, t) for k in FAMILIES for t in TASKS if class_of(k, t) is None}
    assert lacking == {(kind, "answer") for kind in ("gemma", "gemma2", "gemma3_text")} | {
        ("gemma3_text", "token")
    }


def test_grouped_queries_by_hand():
    # 8 query heads of 4 features over 4 key-value heads: head 2 has queries 4 and 5.
    anatomy = Anatomy.of(family_model("llama", "sequence"))
    assert (anatomy.heads(0), anatomy.heads_per_group, anatomy.head_size) == (4, 2, 4)
    assert anatomy.features_of("query", [2]) == list(range(16, 24))
    assert anatomy.features_of("value", [2]) == list(range(8, 12))
    shapes = {site.projection: site.shape for site in anatomy.sites() if site.layer == 0}
    assert shapes["query"] == (32, 24)
    assert shapes["key"] == shapes["value"] == (16, 24)
    assert shapes["attention_output"] == (24, 32)
    assert shapes["ffn_in"] == shapes["ffn_gate"] == (20, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_2_4_pattern_survives_an_update_of_gated_neurons_merged_masked(kind, dtype):
    model = family_model(kind, "language").to(dtype)
    sparsetune.prune(model, 0.5, pattern="2:4")
    zeros = zero_counts(model)
    sparsetune.apply_dsee(model, all_layers(kind))
    anatomy, expected = Anatomy.of(model), {}
    for layer, branch in dsee_branches(model):
        weight = anatomy.site_of(branch.key).weight_view().detach().double()
        update = layer.delta(branch.key.rpartition(".")[2]).double()
        expected[branch.key] = (weight + update * (weight != 0)).to(dtype)
    report = sparsetune.merge(model, "masked")
    assert zero_counts(model) == zeros
    assert 0 < report.relative_change < 1
    assert (report.rounding_change > 1e-4) == (dtype == torch.bfloat16)
    for site in Anatomy.of(model).sites():
        merged = site.weight_view().detach()
        assert ((merged.reshape(-1, 4) != 0).sum(1) <= 2).all()
        # float32's own rounding of the sum moves a bit of 16 only at ties.
        assert (merged == expected[site.key]).float().mean() > 0.999 or torch.allclose(
            merged, expected[site.key], rtol=1e-5, atol=1e-7
        )

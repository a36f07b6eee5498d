"""Every kind of update: what it trains, what it adds to the model's function, what it counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from unit.cost.configs import BERT_BASE, TINY_BERT, TINY_GPT2
from unit.tiny import KINDS, tiny_batch, tiny_model
from unit.training.tiny_jobs import KEPT, UPDATES, build_tiny, save_backbone

from sparsetune.architectures.anatomy import Anatomy, task_head_parameters
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.parameters import count_parameters, dense_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ModelError
from sparsetune.methods.registry import update_of
from sparsetune.methods.tuned import load_tuned

# PEFT refuses Supra on GPT-2; a test below sees to it that this stays true.
CASES = [(kind, name) for kind in KINDS for name in UPDATES if (kind, name) != ("gpt2", "supra")]
ADDED = [case for case in CASES if case[1] != "full"]
WRAPPED = {
    "bert": "bert.encoder.layer.0.attention.self.value", "gpt2": "transformer.h.0.attn.c_attn",
}  # fmt: skip
MARKS = {
    "bitfit": {".bias"}, "lora": {"lora_"}, "ia3": {"ia3_l"}, "adalora": {"lora_"},
    "supra": {"supertuning_"}, "dsee": {".U", ".V", ".S2"},
}  # fmt: skip
"""Name of an update -> what the names of its trained parameters hold."""


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {kind: save_backbone(root, kind) for kind in KINDS}


def moved(tuned, seed=0):
    """Give every trained tensor another value, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.trained_parameters().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    tuned.model.eval()
    return tuned


def logits(tuned):
    tuned.model.eval()
    with torch.no_grad():
        return tuned.model(**tiny_batch()).logits


def entries(tuned):
    """Single entries by site, as a run's file tells them."""
    return {key: len(positions) for key, positions in tuned.supports.items()}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_trains_is_the_update_and_the_head_and_nothing_else(backbones, kind, name):
    tuned = build_tiny(backbones[kind], name)
    every, trained = dict(tuned.model.named_parameters()), tuned.trained_parameters()
    if name == "full":
        assert trained.keys() == every.keys()
        return
    own = {one for one in every if any(mark in one for mark in MARKS[name])}
    assert trained.keys() == own | task_head_parameters(tuned.model).keys()
    assert all(any(mark in one for one in own) for mark in MARKS[name])


@pytest.mark.parametrize("kept", [None, KEPT], ids=["dense", "smaller"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_trained_parameters_are_those_that_are_counted(backbones, kind, name, kept):
    tuned = build_tiny(backbones[kind], name, kept=kept)
    shape = ModelShape.dense(tuned.model.config.to_dict(), "classification", 3)
    if kept:
        shape = shape.with_kept(kept["kept_heads"], kept["kept_neurons"])
    update = tuned.structure.update.count(shape, entries(tuned))
    trained = sum(p.numel() for p in tuned.trained_parameters().values())
    assert count_parameters(shape, update).trained_with_head == trained


@pytest.mark.parametrize(("kind", "name"), ADDED)
def test_an_untrained_update_changes_nothing_and_a_trained_one_does(backbones, kind, name):
    plain = logits(build_tiny(backbones[kind], "full"))
    tuned = build_tiny(backbones[kind], name)
    torch.testing.assert_close(logits(tuned), plain, rtol=0, atol=1e-5)
    assert not torch.allclose(logits(moved(tuned)), plain, atol=1e-2)


@pytest.mark.parametrize(("kind", "name"), ADDED)
def test_every_trained_tensor_gets_a_gradient(backbones, kind, name):
    tuned = moved(build_tiny(backbones[kind], name))
    tuned.model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    still = [n for n, p in tuned.trained_parameters().items() if not p.grad.abs().sum()]
    # A bias on all keys of a row cancels in the softmax.
    assert all("key" in one and name in ("bitfit", "ia3") for one in still)


@pytest.mark.parametrize("name", UPDATES)
def test_the_seed_fixes_head_and_update_and_leaves_the_generators_alone(backbones, name):
    before = torch.random.get_rng_state()
    one, two, other = (build_tiny(backbones["bert"], name, seed=seed).state()
                       for seed in (1, 1, 2))  # fmt: skip
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "settings", "trained"),
    [
        ("lora", {"rank": 16}, 589_824),  # 24 matrices * 16 * (768 + 768)
        ("lora", {"rank": 1}, 36_864),
        ("dsee", {"rank": 16, "entries": 64}, 591_360),  # and 24 * 64
        ("dsee", {"rank": 16, "entries": 0}, 589_824),
        ("supra", {"rank": 16, "n_sparse": 64}, 591_360),
        # 24 matrices * 24 * (768 + 768 + 1): the singular values train too.
        ("adalora", {"initial_rank": 24}, 885_312),
        # 12 layers * (768 keys + 768 values + 3072 inputs of the second FFN matrix).
        ("ia3", {}, 55_296),
        # Per layer 6 projections (5 * 768 + 3072) and 2 norms (1536): 12 * 8448; the embeddings'
        # norm and the pooler: 2 * 768.
        ("bitfit", {}, 102_912),
    ],
)
def test_trained_parameters_of_bert_base(name, settings, trained):
    shape = ModelShape.dense(BERT_BASE, "classification", 2)
    found = {}
    if name == "dsee":
        count = settings.pop("entries")
        found = {key: count for key, *_ in shape.matrices(["query", "value"], fused=False)}
    update = update_of({**UPDATES[name], **settings}).count(shape, found)
    count = count_parameters(shape, update)
    assert (count.trained, count.trained_with_head) == (trained, trained + 1_538)
    assert count.total == 109_483_778 + (0 if name == "bitfit" else trained)


def test_bitfit_trains_the_published_share_of_bert_large():
    # Ben Zaken et al. 2022 give 0.08 % of BERT-large's parameters.
    large = BERT_BASE | {
        "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24,
        "intermediate_size": 4096,
    }  # fmt: skip
    shape = ModelShape.dense(large, "classification", 2)
    count = count_parameters(shape, update_of(UPDATES["bitfit"]).count(shape, {}))
    assert count.trained == 24 * 11_264 + 2 * 1024
    assert round(100 * count.trained / count.total, 2) == 0.08


def test_adalora_trains_at_its_first_rank_and_keeps_its_last_ones():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    ranks = {"layer.0.query": 5, "layer.0.value": 0, "layer.1.query": 3, "layer.1.value": 1}
    update = update_of({**UPDATES["adalora"], "ranks": ranks}).count(shape, {})
    count = count_parameters(shape, update)
    # 24 + 24 + 1 values per rank; the head has 24 * 2 + 2.
    assert count.trained == 4 * 5 * 49
    assert count.stored_bytes == 4 * (9 * 49 + 50)
    assert count.total == dense_parameters(shape) + 9 * 49


def test_gpt2_s_query_key_and_value_are_one_matrix_for_peft_and_three_for_dsee():
    shape = ModelShape.dense(TINY_GPT2, "generation", 1)
    # Two layers, rank 3, D = 24: the stored matrix is 72 x 24, however many targets are in it.
    for targets in (["query"], ["query", "value"], ["query", "key", "value"]):
        lora = update_of({**UPDATES["lora"], "targets": targets}).count(shape, {})
        assert count_parameters(shape, lora).trained == 2 * 3 * (72 + 24)
        sites = {key: 0 for key, *_ in shape.matrices(targets, fused=False)}
        dsee = update_of(UPDATES["dsee"]).count(shape, sites)
        assert count_parameters(shape, dsee).trained == 2 * 3 * (24 + 24) * len(targets)
    ia3 = update_of(UPDATES["ia3"]).count(shape, {})
    assert count_parameters(shape, ia3).trained == 2 * (72 + 96)


@pytest.mark.parametrize(("kind", "name"), [case for case in ADDED if case[1] != "dsee"])
def test_a_wrapped_model_multiplies_what_torchs_counter_counts(kind, name):
    model, settings = tiny_model(kind), UPDATES[name]
    shape = ModelShape.dense(model.config.to_dict(), "classification", 3)
    if name == "adalora":  # as left by training: one matrix keeps all ranks, the others one
        sites = [key for key, *_ in shape.matrices(settings["targets"], fused=True)]
        settings = {**settings, "ranks": {key: 5 if n == 0 else 1 for n, key in enumerate(sites)}}
    update = update_of(settings)
    supports = update.attach(model, {}, 0).supports
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(2, 9)[None])
    found = {key: len(positions) for key, positions in supports.items()}
    ours = macs_by_module(shape, 7, update.count(shape, found))
    # PEFT adds Supra's single entries into the matrix: no product of their own to count.
    assert sum(ours.values()) == counter.get_total_flops() // 2 + 7 * sum(found.values())
    assert (ours["update"] == 0) == (name in ("ia3", "bitfit"))


@pytest.mark.parametrize("name", ["lora", "ia3", "adalora"])
def test_gpt2_s_transposed_matrix_is_updated_as_the_formulas_say(backbones, name):
    model = moved(build_tiny(backbones["gpt2"], name)).model
    layer = model.get_submodule(WRAPPED["gpt2"])
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    base = x @ layer.base_layer.weight + layer.base_layer.bias  # stored in x out
    if name == "ia3":
        expected = base * layer.ia3_l["default"].view(-1)
    elif name == "lora":
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = base + 6 / 3 * x @ down.T @ up.T  # s = alpha / rank
    else:
        down = layer.lora_A["default"] * layer.lora_E["default"]
        expected = base + 6 / 5 * x @ down.T @ layer.lora_B["default"].T  # alpha / initial rank
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    unmerged = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), unmerged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_ia3_scales_the_inputs_of_the_second_ffn_matrix_and_only_its(backbones, kind):
    model = moved(build_tiny(backbones[kind], "ia3")).model
    anatomy = Anatomy.of(model)
    layer = model.get_submodule(anatomy.site(0, "ffn_out").path)
    x = torch.randn(4, 40, generator=torch.Generator().manual_seed(1))
    expected = layer.base_layer(x * layer.ia3_l["default"])
    torch.testing.assert_close(layer(x), expected)
    untouched = model.get_submodule(anatomy.site(0, "attention_output").path)
    assert not hasattr(untouched, "ia3_l")


def test_supra_adds_single_entries_and_a_low_rank_product(backbones):
    layer = moved(build_tiny(backbones["bert"], "supra")).model.get_submodule(WRAPPED["bert"])
    adapter = "default"
    delta = torch.zeros(24 * 24)
    delta[layer.supertuning_indices[adapter].long()] = layer.supertuning_values[adapter].detach()
    delta = delta.view(24, 24) + 6 / 3 * (
        layer.supertuning_lora_B[adapter].weight @ layer.supertuning_lora_A[adapter].weight
    )
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ delta.T, rtol=1e-4, atol=1e-4)
    largest = layer.base_layer.weight.abs().flatten().topk(11).indices
    assert torch.equal(layer.supertuning_indices[adapter].long(), largest)


def test_bitfit_trains_the_biases_that_peft_calls_all(backbones):
    from peft import LoraConfig, inject_adapter_in_model

    for kind in KINDS:
        heads = task_head_parameters(tiny_model(kind))
        config = LoraConfig(
            target_modules=[WRAPPED.get(kind, "query")], bias="all", fan_in_fan_out=kind == "gpt2"
        )
        other = inject_adapter_in_model(config, tiny_model(kind))
        expected = {n.replace(".base_layer", "") for n, p in other.named_parameters()
                    if p.requires_grad and "lora_" not in n}  # fmt: skip
        assert build_tiny(backbones[kind], "bitfit").trained_parameters().keys() == (
            expected | heads.keys()
        )


def test_peft_still_cannot_train_biases_alone():
    # The day it can, our own few lines have to go.
    from peft import LoraConfig, inject_adapter_in_model

    with pytest.raises(ValueError, match="target_modules"):
        inject_adapter_in_model(LoraConfig(target_modules=[], bias="all"), tiny_model("bert"))


def test_peft_still_refuses_supra_on_gpt2(backbones):
    # The day it does not, config/methods/supra.yaml has to lose its not_for.
    with pytest.raises(ModelError, match=r"Conv1D.* only `torch\.nn\.Linear` is supported"):
        build_tiny(backbones["gpt2"], "supra")


def test_supra_refuses_what_its_one_ratio_cannot_say(backbones, monkeypatch):
    for change in ({"targets": ["query", "ffn_in"]}, {"n_sparse": 577}):
        monkeypatch.setitem(UPDATES, "supra", {**UPDATES["supra"], **change})
        with pytest.raises(ModelError, match=r"update supra: received n_sparse \d+ for matrices"):
            build_tiny(backbones["bert"], "supra")
        monkeypatch.undo()


@pytest.mark.parametrize("n_sparse", [1, 7, 64, 100, 575, 576])
def test_supra_trains_exactly_as_many_entries_as_asked(backbones, monkeypatch, n_sparse):
    monkeypatch.setitem(UPDATES, "supra", {**UPDATES["supra"], "n_sparse": n_sparse})
    tuned = build_tiny(backbones["bert"], "supra")
    assert {len(positions) for positions in tuned.supports.values()} == {n_sparse}


def test_positions_of_a_run_s_file_win_over_peft_s_choice(backbones, tmp_path):
    tuned = moved(build_tiny(backbones["bert"], "supra"))
    for positions in tuned.supports.values():
        positions.copy_(positions.flip(0))
    path = tmp_path / "model.safetensors"
    tuned.save(path)
    layer = load_tuned(path, backbones["bert"]).model.get_submodule(WRAPPED["bert"])
    expected = tuned.supports["layer.0.value"]
    assert torch.equal(layer.supertuning_indices["default"].long(), expected)


def test_positions_of_removed_heads_go_with_them(backbones):
    dense = build_tiny(backbones["bert"], "dsee").supports
    smaller = build_tiny(backbones["bert"], "dsee", kept=KEPT).supports
    for key, positions in smaller.items():
        site = Anatomy.of(build_tiny(backbones["bert"], "full", kept=KEPT).model).site_of(key)
        assert 0 < len(positions) < len(dense[key])
        assert int(positions.max()) < site.shape[0] * site.shape[1]


def test_heads_and_neurons_are_removed_before_the_update_is_attached(backbones):
    for kind in KINDS:
        anatomy = Anatomy.of(build_tiny(backbones[kind], "dsee", kept=KEPT).model)
        assert [anatomy.heads(layer) for layer in (0, 1)] == [3, 3]
        assert [anatomy.ffn_width(layer) for layer in (0, 1)] == [30, 35]

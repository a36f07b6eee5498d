import pytest
import torch
from unit.tiny import KINDS, tiny_batch, tiny_model
from unit.training.tiny_jobs import KEPT, UPDATES, build_tiny, save_backbone

from sparsetune.architectures.anatomy import Anatomy, task_head_parameters
from sparsetune.cost.params import count_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ModelError
from sparsetune.methods.tuned import load_tuned
from sparsetune.stages.cost import update_of

OURS = ("bitfit", "ia3", "adalora", "supra")
# PEFT refuses Supra on GPT-2; a test below sees to it that this stays true.
CASES = [(kind, name) for kind in KINDS for name in OURS if (kind, name) != ("gpt2", "supra")]
WRAPPED = {
    "bert": "bert.encoder.layer.0.attention.self.value", "gpt2": "transformer.h.0.attn.c_attn",
}  # fmt: skip


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


def counted(tuned):
    """What the cost stage counts from the settings."""
    supports = {key: len(positions) for key, positions in tuned.supports.items()}
    shape = ModelShape.dense(tuned.model.config.to_dict(), "classification", 3)
    if tuned.structure.kept_heads:
        shape = shape.with_kept(tuned.structure.kept_heads, tuned.structure.kept_neurons)
    return count_parameters(shape, update_of(tuned.structure.update, supports))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_trains_is_the_update_and_the_head_and_nothing_else(backbones, kind, name):
    tuned = build_tiny(backbones[kind], name)
    heads = task_head_parameters(tuned.model)
    mark = {"bitfit": ".bias", "ia3": "ia3_l", "adalora": "lora_", "supra": "supertuning_"}[name]
    trained = tuned.trained_parameters()
    assert heads.keys() <= trained.keys()
    assert all(mark in one for one in trained.keys() - heads.keys())
    assert {one for one in dict(tuned.model.named_parameters()) if mark in one} <= trained.keys()


@pytest.mark.parametrize("kept", [None, KEPT], ids=["dense", "smaller"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_trained_parameters_are_those_that_cost_counts(backbones, kind, name, kept):
    tuned = build_tiny(backbones[kind], name, kept=kept)
    trained = sum(p.numel() for p in tuned.trained_parameters().values())
    assert counted(tuned).trained_with_head == trained


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_an_untrained_update_changes_nothing_and_a_trained_one_does(backbones, kind, name):
    plain = logits(build_tiny(backbones[kind], "full"))
    tuned = build_tiny(backbones[kind], name)
    torch.testing.assert_close(logits(tuned), plain, rtol=0, atol=1e-5)
    assert not torch.allclose(logits(moved(tuned)), plain, atol=1e-2)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_trained_tensor_gets_a_gradient(backbones, kind, name):
    tuned = moved(build_tiny(backbones[kind], name))
    tuned.model(**tiny_batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    still = [n for n, p in tuned.trained_parameters().items() if not p.grad.abs().sum()]
    # A bias on all keys of a row cancels in the softmax.
    assert all("key" in one and name in ("bitfit", "ia3") for one in still)


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
        with pytest.raises(ModelError, match=r"update supra: got n_sparse \d+ for matrices of"):
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

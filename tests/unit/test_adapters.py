"""Several named adapters on one backbone, and merges that are taken back: bit for bit."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from unit.tiny import KINDS, LAYERS, output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune import DseeConfig
from sparsetune.dsee.layer import DseeLinear, dsee_branches, fold_together, folds_held
from sparsetune.errors import ModelError

ONE = DseeConfig(rank=3, n_sparse=11, init="normal", support="random")
OTHER = DseeConfig(
    rank=2, alpha=5.0, n_sparse=4, targets=("key", "ffn_out"), init="normal", support="random",
    seed=5,
)  # fmt: skip
CONFIGS = {"one": ONE, "other": OTHER}


def moved(model, seed=9):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def relabelled(model, count, seed):
    """The same backbone under a fresh head of so many labels, as ``from_pretrained`` gives it."""
    config = copy.deepcopy(model.config)
    config.num_labels = count
    torch.manual_seed(seed)
    fresh = type(model)(config)
    own = {name: one for name, one in model.state_dict().items() if one.shape ==
           fresh.state_dict()[name].shape}  # fmt: skip
    fresh.load_state_dict(own, strict=False)
    return fresh.eval()


@pytest.fixture
def folders(tmp_path):
    """Folders of two adapters of a kind of model, trained apart; one has another head."""

    def make(kind):
        one = moved(sparsetune.apply_dsee(tiny_model(kind), ONE), 1)
        other = moved(sparsetune.apply_dsee(relabelled(tiny_model(kind), 5, 8), OTHER), 2)
        found = {"one": tmp_path / "one", "other": tmp_path / "other"}
        for name, model in (("one", one), ("other", other)):
            sparsetune.save(model, found[name])
        return found, {"one": one.eval(), "other": other.eval()}

    return make


def by_hand(kind, folder, config):
    """The adapter in a folder, written into a plain model by another way: dense, in float64."""
    tensors = load_file(folder / "model.safetensors")
    count = next(t.shape[0] for n, t in tensors.items() if n in ("classifier.weight",
                 "classifier.out_proj.weight", "score.weight"))  # fmt: skip
    model = relabelled(tiny_model(kind), count, 3).double()
    with torch.no_grad():
        for site in sparsetune.api.Anatomy.of(model).sites(config.targets):
            part = f"{site.path}.branches.{site.projection}"
            update = tensors[f"{part}.U"].double() @ tensors[f"{part}.V"].double()
            for place, value in zip(
                tensors[f"support/{site.key}"].tolist(), tensors[f"{part}.S2"].tolist(), strict=True
            ):
                update[place // site.shape[1], place % site.shape[1]] += value
            site.weight_view().add_(update * config.alpha / config.rank)
        for name, parameter in model.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])
    return model


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_adapter_computes_as_it_does_alone_whatever_was_active_before(kind, folded, folders):
    found, alone = folders(kind)
    base = tiny_model(kind)
    before, weights = output_of(base, tiny_batch()), dict(base.named_parameters())
    for name, folder in found.items():
        assert sparsetune.load(folder, base, name=name) is base
    if folded:
        for name, model in alone.items():
            fold_together(model, "always")
            fold_together(sparsetune.use(base, name), "always")
    for name in ("one", "other", "one", None, "other", None, "one", "one", "other"):
        sparsetune.use(base, name)
        expected = before if name is None else output_of(alone[name], tiny_batch())
        assert torch.equal(output_of(base, tiny_batch()), expected)
        told = sparsetune.summary(base)
        assert (told.adapters, told.active) == (("one", "other"), name)
        if name is not None:
            assert base.state_dict().keys() == alone[name].state_dict().keys()
            assert told.trained == sparsetune.summary(alone[name]).trained
            assert base.config.id2label == alone[name].config.id2label
            assert base.num_labels == alone[name].num_labels
            torch.testing.assert_close(
                output_of(base, tiny_batch()).double(),
                output_of(by_hand(kind, found[name], CONFIGS[name]), tiny_batch()),
                rtol=1e-3, atol=1e-3,  # float32 beside float64, weights enlarged fivefold
            )  # fmt: skip
    sparsetune.use(base, None)
    now = dict(base.named_parameters())
    assert all(now[name] is parameter for name, parameter in weights.items())  # never copied
    assert now.keys() == weights.keys()
    with pytest.raises(
        ModelError, match=r"save: none of this model's adapters is active; .* one, "
    ):
        sparsetune.save(base, found["one"])
    with pytest.raises(ModelError, match="none of this model's adapters is active"):
        base.save_pretrained(found["one"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_adapter_is_saved_as_it_was_alone(kind, folders, tmp_path):
    found, _ = folders(kind)
    base = tiny_model(kind)
    for name, folder in found.items():
        sparsetune.load(folder, base, name=name)
    for active in (None, "one", "other"):
        sparsetune.use(base, active)
        for name, folder in found.items():
            sparsetune.save(base, tmp_path / "again", name=name)
            for file in ("model.safetensors", "config.json"):
                assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
            assert sparsetune.summary(base).active == active
    base.save_pretrained(tmp_path / "trainers")
    again = sparsetune.load(tmp_path / "trainers", relabelled(tiny_model(kind), 5, 1))
    assert torch.equal(output_of(again, tiny_batch()), output_of(base, tiny_batch()))


def steps(model, optimizer, count, first):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for number in range(first, first + count):
        batch = tiny_batch(seed=number)
        model(**batch, labels=torch.tensor([0, 1, number % model.num_labels])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def adam(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_trained_in_turns_are_those_trained_apart(kind):
    alone = {n: sparsetune.apply_dsee(tiny_model(kind), c) for n, c in CONFIGS.items()}
    base, optimizers = tiny_model(kind), {}
    head = {n: p.detach().clone() for n, p in base.named_parameters()}
    for name, config in CONFIGS.items():
        sparsetune.apply_dsee(base, config, name=name)
        optimizers[name] = adam(base)
        steps(base, optimizers[name], 2, 0)
        single = adam(alone[name])
        steps(alone[name], single, 2, 0)
        alone[name] = (alone[name], single)
    for name in CONFIGS:
        sparsetune.use(base, name)
        steps(base, optimizers[name], 2, 5)
        steps(*alone[name], 2, 5)
    for name, (model, _) in alone.items():
        sparsetune.use(base, name)
        own = base.state_dict()
        assert all(torch.equal(own[key], value) for key, value in model.state_dict().items())
    sparsetune.use(base, None)
    assert all(torch.equal(p, head[n]) for n, p in base.named_parameters())
    assert not any(p.requires_grad for p in base.parameters())


def test_modules_to_save_and_tied_weights_belong_to_their_adapter():
    base = tiny_model("gpt2", task="lm")
    before = output_of(base, tiny_batch())
    config = DseeConfig(rank=2, n_sparse=3, init="normal", modules_to_save=["wte"])
    moved(sparsetune.apply_dsee(base, config, name="one"))
    assert base.lm_head.weight is base.transformer.wte.weight
    after = output_of(base, tiny_batch())
    sparsetune.apply_dsee(base, OTHER, name="other")
    alone = sparsetune.apply_dsee(tiny_model("gpt2", task="lm"), OTHER)
    assert torch.equal(output_of(base, tiny_batch()), output_of(alone, tiny_batch()))
    assert torch.equal(output_of(sparsetune.use(base, "one"), tiny_batch()), after)
    assert torch.equal(output_of(sparsetune.use(base, None), tiny_batch()), before)
    assert base.lm_head.weight is base.transformer.wte.weight


@pytest.mark.parametrize("make", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_adapters_and_weights_of_its_own(make, folders):
    found, alone = folders("bert")
    base = tiny_model("bert")
    for name, folder in found.items():
        sparsetune.load(folder, base, name=name)
    other = make(base)
    sparsetune.use(base, "one")
    assert sparsetune.summary(other).active == "other"
    moved(other)
    assert torch.equal(output_of(base, tiny_batch()), output_of(alone["one"], tiny_batch()))
    sparsetune.use(other, "one")
    assert torch.equal(output_of(other, tiny_batch()), output_of(alone["one"], tiny_batch()))
    mine = {id(p) for p in base.parameters()} | {id(m) for m in base.modules()}
    assert not mine & ({id(p) for p in other.parameters()} | {id(m) for m in other.modules()})
    sparsetune.use(base, "other")
    assert torch.equal(output_of(base, tiny_batch()), output_of(alone["other"], tiny_batch()))


def test_a_model_that_is_cast_or_set_to_train_takes_its_waiting_adapters_along(folders):
    found, alone = folders("bert")
    base = tiny_model("bert")
    for name, folder in found.items():
        sparsetune.load(folder, base, name=name)
    base.to(torch.bfloat16).train()
    for name in ("one", "other", None, "one"):
        sparsetune.use(base, name)
        assert {p.dtype for p in base.parameters()} == {torch.bfloat16}
        assert all(module.training for module in base.modules())
    alone["one"].to(torch.bfloat16)
    assert torch.equal(output_of(base.eval(), tiny_batch()), output_of(alone["one"], tiny_batch()))


def test_zeros_are_watched_under_every_adapter_of_one_mask(tmp_path):
    def pruned():
        return sparsetune.prune(tiny_model("bert"), 0.5)

    for name, config in CONFIGS.items():
        sparsetune.save(moved(sparsetune.apply_dsee(pruned(), config)), tmp_path / name)
    base = tiny_model("bert")
    for name in CONFIGS:
        sparsetune.load(tmp_path / name, base, name=name)
    for name in ("one", "other"):
        alone = sparsetune.load(tmp_path / name, tiny_model("bert"))
        sparsetune.use(base, name)
        assert torch.equal(output_of(base, tiny_batch()), output_of(alone, tiny_batch()))
    site = sparsetune.api.Anatomy.of(base).site(0, "query")
    with torch.no_grad():
        site.weight_view()[site.weight_view() == 0] = 0.5
    for name in ("one", "other"):
        with pytest.raises(ModelError, match=r"layer.0.query: \d+ of its \d+ masked weights"):
            sparsetune.save(base, tmp_path / "out", name=name)


def test_adapters_that_do_not_fit_each_other_are_refused_and_change_nothing(tmp_path, folders):
    found, alone = folders("bert")
    masked = moved(sparsetune.apply_dsee(sparsetune.prune(tiny_model("bert"), 0.5), OTHER))
    sparsetune.save(masked, tmp_path / "masked")
    elsewhere = moved(sparsetune.apply_dsee(tiny_model("bert", seed=1), OTHER))
    sparsetune.save(elsewhere, tmp_path / "elsewhere")
    small = tiny_model("bert")
    sparsetune.shrink(small, sparsetune.random_ticket(small, heads=0.5))
    sparsetune.save(moved(sparsetune.apply_dsee(small, OTHER)), tmp_path / "small")
    sparsetune.save(tiny_model("bert"), tmp_path / "whole")
    base = sparsetune.load(found["one"], tiny_model("bert"), name="one")
    cases = [
        (
            "masked",
            "two",
            r"masks \d+ weights of layer.0.attention_output on which the adapters one stand",
        ),
        ("elsewhere", "two", "with other frozen weights"),
        ("small", "two", r"the update is for a model with heads \[2, 2\]"),
        ("whole", "two", "holds a whole model; received another"),
        ("other", "one", r"name: received 'one', which is taken; .* detach\(model, 'one'\)"),
        ("other", "", "name: received ''; needed: a text"),
        ("other", None, "name: received None beside the adapters one; needed: another name"),
    ]
    for folder, name, message in cases:
        with pytest.raises(ModelError, match=message):
            sparsetune.load(tmp_path / folder, base, name=name)
        assert sparsetune.summary(base).active == "one"
        assert torch.equal(output_of(base, tiny_batch()), output_of(alone["one"], tiny_batch()))
    with pytest.raises(ModelError, match="holds a whole model; received name 'two'"):
        sparsetune.load(tmp_path / "whole", name="two")
    with pytest.raises(ModelError, match="apply_dsee: name: received 'one', which is taken"):
        sparsetune.apply_dsee(base, OTHER, name="one")
    with pytest.raises(ModelError, match=r"rank: received 99"):
        sparsetune.apply_dsee(base, DseeConfig(rank=99), name="two")
    assert torch.equal(output_of(base, tiny_batch()), output_of(alone["one"], tiny_batch()))
    sparsetune.load(found["other"], base, name="other")
    for name, message in (
        ("othr", "use: name: received 'othr'; allowed: one, other; did you mean 'other'"),
        (3, "use: name: received 3; allowed: one, other"),
    ):
        with pytest.raises(ModelError, match=message):
            sparsetune.use(base, name)
    with pytest.raises(ModelError, match="name: received 'two'; allowed: one, other"):
        sparsetune.save(base, tmp_path / "out", name="two")
    for do in (
        lambda: sparsetune.prune(base, 0.5),
        lambda: sparsetune.merge(base, "dense"),
        lambda: sparsetune.TicketSearch(sparsetune.use(base, None)),
        lambda: sparsetune.shrink(base, sparsetune.random_ticket(base)),
    ):
        with pytest.raises(ModelError, match="change the weights under the adapters one"):
            do()
    with (
        sparsetune.disabled(sparsetune.use(base, "one")),
        pytest.raises(ModelError, match="use: the update is disabled here"),
    ):
        sparsetune.use(base, "other")


def test_a_model_compiled_in_place_computes_what_is_active(folders):
    found, alone = folders("bert")
    base = tiny_model("bert")
    for name, folder in found.items():
        sparsetune.load(folder, base, name=name)
    base.compile(backend="eager")
    for name in ("one", "other", "one"):
        sparsetune.use(base, name)
        assert torch.equal(output_of(base, tiny_batch()), output_of(alone[name], tiny_batch()))


def test_models_without_named_adapters_say_so():
    plain = tiny_model("bert")
    with pytest.raises(ModelError, match=r"use: this BertForSeq.* has no named adapters; needed: "):
        sparsetune.use(plain, "one")
    nameless = sparsetune.apply_dsee(plain, ONE)
    with pytest.raises(ModelError, match="received 'two' beside an update that has no name"):
        sparsetune.apply_dsee(nameless, OTHER, name="two")
    with pytest.raises(ModelError, match=r"detach: name: received 'two'; .* no named adapters"):
        sparsetune.detach(nameless, "two")
    with pytest.raises(ModelError, match=r"torch.compile has wrapped"):
        sparsetune.apply_dsee(torch.compile(tiny_model("bert"), backend="eager"), ONE, name="one")


def test_adapters_are_taken_off_one_by_one(folders):
    found, alone = folders("bert")
    base = tiny_model("bert")
    before = output_of(base, tiny_batch())
    for name, folder in found.items():
        sparsetune.load(folder, base, name=name)
    assert sparsetune.detach(base, "one") is base  # one that waits
    assert torch.equal(output_of(base, tiny_batch()), output_of(alone["other"], tiny_batch()))
    sparsetune.load(found["one"], base, name="one")
    sparsetune.detach(base)  # the active one
    assert torch.equal(output_of(base, tiny_batch()), before)
    assert sparsetune.summary(base).active is None
    with pytest.raises(ModelError, match="received None, and none is active; allowed: other"):
        sparsetune.detach(base)
    with pytest.raises(ModelError, match="received 'one'; allowed: other"):
        sparsetune.detach(base, "one")
    sparsetune.detach(base, "other")
    assert sparsetune.summary(base).adapters == ()
    sparsetune.apply_dsee(base, ONE)  # a plain model again, which takes one without a name
    assert not torch.equal(output_of(base, tiny_batch()), before)


def test_the_name_of_an_adapter_is_printed():
    model = sparsetune.apply_dsee(tiny_model("bert"), ONE, name="mrpc")
    assert "adapter='mrpc'" in repr(model)
    assert str(sparsetune.summary(model)).endswith("adapters   mrpc (active)")
    assert "adapters" not in str(sparsetune.summary(tiny_model("bert")))
    sparsetune.merge(model, "dense")  # the only one: it becomes the model
    assert sparsetune.summary(model).adapters == ()


@pytest.mark.parametrize("policy", ["dense", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reversible_merge_is_taken_back_bit_for_bit(kind, policy, tmp_path):
    model = tiny_model(kind)
    sparsetune.prune(model, 0.4)
    moved(sparsetune.apply_dsee(model, ONE))
    before, parameters = output_of(model, tiny_batch()), dict(model.named_parameters())
    sparsetune.save(model, tmp_path / "update")
    whole = sparsetune.apply_dsee(sparsetune.prune(tiny_model(kind), 0.4), ONE)
    whole.load_state_dict(model.state_dict())
    report = sparsetune.merge(whole, policy)
    assert sparsetune.merge(model, policy, reversible=True) == report
    assert torch.equal(output_of(model, tiny_batch()), output_of(whole, tiny_batch()))
    sparsetune.save(model, tmp_path / "merged")
    again = sparsetune.load(tmp_path / "merged")
    assert torch.equal(output_of(again, tiny_batch()), output_of(whole, tiny_batch()))
    for do, message in (
        (lambda: sparsetune.apply_dsee(model, OTHER), "apply_dsee: an update is merged reversibly"),
        (lambda: sparsetune.load(tmp_path / "update", model), "load: an update is merged revers"),
        (lambda: sparsetune.prune(model, 0.9), "prune: an update is merged reversibly"),
        (lambda: sparsetune.detach(model), "detach: an update is merged reversibly"),
        (lambda: sparsetune.merge(model, "dense"), "merge: an update is merged reversibly"),
        (lambda: sparsetune.TicketSearch(model), "TicketSearch: an update is merged reversibly"),
    ):
        with pytest.raises(ModelError, match=message):
            do()
    assert sparsetune.unmerge(model) is model
    now = dict(model.named_parameters())
    assert now.keys() == parameters.keys()
    assert all(now[name] is one for name, one in parameters.items())
    assert torch.equal(output_of(model, tiny_batch()), before)
    sparsetune.save(model, tmp_path / "update-again")
    for file in ("model.safetensors", "config.json"):
        old, new = (tmp_path / one / file for one in ("update", "update-again"))
        assert old.read_bytes() == new.read_bytes()
    with pytest.raises(ModelError, match="unmerge: nothing is merged reversibly into this"):
        sparsetune.unmerge(model)
    fold_together(model, "always")  # folding is there again, and once
    torch.testing.assert_close(output_of(model, tiny_batch()), before, rtol=1e-4, atol=1e-4)


def test_a_copy_of_a_merged_model_is_unmerged_by_itself_also_in_16_bits():
    model = moved(sparsetune.apply_dsee(tiny_model("gpt2").to(torch.bfloat16), ONE))
    before = output_of(model, tiny_batch())
    sparsetune.merge(model, "dense", reversible=True)
    merged = output_of(model, tiny_batch())
    assert not torch.equal(merged, before)
    for make in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        other = sparsetune.unmerge(make(model))
        assert torch.equal(output_of(other, tiny_batch()), before)
        assert torch.equal(output_of(model, tiny_batch()), merged)
    assert torch.equal(output_of(sparsetune.unmerge(model), tiny_batch()), before)


@pytest.mark.parametrize("change", ["value", "dtype", "module"])
def test_a_merged_model_that_changed_is_not_unmerged(change):
    model = moved(sparsetune.apply_dsee(tiny_model("bert"), ONE))
    sparsetune.merge(model, "dense", reversible=True)
    query = model.bert.encoder.layer[1].attention.self
    if change == "value":
        with torch.no_grad():
            query.query.weight[0, 0] += 1
    elif change == "dtype":
        model.half()
    else:
        query.query = nn.Identity()
    where = "1" if change != "dtype" else "0"
    with pytest.raises(
        ModelError, match=rf"unmerge: .*layer.{where}.*query: its merged weight was"
    ):
        sparsetune.unmerge(model)
    assert not any(True for _ in dsee_branches(model))


def test_one_of_several_adapters_is_merged_for_a_while(folders, tmp_path):
    found, alone = folders("bert")
    base = tiny_model("bert")
    for name, folder in found.items():
        sparsetune.load(folder, base, name=name)
    sparsetune.use(base, "one")
    assert sparsetune.merge(base, "unmerged", reversible=True).policy == "unmerged"
    sparsetune.merge(base, "dense", reversible=True)
    sparsetune.merge(alone["one"], "dense", reversible=True)
    assert torch.equal(output_of(base, tiny_batch()), output_of(alone["one"], tiny_batch()))
    for do in (
        lambda: sparsetune.use(base, "other"),
        lambda: sparsetune.save(base, tmp_path / "out", name="other"),
        lambda: sparsetune.load(found["other"], base, name="third"),
    ):
        with pytest.raises(ModelError, match=r"merged reversibly into this model; .*unmerge\(mo"):
            do()
    sparsetune.save(base, tmp_path / "out")
    assert torch.equal(
        output_of(sparsetune.load(tmp_path / "out"), tiny_batch()), output_of(base, tiny_batch())
    )
    sparsetune.unmerge(base)
    sparsetune.unmerge(alone["one"])
    for name in ("one", "other"):
        sparsetune.use(base, name)
        assert torch.equal(output_of(base, tiny_batch()), output_of(alone[name], tiny_batch()))


def test_a_switch_under_held_folds_uses_no_fold_of_another(folders):
    found, alone = folders("bert")
    base = tiny_model("bert")
    for name, folder in found.items():
        sparsetune.load(folder, base, name=name)
        fold_together(base, "always")
        fold_together(alone[name], "always")
    expected = {name: output_of(model, tiny_batch()) for name, model in alone.items()}
    with folds_held(base):
        for name in ("other", "one", "other"):
            sparsetune.use(base, name)
            assert torch.equal(output_of(base, tiny_batch()), expected[name])
    for name in ("one", "other"):
        sparsetune.use(base, name)
        assert torch.equal(output_of(base, tiny_batch()), expected[name])
        layers = [one for one in base.modules() if isinstance(one, DseeLinear)]
        assert len(layers) == 2 * LAYERS
        assert all(one.folded is None for one in layers)

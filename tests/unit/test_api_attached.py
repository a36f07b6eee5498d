"""What is attached to a model of one's own: recognised, saved readably, taken off, counted."""

import copy
import math
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel
from transformers.models.bert import modeling_bert as bert
from transformers.models.gpt2 import modeling_gpt2 as gpt2
from unit.tiny import HIDDEN, KINDS, LAYERS, output_of, tiny_batch, tiny_config, tiny_model

import sparsetune
from sparsetune import DseeConfig
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ConfigError, ModelError

CONFIG = DseeConfig(rank=3, n_sparse=11, init="normal", support="random")
LABELS = torch.tensor([0, 1, 2])


class OwnHead(bert.BertPreTrainedModel):
    """A class of one's own: a head that no family knows, and a value beside it."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = bert.BertModel(config)
        self.fc = nn.Linear(config.hidden_size, config.num_labels)
        self.temperature = nn.Parameter(torch.ones(()))
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        pooled = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        return (self.fc(pooled) / self.temperature,)


def own_head():
    torch.manual_seed(0)
    return OwnHead(tiny_config("bert")).eval()


def config(**changes):
    return DseeConfig(rank=3, n_sparse=11, init="normal", support="random", **changes)


def moved(model):
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def test_a_head_that_no_family_knows_is_refused_by_name_or_trains(tmp_path):
    with pytest.raises(ModelError, match=r"OwnHead: .*fc.*modules_to_save=\['temperature', 'fc'\]"):
        sparsetune.apply_dsee(own_head(), CONFIG)
    model = sparsetune.apply_dsee(own_head(), config(modules_to_save=["fc", "temperature"]))
    assert model.fc.weight.requires_grad
    assert model.temperature.requires_grad
    moved(model)
    sparsetune.save(model, tmp_path)
    again = sparsetune.load(tmp_path, own_head())
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))
    assert again.fc.weight.requires_grad
    frozen = sparsetune.apply_dsee(own_head(), config(modules_to_save=[]))
    assert not frozen.fc.weight.requires_grad


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_part_of_the_backbone_is_trained_and_saved_where_named(kind, tmp_path):
    named = {"bert": "pooler", "roberta": "embeddings.LayerNorm"}[kind]
    model = sparsetune.apply_dsee(tiny_model(kind), config(modules_to_save=[named]))
    trains = [name for name, p in model.named_parameters() if f".{named}." in name]
    assert trains
    assert all(model.get_parameter(name).requires_grad for name in trains)
    sparsetune.save(moved(model), tmp_path)
    again = sparsetune.load(tmp_path, tiny_model(kind))
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))


def test_heads_of_the_libraries_own_classes_train_or_are_refused():
    token = gpt2.GPT2ForTokenClassification(tiny_config("gpt2"))
    assert sparsetune.apply_dsee(token, CONFIG).classifier.weight.requires_grad
    for kind, part in (
        (bert.BertForNextSentencePrediction, r"\['cls'\]"),
        (bert.BertForPreTraining, r"\['cls.seq_relationship'\]"),
    ):
        with pytest.raises(ModelError, match=f"modules_to_save={part}"):
            sparsetune.apply_dsee(kind(tiny_config("bert")), CONFIG)
    sparsetune.apply_dsee(bert.BertForMaskedLM(tiny_config("bert")), CONFIG)
    sparsetune.apply_dsee(tiny_model("gpt2", task="lm"), CONFIG)


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ("pooler", ConfigError, "modules_to_save: received 'pooler', allowed: a list of names"),
        ([""], ConfigError, r"modules_to_save: received \[''\], allowed: a list"),
        (["poler"], ModelError, "received 'poler'; allowed: .*did you mean 'pooler'"),
        (["query"], ModelError, "received 'query', which DSEE adapts; allowed: modules without q"),
        (["encoder"], ModelError, "received 'encoder', which DSEE adapts"),
    ],
)
def test_modules_that_cannot_be_saved_are_refused(named, error, message):
    with pytest.raises(error, match=message):
        sparsetune.apply_dsee(tiny_model("bert"), config(modules_to_save=named))


def test_what_a_checkpoint_lacks_does_not_stay_random_unseen(tmp_path):
    bert.BertForMaskedLM(tiny_config("bert")).save_pretrained(tmp_path / "checkpoint")

    def started(seed):  # as in a process of its own: pooler and head are drawn
        torch.manual_seed(seed)
        return bert.BertForSequenceClassification.from_pretrained(
            tmp_path / "checkpoint", num_labels=3
        )

    with pytest.raises(ModelError, match=r"bert.pooler.dense: not in the checkpoint.*\['bert.pool"):
        sparsetune.apply_dsee(started(1), CONFIG)
    model = sparsetune.apply_dsee(started(1), config(modules_to_save=["bert.pooler.dense"]))
    sparsetune.save(moved(model).eval(), tmp_path / "update")
    again = sparsetune.load(tmp_path / "update", started(2)).eval()
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))
    sparsetune.apply_dsee(started(1), config(modules_to_save=[]))
    # Smaller or bare models, and those that lack nothing, are not taken for drawn ones.
    tiny_model("bert").save_pretrained(tmp_path / "whole")
    whole = bert.BertForSequenceClassification.from_pretrained(tmp_path / "whole")
    sparsetune.shrink(whole, sparsetune.random_ticket(whole))
    sparsetune.apply_dsee(whole, CONFIG)
    tiny_model("gpt2", task="lm").save_pretrained(tmp_path / "gpt2")
    sparsetune.apply_dsee(
        gpt2.GPT2ForSequenceClassification.from_pretrained(tmp_path / "gpt2"), CONFIG
    )


class Two(bert.BertPreTrainedModel):
    def __init__(self, settings):
        super().__init__(settings)
        self.left, self.right = bert.BertModel(settings), bert.BertModel(settings)


@pytest.mark.parametrize(
    "do",
    [
        lambda model: sparsetune.apply_dsee(model, CONFIG),
        sparsetune.TicketSearch,
        lambda model: sparsetune.prune(model, 0.5),
        sparsetune.summary,
        sparsetune.random_ticket,
    ],
)
def test_wrappers_and_second_backbones_are_refused_by_name(do):
    with pytest.raises(ModelError, match=r"Two holds 2 backbones, .* left.encoder.layer and right"):
        do(Two(tiny_config("bert")))
    with pytest.raises(ModelError, match=r"torch.compile has wrapped; .*model\._orig_mod"):
        do(torch.compile(tiny_model("bert"), backend="eager"))
    with pytest.raises(ModelError, match=r"received a DataParallel; .*model\.module"):
        do(nn.DataParallel(tiny_model("bert")))


def test_lora_anywhere_else_is_not_frozen_unseen():
    lora = get_peft_model(tiny_model("bert"), LoraConfig(target_modules=["key"]))
    with pytest.raises(ModelError, match=r"key is wrapped already: a peft"):
        sparsetune.apply_dsee(lora, CONFIG)


@pytest.mark.parametrize("target", ["word_embeddings", "pooler.dense", "classifier"])
def test_lora_beside_the_layers_is_neither_frozen_nor_left_out_of_a_folder(target, tmp_path):
    wrapped = get_peft_model(tiny_model("bert"), LoraConfig(target_modules=[target]))
    for model in (wrapped, wrapped.get_base_model()):
        with pytest.raises(
            ModelError, match=rf"{target} is wrapped already: a peft.*merge_and_unl"
        ):
            sparsetune.apply_dsee(model, CONFIG)
    model = sparsetune.apply_dsee(tiny_model("bert"), CONFIG)
    get_peft_model(model, LoraConfig(target_modules=[target]))
    with pytest.raises(ModelError, match=rf"{target} is wrapped already: a peft"):
        sparsetune.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_save_pretrained_beside_an_update_writes_what_load_gives_back(kind, tmp_path):
    model = moved(sparsetune.apply_dsee(tiny_model(kind), CONFIG))
    for number, make in enumerate((copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)))):
        other = moved(make(model))  # a copy saves itself, not what it was copied from
        assert not torch.equal(output_of(other, tiny_batch()), output_of(model, tiny_batch()))
        for saved, name in ((model, f"model-{number}"), (other, f"copy-{number}")):
            saved.save_pretrained(tmp_path / name, state_dict=None, is_main_process=True)
            again = sparsetune.load(tmp_path / name, tiny_model(kind))
            assert torch.equal(output_of(again, tiny_batch()), output_of(saved, tiny_batch()))
    for options in ({"push_to_hub": True}, {"variant": "fp16"}):
        with pytest.raises(ModelError, match="push_to_hub or variant"):
            model.save_pretrained(tmp_path / "other", **options)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_no_folder_of_ours_is_taken_for_other_weights_by_the_library(kind, tmp_path):
    whole, small = tiny_model(kind), tiny_model(kind)
    sparsetune.shrink(small, sparsetune.random_ticket(small, heads=0.5))
    sparsetune.save(whole, tmp_path)
    read = type(whole).from_pretrained(tmp_path)
    assert torch.equal(output_of(read, tiny_batch()), output_of(whole, tiny_batch()))
    update = sparsetune.apply_dsee(tiny_model(kind), CONFIG)
    for model, told in ((update, "load.folder, model."), (small, "load.folder.")):
        sparsetune.save(model, tmp_path)  # over the other
        for reader in (type(model), AutoModel):
            with pytest.raises(ValueError, match=rf"read it by sparsetune\.{told}"):
                reader.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_save_pretrained_of_a_smaller_model_is_read_back_and_of_a_plain_one_is_the_librarys(
    kind, tmp_path
):
    model = tiny_model(kind)
    sparsetune.shrink(model, sparsetune.random_ticket(model, heads=0.5))
    model.save_pretrained(tmp_path / "small")
    again = sparsetune.load(tmp_path / "small")
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))
    merged = sparsetune.apply_dsee(tiny_model(kind), CONFIG)
    sparsetune.merge(merged, "dense")
    merged.save_pretrained(tmp_path / "plain")
    plain = type(merged).from_pretrained(tmp_path / "plain")
    assert torch.equal(output_of(plain, tiny_batch()), output_of(merged, tiny_batch()))


@pytest.mark.slow
def test_a_trainers_checkpoint_holds_the_update_and_is_resumed_from(tmp_path):
    from transformers import Trainer, TrainingArguments

    given = [{**tiny_batch(seed=n), "labels": LABELS} for n in range(6)]

    def trained(steps, resume=None):
        model = sparsetune.apply_dsee(tiny_model("bert"), CONFIG)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        arguments = TrainingArguments(
            tmp_path / "out", max_steps=6, save_steps=3, report_to=[], use_cpu=True,
            disable_tqdm=True, learning_rate=1e-2,
        )  # fmt: skip

        class Own(Trainer):
            def get_train_dataloader(self):
                return DataLoader(given, batch_size=1, collate_fn=lambda rows: rows[0])

        trainer = Own(model, arguments, train_dataset=given)
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = trained(6)
    checkpoint = tmp_path / "out" / "checkpoint-3"
    resumed = trained(6, str(checkpoint))
    assert torch.equal(output_of(resumed, tiny_batch()), output_of(whole, tiny_batch()))
    loaded = sparsetune.load(tmp_path / "out" / "checkpoint-6", tiny_model("bert"))
    assert torch.equal(output_of(loaded, tiny_batch()), output_of(whole.eval(), tiny_batch()))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_neither_saved_nor_merged(wrong, tmp_path):
    model = sparsetune.apply_dsee(tiny_model("bert"), CONFIG)
    _, branch = next(dsee_branches(model))
    with torch.no_grad():
        branch.S2[3] = wrong
    with pytest.raises(ModelError, match=r"save: .*query.S2: 1 of 11 values are NaN or infinite"):
        sparsetune.save(model, tmp_path)
    with pytest.raises(ModelError, match=r"merge: layer.0.query: 1 of 576 values of the update"):
        sparsetune.merge(model, "dense")
    assert any(True for _ in dsee_branches(model))
    plain = tiny_model("gpt2")
    with torch.no_grad():
        plain.score.weight[0, 0] = wrong
    with pytest.raises(ModelError, match=r"save: score.weight: 1 of 72 values are NaN"):
        sparsetune.save(plain, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_16_bit_merge_is_rounded_once_and_tells_what_that_lost(kind, dtype):
    model = sparsetune.apply_dsee(tiny_model(kind).to(dtype), CONFIG)
    with torch.no_grad():
        for _, branch in dsee_branches(model):
            for parameter in branch.parameters():
                parameter.mul_(0.3)
    weights = {branch.key: (layer, branch.key.rpartition(".")[2])
               for layer, branch in dsee_branches(model)}  # fmt: skip
    sites = {s.key: s for s in sparsetune.api.Anatomy.of(model).sites()}
    before = {key: sites[key].weight_view().detach().clone() for key in weights}
    updates = {key: layer.delta(name).double() for key, (layer, name) in weights.items()}
    report = sparsetune.merge(model, "dense")
    lost = whole = 0.0
    for site in sparsetune.api.Anatomy.of(model).sites():
        if site.key in updates:
            # An independent way: in float64, rounded once; float32's own rounding moves no bit
            # of 8 or 11 except at ties of the sum.
            exact = before[site.key].double() + updates[site.key]
            got = site.weight_view().detach()
            assert (got == exact.to(dtype)).float().mean() > 0.999
            lost += float((got.double() - exact).square().sum())
            whole += float(updates[site.key].square().sum())
    assert report.rounding_change == pytest.approx(math.sqrt(lost / whole), rel=1e-9)
    assert report.rounding_change > 0.001
    assert report.relative_change == 0.0


def test_the_report_of_a_float32_merge_tells_its_own_rounding():
    model = sparsetune.apply_dsee(tiny_model("bert"), CONFIG)
    assert sparsetune.merge(model, "unmerged").rounding_change == 0.0
    assert 0.0 < sparsetune.merge(model, "dense").rounding_change < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_disabled_for_a_while_and_taken_off(kind):
    plain = tiny_model(kind)
    before = output_of(plain, tiny_batch())
    model = sparsetune.apply_dsee(tiny_model(kind), CONFIG)
    after = output_of(model, tiny_batch())
    assert not torch.equal(before, after)
    names = dict(model.named_parameters()).keys()
    with sparsetune.disabled(model) as same, sparsetune.disabled(model):
        assert same is model
        assert torch.equal(output_of(model, tiny_batch()), before)
        assert dict(model.named_parameters()).keys() == names
    assert torch.equal(output_of(model, tiny_batch()), after)
    with pytest.raises(RuntimeError, match="own"), sparsetune.disabled(model):
        raise RuntimeError("own")
    assert torch.equal(output_of(model, tiny_batch()), after)
    assert sparsetune.detach(model) is model
    assert torch.equal(output_of(model, tiny_batch()), before)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for do in (sparsetune.detach, lambda one: sparsetune.disabled(one).__enter__()):
        with pytest.raises(ModelError, match="no DSEE update is attached"):
            do(model)


def flops(model, tokens):
    model.set_attn_implementation("eager")  # torch counts no fused attention of the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, tokens, dtype=torch.int64))
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["classification", "qa"])
def test_multiply_adds_are_torchs_own_count(kind, task):
    model = tiny_model(kind, task=task)
    assert 2 * sparsetune.summary(model, 12).macs == flops(model, 12)
    sparsetune.shrink(model, sparsetune.random_ticket(model, heads=0.5))
    assert 2 * sparsetune.summary(model, 12).macs == flops(model, 12)
    sparsetune.prune(model, 0.5)
    counted = sparsetune.summary(model, 12)
    assert 2 * counted.macs == flops(model, 12)
    assert counted.macs - counted.effective_macs == 12 * counted.zeros > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_counts_what_trains_and_what_an_update_costs(kind):
    model = tiny_model(kind)
    plain = sparsetune.summary(model, 5)
    assert plain.trained == plain.parameters == sum(p.numel() for p in model.parameters())
    sparsetune.apply_dsee(model, CONFIG)
    told = sparsetune.summary(model, 5)
    # By hand: 2 layers x (query, value): U and V of rank 3, 11 entries; one MAC a token each.
    update = LAYERS * 2 * (2 * 3 * HIDDEN + 11)
    assert told.macs - plain.macs == 5 * update
    assert told.trained == sparsetune.trainable_parameters(model)["total"]
    assert told.parameters == plain.parameters + update
    assert "with its classification head" in str(told)


def test_a_summary_of_another_head_leaves_it_out_and_says_so():
    bare, own = tiny_model("bert", task="bare"), own_head()
    assert sparsetune.summary(own).head is None
    assert sparsetune.summary(own).macs == sparsetune.summary(bare).macs
    lora = get_peft_model(tiny_model("bert"), LoraConfig(target_modules=["query"]))
    assert sparsetune.summary(lora).head == "classification"
    with pytest.raises(ConfigError, match="summary: tokens: received 0; allowed: a whole number"):
        sparsetune.summary(bare, 0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (bert.BertForMultipleChoice(tiny_config("bert")), "cannot compute from ids of shape"),
        (bert.BertForPreTraining(tiny_config("bert")), "gives prediction_logits, .*; allowed: lo"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(model, message, tmp_path):
    with pytest.raises(ModelError, match=message) as caught:
        sparsetune.export_onnx(model, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"path: received .*, a folder; allowed: a file, such as"):
        sparsetune.export_onnx(model, tmp_path)
    assert list(tmp_path.iterdir()) == []

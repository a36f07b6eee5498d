"""Folders of smaller, updated and pruned models: who reads them, and what is refused by name."""

import contextlib
import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)
from transformers.models.bert import modeling_bert as bert
from unit.tiny import tiny_batch, tiny_config, tiny_model
from unit.tiny_families import (
    HEADS,
    LAYERS,
    WIDTH,
    class_of,
    family_batch,
    family_config,
    family_model,
    outputs_of,
)

import sparsetune
from sparsetune import DseeConfig, Ticket
from sparsetune.architectures.anatomy import HEADS_BY_LAYER
from sparsetune.architectures.families import FAMILIES
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ModelError
from sparsetune.pruning.zeros import zero_counts

ALL_HEADS, ALL_NEURONS = tuple(range(HEADS)), tuple(range(WIDTH))
UPDATE = DseeConfig(rank=2, n_sparse=5, init="normal", support="random")
EVERY_FAMILY = pytest.mark.parametrize("kind", FAMILIES)
READ_BY_US = r"read it by sparsetune\.load"


def ticket(heads=ALL_HEADS, neurons=ALL_NEURONS, layers=None):
    return Ticket(
        heads=HEADS,
        neurons=WIDTH,
        origin="random",
        kept_heads=(heads,) * LAYERS,
        kept_neurons=(neurons,) * LAYERS,
        kept_layers=layers,
    )


def uneven():
    kept = {"kept_heads": (ALL_HEADS, (0, 1)), "kept_neurons": (ALL_NEURONS, (0, 3))}
    return ticket().model_copy(update=kept)


def small(kind, told, task="sequence", **options):
    return sparsetune.shrink(family_model(kind, task, **options), told)


def check_read(model, folder, batch, reader=AutoModelForSequenceClassification):
    """The library and we give the same logits back, bit for bit."""
    for again in (reader.from_pretrained(folder), sparsetune.load(folder)):
        assert type(again) is type(model)
        assert torch.equal(outputs_of(again, batch), outputs_of(model, batch))
        assert not hasattr(again.config, HEADS_BY_LAYER)


@EVERY_FAMILY
def test_layers_that_all_lost_the_same_are_read_by_the_library_where_its_config_can_tell(
    kind, tmp_path
):
    batch, family = family_batch("sequence"), FAMILIES[kind]
    told = {"neurons": ticket(neurons=(1, 3, 5, 7))}
    if not family.keeps_layers(family_config(kind), (1,)):
        told["layers"] = ticket(layers=(1,))
    heads = {"heads": ticket((0, 2)), "both": ticket((0, 2), (1, 3, 5, 7))}
    if family.config_heads is not None:
        told |= heads
        heads = {}
    for name, one in told.items():
        model = small(kind, one)
        sparsetune.save(model, tmp_path / name)
        check_read(model, tmp_path / name, batch)
        assert not hasattr(model.config, HEADS_BY_LAYER)
        model.save_pretrained(tmp_path / f"{name}-saved")
        check_read(model, tmp_path / f"{name}-saved", batch)
        sparsetune.save(sparsetune.load(tmp_path / name), tmp_path / f"{name}-again")
        check_read(model, tmp_path / f"{name}-again", batch)
    for name, one in {**heads, "uneven": uneven()}.items():
        model = small(kind, one)
        model.save_pretrained(tmp_path / name)
        sparsetune.load(tmp_path / name).save_pretrained(tmp_path / f"{name}-again")
        for folder in (tmp_path / name, tmp_path / f"{name}-again"):
            for reader in (AutoModelForSequenceClassification, AutoModel, type(model)):
                with pytest.raises(ValueError, match=READ_BY_US):
                    reader.from_pretrained(folder)
            again = sparsetune.load(folder)
            assert torch.equal(outputs_of(again, batch), outputs_of(model, batch))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_tied_weights_and_generation_are_read_by_the_library_too(kind, tmp_path):
    batch = family_batch("language")
    told = ticket((1, 3) if FAMILIES[kind].config_heads else ALL_HEADS, (1, 2))
    model = small(kind, told, "language", config={"tie_word_embeddings": True})
    sparsetune.save(model, tmp_path)
    reader = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    check_read(model, tmp_path, batch, reader)
    if kind != "bert":
        options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        read, prompt = reader.from_pretrained(tmp_path), batch["input_ids"][1:]
        texts = [one.generate(prompt, **options) for one in (model, read)]
        assert torch.equal(*texts)
    # A cache of fixed size is made from the config.
    if kind == "llama":
        options["cache_implementation"] = "static"
        assert torch.equal(model.generate(prompt, **options), texts[0])


def test_a_config_that_the_library_would_not_take_is_not_written(tmp_path):
    # 24 features are no multiple of 5 heads, which Llama's config demands.
    sizes = {"hidden_size": 24, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS}
    model = LlamaForSequenceClassification(
        LlamaConfig(vocab_size=50, num_attention_heads=6, num_labels=3, pad_token_id=0, **sizes)
    ).eval()
    kept = {"heads": 6, "kept_heads": (tuple(range(5)),) * LAYERS}
    sparsetune.shrink(model, ticket().model_copy(update=kept))
    sparsetune.save(model, tmp_path)
    with pytest.raises(ValueError, match=READ_BY_US):
        AutoModel.from_pretrained(tmp_path)
    again = sparsetune.load(tmp_path)
    batch = family_batch("sequence")
    assert torch.equal(outputs_of(again, batch), outputs_of(model, batch))


@EVERY_FAMILY
def test_no_family_of_the_library_builds_layers_by_its_per_layer_config(kind):
    # Where one does, folders of uneven layers can carry it, and the library read them.
    config = family_config(kind)
    config.per_layer_config = {1: {FAMILIES[kind].config_neurons: 6}}
    with pytest.raises(RuntimeError, match="is a per-layer attribute"):
        class_of(kind, "sequence")._from_config(config)


@pytest.mark.parametrize("kind", ["bert", "qwen2"])
def test_an_update_of_a_smaller_model_finds_its_larger_base(kind, tmp_path):
    family_model(kind, "sequence").save_pretrained(tmp_path / "base")
    heads = (0, 2) if FAMILIES[kind].config_heads else ALL_HEADS
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = sparsetune.apply_dsee(sparsetune.shrink(base, ticket(heads, (1, 2, 5))), UPDATE)
    sparsetune.save(model, tmp_path / "update")
    batch = family_batch("sequence")
    found = sparsetune.load(tmp_path / "update")
    assert torch.equal(outputs_of(found, batch), outputs_of(model.eval(), batch))
    with pytest.raises(ValueError, match=READ_BY_US):
        AutoModel.from_pretrained(tmp_path / "update")
    sparsetune.merge(model, "dense")
    model.save_pretrained(tmp_path / "merged")
    check_read(model, tmp_path / "merged", batch)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "qwen3"])
def test_what_the_library_saved_in_one_file_or_in_shards_is_loaded(kind, tmp_path):
    batch = family_batch("sequence")
    model = sparsetune.prune(small(kind, ticket(neurons=(1, 2, 4))), 0.5)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("one", "shards"):
        check_read(model, tmp_path / folder, batch)
        assert zero_counts(sparsetune.load(tmp_path / folder)) == zero_counts(model)
    with pytest.raises(ModelError, match="holds a whole model; received another beside it"):
        sparsetune.load(tmp_path / "one", model)


def test_a_folder_of_the_library_that_lacks_weights_or_is_of_another_kind_is_refused(tmp_path):
    model = tiny_model("bert")
    model.bert.save_pretrained(tmp_path / "bare")
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    for name, change, message in (
        ("lacking", {"architectures": ["BertForSequenceClassification"]},
         r"2 weights of a BertForSequenceClassification are not there, first classifier\.bias"),
        ("other", {"model_type": "albert"}, "model_type: received 'albert'; allowed: bert, "),
        ("own", {"architectures": ["Mine"]}, "architectures: received 'Mine'; allowed: a class"),
        ("none", {"architectures": None}, "architectures: received None; allowed: a class"),
        ("sizes", {"intermediate_size": 8}, "sizes: cannot be loaded: "),
    ):  # fmt: skip
        shutil.copytree(tmp_path / "bare", tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=message) as caught:
            sparsetune.load(tmp_path / name)
        assert "\n" not in str(caught.value)


MADE = {
    "shrunken": lambda model: sparsetune.shrink(model, ticket((0, 2), (1, 2, 3))),
    "uneven": lambda model: sparsetune.shrink(model, uneven()),
    "pruned": lambda model: sparsetune.prune(model, 0.5),
    "updated": lambda model: sparsetune.apply_dsee(model, UPDATE),
}
MADE |= {
    "shrunken, pruned": lambda model: MADE["pruned"](MADE["shrunken"](model)),
    "pruned, updated": lambda model: MADE["updated"](MADE["pruned"](model)),
    "shrunken, updated": lambda model: MADE["updated"](MADE["shrunken"](model)),
    "all": lambda model: MADE["updated"](MADE["shrunken, pruned"](model)),
}
EVERY_MODEL = pytest.mark.parametrize("name", MADE)


def moved(model):
    """As if it had trained: what trains is elsewhere, zeros are where they were."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                step = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter += step * (parameter != 0)
    return model


def read_back(name, folder, plain):
    """By us: a whole model by itself, an update on its base."""
    if "updated" not in name and name != "all":
        return sparsetune.load(folder)
    for part in ("shrunken", "pruned"):
        if part in name or name == "all":
            MADE[part](plain)
    return sparsetune.load(folder, plain).eval()


@EVERY_MODEL
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_every_way_of_the_library_to_save_a_model_gives_it_back(kind, name, tmp_path):
    model, batch = moved(MADE[name](family_model(kind, "sequence"))), family_batch("sequence")
    before = outputs_of(model, batch)
    for number, options in enumerate(
        (
            {},
            {"max_shard_size": "20KB"},
            {"state_dict": model.state_dict()},
            {"state_dict": {n: t.clone() for n, t in model.state_dict().items()}},
            {"safe_serialization": True},
        )
    ):
        folder = tmp_path / str(number)
        model.save_pretrained(folder, **options)
        again = read_back(name, folder, family_model(kind, "sequence"))
        assert torch.equal(outputs_of(again, batch), before), options
        assert zero_counts(again) == zero_counts(model)
    # The library reads it too, or says who does; never with weights drawn anew.
    plain = name == "pruned" or (kind == "llama" and name in ("shrunken", "shrunken, pruned"))
    refused = pytest.raises(ValueError, match=READ_BY_US)
    with contextlib.nullcontext() if plain else refused:
        read = AutoModelForSequenceClassification.from_pretrained(tmp_path / "0")
        assert torch.equal(outputs_of(read, batch), before)


@EVERY_MODEL
def test_the_backbone_alone_is_saved_readably_too(name, tmp_path):
    model, batch = moved(MADE[name](family_model("bert", "sequence"))), family_batch("sequence")
    given = {key: batch[key] for key in ("input_ids", "attention_mask")}
    model.base_model.save_pretrained(tmp_path)
    again = read_back(name, tmp_path, family_model("bert", "sequence").base_model)
    with torch.no_grad():
        assert torch.equal(again(**given)[0], model.base_model(**given)[0])


@EVERY_MODEL
def test_accelerate_saves_and_loads_the_state_of_a_model(name, tmp_path):
    from accelerate import Accelerator

    batch = family_batch("sequence")
    model = moved(MADE[name](family_model("bert", "sequence")))
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model)
    accelerator.save_state(tmp_path / "state")
    accelerator.save_model(prepared, tmp_path / "model")
    before = outputs_of(model, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(outputs_of(model, batch), before)
    accelerator.load_state(tmp_path / "state")
    assert torch.equal(outputs_of(model, batch), before)
    other = MADE[name](family_model("bert", "sequence"))
    other.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"), strict=False)
    assert torch.equal(outputs_of(other.eval(), batch), before)


def test_a_state_dict_of_other_values_is_not_saved_under_the_name_of_the_model(tmp_path):
    model = sparsetune.apply_dsee(tiny_model("bert"), UPDATE)
    state = {name: one.clone() for name, one in model.state_dict().items()}
    state["classifier.bias"] += 1.0
    for given, message in (
        (state, r"state_dict: classifier\.bias: received other values than the model's; needed"),
        ({"model.x": torch.ones(1)}, r"state_dict: received 'model\.x' and others; allowed: the"),
        ({n: t.half() for n, t in state.items()}, "received other values than the model's"),
    ):
        with pytest.raises(ModelError, match=message):
            model.save_pretrained(tmp_path / "folder", state_dict=given)
    assert not (tmp_path / "folder").exists()


def test_a_checkpoint_brings_the_places_of_its_update_to_a_model_that_drew_others(tmp_path):
    def made(seed):
        config = DseeConfig(rank=2, n_sparse=7, init="normal", support="random", seed=seed)
        return sparsetune.apply_dsee(sparsetune.prune(tiny_model("bert"), 0.5), config)

    model, other = moved(made(1)), made(2)
    model.save_pretrained(tmp_path)
    places = [[branch.positions for _, branch in dsee_branches(one)] for one in (model, other)]
    assert not all(torch.equal(*pair) for pair in zip(*places, strict=True))
    # As a Trainer resumes: not strictly.
    read = copy.deepcopy(other).load_state_dict(load_file(tmp_path / "model.safetensors"), False)
    assert read.unexpected_keys == []
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert torch.equal(outputs_of(other, tiny_batch()), outputs_of(model, tiny_batch()))
    dense = sparsetune.apply_dsee(tiny_model("bert"), UPDATE)
    with pytest.raises(ModelError, match="zeros where this one has none; needed: the base model"):
        dense.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)


class Own(bert.BertPreTrainedModel):
    """A class of one's own around a backbone of the library."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = bert.BertModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.classifier(self.bert(input_ids, attention_mask)[1])}


def own():
    torch.manual_seed(0)
    return Own(tiny_config("bert")).eval()


def test_a_class_of_ones_own_is_saved_by_the_library_where_that_reads_it(tmp_path):
    batch, wide = tiny_batch(), tuple(range(40))
    kept = {"neurons": 40, "kept_neurons": ((1, 2, 3),) * LAYERS}
    model = sparsetune.shrink(own(), ticket().model_copy(update=kept))
    model.save_pretrained(tmp_path / "small")
    again = Own.from_pretrained(tmp_path / "small")
    assert torch.equal(outputs_of(again, batch), outputs_of(model, batch))
    with pytest.raises(ModelError, match="architectures: received 'Own'; allowed: a class of tra"):
        sparsetune.load(tmp_path / "small")
    kept = {"neurons": 40, "kept_neurons": ((1, 2, 3), wide)}
    model = sparsetune.shrink(own(), ticket().model_copy(update=kept))
    with pytest.raises(ModelError, match="Own is not one of transformers' own classes"):
        model.save_pretrained(tmp_path / "uneven")
    sparsetune.apply_dsee(model, UPDATE)
    model.save_pretrained(tmp_path / "update")
    plain = sparsetune.shrink(own(), ticket().model_copy(update=kept))
    again = sparsetune.load(tmp_path / "update", plain)
    assert torch.equal(outputs_of(again, batch), outputs_of(model, batch))


@pytest.mark.slow
@EVERY_MODEL
def test_a_trainers_checkpoint_gives_the_model_back_and_is_resumed_from(name, tmp_path):
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments

    given = [family_batch("sequence", seed=n) for n in range(4)]

    class Given(Trainer):
        def get_train_dataloader(self):
            return DataLoader(given, collate_fn=lambda rows: rows[0])

    def trained(resume=None):
        config = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = MADE[name](family_model("bert", "sequence", config=config))
        arguments = TrainingArguments(
            tmp_path / "out", max_steps=4, save_steps=2, report_to=[], use_cpu=True,
            disable_tqdm=True, learning_rate=1e-2,
        )  # fmt: skip
        Given(model, arguments, train_dataset=given).train(resume_from_checkpoint=resume)
        return model.eval()

    whole = trained()
    expected = outputs_of(whole, given[0])
    assert torch.equal(
        outputs_of(trained(str(tmp_path / "out" / "checkpoint-2")), given[0]), expected
    )
    last = tmp_path / "out" / "checkpoint-4"
    again = read_back(name, last, family_model("bert", "sequence"))
    assert torch.equal(outputs_of(again, given[0]), expected)
    assert zero_counts(again) == zero_counts(whole)

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizerFast, GPT2TokenizerFast, RobertaTokenizerFast
from unit.tiny import tiny_model
from unit.tiny_families import family_model

from sparsetune.architectures.loading import (
    check_folder,
    has_language_head,
    load_model,
    load_tokenizer,
)
from sparsetune.config.backbone import HubSource, MirrorSource
from sparsetune.data.sources import fetch_backbone
from sparsetune.errors import ModelError
from sparsetune.records import sha256_of

ROOT = Path(__file__).resolve().parents[3]


def tokenizer_of(architecture):
    special = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "gpt2": ["<|endoftext|>"],
    }[architecture]
    letters = sorted(ByteLevel.alphabet(), key=lambda letter: not letter.islower())
    words = ["a", "b"] if architecture == "bert" else letters[:40]  # fewer than embeddings
    vocabulary = {name: number for number, name in enumerate([*special, *words])}
    if architecture == "bert":
        return BertTokenizerFast(vocab=vocabulary)
    fast = RobertaTokenizerFast if architecture == "roberta" else GPT2TokenizerFast
    return fast(vocab=vocabulary, merges=[])


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    for architecture in ("bert", "roberta", "gpt2"):
        task = "lm" if architecture == "gpt2" else "bare"
        tiny_model(architecture, task=task).save_pretrained(root / architecture)
        tokenizer_of(architecture).save_pretrained(root / architecture)
    return root


@pytest.fixture
def bert(folders, tmp_path):
    return Path(shutil.copytree(folders / "bert", tmp_path / "bert"))


def mirror_of(path, architecture="bert", head=None):
    source = MirrorSource(kind="mirror", path=str(path))
    return SimpleNamespace(id="tiny", architecture=architecture, source=source, head=head)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize(
    ("kind", "labels", "suffix"),
    [
        ("classification", 3, "ForSequenceClassification"),
        ("regression", 1, "ForSequenceClassification"),
        ("span", 1, "ForQuestionAnswering"),
    ],
)
def test_the_same_seed_gives_the_same_head(folders, architecture, kind, labels, suffix):
    def load(seed):
        return load_model(folders / architecture, kind=kind, label_count=labels, seed=seed)

    before = torch.random.get_rng_state()
    one, two, other = load(1), load(1), load(2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert type(one).__name__.endswith(suffix)
    assert not one.training
    first, second, third = (dict(model.named_parameters()) for model in (one, two, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    differing = {name for name in first if not torch.equal(first[name], third[name])}
    assert differing
    stored = load_file(folders / architecture / "model.safetensors")
    assert not any(name.endswith(tuple(stored)) for name in differing if "pooler" not in name)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
def test_loaded_weights_are_those_of_the_checkpoint(folders, architecture):
    model = load_model(folders / architecture, kind="classification", label_count=3, seed=0)
    stored = load_file(folders / architecture / "model.safetensors")
    loaded = model.base_model.state_dict()
    for name, weight in stored.items():
        if "pooler" not in name:
            assert torch.equal(loaded[name.removeprefix("transformer.")], weight)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    assert model.config.pad_token_id is not None


@pytest.mark.parametrize("random_weights", [False, True])
@pytest.mark.parametrize("kind", ["deberta-v2", "modernbert", "gemma2"])
def test_attention_is_the_one_that_the_library_has(kind, random_weights, tmp_path):
    saved = family_model(kind, "language")
    saved.save_pretrained(tmp_path)
    model = load_model(
        tmp_path, kind="classification", label_count=3, seed=0, random_weights=random_weights
    )
    attention = "sdpa" if kind == "modernbert" else "eager"
    assert model.config._attn_implementation == attention
    stored, own = (one.base_model.state_dict() for one in (saved, model))
    same = [torch.equal(own[name], weight) for name, weight in stored.items() if weight.dim() == 2]
    assert random_weights != all(same)
    assert model.num_labels == 3


def test_regression_and_classification_set_the_problem_type(folders):
    one = load_model(folders / "bert", kind="regression", label_count=1, seed=0)
    assert (one.config.problem_type, one.config.num_labels) == ("regression", 1)
    two = load_model(folders / "bert", kind="classification", label_count=4, seed=0)
    assert two.config.problem_type == "single_label_classification"
    assert two.classifier.out_features == 4


def test_generation_ties_the_head_and_needs_gpt2(folders):
    model = load_model(folders / "gpt2", kind="generation", label_count=1, seed=0)
    assert model.lm_head.weight is model.transformer.wte.weight
    with pytest.raises(ModelError, match="bert has no generation head; allowed: classification"):
        load_model(folders / "bert", kind="generation", label_count=1, seed=0)


def test_random_weights_ignore_the_checkpoint_and_follow_the_seed(folders):
    def embeddings(seed):
        model = load_model(
            folders / "bert", kind="span", label_count=1, seed=seed, random_weights=True
        )
        assert model.config._attn_implementation == "sdpa"
        return model.base_model.embeddings.word_embeddings.weight

    stored = load_file(folders / "bert" / "model.safetensors")
    assert torch.equal(embeddings(1), embeddings(1))
    assert not torch.equal(embeddings(1), embeddings(2))
    assert not torch.equal(embeddings(1), stored["embeddings.word_embeddings.weight"])


def test_loading_says_nothing_and_restores_the_log_level(folders, capfd):
    level = logging.getLogger("transformers").level
    load_model(folders / "bert", kind="classification", label_count=3, seed=0)
    assert logging.getLogger("transformers").level == level
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "labels"), [("classification", 0), ("regression", 2)])
def test_label_counts_that_do_not_fit_are_refused(folders, kind, labels):
    with pytest.raises(ModelError, match=f"label_count: received {labels}, need"):
        load_model(folders / "bert", kind=kind, label_count=labels, seed=0)


def test_tokenizers_load_with_a_pad_token(folders):
    assert load_tokenizer(folders / "bert").pad_token == "[PAD]"
    assert load_tokenizer(folders / "roberta").pad_token == "<pad>"
    gpt2 = load_tokenizer(folders / "gpt2")
    assert gpt2.pad_token_id == gpt2.eos_token_id == 0


def test_mirror_folder_is_copied_without_other_files(bert, tmp_path):
    (bert / "pytorch_model.bin").write_bytes(b"never copied")
    (bert / "README.md").write_text("neither")
    measured = fetch_backbone(mirror_of(bert), tmp_path / "out", lock_file=tmp_path / "lock")
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert measured["files"] == {name: sha256_of(bert / name) for name in names}
    stored = load_file(bert / "model.safetensors")
    assert measured["parameters_stored"] == sum(weight.numel() for weight in stored.values())
    assert measured["revision"] is None


def split_in_two(folder):
    stored = load_file(folder / "model.safetensors")
    names = sorted(stored)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: stored[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_sharded_checkpoints_are_checked_copied_and_loaded(bert, folders, tmp_path):
    whole = check_folder(bert, "bert")
    split_in_two(bert)
    measured = fetch_backbone(mirror_of(bert), tmp_path / "out", lock_file=tmp_path / "lock")
    assert measured["parameters_stored"] == whole
    one = load_model(tmp_path / "out", kind="span", label_count=1, seed=0).state_dict()
    two = load_model(folders / "bert", kind="span", label_count=1, seed=0).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in two)
    (bert / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors: no such file"):
        check_folder(bert, "bert")


@pytest.mark.parametrize("name", ["../model.safetensors", "/tmp/a.safetensors", "model.bin"])
def test_a_weight_index_cannot_point_elsewhere(bert, name):
    (bert / "model.safetensors").unlink()
    index = bert / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"weight_map: received '.*', need a \*\.safetensors name"):
        check_folder(bert, "bert")
    index.write_text("{}")
    with pytest.raises(ModelError, match="weight_map is missing"):
        check_folder(bert, "bert")


def test_pickle_checkpoints_are_refused_by_name(bert, tmp_path):
    (bert / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        check_folder(bert, "bert")
    (bert / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle checkpoint"):
        fetch_backbone(mirror_of(bert), tmp_path / "out", lock_file=tmp_path / "lock")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle checkpoint"):
        load_model(bert, kind="span", label_count=1, seed=0)
    assert not (tmp_path / "out").exists()


def test_unusable_folders_are_named(bert, tmp_path):
    with pytest.raises(ModelError, match="nowhere: no such backbone folder"):
        check_folder(tmp_path / "nowhere", "bert")
    with pytest.raises(ModelError, match=r"config\.json: model_type: received 'bert', need 'gpt2'"):
        check_folder(bert, "gpt2")
    weights = (bert / "model.safetensors").read_bytes()
    (bert / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(ModelError, match=r"model\.safetensors: not a readable safetensors file"):
        check_folder(bert, "bert")
    with pytest.raises(ModelError, match="bert: cannot be loaded: "):
        load_model(bert, kind="span", label_count=1, seed=0)
    (bert / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="bert: no tokenizer; need"):
        check_folder(bert, "bert")
    (bert / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json: model_type is missing"):
        check_folder(bert, "bert")


def test_a_damaged_tokenizer_is_named(bert):
    (bert / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="bert: no readable tokenizer: "):
        load_tokenizer(bert)


def test_a_checkpoint_that_lacks_backbone_weights_is_refused(bert):
    stored = load_file(bert / "model.safetensors")
    stored.pop("encoder.layer.1.output.dense.weight")
    save_file(stored, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of the backbone, first bert\.encoder"):
        load_model(bert, kind="classification", label_count=2, seed=0)


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_fine_tuned_backbone_says_what_becomes_of_its_head(folders, tmp_path, shard):
    tuned = load_model(folders / "bert", kind="classification", label_count=3, seed=0)
    tuned.save_pretrained(tmp_path / "tuned", max_shard_size=shard)
    tokenizer_of("bert").save_pretrained(tmp_path / "tuned")
    lock = tmp_path / "lock.yaml"
    with pytest.raises(ModelError, match=r"brings a task head \(classifier\.bias, shape \(3,\)\)"):
        fetch_backbone(mirror_of(tmp_path / "tuned"), tmp_path / "out", lock_file=lock)
    for head in ("keep", "fresh"):
        place = mirror_of(tmp_path / "tuned", head=head)
        fetch_backbone(place, tmp_path / head, lock_file=lock)
    kept = load_model(tmp_path / "keep", kind="classification", label_count=3, seed=1)
    assert torch.equal(kept.classifier.weight, tuned.classifier.weight)
    # As if the checkpoint had never had a head: the backbone's weights, and the seed's head.
    fresh = load_model(tmp_path / "fresh", kind="classification", label_count=2, seed=1)
    bare = load_model(folders / "bert", kind="classification", label_count=2, seed=1)
    assert torch.equal(fresh.classifier.weight, bare.classifier.weight)
    for name, tensor in bare.bert.encoder.state_dict().items():
        assert torch.equal(fresh.bert.encoder.state_dict()[name], tensor)


def test_the_head_of_another_task_is_told_in_our_words(folders, tmp_path):
    tuned = load_model(folders / "bert", kind="classification", label_count=3, seed=0)
    tuned.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "tuned", kind="classification", label_count=2, seed=0)
    told = str(caught.value)
    assert "classifier.bias: received shape (3,); allowed: (2,); the checkpoint brings the" in told
    assert "\n" not in told


def test_offline_hub_backbone_names_the_mirror_option(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from types import SimpleNamespace as N\n"
        "from sparsetune.data.sources import fetch_backbone\n"
        "from sparsetune.config.backbone import HubSource\n"
        "name = 'google-bert/bert-base-uncased'\n"
        "source = HubSource(kind='hub', repository=name, revision='main')\n"
        "backbone = N(id='bert-base', architecture='bert', source=source)\n"
        "fetch_backbone(backbone, Path('out'), lock_file=Path('config/lock.yaml'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    message = done.stderr.strip().splitlines()[-1]
    assert "no network for hub source google-bert/bert-base-uncased" in message
    assert "PATH/backbones/bert-base/" in message


def test_hub_backbone_is_taken_at_the_pinned_commit_and_without_pickles(
    folders, tmp_path, monkeypatch
):
    commit, asked = "ab" * 20, {}

    def snapshot(self, commit):
        asked.update(repository=self.repository, kind=self.kind, revision=commit)
        asked.update(patterns=self.patterns)
        return folders / "gpt2"

    monkeypatch.setattr("sparsetune.data.hub.HubFiles.snapshot", snapshot)
    source = HubSource(kind="hub", repository="openai-community/gpt2", revision=commit)
    backbone = SimpleNamespace(id="gpt2", architecture="gpt2", source=source)
    measured = fetch_backbone(backbone, tmp_path / "out", lock_file=tmp_path / "lock")
    assert measured["revision"] == commit == asked["revision"]
    assert (asked["repository"], asked["kind"]) == ("openai-community/gpt2", "model")
    wanted = asked["patterns"]
    assert "model*.safetensors" in wanted
    assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in wanted[:4])
    backbone.architecture = "bert"
    with pytest.raises(ModelError, match=r"openai-community/gpt2@abababababab/config\.json: model"):
        fetch_backbone(backbone, tmp_path / "out", lock_file=tmp_path / "lock")


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_masked_language_model_takes_its_head_from_the_checkpoint_if_it_is_there(
    folders, architecture, tmp_path
):
    def load(folder, seed):
        model = load_model(folder, kind="masked_lm", label_count=1, seed=seed)
        return dict(model.named_parameters()), model

    bare = folders / architecture
    first, model = load(bare, 1)
    second, _ = load(bare, 2)
    assert not has_language_head(bare)
    # Drawn from the seed: the head alone, since its output matrix is the embedding.
    differing = {name for name in first if not torch.equal(first[name], second[name])}
    assert differing
    assert all(name.startswith(("cls.predictions.", "lm_head.")) for name in differing)
    model.save_pretrained(tmp_path)
    assert has_language_head(tmp_path)
    again, _ = load(tmp_path, 2)
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_gpt2_has_no_masked_language_model(folders):
    with pytest.raises(ModelError, match=r"gpt2 has no masked_lm head; allowed: classification"):
        load_model(folders / "gpt2", kind="masked_lm", label_count=1, seed=0)

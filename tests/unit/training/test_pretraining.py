import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from unit.tiny import HEADS, HIDDEN, LAYERS, WIDTH
from unit.training.tiny_jobs import Interrupted
from unit.training.tiny_pretraining import EARLY, PHASE, run, tiny_backbone

from sparsetune.data.corpus import encode_corpus
from sparsetune.errors import ConfigError
from sparsetune.randomness import derive
from sparsetune.records import read_json
from sparsetune.training import pretraining as module
from sparsetune.training.checkpoints import Checkpoint
from sparsetune.training.initial_models import new_model, start_embeddings
from sparsetune.training.seeding import seed_everything

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    root = tmp_path_factory.mktemp("dense")
    return root / "out", run(root, tiny_backbone(early=False))


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    root = tmp_path_factory.mktemp("early")
    return root / "out", run(root, tiny_backbone())


def start_of(backbone, folder):
    """The random weights that a backbone begins from, made anew from its folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seed_everything(derive(backbone.source.seed, "weights"))
    model = new_model(backbone.architecture, backbone.pretraining.shape, tokenizer)
    size = backbone.pretraining.phases[0].block_tokens
    blocks = list(encode_corpus(folder / "corpus.txt", tokenizer, block_tokens=size))
    start_embeddings(model, blocks, tokenizer)
    return model


def test_phases_have_their_own_steps_lengths_and_batches(dense):
    folder, measured = dense
    short, long = measured["pretraining"]["phases"]
    assert (short["steps"], long["steps"]) == (6, 5)
    # Six steps of two batches of four; five of two batches of two.
    assert (short["examples_seen"], long["examples_seen"]) == (48, 20)
    assert short["tokens_seen"] <= 48 * 12
    assert long["tokens_seen"] > 20 * 12
    curve = read_json(folder / "curve.json")
    assert [point["step"] for point in curve] == list(range(1, 12))
    assert [point["phase"] for point in curve] == ["short"] * 6 + ["long"] * 5
    # Warm-up is a quarter of each phase's own steps: 2 of 6, and 1 of 5.
    peaks = [point["step"] for point in curve if point["learning_rate"] == PHASE["learning_rate"]]
    assert peaks == [3, 8]


def test_early_pretraining_does_its_share_of_each_phase_on_a_smaller_model(early, dense):
    folder, measured = early
    told = measured["pretraining"]
    assert [phase["steps"] for phase in told["phases"]] == [5, 4]  # 80 % of 6 and of 5
    assert told["search"]["steps"] == EARLY["stop_steps"]
    assert told["search"]["kept_heads"] == [3] * LAYERS  # 1 of 4 removed in each layer
    assert sum(told["search"]["kept_neurons"]) == 2 * WIDTH - 24  # 30 % of 80 over all layers
    assert measured["parameters"] < dense[1]["parameters"]
    saved = read_json(folder / "config.json")
    assert saved["heads_by_layer"] == told["search"]["kept_heads"]
    assert saved["neurons_by_layer"] == told["search"]["kept_neurons"]
    with np.load(folder / "gates.npz", allow_pickle=False) as gates:
        assert gates["heads"].shape == (3, LAYERS, HEADS)
    assert told["initial_weights_sha256"] == dense[1]["pretraining"]["initial_weights_sha256"]
    assert dense[1]["pretraining"]["macs_total"] == told["macs_dense_plan"]
    assert told["macs_total"] == told["macs_search"] + told["macs_training"]
    assert told["macs_training"] < 0.8 * told["macs_dense_plan"]


def test_training_begins_from_the_very_weights_that_the_search_began_from(
    tmp_path, monkeypatch, dense
):
    seen = {}

    def stop(model, _job, **_):
        seen["model"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        raise Interrupted

    monkeypatch.setattr(module, "run_phase", stop)
    backbone = tiny_backbone()
    with pytest.raises(Interrupted):
        run(tmp_path, backbone)
    (work,) = (tmp_path / "work").iterdir()
    ticket = json.loads((work / "ticket.json").read_text())
    start = dict(start_of(backbone, dense[0]).named_parameters())
    assert seen["model"].keys() == start.keys()
    for name, tensor in seen["model"].items():
        assert torch.equal(tensor, part_of(start[name].detach(), name, ticket)), name


def part_of(weight, name, ticket):
    """What a ticket keeps of one parameter of a BERT, sliced by hand."""
    if ".layer." not in name:
        return weight
    layer, size = int(name.split(".layer.")[1].split(".")[0]), HIDDEN // HEADS
    heads = [h * size + i for h in ticket["kept_heads"][layer] for i in range(size)]
    neurons = ticket["kept_neurons"][layer]
    if ".attention.self." in name:
        return weight[heads]
    if name.endswith("attention.output.dense.weight"):
        return weight[:, heads]
    if ".intermediate." in name:
        return weight[neurons]
    return weight[:, neurons] if name.endswith(".output.dense.weight") else weight


def outcome(folder):
    names = ("model.safetensors", "config.json", "ticket.json", "curve.json")
    found = {name: (folder / name).read_bytes() for name in names}
    with np.load(folder / "gates.npz", allow_pickle=False) as gates:
        return found, {name: gates[name].tolist() for name in gates.files}


@pytest.mark.parametrize(("phase", "step"), [("search", 2), ("short", 3), ("long", 2)])
def test_killed_anywhere_it_resumes_and_ends_bit_identical(
    tmp_path, monkeypatch, early, phase, step
):
    saved, part = Checkpoint.write, {"search": "search", "short": "phase-0", "long": "phase-1"}

    def killed(checkpoint, folder):
        if folder.name == part[phase] and checkpoint.step == step:
            raise Interrupted
        saved(checkpoint, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", killed)
        with pytest.raises(Interrupted):
            run(tmp_path, tiny_backbone(), checkpoint_seconds=0)
    assert not (tmp_path / "out").exists()
    measured = run(tmp_path, tiny_backbone())
    told = measured["pretraining"]
    resumed = {one["name"]: one["resumed_at_step"] for one in (told["search"], *told["phases"])}
    assert resumed[phase] == step - 1
    assert outcome(tmp_path / "out") == outcome(early[0])
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("moment", ["copy_files", "write_json", "_discard"])
def test_killed_while_the_folder_is_handed_over_it_is_handed_over_again(
    tmp_path, monkeypatch, early, moment
):
    original = getattr(module, moment)

    def killed(path, *arguments):
        if moment != "write_json" or path.name == "curve.json":
            raise Interrupted
        return original(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, killed)
        with pytest.raises(Interrupted):
            run(tmp_path, tiny_backbone())
    run(tmp_path, tiny_backbone())
    assert outcome(tmp_path / "out") == outcome(early[0])


def test_local_text_is_read_with_a_lent_tokenizer_and_belongs_to_the_checkpoints(tmp_path, dense):
    text = tmp_path / "text.txt"
    shutil.copy(dense[0] / "corpus.txt", text)
    lent = {"tokenizer": {"kind": "published", "backbone": "lender"},
            "tokenizer_source": {"kind": "mirror", "path": str(dense[0])}}  # fmt: skip
    source = {"kind": "text", "seed": 3, "paths": [str(text)], "documents": 30}
    backbone = tiny_backbone(early=False, source=source, **lent)
    measured = run(tmp_path / "one", backbone, inputs={str(text): "a"})
    assert measured["corpus"]["documents"] == 30
    assert measured["vocabulary_tokens"] == dense[1]["vocabulary_tokens"]
    assert not (tmp_path / "one" / "out" / "corpus.txt").exists()
    ids = [AutoTokenizer.from_pretrained(folder)("the cat")["input_ids"]
           for folder in (dense[0], tmp_path / "one" / "out")]  # fmt: skip
    assert ids[0] == ids[1]


def test_a_changed_text_does_not_take_up_the_checkpoints_of_the_old_one(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_phase", stop)
        names = []
        for digest in "ab":
            with pytest.raises(Interrupted):
                run(tmp_path, tiny_backbone(early=False), inputs={"text": digest})
            names.append([path.name for path in (tmp_path / "work").iterdir()])
    assert [len(found) for found in names] == [1, 1]
    assert names[0] != names[1]


def test_another_seed_starts_from_other_weights(tmp_path, early):
    source = {"kind": "world", "seed": 4, "documents": 40}
    measured = run(tmp_path, tiny_backbone(source=source))
    told = measured["pretraining"]["initial_weights_sha256"]
    assert told != early[1]["pretraining"]["initial_weights_sha256"]


@pytest.mark.parametrize("architecture", ["roberta", "gpt2"])
def test_other_architectures_lose_heads_and_neurons_too(tmp_path, architecture):
    measured = run(tmp_path, tiny_backbone(architecture, optimizer="lamb", blocks="stream"))
    stored = sum(t.numel() for t in load_file(tmp_path / "out" / "model.safetensors").values())
    assert stored == measured["parameters"]
    assert read_json(tmp_path / "out" / "config.json")["heads_by_layer"] == [3] * LAYERS


def test_a_search_longer_than_the_first_phase_is_refused(tmp_path):
    backbone = tiny_backbone()
    early = backbone.pretraining.early.model_copy(update={"stop_steps": 7})
    recipe = backbone.pretraining.model_copy(update={"early": early})
    message = "backbone tiny: pretraining.early.stop_steps: received 7; allowed: up to the first "
    message += "phase's 6 steps"
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, backbone.model_copy(update={"pretraining": recipe}))

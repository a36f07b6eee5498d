import gc
import json
import os
import socket
import subprocess
import sys

import pytest

from sparsetune import __version__
from sparsetune.cli import main
from sparsetune.records import STAGES

MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
MRPC_ROW = "1\t10\t11\tOne sentence .\tAnother sentence .\n"
GOOD_DATA = (MRPC_HEADER + MRPC_ROW).encode()
GOOD_CONFIG = json.dumps({"model_type": "bert"}).encode()
# An empty safetensors file: the header's length, and an empty header.
GOOD_WEIGHTS = (2).to_bytes(8, "little") + b"{}"
GOOD_BACKBONE = {
    "config.json": GOOD_CONFIG, "vocab.txt": b"[PAD]\n", "model.safetensors": GOOD_WEIGHTS,
}  # fmt: skip
RUN = "mini-bert/mini-rte"


@pytest.fixture(autouse=True)
def _collecting_again():
    yield
    gc.enable()


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused; gives its one line."""

    def run(*argv):
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as stop:  # argparse: a wrong option
            code = stop.code
        told = capsys.readouterr()
        assert code == 2, told
        assert told.out == ""
        lines = told.err.splitlines()
        assert len(lines) == 1, told.err
        assert lines[0].startswith("sparsetune")
        return lines[0]

    return run


def check(refused, catalogue):
    return refused("check", "--config", catalogue / "config.yaml", "--catalogue", catalogue)


def files_under(folder):
    return list(folder.rglob("*")) if folder.exists() else []


SUITE, METHOD, TICKET, TASK = (
    "config.yaml", "methods/dsee.yaml", "tickets/earlybert.yaml", "tasks/mini-sst2.yaml",
)  # fmt: skip
# Case -> file, text in it, what it becomes, what the one line must say.
BAD_CATALOGUE = {
    "unknown backbone": (SUITE, "[mini-bert]", "[mini-brt]", ["'mini-brt'", "mean 'mini-bert'"]),
    "unknown task": (SUITE, "mini-cola,", "mini-coal,", ["'mini-coal'", "mean 'mini-cola'"]),
    "unknown method": (SUITE, "[full,", "[ful,", ["'ful'", "mean 'full'", "known: "]),
    "unknown support": (METHOD, "grebsmo-64", "grebsmo-46", ["'grebsmo-46'", "'grebsmo-64'"]),
    "unknown ticket": ("methods/earlybert.yaml", "ticket: earlybert}", "ticket: earlybird}",
                       ["'earlybird'", "mean 'earlybert'"]),
    "misspelt suite key": (SUITE, "seeds:", "sedes:", ["config.yaml", "'sedes'", "'seeds'"]),
    "misspelt method key": (METHOD, "rank: 16", "ranc: 16", [METHOD, "'ranc'", "mean 'rank'"]),
    "misspelt phase key": (METHOD, "batch_size:", "batchsize:",
                           [METHOD, "phases.0", "'batchsize'", "mean 'batch_size'"]),
    "misspelt value": (METHOD, "kind: dsee", "kind: dse", [METHOD, "'dse'", "mean 'dsee'"]),
    "wrong type": (METHOD, "rank: 16", "rank: sixteen", [METHOD, "update.rank", "'sixteen'",
                                                         "integer"]),
    "true for a number": (METHOD, "rank: 16", "rank: true", ["update.rank", "True", "integer"]),
    "negative rank": (METHOD, "rank: 16", "rank: -16", [METHOD, "update.rank", "-16", ">= 1"]),
    "ratio of one": (TICKET, "neuron_sparsity: 0.4", "neuron_sparsity: 1.0",
                     [TICKET, "neuron_sparsity", "1.0", "< 1"]),
    "not a number": (METHOD, "learning_rate: 5e-4", "learning_rate: .nan", [METHOD, "line ",
                                                                            ".nan", "finite"]),
    "seed not whole": (SUITE, "seeds: [1]", "seeds: [1.5]", ["seeds.0", "1.5", "integer"]),
    "negative seed": (SUITE, "seeds: [1]", "seeds: [-1]", ["seeds.0", "-1", ">= 0"]),
    "slash in an id": (SUITE, "[mini-bert]", "[a/b]", ["runs.0.backbones.0", "'a/b'", "matching"]),
    "dots in an id": (SUITE, "[mini-bert]", "['../x']", ["runs.0.backbones.0", "'../x'"]),
    "slash in the suite": (SUITE, "suite: mini", "suite: ../x", ["suite", "'../x'", "matching"]),
    "not YAML": (SUITE, "seeds: [1]", "seeds: [1", ["config.yaml", "line "]),
    "key twice": (SUITE, "device: auto", "device: auto\ndevice: cpu", ["line 6", "'device' twice"]),
    "not UTF-8": (SUITE, "device: auto", b"device: \xff", ["config.yaml", "not UTF-8 at byte"]),
    "missing key": (SUITE, "device: auto\n", "", ["config.yaml", "missing key 'device'"]),
    "no seeds": (SUITE, "seeds: [1]", "seeds: []", ["config.yaml", "seeds", "[]"]),
    "no backbones": (SUITE, "[mini-bert]", "[]", ["runs.0.backbones", "[]"]),
    "unknown phase": (METHOD, "phases: {train: {epochs", "phases: {trian: {epochs",
                      [METHOD, "'trian'", "mean 'train'", "phases: train"]),
    "unknown place": (METHOD, "tasks: [sst2]", "tasks: [sst3]", [METHOD, "'sst3'", "'sst2'"]),
    "headline that is no percentage": ("tasks/mini-e2e.yaml", "[bleu_fraction, ter_fraction,",
                                       "[ter_fraction, bleu_fraction,",
                                       ["mini-e2e.yaml", "metrics", "ter_fraction", "percent"]),
    "backbone without the head": (SUITE, "[mini-gpt2]", "[mini-bert]",
                                  ["mini-e2e.yaml", "generation", "mini-bert", "allowed: gpt2"]),
    "no prune phase": ("methods/dsee-unstructured.yaml", "  - {name: prune, kind: prune}\n", "",
                       ["dsee-unstructured.yaml", "at least one prune phase"]),
    "prune without mask": (METHOD, "overrides:", "  - {name: prune, kind: prune}\noverrides:",
                           [METHOD, "phases", "others none"]),
    "phase named twice": ("methods/dsee-unstructured.yaml", "  - {name: prune, kind: prune}\n",
                          "  - {name: prune, kind: prune}\n" * 2,
                          ["phases: names must differ", "train, prune, prune, recover"]),
    "labels missing": (TASK, 'labels: ["0", "1"]\n', "", [TASK, "labels: needed by kind"]),
    "unknown metric": (TASK, "[accuracy_fraction]", "[acuracy]", [TASK, "metrics.0", "'acuracy'"]),
    "search missing": (TICKET, "origin: search", "origin: random",
                       [TICKET, "unknown key 'search'"]),
    "two lengths": (TICKET, "  stop_epochs: 0.2", "  stop_steps: 400\n  stop_epochs: 0.2",
                    [TICKET, "either stop_epochs or stop_steps"]),
    "settled without a cap": (TICKET, "stop: fixed", "stop: settled",
                              [TICKET, "search.cap_epochs: needed by stop settled"]),
    "unknown stop": (TICKET, "stop: fixed", "stop: setled", [TICKET, "'setled'", "mean 'settled'"]),
    "objective without its share": (TICKET, "objective: task", "objective: mlm",
                                    [TICKET, "search.masked_fraction: needed by objective mlm"]),
    "scope of heads": (TICKET, "head_scope: layer", "head_scope: model",
                       [TICKET, "head_scope", "'model'", "global, layer"]),
    "multiple of none": (TICKET, "head_scope: layer", "head_scope: layer\nneuron_multiple: 0",
                         [TICKET, "neuron_multiple", "0", ">= 1"]),
    "sparsity missing": (TICKET, "neuron_sparsity: 0.4", "#",
                         [TICKET, "missing key 'neuron_sparsity'"]),
    "layers of a search": (TICKET, "head_scope: layer", "layer_sparsity: 0.5",
                           [TICKET, "unknown key 'layer_sparsity'; allowed: "]),
    "settings missing": ("supports/grebsmo-64.yaml", "rounds: 100", "#", ["missing key 'rounds'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CATALOGUE)
def test_bad_catalogue_is_refused_in_one_line(refused, catalogue, case):
    name, old, new, needles = BAD_CATALOGUE[case]
    path = catalogue / name
    content, old = path.read_bytes(), old.encode()
    assert old in content
    path.write_bytes(content.replace(old, new if isinstance(new, bytes) else new.encode(), 1))
    told = check(refused, catalogue)
    assert [needle for needle in needles if needle not in told] == [], told


def test_generated_task_needs_its_prefix_and_no_other_task_may_have_it(refused, catalogue):
    (catalogue / TASK).rename(catalogue / "tasks" / "sst3.yaml")
    told = refused("dataset", "--task", "sst3", "--output", "x", "--catalogue", catalogue)
    assert "sst3.yaml" in told
    assert "'mini-'" in told
    (catalogue / "tasks" / "mrpc.yaml").rename(catalogue / "tasks" / "mini-mrpc.yaml")
    told = refused("dataset", "--task", "mini-mrpc", "--output", "x", "--catalogue", catalogue)
    assert "mini-mrpc.yaml" in told


# Case -> files of the mirror, what the one line must say.
BAD_DATA = {
    "no folder": (None, ["datasets/mrpc", "no such folder"]),
    "no file": ({"train.tsv": GOOD_DATA}, ["dev.tsv", "no such file", "holds: train.tsv"]),
    "cut row": ({"train.tsv": GOOD_DATA + b"1\t2\n", "dev.tsv": GOOD_DATA},
                ["datasets/mrpc/train.tsv", "row 3", "2", "5"]),
    "foreign label": ({"train.tsv": GOOD_DATA, "dev.tsv": GOOD_DATA + b"7" + MRPC_ROW[1:].encode()},
                      ["datasets/mrpc/dev.tsv", "row 3", "Quality", "'7'", "0, 1"]),
    "not UTF-8": ({"train.tsv": GOOD_DATA + b"\xff", "dev.tsv": GOOD_DATA},
                  ["datasets/mrpc/train.tsv", "row 3", "0xff", "UTF-8"]),
    "empty": ({"train.tsv": b"", "dev.tsv": GOOD_DATA}, ["datasets/mrpc/train.tsv", "empty"]),
    "only a header": ({"train.tsv": MRPC_HEADER.encode(), "dev.tsv": GOOD_DATA},
                      ["datasets/mrpc/train.tsv"]),
}  # fmt: skip


def mirror_of(tmp_path, room, files):
    if files is not None:
        folder = tmp_path / "mirror" / room
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return tmp_path / "mirror"


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_in_one_line_and_leaves_nothing(refused, catalogue, tmp_path, case):
    files, needles = BAD_DATA[case]
    mirror = mirror_of(tmp_path, "datasets/mrpc", files)
    told = refused(
        "dataset", "--task", "mrpc", "--mirror", mirror, "--output", tmp_path / "out" / "mrpc",
        "--catalogue", catalogue,
    )  # fmt: skip
    assert [needle for needle in needles if needle not in told] == [], told
    assert files_under(tmp_path / "out") == []


def test_older_good_copy_survives_a_refused_one(refused, catalogue, tmp_path):
    mirror = mirror_of(tmp_path, "datasets/mrpc", {"train.tsv": GOOD_DATA, "dev.tsv": GOOD_DATA})
    argv = ["dataset", "--task", "mrpc", "--mirror", mirror, "--output", tmp_path / "out" / "mrpc",
            "--catalogue", catalogue]  # fmt: skip
    assert main([str(argument) for argument in argv]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "mrpc").iterdir()}
    assert {path.name for path in before} == {"train.parquet", "evaluation.parquet", "record.json"}
    (mirror / "datasets" / "mrpc" / "dev.tsv").write_bytes(b"")
    assert "dev.tsv" in refused(*argv)
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "mrpc").iterdir()} == before
    assert len(list((tmp_path / "out").iterdir())) == 1


def without(*names, **more):
    return {name: GOOD_BACKBONE[name] for name in GOOD_BACKBONE if name not in names} | more


BAD_BACKBONE = {
    "no folder": (None, ["backbones/minilm", "no such backbone folder"]),
    "no weights": (without("model.safetensors"), ["no model.safetensors"]),
    "pickle only": (without("model.safetensors", **{"pytorch_model.bin": b"x"}),
                    ["pytorch_model.bin", "pickle", "need model.safetensors"]),
    "no tokenizer": (without("vocab.txt"), ["backbones/minilm", "no tokenizer", "vocab.txt"]),
    "other architecture": (without(**{"config.json": b'{"model_type": "gpt2"}'}),
                           ["config.json", "model_type", "'gpt2'", "'bert'"]),
    "no configuration": (without("config.json"), ["config.json", "no such"]),
    "damaged configuration": (without(**{"config.json": b"{"}), ["config.json", "not a readable"]),
    "damaged weights": (without(**{"model.safetensors": b"\xff" * 20}),
                        ["model.safetensors", "not a readable safetensors file"]),
    "index that leads out": (
        without("model.safetensors", **{"model.safetensors.index.json":
                                        b'{"weight_map": {"a": "../x.safetensors"}}'}),
        ["index.json", "'../x.safetensors'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BACKBONE)
def test_bad_backbone_is_refused_in_one_line_and_leaves_nothing(refused, catalogue, tmp_path, case):
    files, needles = BAD_BACKBONE[case]
    mirror = mirror_of(tmp_path, "backbones/minilm", files)
    told = refused(
        "backbone", "--backbone", "minilm", "--mirror", mirror, "--catalogue", catalogue,
        "--output", tmp_path / "out" / "minilm", "--checkpoints", tmp_path / "checkpoints",
    )  # fmt: skip
    assert [needle for needle in needles if needle not in told] == [], told
    assert files_under(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("stage", "thing", "room"),
    [("dataset", ("--task", "mrpc"), "PATH/datasets/mrpc/"),
     ("backbone", ("--backbone", "minilm", "--checkpoints", "c"), "PATH/backbones/minilm/")],
)  # fmt: skip
def test_hub_without_network_tells_how_to_use_a_mirror(
    refused, catalogue, tmp_path, monkeypatch, stage, thing, room
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    out = tmp_path / "out" / "it"
    told = refused(stage, *thing, "--output", out, "--catalogue", catalogue)
    assert "no network for hub source" in told
    assert "--config mirror=PATH" in told
    assert room in told
    assert files_under(tmp_path / "out") == []
    assert not (catalogue / "revisions.lock.yaml").exists()


TUNE = ("--dataset-dir", "d", "--backbone-dir", "b", "--checkpoints", "c", "--results", "r")
# Case -> arguments, what the one line must say. OUT stands for the output folder.
BAD_OPTIONS = {
    "no command": ([], ["COMMAND"]),
    "unknown command": (["tun"], ["'tun'", "tune"]),
    "option missing": (["dataset", "--output", "OUT"], ["--task"]),
    "device": (["backbone", "--backbone", "minilm", "--output", "OUT", "--checkpoints", "c",
                "--device", "gpu"], ["--device", "'gpu'", "cuda"]),
    "seed": (["ticket", "--seed", "one"], ["--seed", "'one'", "whole number >= 0"]),
    "negative limit": (["cost", "--train-examples", "-5"], ["--train-examples", "'-5'", ">= 1"]),
    "no threads": (["tune", "--threads", "0"], ["--threads", "'0'", ">= 1"]),
    "no job on a GPU": (["submit", "--gpu-jobs", "0"], ["--gpu-jobs", "'0'", ">= 1"]),
    "digest": (["dataset", "--task", "mini-sst2", "--digest", "0" * 16, "--output", "OUT"],
               ["dataset", "0" * 16, "edited in between"]),
    "run": (["tune", "--run", "a/b/c", "--output", "OUT", *TUNE],
            ["--run", "'a/b/c'", "BACKBONE/TASK/METHOD/seed-N"]),
    "run with dots": (["tune", "--run", "../x/full/seed-1", "--output", "OUT", *TUNE],
                      ["'..'", "lower-case"]),
    "ticket missing": (["tune", "--run", f"{RUN}/earlybert/seed-1", "--output", "OUT", *TUNE],
                       ["--ticket-file", "'earlybert'", "needs it", "None"]),
    "ticket not wanted": (["tune", "--run", f"{RUN}/full/seed-1", "--ticket-file", "t.json",
                           "--output", "OUT", *TUNE],
                          ["--ticket-file", "'full'", "does not take it", "t.json"]),
    "support missing": (["tune", "--run", f"{RUN}/dsee/seed-1", "--output", "OUT", *TUNE],
                        ["--support-file", "'dsee'", "needs it"]),
    "group": (["tables", "--config", "config/config.yaml", "--results", "r", "--output", "OUT",
               "--group", "mini-bert/mnli"], ["--group", "'mini-bert/mnli'", "mini-bert/mini-rte"]),
    "no table yet": (["show", "--results", "OUT"], ["headline.md", "run snakemake first"]),
    "suite is a folder": (["check", "--config", "config"], ["config: cannot be read"]),
    "suite is a list": (["check", "--config", "[1]"], ["--config", "[1]", "a mapping"]),
    "suite is no file": (["check", "--config", "no.yaml"], ["no.yaml: no such file"]),
    "suite is cut": (["check", "--config", '{"suite": "mini", ' * 20], ["cannot be read"]),
    "catalogue": (["check", "--config", "config/config.yaml", "--catalogue", "no"],
                  ["no/backbones", "'mini-bert'", "known: none"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_option_is_refused_in_one_line_and_leaves_nothing(
    refused, repository, tmp_path, monkeypatch, case
):
    monkeypatch.chdir(repository)
    argv, needles = BAD_OPTIONS[case]
    told = refused(*(tmp_path / "out" / "it" if word == "OUT" else word for word in argv))
    assert [needle for needle in needles if needle not in told] == [], told
    assert files_under(tmp_path) == []


def test_debug_shows_the_exception_itself(catalogue):
    from sparsetune.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["check", "--config", "no.yaml", "--catalogue", str(catalogue), "--debug"])


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("config", 74),
        ("minilm", 18),
        ("minilm-earlybert", 12),
        ("e2e", 3),
        ("dsee", 61),
        ("earlybert-ablations", 56),
        ("earlybert-seeds", 100),
        ("evidence", 470),
        ("minilm-evidence", 525),
        ("paper", 2585),
        ("study-low-rank", 54),
        ("study-sparse-part", 70),
    ],
)
def test_check_accepts_every_shipped_suite(repository, capsys, name, runs):
    # 5 x 8 + 2 x 8 + 6; 2 x 7; (4 x 10 x 7 + 2 x 3 x 5) x 5 seeds.
    folder = repository / "config"
    assert main(["check", "--config", f"{folder / name}.yaml", "--catalogue", str(folder)]) == 0
    assert f"{runs} runs" in capsys.readouterr().out


def test_suite_may_be_given_as_json(catalogue, capsys):
    from sparsetune.config.reading import read_yaml

    content = json.dumps(read_yaml(catalogue / "config.yaml"))
    assert main(["check", "--config", content, "--catalogue", str(catalogue)]) == 0
    assert "74 runs" in capsys.readouterr().out


def test_threads_are_set_before_anything_heavy_is_imported(catalogue, monkeypatch, capsys):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    main(["tune", "--run", "x", "--output", "o", *TUNE, "--threads", "1"])
    assert os.environ["OMP_NUM_THREADS"] == os.environ["RAYON_NUM_THREADS"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert "--run" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_every_stage_tells_its_version(capsys, stage):
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == 0
    assert f"(stage version {STAGES[stage]})" in " ".join(capsys.readouterr().out.split())


def test_version_is_the_package_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"sparsetune {__version__}\n"


def test_unit_tests_cannot_reach_the_network():
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(OSError, match="look up no names"):
        socket.getaddrinfo("example.org", 80)


def test_a_terminal_that_is_not_utf_8_is_no_obstacle(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "headline.md").write_text("93.4 ± 0.2 …", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "sparsetune.cli", "show", "--results", str(tmp_path)],
        capture_output=True, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"93.4 \xb1 0.2 \u2026" in done.stdout

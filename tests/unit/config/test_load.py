import subprocess
import sys

import pytest
import yaml
from unit.config.asking import LIMITS, refused, rewritten, run_of, suite_of

from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml

THINGS = ("backbone", "task", "method", "support", "ticket")
SUITES = (
    "config", "minilm", "minilm-earlybert", "e2e", "dsee", "earlybert-ablations",
    "earlybert-seeds", "evidence", "minilm-evidence", "paper", "study-low-rank",
    "study-sparse-part",
)  # fmt: skip


@pytest.fixture(scope="module")
def shipped(repository):
    return Catalogue(repository / "config")


def digests(catalogue):
    """Everything that decides what reruns: path or kind of thing -> digest."""
    found = {}
    for run in suite_of(catalogue).runs:
        found[f"run {run.path}"] = run.digest
        if run.ticket:
            found[f"ticket {run.ticket_path}"] = run.ticket_digest
    return found


def changed(before, after):
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


def test_all_folders_and_suites_of_the_catalogue_are_tested_here(repository):
    folders = {path.name for path in (repository / "config").iterdir() if path.is_dir()}
    assert folders >= {f"{thing}s" for thing in THINGS}
    found = {path.stem for path in (repository / "config").glob("*.yaml")}
    assert found - {"revisions.lock", "claims"} == set(SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_shipped_suite_resolves_to_the_product_of_its_blocks(repository, name):
    suite = suite_of(repository / "config", name)
    raw = read_yaml(repository / "config" / f"{name}.yaml")
    expected = {
        f"{backbone}/{task}/{method}/seed-{seed}"
        for block in raw["runs"]
        for backbone in block["backbones"]
        for task in block["tasks"]
        for method in block["methods"]
        for seed in raw["seeds"]
    }
    refusals = {(one.backbone, one.task, one.method) for one in suite.refusals}
    expected = {path for path in expected if tuple(path.split("/")[:3]) not in refusals}
    assert set(suite.by_path) == expected
    assert len(suite.runs) == len(expected)
    assert set(suite.groups()) == {tuple(path.split("/")[:2]) for path in expected}
    for run in suite.runs:
        assert (run.support is None) == (run.method.update.kind != "dsee")
        assert (run.ticket is None) == (run.method.mask.kind != "ticket")
        assert (run.ticket_digest == "") == (run.ticket is None)


def test_run_named_by_two_blocks_is_one_run(catalogue):
    block = {"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["full", "lora"]}
    suite = suite_of(catalogue, runs=[block, {**block, "methods": ["lora"]}])
    assert [run.method.id for run in suite.runs] == ["full", "lora"]


def test_later_override_wins_and_other_settings_stay(catalogue):
    place = {"tasks": ["rte"], "backbones": ["bert-base"]}
    overrides = [
        {"where": {"tasks": ["rte"]}, "phases": {"train": {"epochs": 2.0, "batch_size": 8}}},
        {"where": place, "phases": {"train": {"epochs": 9.0}}},
    ]
    rewritten(catalogue / "methods" / "lora.yaml", overrides=overrides)
    phase = {}
    for ids in (("bert-base", "rte"), ("minilm", "rte"), ("bert-base", "sst2")):
        method = Catalogue(catalogue).method("lora", backbone_id=ids[0], task_id=ids[1])
        phase[ids] = (method.phases[0].epochs, method.phases[0].batch_size)
    assert list(phase.values()) == [(9.0, 8), (2.0, 8), (5.0, 32)]


def test_mirror_replaces_hub_sources_and_no_others(repository, shipped):
    catalogue = Catalogue(repository / "config", mirror="/files")
    assert catalogue.task("mrpc").source.path == "/files/datasets/mrpc"
    assert catalogue.backbone("minilm").source.path == "/files/backbones/minilm"
    assert catalogue.task("mini-rte").source.kind == "world"
    assert shipped.task("mrpc").source.kind == "hub"


OVERRIDE = "overrides:\n  - {{where: {{tasks: [mini-cola]}}, phases: {{train: {{{}}}}}}}\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "reached"),
    [
        ("methods/lora", "overrides:\n", OVERRIDE.format("batch_size: 16"),
         lambda key: key == "run mini-bert/mini-cola/lora/seed-1"),
        # The later override for small backbones sets the same key again, so this one never shows.
        ("methods/lora", "overrides:\n", OVERRIDE.format("epochs: 99.0"), lambda key: False),
        ("tickets/earlybert", "neuron_sparsity: 0.4", "neuron_sparsity: 0.5",
         lambda key: "/earlybert/" in key),
        ("supports/grebsmo-64", "n_sparse: 64", "n_sparse: 32",
         lambda key: "run" in key and "/dsee" in key),
        ("tasks/mini-stsb", "maximum_tokens: 6", "maximum_tokens: 5",
         lambda key: "/mini-stsb/" in key),
    ],
)  # fmt: skip
def test_an_edit_changes_the_digests_of_what_it_reaches_alone(catalogue, edit, file, old, new,
                                                              reached):  # fmt: skip
    before = digests(catalogue)
    edit(catalogue / f"{file}.yaml", old, new)
    expected = set(filter(reached, before))
    assert changed(before, digests(catalogue)) == expected
    assert bool(expected) == ("99.0" not in new)


def test_descriptions_and_comments_change_no_digest(catalogue):
    before = digests(catalogue)
    undescribed = {path for name in ("studies", "tables") for path in (catalogue / name).iterdir()}
    for path in sorted(set(catalogue.rglob("*.yaml")) - undescribed):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        text = path.read_text(encoding="utf-8").replace(raw["description"], "Another text.")
        path.write_text(f"# A comment.\n{text}# Another comment.\n", encoding="utf-8")
    assert digests(catalogue) == before


def test_limits_change_digests_and_the_suite_has_none_in_them(repository):
    ids = (repository / "config", "mini-bert", "mini-rte", "earlybert")
    whole, short = run_of(*ids), run_of(*ids, limits={**LIMITS, "train_examples": 8})
    assert whole.digest != short.digest
    assert whole.ticket_digest != short.ticket_digest
    assert run_of(*ids, suite="b").digest == whole.digest


def test_only_asking_for_epoch_scores_changes_digests(repository):
    suites = [
        suite_of(repository / "config", **change)
        for change in ({}, {"score_epochs": False}, {"score_epochs": True})
    ]
    absent, unscored, scored = ([run.digest for run in suite.runs] for suite in suites)
    assert absent == unscored
    assert not set(absent) & set(scored)
    tickets = [[run.ticket_digest for run in suite.runs] for suite in suites]
    assert tickets[0] == tickets[2]  # a search scores nothing
    assert [suite.score_epochs for suite in suites] == [False, False, True]
    run = suites[2].runs[0]
    assert run_of(repository / "config", *run.key, score_epochs=True).digest == run.digest


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "A", "a_b", "-a", "a..b", "a\n", "."])
def test_id_that_could_leave_its_folder_is_refused_before_it_becomes_a_path(shipped, bad):
    with refused(f"task id {bad!r}: need lower-case letters and digits"):
        shipped.task(bad)


def test_reading_the_catalogue_imports_nothing_heavy(repository):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sparsetune.config.load import Catalogue\n"
        "import sparsetune.cli, sparsetune.stages.figures, sparsetune.records\n"
        "Catalogue(Path('config')).task('mrpc')\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'pandas', 'numpy', 'matplotlib'}\n"
        "print(*heavy & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_variants_differ_from_their_file_in_what_they_say_alone(repository, shipped):
    place = {"backbone_id": "bert-base", "task_id": "rte"}
    seen = 0
    for path in sorted((repository / "config" / "methods").glob("*.yaml")):
        base = shipped.method(path.stem, **place).settings()
        for variant, said in read_yaml(path).get("variants", {}).items():
            own = shipped.method(variant, **place).settings()
            keys = said.keys() - {"description", "overrides"}  # no override is for this place
            assert {key for key in own if own[key] != base[key]} == keys
            seen += 1
    assert seen > 40


def test_masked_language_modelling_on_gpt2_is_refused_in_one_line(repository):
    with refused("earlybert.yaml: variants.earlybert-mlm: ", "received mlm for a gpt2 backbone"):
        run_of(repository / "config", "mini-gpt2", "mini-e2e", "earlybert-mlm")
    run = run_of(repository / "config", "mini-roberta", "mini-rte", "earlybert-mlm")
    assert run.ticket.search.objective == "mlm"


def test_a_varied_ticket_has_the_id_of_its_method_and_wins_over_the_tickets_overrides(
    repository, shipped
):
    for backbone, share in (("bert-base", 1 / 3), ("bert-large", 0.375)):
        run = run_of(repository / "config", backbone, "rte", "earlybert-ffn-50")
        assert run.ticket.head_sparsity == pytest.approx(share)
        assert (run.ticket.id, run.ticket.neuron_sparsity) == ("earlybert-ffn-50", 0.5)
        assert run.ticket_path == f"{backbone}/rte/earlybert-ffn-50/seed-1"
        assert run.settings()["method"]["mask"] == {"kind": "ticket", "ticket": "earlybert-ffn-50"}
    fixed = shipped.ticket("earlybert-heads-5", backbone_id="bert-large", task_id="rte")
    assert fixed.head_sparsity == pytest.approx(5 / 12)
    lengths = [
        shipped.ticket("earlybert-search-40", backbone_id=one, task_id=task).search.stop_epochs
        for one, task in (("bert-base", "rte"), ("mini-bert", "rte"), ("mini-bert", "mini-squad"))
    ]
    assert lengths == [0.4, 2.0, 0.4]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{vary: {neuron_multiple: 8}}", "{vary: {neuron_multipel: 8}}",
         "variants.earlybert-multiple-8: mask.vary: top level: unknown key 'neuron_multipel'"),
        ("{vary: {neuron_multiple: 8}}", "{vary: {neuron_multiple: 0}}",
         "mask.vary: neuron_multiple: received 0; allowed: a number >= 1"),
        ("{vary: {neuron_multiple: 8}}", "{vary: 8}", "mask.vary: received 8; allowed: a mapping"),
        ("{vary: {search: {cap_epochs: 2.0}}}", "{vary: {search: {cap_epoch: 2}}}", "'cap_epoch'"),
        ("  earlybert-mlm:", "  earlybert:", "variants.earlybert: id twice; it is in earl"),
        ("  earlybert-mlm:", "  Earlybert:", "variants.Earlybert: received 'Earlybert'; allowed:"),
        ("  earlybert-mlm:", "  earlybert-multiple-8:", "key 'earlybert-multiple-8' twice"),
    ],
)  # fmt: skip
def test_a_variant_that_cannot_be_is_one_line(catalogue, edit, old, new, message):
    path = catalogue / "methods" / "earlybert.yaml"
    edit(path, old, new)
    methods = ["earlybert-multiple-8", "earlybert-settled"]
    with refused(message, start=f"{path}: "):
        suite_of(catalogue, runs=[{"backbones": ["bert-base"], "tasks": ["rte"],
                                   "methods": methods}])  # fmt: skip


def test_a_phase_may_take_the_settings_of_another_as_overrides_leave_them(catalogue, edit):
    at = {"backbone_id": "mini-bert", "task_id": "mini-stsb"}
    phases = Catalogue(catalogue).method("imp", **at).phases
    first, *trained = [phase for phase in phases if phase.kind == "train"]
    assert len(trained) == 5
    assert (first.epochs, first.learning_rate) == (8.0, 1e-3)
    assert all(one == first.model_copy(update={"name": one.name}) for one in trained)
    edit(catalogue / "methods" / "imp.yaml", "{name: train-3, as: train-1}", "{name: a, as: train}")
    with refused("imp.yaml: phases.4.as: received 'train'; allowed: train-1, prune-1, ", "did you"):
        Catalogue(catalogue).method("imp", **at)


def test_tickets_are_as_large_as_published_and_random_ones_as_searched_ones(shipped):
    sizes = ("head_sparsity", "head_scope", "neuron_sparsity", "neuron_scope")

    def size(ticket, backbone):
        found = shipped.ticket(ticket, backbone_id=backbone, task_id="rte")
        return [getattr(found, name) for name in sizes]

    for name in ("earlybert", "earlybert-random", "earlybert-heads", "earlybert-settled"):
        assert size(name, "bert-base")[0] == pytest.approx(1 / 3)
        assert size(name, "bert-large")[0] == 0.375
    for backbone in shipped.known("backbone"):
        for kind in ("", "-heads"):
            drawn, searched = (f"earlybert{origin}{kind}" for origin in ("-random", ""))
            assert size(drawn, backbone) == size(searched, backbone)


def test_label_smoothing_needs_a_task_with_classes(catalogue, edit):
    smoothed = "    epochs: 3.0\n    label_smoothing: 0.1\n"
    edit(catalogue / "methods" / "full.yaml", "    epochs: 3.0\n", smoothed)
    for task, architecture in (("mini-rte", "bert"), ("mini-e2e", "gpt2")):
        run = run_of(catalogue, f"mini-{architecture}", task, "full")
        assert run.method.phases[0].label_smoothing == 0.1
    told = "label_smoothing: received 0.1 for a task of kind regression"
    with refused(f"full.yaml: phases: train: {told}"):
        run_of(catalogue, "mini-bert", "mini-stsb", "full")


@pytest.mark.parametrize(
    ("backbone", "allowed"), [("bert-base", 512), ("roberta-base", 512), ("mini-bert", 128)]
)
def test_inputs_are_no_longer_than_a_backbone_takes(catalogue, backbone, allowed):
    path = catalogue / "tasks" / "rte.yaml"
    rewritten(path, maximum_tokens=allowed)
    run_of(catalogue, backbone, "rte", "full")
    rewritten(path, maximum_tokens=allowed + 1)
    told = f"received {allowed + 1}; allowed on backbone {backbone}: up to {allowed}"
    with refused(f"maximum_tokens: {told}"):
        run_of(catalogue, backbone, "rte", "full")


@pytest.mark.parametrize("method", ["full", "lora", "dsee", "dsee-unstructured", "dsee-structured"])
def test_gpt2_is_tuned_on_published_texts_with_the_lora_line_settings(shipped, method):
    for task in ("e2e", "webnlg", "dart"):
        for phase in shipped.method(method, backbone_id="gpt2", task_id=task).phases:
            if phase.kind == "train":
                found = (phase.batch_size, phase.epochs, phase.label_smoothing)
                assert found == (8, 5.0, 0.1)
    other = shipped.method(method, backbone_id="mini-gpt2", task_id="mini-e2e")
    assert not any(getattr(phase, "label_smoothing", 0) for phase in other.phases)


def test_a_method_is_resolved_once_for_all_seeds(repository, monkeypatch):
    resolved, method = [], Catalogue.method
    monkeypatch.setattr(
        Catalogue, "method", lambda self, one, **at: resolved.append(one) or method(self, one, **at)
    )
    block = {"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["full", "lora"]}
    suite = suite_of(repository / "config", seeds=[2, 1], runs=[block])
    assert resolved == ["full", "lora"]
    for run in suite.runs[1::2]:
        alone = run_of(repository / "config", *run.key, suite=suite.id)
        assert (run, run.digest) == (alone, alone.digest)

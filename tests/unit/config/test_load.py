import subprocess
import sys

import pytest
import yaml

from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.errors import ConfigError

THINGS = ("backbone", "task", "method", "support", "ticket")
SUITES = (
    "config",
    "minilm",
    "minilm-earlybert",
    "e2e",
    "dsee",
    "earlybert-ablations",
    "earlybert-seeds",
    "paper",
)
LIMITS = {"train_examples": None, "evaluation_examples": None}


def suite_of(catalogue, name="config", **changes):
    path = catalogue / f"{name}.yaml"
    return Catalogue(catalogue).suite({**read_yaml(path), **changes}, origin=str(path))


def digests(catalogue):
    """Everything that decides what reruns: path or kind of thing -> digest."""
    suite = suite_of(catalogue)
    found = {f"run {run.path}": run.digest for run in suite.runs}
    for run in suite.runs:
        if run.ticket:
            key = f"ticket {run.backbone.id}/{run.task.id}/{run.ticket.id}/{run.seed}"
            found[key] = run.ticket_digest
    return found


def changed(before, after):
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


def test_no_catalogue_folder_is_forgotten(repository):
    folders = {path.name for path in (repository / "config").iterdir() if path.is_dir()}
    assert folders >= {f"{thing}s" for thing in THINGS}


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
    refused = {(one.backbone, one.task, one.method) for one in suite.refusals}
    expected = {path for path in expected if tuple(path.split("/")[:3]) not in refused}
    assert set(suite.by_path) == expected
    assert len(suite.runs) == len(expected)
    assert set(suite.groups()) == {tuple(path.split("/")[:2]) for path in expected}


def test_all_suites_of_the_folder_are_tested_here(repository):
    found = {path.stem for path in (repository / "config").glob("*.yaml")}
    assert found - {"revisions.lock", "claims"} == set(SUITES)


def test_run_named_by_two_blocks_is_one_run(catalogue):
    block = {"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["full", "lora"]}
    suite = suite_of(catalogue, runs=[block, {**block, "methods": ["lora"]}])
    assert [run.method.id for run in suite.runs] == ["full", "lora"]


def test_later_override_wins_and_other_settings_stay(catalogue):
    path = catalogue / "methods" / "lora.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    first, second = {"epochs": 2.0, "batch_size": 8}, {"epochs": 9.0}
    place = {"tasks": ["rte"], "backbones": ["bert-base"]}
    raw["overrides"] = [
        {"where": {"tasks": ["rte"]}, "phases": {"train": first}},
        {"where": place, "phases": {"train": second}},
    ]
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    phase = {}
    for ids in (("bert-base", "rte"), ("minilm", "rte"), ("bert-base", "sst2")):
        method = Catalogue(catalogue).method("lora", backbone_id=ids[0], task_id=ids[1])
        phase[ids] = (method.phases[0].epochs, method.phases[0].batch_size)
    assert list(phase.values()) == [(9.0, 8), (2.0, 8), (5.0, 32)]


def test_mirror_replaces_hub_sources_and_no_others(repository):
    catalogue = Catalogue(repository / "config", mirror="/files")
    assert catalogue.task("mrpc").source.path == "/files/datasets/mrpc"
    assert catalogue.backbone("minilm").source.path == "/files/backbones/minilm"
    assert catalogue.task("mini-rte").source.kind == "world"
    assert Catalogue(repository / "config").task("mrpc").source.kind == "hub"


def test_runs_carry_support_and_ticket_only_where_the_method_names_one(repository):
    suite = suite_of(repository / "config")
    for run in suite.runs:
        assert (run.support is None) == (run.method.update.kind != "dsee")
        assert (run.ticket is None) == (run.method.mask.kind != "ticket")
        assert (run.ticket_digest == "") == (run.ticket is None)


def test_learning_rate_override_changes_exactly_the_digests_of_its_runs(catalogue, edit):
    before = digests(catalogue)
    edit(
        catalogue / "methods" / "lora.yaml",
        "overrides:\n",
        "overrides:\n  - {where: {tasks: [mini-cola]}, phases: {train: {batch_size: 16}}}\n",
    )
    assert changed(before, digests(catalogue)) == {"run mini-bert/mini-cola/lora/seed-1"}


def test_override_without_effect_changes_no_digest(catalogue, edit):
    before = digests(catalogue)
    # The later override for small backbones sets the same key again, so this one never shows.
    edit(
        catalogue / "methods" / "lora.yaml",
        "overrides:\n",
        "overrides:\n  - {where: {tasks: [mini-cola]}, phases: {train: {epochs: 99.0}}}\n",
    )
    assert digests(catalogue) == before


def test_descriptions_and_comments_change_no_digest(catalogue):
    before = digests(catalogue)
    for path in sorted(set(catalogue.rglob("*.yaml")) - set((catalogue / "tables").iterdir())):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        text = path.read_text(encoding="utf-8").replace(raw["description"], "Another text.")
        path.write_text(f"# A comment.\n{text}# Another comment.\n", encoding="utf-8")
    assert digests(catalogue) == before


def test_ticket_ratio_changes_ticket_digest_and_the_runs_that_use_it(catalogue, edit):
    before = digests(catalogue)
    edit(catalogue / "tickets" / "earlybert.yaml", "neuron_sparsity: 0.4", "neuron_sparsity: 0.5")
    expected = {
        key for key in before if "/earlybert/" in key and key.split()[0] in ("run", "ticket")
    }
    assert len(expected) == 14  # 7 encoder groups of the default suite, a run and a ticket each
    assert changed(before, digests(catalogue)) == expected


def test_support_and_task_settings_reach_the_runs_that_use_them(catalogue, edit):
    before = digests(catalogue)
    edit(catalogue / "supports" / "grebsmo-64.yaml", "n_sparse: 64", "n_sparse: 32")
    assert changed(before, digests(catalogue)) == {k for k in before if "run" in k and "/dsee" in k}
    before = digests(catalogue)
    edit(catalogue / "tasks" / "mini-stsb.yaml", "maximum_tokens: 6", "maximum_tokens: 5")
    assert changed(before, digests(catalogue)) == {k for k in before if "/mini-stsb/" in k}


def test_limits_and_suite_name(repository):
    def one(suite, limits):
        ids = ("mini-bert", "mini-rte", "earlybert", 1)
        return Catalogue(repository / "config").run(ids, suite=suite, limits=limits)

    whole, short = one("a", LIMITS), one("a", {**LIMITS, "train_examples": 8})
    assert whole.digest != short.digest
    assert whole.ticket_digest != short.ticket_digest
    assert one("b", LIMITS).digest == whole.digest


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
    ids = (*run.key, run.seed)
    again = Catalogue(repository / "config").run(ids, suite="a", limits=LIMITS, score_epochs=True)
    assert again.digest == run.digest


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "A", "a_b", "-a", "a..b", "a\n", "."])
def test_id_that_could_leave_its_folder_is_refused_before_it_becomes_a_path(repository, bad):
    with pytest.raises(ConfigError, match=r"task id .*: need lower-case letters and digits"):
        Catalogue(repository / "config").task(bad)


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


def test_variants_differ_from_their_file_in_what_they_say_alone(repository):
    catalogue = Catalogue(repository / "config")
    place = {"backbone_id": "bert-base", "task_id": "rte"}
    seen = 0
    for path in sorted((repository / "config" / "methods").glob("*.yaml")):
        base = catalogue.method(path.stem, **place).settings()
        for variant, said in read_yaml(path).get("variants", {}).items():
            own = catalogue.method(variant, **place).settings()
            keys = said.keys() - {"description", "overrides"}  # no override is for this place
            assert {key for key in own if own[key] != base[key]} == keys
            seen += 1
    assert seen > 40


def test_masked_language_modelling_on_gpt2_is_refused_in_one_line(repository):
    catalogue = Catalogue(repository / "config")
    ids = ("mini-gpt2", "mini-e2e", "earlybert-mlm", 1)
    told = r"earlybert\.yaml: variants\.earlybert-mlm: .*received mlm for a gpt2 backbone"
    with pytest.raises(ConfigError, match=told):
        catalogue.run(ids, suite="a", limits=LIMITS)
    ids = ("mini-roberta", "mini-rte", "earlybert-mlm", 1)
    assert catalogue.run(ids, suite="a", limits=LIMITS).ticket.search.objective == "mlm"


def test_a_varied_ticket_has_the_id_of_its_method_and_wins_over_the_tickets_overrides(repository):
    catalogue = Catalogue(repository / "config")
    for backbone, share in (("bert-base", 1 / 3), ("bert-large", 0.375)):
        run = catalogue.run((backbone, "rte", "earlybert-ffn-50", 1), suite="a", limits=LIMITS)
        assert run.ticket.head_sparsity == pytest.approx(share)
        assert (run.ticket.id, run.ticket.neuron_sparsity) == ("earlybert-ffn-50", 0.5)
        assert run.ticket_path == f"{backbone}/rte/earlybert-ffn-50/seed-1"
        again = catalogue.ticket("earlybert-ffn-50", backbone_id=backbone, task_id="rte")
        assert again == run.ticket
        assert run.settings()["method"]["mask"] == {"kind": "ticket", "ticket": "earlybert-ffn-50"}
    fixed = catalogue.run(("bert-large", "rte", "earlybert-heads-5", 1), suite="a", limits=LIMITS)
    assert fixed.ticket.head_sparsity == pytest.approx(5 / 12)
    lengths = [
        catalogue.ticket("earlybert-search-40", backbone_id=one, task_id=task).search.stop_epochs
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
    block = {"backbones": ["bert-base"], "tasks": ["rte"]}
    methods = ["earlybert-multiple-8", "earlybert-settled"]
    with pytest.raises(ConfigError) as caught:
        suite_of(catalogue, runs=[{**block, "methods": methods}])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_phase_may_take_the_settings_of_another_as_overrides_leave_them(catalogue, edit):
    at = {"backbone_id": "mini-bert", "task_id": "mini-stsb"}
    phases = Catalogue(catalogue).method("imp", **at).phases
    trained = [phase for phase in phases if phase.kind == "train"]
    assert len(trained) == 6
    first = trained[0]
    assert (first.epochs, first.learning_rate) == (8.0, 1e-3)
    assert all(one == first.model_copy(update={"name": one.name}) for one in trained)
    edit(catalogue / "methods" / "imp.yaml", "{name: train-3, as: train-1}", "{name: a, as: train}")
    told = r"imp\.yaml: phases\.4\.as: received 'train'; allowed: train-1, prune-1, .*did you mean"
    with pytest.raises(ConfigError, match=told):
        Catalogue(catalogue).method("imp", **at)


def test_larger_backbones_lose_the_published_share_of_their_heads(repository):
    catalogue = Catalogue(repository / "config")
    for ticket in ("earlybert", "earlybert-random", "earlybert-heads", "earlybert-settled"):
        shares = [
            catalogue.ticket(ticket, backbone_id=backbone, task_id="rte").head_sparsity
            for backbone in ("bert-base", "bert-large")
        ]
        assert shares == [pytest.approx(1 / 3), 0.375]


def test_random_tickets_are_as_large_as_the_searched_ones(repository):
    catalogue = Catalogue(repository / "config")
    sizes = ("head_sparsity", "head_scope", "neuron_sparsity", "neuron_scope")
    for searched, drawn in (("earlybert", "earlybert-random"),
                            ("earlybert-heads", "earlybert-random-heads")):  # fmt: skip
        for backbone in catalogue.known("backbone"):
            one, other = (
                catalogue.ticket(ticket, backbone_id=backbone, task_id="rte")
                for ticket in (searched, drawn)
            )
            assert [getattr(one, n) for n in sizes] == [getattr(other, n) for n in sizes]


def test_label_smoothing_needs_a_task_with_classes(catalogue, edit):
    smoothed = "    epochs: 3.0\n    label_smoothing: 0.1\n"
    edit(catalogue / "methods" / "full.yaml", "    epochs: 3.0\n", smoothed)
    for task, architecture in (("mini-rte", "bert"), ("mini-e2e", "gpt2")):
        ids = (f"mini-{architecture}", task, "full", 1)
        run = Catalogue(catalogue).run(ids, suite="a", limits=LIMITS)
        assert run.method.phases[0].label_smoothing == 0.1
    wanted = (
        r"full\.yaml: phases: train: label_smoothing: received 0\.1 for a task of kind regression"
    )
    with pytest.raises(ConfigError, match=wanted):
        Catalogue(catalogue).run(("mini-bert", "mini-stsb", "full", 1), suite="a", limits=LIMITS)


@pytest.mark.parametrize(
    ("backbone", "allowed"), [("bert-base", 512), ("roberta-base", 512), ("mini-bert", 128)]
)
def test_inputs_are_no_longer_than_a_backbone_takes(catalogue, edit, backbone, allowed):
    for tokens in (allowed, allowed + 1):
        path = catalogue / "tasks" / "rte.yaml"
        content = {**read_yaml(path), "maximum_tokens": tokens}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        if tokens == allowed:
            Catalogue(catalogue).run((backbone, "rte", "full", 1), suite="a", limits=LIMITS)
            continue
        told = f"maximum_tokens: received {tokens}; allowed on backbone {backbone}: up to {allowed}"
        with pytest.raises(ConfigError, match=told):
            Catalogue(catalogue).run((backbone, "rte", "full", 1), suite="a", limits=LIMITS)


def test_gpt2_is_tuned_on_published_texts_with_the_lora_line_settings(repository):
    catalogue = Catalogue(repository / "config")
    for method in ("full", "lora", "dsee", "dsee-unstructured", "dsee-structured"):
        for task in ("e2e", "webnlg", "dart"):
            resolved = catalogue.method(method, backbone_id="gpt2", task_id=task)
            for phase in resolved.phases:
                if phase.kind == "train":
                    found = (phase.batch_size, phase.epochs, phase.label_smoothing)
                    assert found == (8, 5.0, 0.1)
        other = catalogue.method(method, backbone_id="mini-gpt2", task_id="mini-e2e")
        assert not any(getattr(phase, "label_smoothing", 0) for phase in other.phases)


def test_a_method_is_resolved_once_for_all_seeds(repository, monkeypatch):
    resolved = []
    method = Catalogue.method
    monkeypatch.setattr(
        Catalogue, "method", lambda self, one, **at: resolved.append(one) or method(self, one, **at)
    )
    config = {
        "suite": "seeds", "description": "x", "device": "cpu", "mirror": None, "seeds": [1, 2, 3],
        "limits": {"train_examples": None, "evaluation_examples": None},
        "runs": [{"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["full", "lora"]}],
    }  # fmt: skip
    catalogue = Catalogue(repository / "config")
    suite = catalogue.suite(config, origin="test")
    assert resolved == ["full", "lora"]
    for run in suite.runs:
        alone = catalogue.run((*run.key, run.seed), suite="seeds", limits=config["limits"])
        assert (run, run.digest) == (alone, alone.digest)

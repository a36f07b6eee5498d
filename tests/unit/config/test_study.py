import pytest
import yaml
from unit.config.asking import refused

from sparsetune.config.load import Catalogue
from sparsetune.config.study import Contrast, read_studies
from sparsetune.cost.parameters import count_parameters
from sparsetune.cost.shapes import ModelShape

GOOD = {
    "title": "Low rank",
    "question": "Does a low rank suffice?",
    "suites": ["mini"],
    "contrasts": [{"says": "LoRA against dense training.", "left": "lora", "right": "full"}],
}


@pytest.fixture
def read(catalogue):
    """Read one study, with keys changed, beside the catalogue's suites."""

    def read(folder="asked", **changes):
        (catalogue / folder).mkdir(exist_ok=True)
        (catalogue / folder / "rank.yaml").write_text(yaml.safe_dump({**GOOD, **changes}))
        return read_studies(catalogue / folder, Catalogue(catalogue))

    return read


def contrast(**changes):
    return {"contrasts": [{**GOOD["contrasts"][0], **changes}]}


def test_every_shipped_study_is_valid_and_asks_something(repository):
    studies = read_studies(repository / "config" / "studies", Catalogue(repository / "config"))
    assert list(studies) == sorted(path.stem for path in repository.glob("config/studies/*.yaml"))
    assert len(studies) >= 5
    for study in studies.values():
        assert study.question.endswith("?")
        assert all(one.says.endswith(".") for one in study.contrasts)


def test_both_sides_of_the_sparse_parts_contrasts_train_equally_many_values(repository):
    catalogue = Catalogue(repository / "config")
    told = catalogue.backbone("mini-bert").pretraining.shape
    config = {
        "model_type": "bert", "hidden_size": told.hidden_size, "num_hidden_layers": told.layers,
        "num_attention_heads": told.heads, "intermediate_size": told.feed_forward_size,
        "vocab_size": 1100, "max_position_embeddings": 128, "type_vocab_size": 2,
    }  # fmt: skip
    shape = ModelShape.dense(config, "classification", 2)

    def trained(name):
        method = catalogue.method(name, backbone_id="mini-bert", task_id="mini-sst2")
        support = catalogue.support(method.update.support)
        count = 0 if support.recipe == "empty" else support.n_sparse
        entries = {key: count for key, site, *_ in shape.sites() if site in support.targets}
        assert method.update.alpha == 2 * method.update.rank
        return count_parameters(shape, method.update.count(shape, entries)).trained

    study = read_studies(repository / "config" / "studies", catalogue)["sparse-part"]
    found = [(trained(one.left), trained(one.right)) for one in study.contrasts]
    # Six matrices of 96 x 96, 192 values a rank.
    assert found == [(6 * 192 * rank,) * 2 for rank in (2, 8, 16)]


def test_a_study_is_read_as_it_stands(read, catalogue):
    (study,) = read(**contrast(tasks=["mini-sst2"])).values()
    assert (study.title, study.suites) == ("Low rank", ("mini",))
    (one,) = study.contrasts
    assert (one.left, one.right, one.backbones, one.tasks) == ("lora", "full", (), ("mini-sst2",))
    assert read_studies(catalogue / "nowhere", Catalogue(catalogue)) == {}


def test_a_contrast_without_places_holds_everywhere():
    told = {"says": "x", "left": "lora", "right": "full"}
    anywhere = Contrast(**told)
    assert anywhere.holds_on("mini-bert", "mini-rte")
    there = Contrast(**told, backbones=("mini-bert",), tasks=("mini-rte",))
    assert there.holds_on("mini-bert", "mini-rte")
    assert not there.holds_on("mini-bert", "mini-sst2")
    assert not there.holds_on("mini-gpt2", "mini-rte")


# Case -> what is changed, what the one line must say.
BAD = {
    "unknown method": (contrast(left="lroa"), "contrasts.0.left: unknown method 'lroa'"),
    "unknown right": (contrast(right="ful"), "contrasts.0.right: unknown method 'ful'"),
    "unknown backbone": (
        contrast(backbones=["bert"]),
        "contrasts.0.backbones: unknown backbone 'bert'",
    ),
    "unknown task": (contrast(tasks=["mini-sst"]), "did you mean 'mini-sst2'?"),
    "unknown suite": ({"suites": ["mini", "minni"]}, "suites.1: "),
    "itself": (contrast(right="lora"), "contrasts.0.right: received 'lora', which is left"),
    "never together": (
        contrast(left="bitfit"),
        "contrasts.0: received bitfit less full; allowed: two methods that mini runs on one",
    ),
    "not there": (contrast(tasks=["mnli"]), "contrasts.0: received lora less full; allowed: two"),
    "no contrast": ({"contrasts": []}, "contrasts: "),
    "no suite": ({"suites": []}, "suites: "),
    "a suite twice": ({"suites": ["mini", "mini"]}, "suites"),
    "two lines": ({"title": "a\nb"}, "title: received 'a\\nb'; allowed: text matching"),
    "nothing": ({"question": " "}, "question: received ' '"),
    "unknown key": ({"answer": "Yes."}, "top level: unknown key 'answer'; allowed: contrasts, "),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_refused_in_one_line(read, case):
    change, message = BAD[case]
    with refused("rank.yaml: ", message):
        read(**change)

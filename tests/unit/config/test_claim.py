import pytest
import yaml
from unit.config.asking import refused

from sparsetune.config.claim import QUANTITIES, read_claims
from sparsetune.config.load import Catalogue

GOOD = {
    "id": "beats-random",
    "says": "Searched beats random.",
    "paper": "EarlyBERT",
    "source": "a paper, table 1",
    "published": {"backbones": ["bert-base"], "tasks": ["qnli"]},
    "quantity": "score",
    "left": "earlybert",
    "right": {"method": "earlybert-random"},
    "relation": "above",
}
SLACK = {"tolerance": 1, "because": "noise"}


@pytest.fixture
def read(repository, tmp_path):
    def read(*claims):
        path = tmp_path / "claims.yaml"
        path.write_text(yaml.safe_dump({"description": "x", "claims": list(claims)}))
        return read_claims(path, Catalogue(repository / "config"))

    return read


def test_every_shipped_claim_is_valid_and_says_where_it_comes_from(repository):
    claims = read_claims(repository / "config" / "claims.yaml", Catalogue(repository / "config"))
    assert len(claims) > 40
    assert all(claim.source and claim.says.endswith(".") for claim in claims)
    assert {claim.quantity for claim in claims} == set(QUANTITIES)


def test_a_claim_is_read_as_it_stands(read):
    (claim,) = read({**GOOD, "relation": "at-least", **SLACK, "right": {"method": "full"}})
    assert (claim.left, claim.right, claim.number) == ("earlybert", "full", None)
    assert (claim.relation, claim.tolerance, claim.tasks) == ("at-least", 1, ("qnli",))
    (claim,) = read({**GOOD, "quantity": "seconds-saved", "right": {"value": 35}})
    assert (claim.number, claim.methods) == (35.0, ("earlybert",))


# Case -> what is changed, what the one line must say.
BAD = {
    "unknown method": ({"left": "earlybird"}, "left: unknown method 'earlybird'"),
    "unknown right": ({"right": {"method": "ful"}}, "right.method: unknown method 'ful'; known"),
    "unknown backbone": (
        {"published": {"backbones": ["bert"], "tasks": ["qnli"]}},
        "published.backbones: unknown backbone 'bert'",
    ),
    "unknown task": (
        {"published": {"backbones": ["bert-base"], "tasks": ["qnl"]}},
        "did you mean 'qnli'?",
    ),
    "unknown twin": ({"twins": {"bert-base": "brt"}}, "twins: unknown backbone 'brt'"),
    "tolerance of above": (SLACK, "tolerance: needed by relation at-least, at-most and within"),
    "no tolerance": ({"relation": "within"}, "tolerance: needed by relation"),
    "no reason": ({"relation": "within", "tolerance": 1}, "because: needed by relation"),
    "a score's number": ({"right": {"value": 90}}, "right.value: not for quantity score"),
    "itself": (
        {"right": {"method": "earlybert"}},
        "right.method: received 'earlybert', which is left",
    ),
    "tickets and a method": ({"quantity": "heads-in-common"}, "is compared with chance"),
    "pre-training alone": ({"quantity": "pretraining-macs-saved"}, "needs twins"),
    "twins and a number": (
        {"quantity": "seconds-saved", "right": {"value": 1}, "twins": {"bert-base": "bert-large"}},
        "twins: needs right.method",
    ),
    "setting of a third": (
        {"requires": [{"method": "full", "setting": "a", "value": 1, "otherwise": "x"}]},
        "requires.0.method: received 'full'; allowed: left or right.method",
    ),
    "unknown key": ({"quantitiy": 1}, "top level: unknown key 'quantitiy'; allowed: "),
    "unknown quantity": ({"quantity": "speed"}, "quantity: received 'speed'; allowed: score, "),
    "unknown relation": ({"relation": ">"}, "relation: received '>'; allowed: above, at-least"),
    "nothing right": ({"right": {}}, "right: needs method or value, not both"),
    "both right": (
        {"right": {"method": "full", "value": 1}},
        "right: needs method or value, not both",
    ),
    "key of right": ({"right": {"valeu": 1}}, "right: unknown key 'valeu'; allowed: method, value"),
    "no id": ({"twins": {"A": "b"}}, "twins.A"),
    "below nothing": ({"tolerance": -1}, "tolerance: received -1; allowed: a number >= 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_refused_in_one_line(read, case):
    change, message = BAD[case]
    with refused("claims.yaml: claim beats-random: ", message):
        read({**GOOD, **change})


def test_an_id_is_an_id_and_stands_once(read):
    with refused("claim A b: id: received 'A b'; allowed: text matching"):
        read({**GOOD, "id": "A b"})
    with refused("claim beats-random: id: twice"):
        read(GOOD, GOOD)

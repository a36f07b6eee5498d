from pathlib import Path

from unit.stages.tiny_catalogue import ROOT, suite_config

from sparsetune.config.claim import read_claims
from sparsetune.config.load import Catalogue
from sparsetune.stages.claims import _asked_about


def asked_of(*methods):
    """Tickets that are read, and the recipe of each method."""
    catalogue = Catalogue(ROOT / "config")
    suite = catalogue.suite(suite_config(*methods), origin="test")
    claims = read_claims(catalogue.root / "claims.yaml", catalogue)
    assert {claim.left for claim in claims if claim.measure.group == "tickets"} == {"earlybert"}
    recipes = {run.method.id: run.ticket.id for run in suite.runs if run.ticket}
    return _asked_about(claims, suite, Path("results")), recipes


def test_only_tickets_that_a_claim_is_about_are_read():
    asked, recipes = asked_of("full", "earlybert", "earlybert-random")
    assert recipes["earlybert"] != recipes["earlybert-random"]
    place = f"results/tickets/mini-bert/mini-sst2/{recipes['earlybert']}/seed-1/ticket.json"
    assert asked == [Path(place)]


def test_a_suite_without_such_tickets_reads_none():
    asked, recipes = asked_of("full", "earlybert-random")
    assert list(recipes) == ["earlybert-random"]
    assert asked == []

import pytest

from sparsetune.data.triples import linearise, triple_of


def test_triples_are_written_in_published_order():
    triples = [("Ada_L", "home", '"Oslo, Norway"'), ("Oslo", "country", "Norway")]
    assert linearise(triples) == 'Ada_L : home : "Oslo, Norway" | Oslo : country : Norway'
    assert linearise(triples[:1]) == 'Ada_L : home : "Oslo, Norway"'


def test_a_triple_may_have_an_empty_field_but_needs_all_three():
    assert triple_of(["Ada", "", "Oslo"]) == ("Ada", "", "Oslo")
    for bad in (["Ada", "home"], ["Ada", "home", "Oslo", "x"], "Ada", ["Ada", "home", 3], None, {}):
        with pytest.raises(ValueError, match=r"need three texts \(subject, property, object\)"):
            triple_of(bad)

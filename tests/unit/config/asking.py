"""How tests ask a catalogue, and what every refusal must be: one line with where, key and value."""

from contextlib import contextmanager

import pytest
import yaml

from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.errors import ConfigError

LIMITS = {"train_examples": None, "evaluation_examples": None}


@contextmanager
def refused(*said, start=""):
    """Expect one line that begins with a text and says others."""
    with pytest.raises(ConfigError) as caught:
        yield
    told = str(caught.value)
    assert told.startswith(str(start))
    assert [text for text in said if text not in told] == [], told
    assert "\n" not in told


def run_of(catalogue, *ids, suite="a", limits=LIMITS, **asked):
    return Catalogue(catalogue).run((*ids, 1), suite=suite, limits=limits, **asked)


def suite_of(catalogue, name="config", **changes):
    path = catalogue / f"{name}.yaml"
    return Catalogue(catalogue).suite({**read_yaml(path), **changes}, origin=str(path))


def rewritten(path, left_out=(), **changes):
    """Change keys of a YAML file and return what it now says."""
    content = {**read_yaml(path), **changes}
    content = {key: value for key, value in content.items() if key not in left_out}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return content

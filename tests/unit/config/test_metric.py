import json

import pytest

from sparsetune.config.metric import SCALES, lower_is_better, scale_of
from sparsetune.errors import ConfigError
from sparsetune.evaluation.metrics.assess import METRICS


def test_every_metric_has_a_scale_and_may_be_asked_for(repository):
    path = repository / "workflow" / "schemas" / "task.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    allowed = schema["properties"]["metrics"]["items"]["enum"]
    assert set(METRICS) == set(SCALES) == set(allowed)


def test_only_an_error_rate_is_better_when_lower():
    assert [metric for metric in SCALES if lower_is_better(metric)] == ["ter_fraction"]


def test_what_is_no_fraction_is_printed_as_it_is():
    assert scale_of("e2e_nist_score").text(8.7128) == "8.71"
    assert scale_of("bleu_fraction").text(0.5713) == "57.1"
    assert scale_of("bleu_fraction").text(-0.0001, signed=True) == "+0.0"
    plain = [metric for metric, scale in SCALES.items() if scale.factor == 1]
    assert all(metric.endswith("_score") for metric in plain)


def test_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="'blue'; allowed: accuracy_fraction, "):
        lower_is_better("blue")

import pytest
from unit.evaluation.generated_texts import PREDICTIONS, REFERENCES

from sparsetune.config.metric import SCALES, lower_is_better
from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.metrics import METRICS, assess, registry, score
from sparsetune.evaluation.metrics.registry import Outcome, metric

OF_TEXTS = [name for name, scale in SCALES.items() if scale.kind == "generation"]
WITHOUT_JAVA = [name for name in OF_TEXTS if not name.startswith("meteor")]


def test_every_metric_is_bound_once_and_no_other_name_can_be(monkeypatch):
    assert set(METRICS) == set(SCALES)
    with pytest.raises(ConfigError, match="metrics: bleu_fraction: bound twice"):
        metric("bleu_fraction")
    with pytest.raises(ConfigError, match=r"received 'blue_fraction'; .* did you mean"):
        metric("blue_fraction")
    monkeypatch.setattr(registry, "METRICS", {})
    metric("bleu_fraction")(lambda _predictions, _references: Outcome(0.5, "half"))
    assert registry.assess(["bleu_fraction"], ["a"], [["a"]]) == (
        {"bleu_fraction": 0.5},
        {"bleu_fraction": "half"},
    )


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("accuracy_fraction", [1], [1, 0], "received 1 for 2 references"),
        ("accuracy_fraction", [], [], "at least one"),
        ("accuracy_fraction", [0.5], [1], r"predictions: row 1: received 0.5; allowed: label num"),
        ("accuracy_fraction", ["yes"], [1], "predictions: received str values"),
        ("f1_fraction", [0, 2], [0, 1], "predictions: row 2: received 2; allowed: 0 or 1"),
        ("pearson_correlation", [0.1, float("nan")], [1, 2], "predictions: row 2: received nan"),
        ("pearson_correlation", [[0.1], [0.2]], [1, 2], r"shape \(2, 1\)"),
        ("span_f1_fraction", ["x"], [[]], "references: row 1"),
        ("bleu_fraction", ["x"], ["x"], "allowed: a list of at least one text"),
        ("chrf_fraction", ["x"], [[]], "references: row 1: received \\[\\]; allowed: a list"),
        ("e2e_nist_score", ["x", "y"], [["x"], ["y", 3]], "references: row 2"),
        ("meteor_1_5_fraction", ["x", None], [["x"], ["y"]], "predictions: row 2: received None"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(name, predictions, references, message):
    with pytest.raises(DataError, match=message):
        score([name], predictions, references)


def test_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'rouge'; allowed: accuracy_fraction, "):
        score(["rouge"], [1], [1])


@pytest.mark.parametrize("name", WITHOUT_JAVA)
def test_a_reference_itself_scores_best_and_other_words_worst(name):
    best, given, worst = (
        assess([name], predictions, REFERENCES)
        for predictions in ([texts[0] for texts in REFERENCES], PREDICTIONS, ["zzz"] * 4)
    )
    values = [outcome[0][name] for outcome in (best, given, worst)]
    assert values == sorted(values, reverse=not lower_is_better(name))
    assert len(set(values)) == 3
    assert len(given[1][name]) > 20  # its variant


def test_a_score_above_its_scale_says_so():
    # Three of four outputs are empty: their counts of n-grams are below zero.
    texts = ["a b c d e f g h"] + [""] * 3
    values, notes = assess(["e2e_bleu_fraction"], texts, [["a b c d e f g h"]] * 4)
    assert values["e2e_bleu_fraction"] > 1
    assert "is above its scale, which ends at 1" in notes["e2e_bleu_fraction"]
    values, notes = assess(["ter_fraction"], ["a b c d"], [["e"]])
    assert values["ter_fraction"] > 1  # whose scale has no end
    assert "above" not in notes["ter_fraction"]

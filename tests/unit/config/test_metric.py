from unit.config.asking import refused

from sparsetune.config.metric import SCALES, lower_is_better, metrics_of, scale_of


def test_each_kind_of_task_has_its_metrics_and_f1_needs_two_labels():
    assert metrics_of("regression") == ["pearson_correlation", "spearman_correlation"]
    assert set(metrics_of("classification", 2)) - set(metrics_of("classification", 3)) == {
        "f1_fraction"
    }
    kinds = ("classification", "regression", "span", "generation")
    assert sorted(name for kind in kinds for name in metrics_of(kind, 2)) == sorted(SCALES)


def test_only_an_error_rate_is_better_when_lower():
    assert [metric for metric in SCALES if lower_is_better(metric)] == ["ter_fraction"]


def test_what_is_no_fraction_is_printed_as_it_is():
    assert scale_of("e2e_nist_score").text(8.7128) == "8.71"
    assert scale_of("bleu_fraction").text(0.5713) == "57.1"
    assert scale_of("bleu_fraction").text(-0.0001, signed=True) == "+0.0"
    plain = [metric for metric, scale in SCALES.items() if scale.factor == 1]
    assert all(metric.endswith("_score") for metric in plain)


def test_unknown_metric_is_named_with_the_known_ones():
    with refused("received 'blue_fraction'; allowed: accuracy_fraction, "):
        lower_is_better("blue_fraction")

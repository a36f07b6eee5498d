import pytest
from unit.evaluation.generated_texts import PREDICTIONS, REFERENCES

from sparsetune.config.metric import lower_is_better
from sparsetune.evaluation.metrics import generation as generation_metrics
from sparsetune.evaluation.metrics.assess import assess
from sparsetune.evaluation.metrics.generation import GENERATION_METRICS

WITHOUT_JAVA = [name for name in GENERATION_METRICS if not name.startswith("meteor")]


@pytest.mark.parametrize(("name", "library"), [("ter", "TER"), ("chrf", "CHRF")])
def test_values_and_signatures_are_sacrebleus(name, library):
    metrics = pytest.importorskip("sacrebleu.metrics")
    streams = [[t[i] if i < len(t) else None for t in REFERENCES] for i in range(3)]
    theirs = getattr(metrics, library)(references=streams)
    expected = theirs.corpus_score(PREDICTIONS, None).score / 100
    values, notes = assess([f"{name}_fraction"], PREDICTIONS, REFERENCES)
    assert values[f"{name}_fraction"] == pytest.approx(expected)
    assert notes[f"{name}_fraction"] == f"sacrebleu {theirs.get_signature().format()}"


@pytest.mark.parametrize("name", WITHOUT_JAVA)
def test_every_value_comes_with_its_variant(name):
    value, note = GENERATION_METRICS[name](PREDICTIONS, REFERENCES)
    assert value > 0
    assert len(note) > 20


@pytest.mark.parametrize("name", WITHOUT_JAVA)
def test_a_reference_itself_scores_best_and_other_words_worst(name):
    def value(predictions):
        return GENERATION_METRICS[name](predictions, REFERENCES)[0]

    best, given, worst = (
        value([texts[0] for texts in REFERENCES]), value(PREDICTIONS), value(["zzz"] * 4)
    )  # fmt: skip
    assert (best < given < worst) if lower_is_better(name) else (best > given > worst)


def test_cider_over_one_example_is_none_and_explained():
    values, notes = assess(["coco_cider_score"], PREDICTIONS[:1], REFERENCES[:1])
    assert values == {"coco_cider_score": None}
    assert notes["coco_cider_score"].startswith("undefined: over one example")


def test_absent_meteor_is_none_with_its_reason_and_the_others_stand(monkeypatch):
    monkeypatch.setattr(generation_metrics, "meteor_1_5", lambda *texts: (None, "absent: why"))
    names = ["meteor_1_5_fraction", "bleu_fraction"]
    values, notes = assess(names, PREDICTIONS, REFERENCES)
    assert values["meteor_1_5_fraction"] is None
    assert values["bleu_fraction"] > 0
    assert notes["meteor_1_5_fraction"] == "absent: why"

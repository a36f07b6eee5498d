from sparsetune.config.load import Catalogue
from sparsetune.stages import tune as module

LIMITS = {"train_examples": None, "evaluation_examples": None}


def test_generated_texts_are_not_scored_every_epoch_and_the_record_says_why(repository):
    spec = Catalogue(repository / "config").run(
        ("mini-gpt2", "mini-e2e", "full", 1), suite="a", limits=LIMITS, score_epochs=True
    )
    assert module._scoring(spec, repository / "nowhere", None, "cpu") is None
    told = module._epoch_scores(spec, [{"kind": "train", "steps": 4}])
    assert told["epoch_scores"] == []
    assert told["epoch_scores_note"].startswith("not scored: decoding")


def test_steps_of_scores_and_of_the_curve_are_counted_over_all_phases(repository, tmp_path):
    spec = Catalogue(repository / "config").run(
        ("mini-bert", "mini-sst2", "full", 1), suite="a", limits=LIMITS, score_epochs=True
    )
    name = spec.task.metrics[0]
    scores = [{"epoch": 1.0, "step": 3, "metrics": {name: 0.5}},
              {"epoch": 1.5, "step": 4, "metrics": {name: None}}]  # fmt: skip
    results = [
        {"kind": "train", "name": "train", "steps": 10, "curve": [{"step": 10, "loss": 2.0}]},
        {"kind": "prune", "name": "prune"},
        {"kind": "train", "name": "recover", "steps": 4, "scoring_seconds": 1.5,
         "curve": [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.5}], "epoch_scores": scores},
    ]  # fmt: skip
    told = module._epoch_scores(spec, results)
    assert [entry.step for entry in told["epoch_scores"]] == [13, 14]
    assert told["scoring_seconds"] == 1.5
    module._write_history(tmp_path / "history.csv", results, name)
    # An epoch may end between two points of the loss; an undefined score is an empty cell.
    assert (tmp_path / "history.csv").read_text().splitlines() == [
        "step,phase,loss,grad_norm,learning_rate,evaluation_accuracy_fraction",
        "10,train,2.0,,,",
        "12,recover,1.0,,,",
        "13,recover,,,,0.5",
        "14,recover,0.5,,,",
    ]

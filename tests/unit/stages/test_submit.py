from types import SimpleNamespace

import pytest

from sparsetune.errors import ConfigError, DataError
from sparsetune.stages.submit import parts_of, write_submission

NLI = ("entailment", "neutral", "contradiction")


def task_of(layout, **more):
    return SimpleNamespace(**{"id": layout, "layout": layout, **more})


def test_only_a_task_of_glue_has_a_submission():
    assert [part.submission for part in parts_of(task_of("mnli"))] == ["MNLI-m", "MNLI-mm", "AX"]
    with pytest.raises(ConfigError, match="'squad' has no GLUE submission; allowed: cola, mnli"):
        parts_of(task_of("squad"))


def test_labels_are_written_as_the_server_takes_them(tmp_path):
    task = task_of("mnli", kind="classification", labels=NLI)
    write_submission(tmp_path / "MNLI-m.tsv", task, 3, [2, 0, 1])
    text = (tmp_path / "MNLI-m.tsv").read_bytes()
    assert text == b"index\tprediction\n0\tcontradiction\n1\tentailment\n2\tneutral\n"
    task = task_of("cola", kind="classification", labels=("0", "1"))
    write_submission(tmp_path / "CoLA.tsv", task, 2, [1, 0])
    assert (tmp_path / "CoLA.tsv").read_text() == "index\tprediction\n0\t1\n1\t0\n"


def test_scores_are_clipped_to_the_scale_with_three_decimals(tmp_path):
    task = task_of("stsb", kind="regression", labels=())
    write_submission(tmp_path / "STS-B.tsv", task, 4, [-0.2, 5.01, 2.34567, 3.0])
    rows = (tmp_path / "STS-B.tsv").read_text().splitlines()[1:]
    assert rows == ["0\t0.000", "1\t5.000", "2\t2.346", "3\t3.000"]


@pytest.mark.parametrize(
    ("kind", "predictions", "told"),
    [
        ("classification", [0, 1, 1], "received 3 predictions for 2 examples"),
        ("classification", [0, 2], "prediction 1: received 2, need 0 to 1"),
        ("classification", [-1, 0], "prediction 0: received -1, need 0 to 1"),
        ("regression", [0.0, float("nan")], "prediction 1: received nan, need a number"),
    ],
)
def test_wrong_predictions_are_refused_and_nothing_is_written(tmp_path, kind, predictions, told):
    task = task_of("it", kind=kind, labels=("0", "1"))
    with pytest.raises(DataError, match=rf"it\.tsv: {told}"):
        write_submission(tmp_path / "it.tsv", task, 2, predictions)
    assert list(tmp_path.iterdir()) == []

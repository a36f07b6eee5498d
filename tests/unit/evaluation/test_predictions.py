import pyarrow
import pyarrow.parquet
import pytest

from sparsetune.errors import DataError
from sparsetune.evaluation.predictions import (
    read_predictions,
    require_same_examples,
    write_predictions,
)


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([0, 1], [1, 1]),
        ([0.1, 2.5], [3.75, 0.0]),
        (["a", "é\u2028b"], [["a", "the a"], ['"', "é\u2028b"]]),
    ],
)
def test_predictions_and_references_come_back(tmp_path, predictions, references):
    path = tmp_path / "run" / "predictions.parquet"
    write_predictions(path, ["dev-0", "dev-1"], predictions, references)
    found = read_predictions(path, count=2)
    assert (found.ids, found.predictions) == (["dev-0", "dev-1"], predictions)
    assert found.references == references
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions.parquet"]


def table(path, **columns):
    good = {"id": ["a", "b"], "prediction": [0, 1], "reference": ["0", "1"]}
    kept = {name: values for name, values in {**good, **columns}.items() if values is not None}
    pyarrow.parquet.write_table(pyarrow.table(kept), path)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"id": ["a"], "prediction": [0], "reference": ["0"]},
         "holds 1 predictions, evaluate.json beside it tells 2; rerun stage 'evaluate'"),
        ({"reference": None}, "no column 'reference'; rerun stage 'evaluate'"),
        ({"id": ["a", "a"]}, "id 'a' is there twice"),
        ({"prediction": [0, None]}, "row 2: prediction: received nothing"),
        ({"reference": ["0", "{"]}, "reference: not JSON"),
    ],
)  # fmt: skip
def test_bad_file_is_refused_by_name(tmp_path, columns, told):
    path = tmp_path / "predictions.parquet"
    table(path, **columns)
    with pytest.raises(DataError) as refused:
        read_predictions(path, count=2)
    assert str(refused.value).startswith(f"{path}: ")
    assert told in str(refused.value)


def test_missing_or_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "predictions.parquet"
    with pytest.raises(DataError, match="no such file; rerun stage 'evaluate'"):
        read_predictions(path, count=2)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_predictions(path, count=2)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"id": ["a", "c"]}, "row 2: id is 'c', .* has 'b'"),
        ({"reference": ["0", "0"]}, "row 2: reference is '0', .* has '1'"),
        ({"id": ["a"], "prediction": [0], "reference": ["0"]}, "holds 1 predictions, .* holds 2"),
    ],
)
def test_other_examples_are_not_paired(tmp_path, columns, told):
    table(tmp_path / "first.parquet")
    table(tmp_path / "second.parquet", **columns)
    first = read_predictions(tmp_path / "first.parquet", count=2)
    second = read_predictions(tmp_path / "second.parquet", count=len(columns.get("id", "ab")))
    require_same_examples(first, first)
    with pytest.raises(DataError, match=rf"second\.parquet: {told}"):
        require_same_examples(first, second)

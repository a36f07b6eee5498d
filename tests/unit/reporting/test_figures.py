import numpy as np
import pytest
from unit.reporting.runs import scoring, write_run

from sparsetune.errors import DataError
from sparsetune.reporting.collect import collect
from sparsetune.reporting.figures import (
    _kept_in_both,
    mask_distances,
    write_mask_distances,
    write_scores_against_savings,
)

METHODS = ("full", "lora")
ORDER = [("mini-bert", "mini-sst2", method) for method in METHODS]


def history(path, checks=3):
    rng = np.random.default_rng(0)
    arrays = {
        "steps": np.arange(1, checks + 1) * 5,
        "head_masks": rng.random((checks, 2, 4)) > 0.5,
        "neuron_masks": rng.random((checks, 2, 16)) > 0.5,
    }
    np.savez_compressed(path, **arrays)
    return arrays


def test_mask_distances_worked_by_hand():
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 1, 0]], [[1, 1, 0, 0]]], dtype=bool)
    # Two of four units differ, 1/2; with half kept, independent masks differ in 2 x 1/4 = 1/2.
    expected = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert mask_distances(masks).tolist() == expected


def test_mask_distances_equal_a_naive_loop(tmp_path):
    masks = history(tmp_path / "gates.npz", checks=4)["neuron_masks"]
    kept = masks[-1].mean()
    found = mask_distances(masks)
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            naive = sum(a != b for a, b in zip(one.flat, other.flat, strict=True)) / one.size
            assert found[i, j] == pytest.approx(naive / (2 * kept * (1 - kept)))


def test_mask_distances_refuse_an_empty_history():
    with pytest.raises(DataError, match="need \\(checks, layers, units\\)"):
        mask_distances(np.zeros((0,)))


def test_figures_are_the_same_bytes_each_time(tmp_path):
    history(tmp_path / "gates.npz")
    rows = collect([write_run(tmp_path, name, edit=scoring(0.9)) for name in METHODS])
    for name in ("a", "b"):
        write_mask_distances(
            tmp_path / "gates.npz", tmp_path / name / "masks.svg", title="t", stops={"fixed": 10}
        )
        write_scores_against_savings(
            rows, tmp_path / name / "scores.svg", order=ORDER, reference_method="full"
        )
    for name in ("masks.svg", "scores.svg"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
        assert b"<svg" in first


def test_masks_in_common_are_counted_exactly_over_many_units():
    masks = np.random.default_rng(1).random((3, 5, 4000)) > 0.3
    flat = masks.reshape(3, -1).astype(np.int64)
    assert np.array_equal(_kept_in_both(masks.reshape(3, -1)), flat @ flat.T)


def test_a_damaged_history_is_named(tmp_path):
    (tmp_path / "gates.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"gates.npz: not the history of a search"):
        write_mask_distances(tmp_path / "gates.npz", tmp_path / "x.svg", title="t", stops={})
    assert not (tmp_path / "x.svg").exists()


def test_scores_need_a_reference(tmp_path):
    rows = collect([write_run(tmp_path, "lora")])
    with pytest.raises(DataError, match="no task of this suite was run with 'full'"):
        write_scores_against_savings(rows, tmp_path / "x.svg", order=ORDER, reference_method="full")

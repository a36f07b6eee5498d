import itertools

import numpy as np
import pandas as pd
import pytest
from unit.made_records import MEASURED
from unit.reporting.runs import changing, scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.reporting.figures import (
    floor_of,
    frontier,
    mask_distances,
    method_styles,
    read_history,
    stacked,
    thinned,
    tradeoffs,
    write_curves,
    write_layers,
    write_mask_distances,
    write_pareto,
    write_saved,
)

METHODS = ("full", "lora", "dsee")
HISTORY = "step,phase,loss,grad_norm\n2,train,0.5,1\n4,train,0.25,1\n6,recover,0.125,1\n"


def costing(score, macs, trained):
    def edit(records):
        scoring(score)(records)
        changing("cost", macs_effective_per_example=macs, parameters_trained=trained)(records)

    return edit


@pytest.fixture
def suite(tmp_path):
    folders = [
        write_run(tmp_path, "full", seed=1, edit=costing(0.80, 1000, 5000)),
        write_run(tmp_path, "full", seed=2, edit=costing(0.90, 1000, 5000)),
        write_run(tmp_path, "lora", seed=1, edit=costing(0.84, 1100, 10)),
        write_run(tmp_path, "dsee", seed=1, edit=costing(0.60, 700, 20)),
    ]
    return suite_of(folders, METHODS)


def drawn(write, suite, folder):
    """The figure; the same bytes each time. Matplotlib notes the texts whose letters it draws."""
    for name in ("a.svg", "b.svg"):
        write(suite, folder / name)
    text = (folder / "a.svg").read_text(encoding="utf-8")
    assert text == (folder / "b.svg").read_text(encoding="utf-8")
    return text


def test_tradeoffs_worked_by_hand(suite):
    found = tradeoffs(suite).set_index("method")
    # The dense mean is 85 %: its own seeds are at -5 and +5 points, whose deviation is 50 ** 0.5.
    assert found["score"].to_dict() == pytest.approx({"full": 0, "lora": -1, "dsee": -25})
    assert found["spread"]["full"] == pytest.approx(50**0.5)
    assert found["seeds"]["lora"] == 1
    assert (found["macs"]["dsee"], found["trained"]["dsee"]) == (0.7, 20)


def test_an_undefined_score_is_left_out_and_a_dense_run_is_needed(tmp_path):
    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=scoring(None))]
    assert list(tradeoffs(suite_of(folders))["method"]) == ["full"]
    with pytest.raises(DataError, match="no task of this suite has a score of 'full'"):
        write_pareto(suite_of(folders[1:]), tmp_path / "x.svg")


def beaten(point, points):
    return any(other[0] <= point[0] and other[1] >= point[1] and other != point for other in points)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_frontier_is_what_no_other_point_beats(step):
    places = list(itertools.product(range(4), repeat=2))[::step]
    points = [(cost * 3 % 7, score * 5 % 11) for cost, score in places]
    found = [points[index] for index in frontier(points)]
    assert set(found) == {point for point in points if not beaten(point, points)}
    assert found == sorted(set(found))


def test_frontier_takes_the_first_of_two_alike_and_floor_worked_by_hand():
    assert frontier([(1, 1), (1, 1), (0, 0)]) == [2, 0]
    # Quarters at -1 and 0: a width of 1, so three points below -1.
    assert floor_of([0, 0, -1, -1, -30]) == -4
    assert floor_of([0.0, -30.0]) == -30  # two do not tell which one failed


def test_methods_differ_in_marker_and_colour_together():
    styles = method_styles([f"m{index}" for index in range(84)])
    assert len(set(styles.values())) == 84
    assert len({marker for marker, _ in list(styles.values())[:12]}) == 12


def test_trade_offs_name_every_method(suite, tmp_path):
    text = drawn(write_pareto, suite, tmp_path)
    for method in METHODS:
        assert f"<!-- {method} -->" in text
    assert "± 1 standard deviation over 1/2" in text


@pytest.mark.parametrize("parts", [[30, -5, 10, -2], [-1, -2], [3, 4], [0, 5]])
def test_parts_of_a_bar_touch_and_end_at_the_sums_of_gains_and_losses(parts):
    begins = stacked(parts)
    ends = [begin + part for begin, part in zip(begins, parts, strict=True)]
    assert max([0, *ends]) == sum(part for part in parts if part > 0)
    assert min([0, *ends]) == sum(part for part in parts if part < 0)
    assert set(begins) <= {0.0, *ends}


def test_bars_tell_the_sum_worked_by_hand(tmp_path):
    def cheaper(records):
        # Half the dense run's 900,000 MACs on the same 300 examples; 3 of 5 seconds.
        records["cost"]["measured"]["breakdown"]["whole_life"]["train"] = 450_000
        records["tune"]["measured"]["train_seconds"] = 3.25

    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=cheaper)]
    text = drawn(write_saved, suite_of(folders), tmp_path)
    for told in ("+50 %", "+40 %", "fewer examples", "lora"):
        assert f"<!-- {told} -->" in text
    with pytest.raises(DataError, match="no task of this suite has 'full' and another method"):
        write_saved(suite_of(folders[:1]), tmp_path / "x.svg")


def leaving(*zeros):
    shares = {"attention": list(zeros), "feed_forward": list(zeros)}
    return changing("cost", sparsity_by_layer=shares)


def test_mean_of_zeros_over_seeds_is_told_and_methods_without_are_left_out(tmp_path):
    folders = [write_run(tmp_path, "full", edit=leaving(0.0, 0.0))]
    folders += [write_run(tmp_path, "dsee", seed=1, edit=leaving(0.1, 0.5))]
    folders += [write_run(tmp_path, "dsee", seed=2, edit=leaving(0.4, 0.5))]
    text = drawn(write_layers, suite_of(folders, METHODS), tmp_path)
    assert "<!-- 25 -->" in text  # (10 + 40) / 2
    assert "<!-- dsee -->" in text
    assert "<!-- full -->" not in text


def test_a_suite_without_zeros_says_so(tmp_path):
    assert MEASURED["cost"]["sparsity"] == 0
    text = drawn(write_layers, suite_of([write_run(tmp_path)]), tmp_path)
    assert "No method of this suite leaves zeros in a layer." in text


def test_seeds_with_different_depths_are_refused(tmp_path):
    folders = [write_run(tmp_path, "dsee", seed=1, edit=leaving(0.1, 0.5))]
    folders += [write_run(tmp_path, "dsee", seed=2, edit=leaving(0.4))]
    told = r"sparsity_by_layer: received \[1\] layers; allowed: 2"
    with pytest.raises(DataError, match=told):
        write_layers(suite_of(folders, METHODS), tmp_path / "x.svg")


def test_history_tells_steps_losses_and_phases(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    assert read_history(tmp_path / "history.csv").to_dict("list") == {
        "step": [2, 4, 6], "phase": ["train", "train", "recover"], "loss": [0.5, 0.25, 0.125],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "step,phase,loss\n", "step,phase,loss\n1,a,x\n", "step,phase\n1,train\n"]
)
def test_a_damaged_history_is_named(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(DataError, match=r"history.csv: not the history of a run"):
        read_history(tmp_path / "history.csv")


def test_thinned_worked_by_hand():
    history = pd.DataFrame({"step": [1.0, 2, 3, 4, 5], "loss": [1.0, 3, 5, 7, 9]})
    found = thinned(history, 3)
    # Five points in runs of two: (1, 2), (3, 4), (5).
    assert found["step"].tolist() == [1.5, 3.5, 5]
    assert found["loss"].tolist() == [2, 6, 9]


@pytest.mark.parametrize("count", [1, 7, 60, 61])
def test_thinned_equals_a_naive_loop(count):
    values = np.random.default_rng(0).random(count)
    width = -(-count // 10)
    naive = [values[at : at + width].mean() for at in range(0, count, width)]
    history = pd.DataFrame({"step": np.arange(count) * 1.0, "loss": values})
    assert list(thinned(history, 10)["loss"]) == pytest.approx(naive)
    assert len(naive) <= 10


@pytest.mark.parametrize("losses", [HISTORY, HISTORY.replace("0.25", "-0.25"),
                                    HISTORY.replace("0.25", "nan")])  # fmt: skip
def test_curves_have_a_panel_for_each_method(tmp_path, losses):
    folders = [write_run(tmp_path, method) for method in METHODS]
    for folder in folders:
        (folder / "history.csv").write_text(losses)
    text = drawn(write_curves, suite_of(folders, METHODS), tmp_path)
    for told in (*METHODS, "training loss", "training step"):
        assert f"<!-- {told} -->" in text


def search(path, checks=3):
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
    assert mask_distances(masks).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def test_mask_distances_equal_a_naive_loop(tmp_path):
    masks = search(tmp_path / "gates.npz", checks=4)["neuron_masks"]
    kept = masks[-1].mean()
    found = mask_distances(masks)
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            naive = sum(a != b for a, b in zip(one.flat, other.flat, strict=True)) / one.size
            assert found[i, j] == pytest.approx(naive / (2 * kept * (1 - kept)))
    with pytest.raises(DataError, match=r"allowed: \(checks, layers, units\)"):
        mask_distances(np.zeros((0,)))


def test_searches_are_drawn_and_a_damaged_one_is_named(tmp_path):
    gates = tmp_path / "gates.npz"
    search(gates)

    def write(stops, path):
        write_mask_distances(gates, path, title="one search", stops=stops)

    text = drawn(write, {"fixed": 10}, tmp_path)
    assert "<!-- one search -->" in text
    assert "<!--  fixed -->" in text
    gates.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"gates.npz: not the history of a search"):
        write({}, tmp_path / "x.svg")
    assert not (tmp_path / "x.svg").exists()

import itertools

import numpy as np
import pandas as pd
import pytest
from unit.made_records import MEASURED
from unit.reporting.runs import changing, scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.reporting.figures import (
    _floor_of,
    _frontier,
    _read_history,
    _stacked,
    _thinned,
    _tradeoffs,
    mask_distances,
    method_styles,
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
    edits = [
        ("full", 1, costing(0.80, 1000, 5000)), ("full", 2, costing(0.90, 1000, 5000)),
        ("lora", 1, costing(0.84, 1100, 10)), ("dsee", 1, costing(0.60, 700, 20)),
    ]  # fmt: skip
    return suite_of([write_run(tmp_path, m, seed=s, edit=edit) for m, s, edit in edits], METHODS)


def drawn(write, suite, folder, *texts):
    """Draw twice, the same bytes with these texts: Matplotlib notes whose letters it draws."""
    for name in ("a.svg", "b.svg"):
        write(suite, folder / name)
    found = (folder / "a.svg").read_text(encoding="utf-8")
    assert found == (folder / "b.svg").read_text(encoding="utf-8")
    assert [text for text in texts if f"<!-- {text} -->" not in found] == []
    return found


def test_tradeoffs_worked_by_hand(suite):
    found = _tradeoffs(suite).set_index("method")
    # The dense mean is 85 %: its own seeds are at -5 and +5 points, whose deviation is 50 ** 0.5.
    assert found["score"].to_dict() == pytest.approx({"full": 0, "lora": -1, "dsee": -25})
    assert found["spread"]["full"] == pytest.approx(50**0.5)
    assert found["seeds"]["lora"] == 1
    assert (found["macs"]["dsee"], found["trained"]["dsee"]) == (0.7, 20)


def test_an_undefined_score_is_left_out_and_a_dense_run_is_needed(tmp_path):
    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=scoring(None))]
    assert list(_tradeoffs(suite_of(folders))["method"]) == ["full"]
    with pytest.raises(DataError, match="no task of this suite has a score of 'full'"):
        write_pareto(suite_of(folders[1:]), tmp_path / "x.svg")


def frontier(points):
    found = _frontier(pd.DataFrame(points, columns=["cost", "score"]), "cost")
    return list(found.index)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_frontier_is_what_no_other_point_beats(step):
    places = list(itertools.product(range(4), repeat=2))[::step]
    points = [(cost * 3 % 7, score * 5 % 11) for cost, score in places]
    found = [points[index] for index in frontier(points)]
    unbeaten = {
        one for one in points
        if not any(other[0] <= one[0] and other[1] >= one[1] and other != one for other in points)
    }  # fmt: skip
    assert found == sorted(unbeaten)


def test_frontier_takes_the_first_of_two_alike_and_floor_worked_by_hand():
    assert frontier([(1, 1), (1, 1), (0, 0)]) == [2, 0]
    # Quarters at -1 and 0: a width of 1, so three points below -1.
    assert _floor_of(pd.Series([0, 0, -1, -1, -30])) == -4
    assert _floor_of(pd.Series([0.0, -30.0])) == -30  # two do not tell which one failed


def test_methods_differ_in_marker_and_colour_together():
    styles = method_styles([f"m{index}" for index in range(84)])
    assert len(set(styles.values())) == 84
    assert len({marker for marker, _ in list(styles.values())[:12]}) == 12


def test_trade_offs_name_every_method(suite, tmp_path):
    assert "± 1 standard deviation over 1/2" in drawn(write_pareto, suite, tmp_path, *METHODS)


@pytest.mark.parametrize(
    ("parts", "begins"),
    [([30, -5, 10, -2], [0, 0, 30, -5]), ([-1, -2], [0, -1]), ([3, 4], [0, 3]), ([0, 5], [0, 0])],
)
def test_parts_of_a_bar_touch_gains_to_the_right_and_losses_to_the_left(parts, begins):
    assert _stacked(np.array([parts])).tolist() == [begins]


def test_bars_tell_the_sum_worked_by_hand(tmp_path):
    def cheaper(records):
        # Half the dense run's 900,000 MACs on the same 300 examples; 3 of 5 seconds.
        records["cost"]["measured"]["breakdown"]["whole_life"]["train"] = 450_000
        records["tune"]["measured"]["train_seconds"] = 3.25

    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=cheaper)]
    drawn(write_saved, suite_of(folders), tmp_path, "+50 %", "+40 %", "fewer examples", "lora")
    with pytest.raises(DataError, match="no task of this suite has 'full' and another method"):
        write_saved(suite_of(folders[:1]), tmp_path / "x.svg")


def leaving(*zeros):
    shares = {"attention": list(zeros), "feed_forward": list(zeros)}
    return changing("cost", sparsity_by_layer=shares)


def test_mean_of_zeros_over_seeds_is_told_and_methods_without_are_left_out(tmp_path):
    folders = [write_run(tmp_path, "full", edit=leaving(0.0, 0.0))]
    folders += [write_run(tmp_path, "dsee", seed=1, edit=leaving(0.1, 0.5))]
    folders += [write_run(tmp_path, "dsee", seed=2, edit=leaving(0.4, 0.5))]
    text = drawn(write_layers, suite_of(folders, METHODS), tmp_path, "25", "dsee")  # (10 + 40) / 2
    assert "<!-- full -->" not in text
    folders += [write_run(tmp_path, "dsee", seed=3, edit=leaving(0.4))]
    told = r"sparsity_by_layer: received \[1\] layers; allowed: 2"
    with pytest.raises(DataError, match=told):
        write_layers(suite_of(folders, METHODS), tmp_path / "x.svg")


def test_a_suite_without_zeros_says_so(tmp_path):
    assert MEASURED["cost"]["sparsity"] == 0
    told = "No method of this suite leaves zeros in a layer."
    drawn(write_layers, suite_of([write_run(tmp_path)]), tmp_path, told)


def test_history_tells_steps_losses_and_phases(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    assert _read_history(tmp_path / "history.csv").to_dict("list") == {
        "step": [2, 4, 6], "phase": ["train", "train", "recover"], "loss": [0.5, 0.25, 0.125],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "step,phase,loss\n", "step,phase,loss\n1,a,x\n", "step,phase\n1,train\n"]
)
def test_a_damaged_history_is_named(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(DataError, match=r"history.csv: not the history of a run"):
        _read_history(tmp_path / "history.csv")


@pytest.mark.parametrize("count", [1, 5, 7, 60, 61])
def test_thinned_equals_a_naive_loop(count):
    values = np.random.default_rng(0).random(count)
    width = -(-count // 3)
    history = pd.DataFrame({"step": np.arange(count) * 1.0, "loss": values})
    found = _thinned(history, 3)
    for name in history:
        naive = [history[name][at : at + width].mean() for at in range(0, count, width)]
        assert list(found[name]) == pytest.approx(naive)
    assert len(found) <= 3


@pytest.mark.parametrize("loss", ["0.25", "-0.25", "nan"])
def test_curves_have_a_panel_for_each_method(tmp_path, loss):
    folders = [write_run(tmp_path, method) for method in METHODS]
    for folder in folders:
        (folder / "history.csv").write_text(HISTORY.replace("0.25", loss))
    told = (*METHODS, "training loss", "training step")
    drawn(write_curves, suite_of(folders, METHODS), tmp_path, *told)


def search(checks):
    """Steps and masks of a search."""
    rng = np.random.default_rng(0)
    masks = {f"{site}_masks": rng.random((checks, 2, 16)) > 0.5 for site in ("head", "neuron")}
    return {"steps": np.arange(1, checks + 1) * 5, **masks}


def test_mask_distances_worked_by_hand_and_by_a_naive_loop():
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 1, 0]], [[1, 1, 0, 0]]], dtype=bool)
    # Two of four units differ, 1/2; with half kept, independent masks differ in 2 x 1/4 = 1/2.
    assert mask_distances(masks).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    masks = search(4)["neuron_masks"]
    found, kept = mask_distances(masks), masks[-1].mean()
    for (i, one), (j, other) in itertools.product(enumerate(masks), repeat=2):
        naive = sum(a != b for a, b in zip(one.flat, other.flat, strict=True)) / one.size
        assert found[i, j] == pytest.approx(naive / (2 * kept * (1 - kept)))
    with pytest.raises(DataError, match=r"allowed: \(checks, layers, units\)"):
        mask_distances(np.zeros((0,)))


def test_searches_are_drawn_and_a_damaged_one_is_named(tmp_path):
    gates = tmp_path / "gates.npz"
    np.savez_compressed(gates, **search(3))

    def write(stops, path):
        write_mask_distances(gates, path, title="one search", stops=stops)

    drawn(write, {"fixed": 10}, tmp_path, "one search", " fixed")
    gates.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"gates.npz: not the history of a search"):
        write({}, tmp_path / "x.svg")
    assert not (tmp_path / "x.svg").exists()

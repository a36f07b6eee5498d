import pytest
from unit.reporting.runs import write_run

from sparsetune.errors import DataError
from sparsetune.reporting.canvas import label_size
from sparsetune.reporting.collect import collect
from sparsetune.reporting.saved import _ends, _told, stacked, write_saved
from sparsetune.reporting.savings import Saving

ORDER = [("mini-bert", "mini-sst2", method) for method in ("full", "lora")]


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

    rows = collect([write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=cheaper)])
    write_saved(rows, tmp_path / "saved.svg", order=ORDER, reference_method="full")
    text = (tmp_path / "saved.svg").read_text(encoding="utf-8")
    assert "+50 % -->" in text
    assert "+40 % -->" in text
    assert "<!-- fewer examples -->" in text


def test_savings_need_something_to_compare(tmp_path):
    rows = collect([write_run(tmp_path, "full")])
    with pytest.raises(DataError, match="no task of this suite has 'full' and another method"):
        write_saved(rows, tmp_path / "x.svg", order=ORDER, reference_method="full")


@pytest.mark.parametrize(
    "wholes", [(-4.64, 0.1), (-4.64, -0.02), (-0.01,), (0.5, -6.0), (0.9,), (0.0,)]
)
def test_every_number_beside_a_bar_ends_within_its_panel(wholes):
    found = [Saving(whole, whole, 0.0, 0.0) for whole in wholes]
    low, high = _ends(found)
    for one in found:
        bar = max(0.0, 100 * one.whole)
        inside = (bar - low) / (high - low)
        assert 0 <= inside + label_size(_told(one), 6)[0] / (2.7 * 72) <= 1 + 1e-9
        assert low <= 100 * one.whole

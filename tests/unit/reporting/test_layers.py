import pytest
from unit.reporting.runs import write_run

from sparsetune.errors import DataError
from sparsetune.reporting.collect import collect
from sparsetune.reporting.layers import write_layers

ORDER = [("mini-bert", "mini-sst2", method) for method in ("full", "dsee")]


def leaving(*zeros):
    def edit(records):
        records["cost"]["measured"]["sparsity_by_layer"] = {
            "attention": list(zeros), "feed_forward": list(zeros),
        }  # fmt: skip

    return edit


def drawn(rows, tmp_path):
    write_layers(rows, tmp_path / "layers.svg", order=ORDER)
    return (tmp_path / "layers.svg").read_text(encoding="utf-8")


def test_mean_over_seeds_is_told_and_methods_without_zeros_are_left_out(tmp_path):
    folders = [write_run(tmp_path, "full", edit=leaving(0.0, 0.0))]
    folders += [write_run(tmp_path, "dsee", seed=1, edit=leaving(0.1, 0.5))]
    folders += [write_run(tmp_path, "dsee", seed=2, edit=leaving(0.4, 0.5))]
    text = drawn(collect(folders), tmp_path)
    assert "<!-- 25 -->" in text  # (10 + 40) / 2
    assert "<!-- dsee -->" in text
    assert "<!-- full -->" not in text


def test_a_suite_without_zeros_says_so(tmp_path):
    rows = collect([write_run(tmp_path, "full", edit=leaving(0.0))])
    assert "No method of this suite leaves zeros in a layer." in drawn(rows, tmp_path)


def test_seeds_with_different_depths_are_refused(tmp_path):
    folders = [write_run(tmp_path, "dsee", seed=1, edit=leaving(0.1, 0.5))]
    folders += [write_run(tmp_path, "dsee", seed=2, edit=leaving(0.4))]
    with pytest.raises(DataError, match=r"sparsity_by_layer: got \[1\] layers, need 2"):
        drawn(collect(folders), tmp_path)

import json

import pytest
from unit.made_records import write_made
from unit.reporting.runs import cells_of, changing, scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.records import sha256_of
from sparsetune.reporting.results import (
    FIRST_METHODS,
    block_of,
    data_of,
    drawn_methods,
    index_of,
    page_of,
    shown_suite,
    with_block,
)

MARKS = "above\n<!-- results of mini: told -->\nold\n<!-- end of results -->\nbelow\n"


def made(tmp_path, *, seeds=(1, 2), claims=None, planned=None):
    """Two methods on two tasks; a seed has as many points more as its number."""
    order, folders = [], []
    for task, full, lora in (("mini-sst2", 0.80, 0.84), ("mini-rte", 0.90, 0.88)):
        for method, score in (("full", full), ("lora", lora)):
            order.append(("mini-bert", task, method))
            folders += [
                write_run(tmp_path, method, task=task, seed=seed, edit=scoring(score + seed / 100))
                for seed in seeds
            ]
    suite = suite_of(folders, order)
    told = {"name": "mini", "description": "A suite.", "planned": planned, "claims": claims}
    return json.loads(json.dumps(data_of(suite, **told)))


def test_means_over_tasks_and_their_spread_over_seeds(tmp_path):
    data = made(tmp_path)
    full, lora = data["backbones"][0]["methods"]
    # Means of the tasks: 0.85 and 0.86, a point more for seed 1 and two for seed 2.
    assert full["score_mean"] == pytest.approx(0.865)
    assert lora["score_mean"] == pytest.approx(0.875)
    assert lora["difference"] == pytest.approx(0.01)
    # Two values 0.01 apart: 0.01 / sqrt(2).
    assert lora["score_sd"] == pytest.approx(0.01 / 2**0.5)
    assert (lora["tasks_count"], lora["seeds_count"]) == (2, 2)
    assert full["training_macs_saved_fraction"] is None


def test_every_number_has_the_digests_of_its_records(tmp_path):
    data = made(tmp_path)
    cell = next(
        one for one in data["cells"] if (one["task"], one["method"]) == ("mini-rte", "lora")
    )
    for seed, digests in zip(cell["seeds"], cell["records"], strict=True):
        folder = tmp_path / f"runs/mini-bert/mini-rte/lora/seed-{seed}"
        for stage in ("tune", "evaluate", "cost"):
            assert sha256_of(folder / f"{stage}.json").startswith(digests[stage])
    page = page_of(data)
    for row in data["backbones"][0]["methods"]:
        assert f"`{row['records']}`" in page
    assert len({row["records"] for row in data["backbones"][0]["methods"]}) == 2


def test_a_page_tells_where_it_ran_and_how_much_is_missing(tmp_path):
    data = made(tmp_path, planned=10)
    page = page_of(data)
    assert (
        f"8 of 10 runs at commit {'c' * 9}, on cpu with 1 CPU thread(s) a job, 2026-01-01" in page
    )
    assert "± is the standard deviation over 2 seeds" in page
    assert "| `lora`   | 87.5 ± 0.7 |" in page


def test_one_seed_says_that_it_has_no_spread(tmp_path):
    block = block_of(made(tmp_path, seeds=(1,)))
    assert "One seed: the spread is not known" in block
    assert "±" not in block
    assert "say nothing about a real benchmark" in block


def test_a_method_that_lacks_a_task_says_so(tmp_path):
    folders = [
        write_run(tmp_path, "full", task="mini-sst2"), write_run(tmp_path, "full", task="mini-rte"),
        write_run(tmp_path, "lora", task="mini-rte", edit=scoring(0.9)),
    ]  # fmt: skip
    order = [("mini-bert", one.parts[-3], one.parts[-2]) for one in folders]
    data = data_of(suite_of(folders, order), name="mini", description="")
    (row,) = (line for line in page_of(data).splitlines() if "`lora` (1 of 2 tasks)" in line)
    assert cells_of(row)[1] == "-"  # a mean over other tasks stands beside no other mean
    # Beside the dense run of the same task, not of both.
    assert data["backbones"][0]["methods"][1]["difference"] == pytest.approx(0.1)


def test_a_backbone_without_a_dense_run_has_its_scores_alone(tmp_path):
    data = data_of(suite_of([write_run(tmp_path, "lora")], ["lora"]), name="mini", description="")
    assert data["backbones"] == [{"backbone": "mini-bert", "tasks": [], "methods": []}]
    assert "mini-sst2 (accuracy)" in page_of(data)
    assert drawn_methods(data) == ([], [])
    assert "make results" in block_of(data)


def test_the_methods_that_come_first_are_shown_where_a_suite_has_most_of_them(tmp_path):
    def shown(place, *methods):
        folders = [write_run(tmp_path / place, one) for one in methods]
        data = data_of(suite_of(folders, list(methods)), name="mini", description="")
        return [row["method"] for row in drawn_methods(data)[0]]

    assert shown("study", "full", "lora", "lora-long") == ["full", "lora", "lora-long"]
    first = FIRST_METHODS[:5]
    assert shown("suite", "imp", *first) == list(first)


def test_a_run_that_answers_all_alike_has_its_star(tmp_path):
    folder = write_run(tmp_path, "full", edit=changing("evaluate", collapsed=True))
    page = page_of(data_of(suite_of([folder], ["full"]), name="mini", description=""))
    assert "80.0 *" in page
    assert "A star marks" in page


CLAIM = {
    "id": "a-claim", "paper": "ours", "claim": "It works.", "verdict": "holds", "unit": "points",
    "measured": "+1.2 [+0.5, +2.0] points", "claimed": "lora less full > 0 points",
    "reason": "spread of 2 seeds", "difference_mean": 1.25, "difference_low": 0.5,
    "difference_high": 2.0, "by_place": "mini-a +0.5, mini-b +2.0",
}  # fmt: skip


def test_verdicts_come_with_the_digest_of_their_record(tmp_path):
    record = tmp_path / "claims.json"
    untested = {**CLAIM, "verdict": "not tested at this scale", "claim": "It flies."}
    measured = {"verdicts": {"holds": 1, "fails": 0}, "claims": [CLAIM, untested]}
    write_made(record, "claims", measured=measured)
    data = made(tmp_path, claims=record)
    page = page_of(data)
    assert f"record `{sha256_of(record)[:16]}`" in page
    assert "1 hold, 0 fail, 0 within noise, 0 not tested" in page
    told = "| +1.2 [+0.5, +2.0] points | mini-a +0.5, mini-b +2.0 | lora less full > 0 points |"
    assert told in page
    assert "It flies." not in page
    assert "docs/results/mini.md#claims" in block_of(data)
    assert "1 hold" in index_of([data])


def test_a_damaged_record_of_verdicts_is_refused(tmp_path):
    record = tmp_path / "claims.json"
    write_made(record, "claims", measured={"claims": [{"id": "x"}]})
    with pytest.raises(DataError, match=r"claims\.json: measured\.claims: missing key 'paper'"):
        made(tmp_path, claims=record)


def test_only_what_is_between_the_marks_is_written():
    assert shown_suite(MARKS) == "mini"
    told = with_block(MARKS, "new \\1\n")
    assert told == MARKS.replace("old\n", "new \\1\n")
    assert with_block(told, "new \\1\n") == told
    assert shown_suite("no marks") is None
    with pytest.raises(DataError, match="README: received no marks"):
        with_block("no marks", "new")

"""Contrasts of kept results: pairs of seeds, their interval, and pages whose answers stay."""

import statistics

import pytest
from scipy import stats
from unit.reporting.runs import cells_of

from sparsetune.config.study import Contrast, Study
from sparsetune.errors import DataError
from sparsetune.reporting.render import ABSENT
from sparsetune.reporting.results import digest_of_records
from sparsetune.reporting.studies import block_of, difference_of, index_of, page_of, rows_of

SAVED = {"full": None, "lora": 0.2, "dsee": 0.6}


def cell(method, scores, *, task="mini-sst2", backbone="mini-bert", metric="accuracy_fraction"):
    """What is kept of one method on one task; ``scores`` by seed."""
    return {
        "backbone": backbone, "task": task, "method": method, "metric": metric,
        "seeds": list(scores), "scores": list(scores.values()),
        "training_macs_saved_fraction": SAVED[method],
        "trained_fraction": 1.0 if method == "full" else 0.01,
        "records": [{"tune": f"{method}-{task}-{seed}"} for seed in scores],
    }  # fmt: skip


WHERE = {
    "commits": ["c" * 40], "uncommitted_changes": False, "devices": ["cpu"], "host_threads": [1],
    "started": "2026-01-01T00:00:00", "ended": "2026-01-01T01:00:00",
}  # fmt: skip


def data(*cells):
    return {
        "suite": "mini", "runs_count": 4, "planned_runs_count": 9, "where": WHERE,
        "cells": list(cells),
    }  # fmt: skip


def study(*contrasts, suites=("mini",)):
    pairs = [dict(zip(("left", "right", "says"), one, strict=True)) for one in contrasts]
    told = {"title": "Low rank", "question": "Does it suffice?", "suites": suites}
    return Study.model_validate({**told, "contrasts": pairs})


def line_of(block):
    """The only row of a block with one table."""
    (line,) = [one for one in block.splitlines() if one.startswith("| `mini`")]
    return line


LORA = ("lora", "full", "LoRA against dense training.")
LORA_LESS_FULL = Contrast(left="lora", right="full", says="x")


def test_a_row_pairs_the_seeds_that_both_sides_have():
    (row,) = rows_of(
        LORA_LESS_FULL,
        data(cell("lora", {3: 0.9, 1: 0.8, 2: None, 4: 0.1}), cell("full", {1: 0.7, 2: 1, 3: 0.6})),
    )
    assert row["seeds"] == [1, 3]
    assert row["scores"] == [[0.8, 0.9], [0.7, 0.6]]
    assert [one["tune"] for one in row["records"][0]] == ["lora-mini-sst2-1", "lora-mini-sst2-3"]
    assert (row["training"], row["trained"]) == (0.8, (0.01, 1.0))


def test_the_interval_is_students_over_the_paired_differences():
    left, right = {1: 0.80, 2: 0.86, 3: 0.83}, {1: 0.79, 2: 0.83, 3: 0.81}
    (row,) = rows_of(LORA_LESS_FULL, data(cell("lora", left), cell("full", right)))
    found = difference_of(row)
    # Differences 1, 3 and 2 points: mean 2, deviation 1, error 1 / sqrt(3); t of 2 degrees 4.3027.
    assert found.mean == pytest.approx(0.02)
    assert found.ends == pytest.approx((0.02 - 0.043027 / 3**0.5, 0.02 + 0.043027 / 3**0.5), 1e-4)
    oracle = stats.ttest_rel(list(left.values()), list(right.values())).confidence_interval(0.95)
    assert found.ends == pytest.approx(tuple(oracle), 1e-9)


@pytest.mark.parametrize("left", [{1: 0.8}, {1: 0.8, 2: 0.9, 3: 1.0}])
def test_one_seed_and_differences_all_alike_tell_no_noise(left):
    right = {seed: score - 0.1 for seed, score in left.items()}
    kept = data(cell("lora", left), cell("full", right))
    (row,) = rows_of(LORA_LESS_FULL, kept)
    assert difference_of(row) is None
    assert f" +10.0 [{ABSENT}] |" in block_of(study(LORA), {"mini": kept})


def test_the_mean_of_a_backbones_tasks_is_over_the_seeds_that_all_share():
    kept = data(
        cell("lora", {1: 0.6, 2: 0.8, 3: 0.9}), cell("full", {1: 0.5, 2: 0.6, 3: 0.6}),
        cell("lora", {2: 0.4, 3: 0.5, 4: 0.9}, task="mini-rte"),
        cell("full", {2: 0.4, 3: 0.3, 4: 0.9}, task="mini-rte"),
        cell("lora", {1: 0.1}, backbone="mini-roberta"),
        cell("full", {1: 0.1}, backbone="mini-roberta"),
    )  # fmt: skip
    *tasks, mean, other = rows_of(LORA_LESS_FULL, kept)
    assert [one["task"] for one in tasks] == ["mini-sst2", "mini-rte"]
    assert (mean["task"], mean["tasks"], mean["seeds"]) == (None, 2, [2, 3])
    # (0.8 + 0.4) / 2, (0.9 + 0.5) / 2 and (0.6 + 0.4) / 2, (0.6 + 0.3) / 2.
    assert mean["scores"][0] == pytest.approx([0.6, 0.7])
    assert mean["scores"][1] == pytest.approx([0.5, 0.45])
    assert len(mean["records"][0]) == 4
    assert other["backbone"] == "mini-roberta"  # one task: no mean of it


def test_tasks_that_share_no_seed_have_no_mean():
    kept = data(
        cell("lora", {1: 0.6}), cell("full", {1: 0.5}),
        cell("lora", {2: 0.4}, task="mini-rte"), cell("full", {2: 0.4}, task="mini-rte"),
    )  # fmt: skip
    assert [one["task"] for one in rows_of(LORA_LESS_FULL, kept)] == ["mini-sst2", "mini-rte"]


def test_a_contrast_keeps_to_its_places():
    kept = data(
        cell("lora", {1: 0.6}), cell("full", {1: 0.5}),
        cell("lora", {1: 0.4}, task="mini-rte"), cell("full", {1: 0.4}, task="mini-rte"),
    )  # fmt: skip
    there = LORA_LESS_FULL.model_copy(update={"tasks": ("mini-rte",)})
    assert [one["task"] for one in rows_of(there, kept)] == ["mini-rte"]


def test_costs_without_a_dense_run_are_not_known():
    left, right = cell("dsee", {1: 0.6}), cell("lora", {1: 0.5})
    for one in (left, right):
        one |= {"training_macs_saved_fraction": None, "trained_fraction": None}
    (row,) = rows_of(Contrast(left="dsee", right="lora", says="x"), data(left, right))
    assert (row["training"], row["trained"]) == (None, (None, None))


def test_a_block_has_each_number_and_the_digests_of_its_records():
    left, right = cell("lora", {1: 0.80, 2: 0.86, 3: 0.83}), cell("full", {1: 0.7, 2: 0.72, 3: 0.7})
    block = block_of(study(LORA), {"mini": data(left, right)})
    suite, backbone, task, first, second, difference, seeds, training, trained, records = cells_of(
        line_of(block)
    )
    assert (suite, backbone, task, seeds) == ("`mini`", "mini-bert", "mini-sst2 (accuracy)", "3")
    assert (first, second) == ("83.0 ± 3.0", "70.7 ± 1.2")
    differences = [0.10, 0.14, 0.13]
    half = 4.30265 * statistics.stdev(differences) / 3**0.5
    low, high = 100 * (0.37 / 3 - half), 100 * (0.37 / 3 + half)
    assert difference == f"**+12.3** [+{low:.1f}, +{high:.1f}]"
    assert (training, trained) == ("80.0", "1.00 / 100.00")
    digests = [f"`{digest_of_records(one['records'])}`" for one in (left, right)]
    assert records == " ".join(digests)
    assert "- Suite `mini`: 4 of 9 runs at commit ccccccccc" in block
    assert "[All results](../results/mini.md)" in block


def test_an_interval_with_zero_in_it_is_not_bold():
    kept = data(cell("lora", {1: 0.80, 2: 0.86}), cell("full", {1: 0.81, 2: 0.84}))
    block = block_of(study(LORA), {"mini": kept})
    assert " +0.5 [-" in block
    assert "**" not in line_of(block)


def test_what_no_suite_has_run_says_so():
    asked = study(LORA, ("dsee", "full", "DSEE."), suites=("mini", "evidence"))
    kept = data(cell("lora", {1: 0.6}), cell("full", {1: 0.5}))
    block = block_of(asked, {"mini": kept, "other": kept})
    assert "- Suite `evidence`: no results kept yet." in block
    assert block.count("\nNo results kept yet.\n") == 1  # dsee less full
    assert "other" not in block


def page(text=None, results=None, name="rank"):
    return page_of(name, study(LORA), results or {}, text)


def test_a_new_page_waits_for_its_answer_and_an_old_one_keeps_it():
    first = page()
    assert first.startswith("# Low rank\n\nDoes it suffice?\n\n## Answer\n\nNot answered yet.\n")
    answered = first.replace("Not answered yet.", "Yes. With \\1 rank.\n\nMore.") + "\nBelow.\n"
    kept = data(cell("lora", {1: 0.6}), cell("full", {1: 0.5}))
    second = page("# Old title\n\n" + answered[answered.index("## Answer") :], {"mini": kept})
    assert second.startswith("# Low rank\n\nDoes it suffice?\n\n## Answer\n\nYes. With \\1 rank.")
    assert second.endswith("<!-- end of contrasts -->\n\nBelow.\n")
    assert "| `mini`" in second
    assert page(second, {"mini": kept}) == second
    assert page(second) == answered


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("## Answer", "## Result"),
        lambda text: text.replace("<!-- end of contrasts -->", ""),
        lambda text: text.replace("<!-- contrasts of", "<!-- contrast of"),
        lambda text: text.replace("study rank", "study other"),
        lambda text: text.replace("## Answer\n", "") + "\n## Answer\n\nYes.\n",
        lambda text: "",
    ],
)
def test_a_page_without_heading_or_marks_is_refused_in_one_line(damage):
    with pytest.raises(DataError, match="page of study rank: received no '## Answer'") as caught:
        page(damage(page()))
    assert "\n" not in str(caught.value)


def test_the_list_has_the_first_sentence_of_each_answer():
    asked = {"rank": study(LORA), "zeros": study(LORA)}
    pages = {
        "rank": page().replace(
            "Not answered yet.", "Yes, with 1.5 ranks\nor more. Not less.\n\nX."
        ),
        "zeros": page(name="zeros"),
    }
    lines = index_of(asked, pages).splitlines()
    answers = [cells_of(one)[-1] for one in lines if one.startswith("| [")]
    assert answers == ["Yes, with 1.5 ranks or more.", "Not answered yet."]

import csv

import pytest
from unit.reporting.runs import scoring, write_run

from sparsetune.cli import main
from sparsetune.errors import ConfigError, DataError
from sparsetune.evaluation.predictions import write_predictions
from sparsetune.reporting.load import collect
from sparsetune.reporting.paired import write_paired
from sparsetune.stages import compare as compare_job
from sparsetune.stages.compare import ExampleNoise, compare_methods, headline_comparisons

GROUP = "mini-bert/mini-sst2"
IDS = [f"dev-{n}" for n in range(10)]
REFERENCES = [1] * 10
DRAWN = {"level": 0.95, "resamples": 1000}
KEYS = [("mini-bert", "mini-sst2", method) for method in ("full", "lora")]


def write(results, method, right, *, seed=1, references=REFERENCES, ids=IDS):
    """A run that gets the first ``right`` of ten examples right."""
    score = scoring(right / 10, n_examples=10, metrics={"accuracy_fraction": right / 10})
    folder = write_run(results, method, seed=seed, edit=score)
    predictions = [1 if n < right else 0 for n in range(len(ids))]
    write_predictions(folder / "predictions.parquet", ids, predictions, references)
    return folder


def compare(results, method="lora", against="full", group=GROUP):
    return compare_methods(results, group, methods=(against, method))


def test_pair_is_told_by_metric_and_by_seed(tmp_path):
    for seed, right in ((1, 4), (2, 8)):
        write(tmp_path, "full", 9, seed=seed)
        write(tmp_path, "lora", right, seed=seed)
    write(tmp_path, "full", 9, seed=3)  # lora has no such seed: left out
    text = compare(tmp_path)
    lines = text.splitlines()
    assert lines[0] == "# lora against full: mini-bert on mini-sst2"
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    # Means over seeds 1 and 2: 90, and 40 and 80; five and one of ten examples lost.
    assert cells[:4] == ["accuracy_fraction", "90.0", "60.0", "-30.0"]
    assert "- 10 examples; seeds: 1, 2." in lines
    # 2 / 2^5 and 2 / 2^1, the exact two-sided tails of 5 and of 1 fair coins.
    assert "Seed 1: only full right on 5, only lora on 0, McNemar p 0.062." in text
    assert "Seed 2: only full right on 1, only lora on 0, McNemar p 1.000." in text


def test_command_prints_the_pair(tmp_path, capsys):
    write(tmp_path, "full", 9)
    write(tmp_path, "lora", 4)
    argv = ["compare", "--results", str(tmp_path), "--group", GROUP, "--method", "lora"]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("# lora against full")
    assert main([*argv, "--against", "lorra"]) == 2
    assert "no runs of 'lorra'; known: full, lora" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"group": "mini-bert"}, "--group: received 'mini-bert'; allowed: BACKBONE/TASK"),
        ({"group": "../runs"}, "--group: received '../runs'"),
        ({"method": "full"}, "--method: received 'full'; allowed: another than --against"),
        ({"group": "mini-bert/mini-rte"}, "no runs of 'full'; known: none"),
        ({"method": "dsee"}, r"no seed in common; full: \[1\], dsee: \[2\]"),
    ],
)
def test_pair_that_does_not_exist_is_refused(tmp_path, wrong, told):
    write(tmp_path, "full", 9)
    write(tmp_path, "dsee", 9, seed=2)
    with pytest.raises(ConfigError, match=told):
        compare(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ids": [*IDS[:9], "other"]}, "row 10: id is 'other', .* has 'dev-9'"),
        ({"references": [0, *REFERENCES[1:]]}, "row 1: reference is '0', .* has '1'"),
        ({"ids": IDS[:9], "references": REFERENCES[:9]}, "holds 9 predictions, .* tells 10"),
    ],
)
def test_predictions_of_other_examples_are_refused(tmp_path, changes, told):
    write(tmp_path, "full", 9)
    write(tmp_path, "lora", 4, **changes)
    with pytest.raises(DataError, match=rf"lora.*predictions\.parquet: {told}"):
        compare(tmp_path)


def test_table_has_a_line_per_method_and_names_what_it_leaves_out(tmp_path):
    folders = [write(tmp_path, "full", 9), write(tmp_path, "lora", 4)]
    folders.append(write(tmp_path, "ia3", 4, seed=2))
    order = [(*KEYS[0][:2], method) for method in ("full", "lora", "ia3")]
    made, left_out = headline_comparisons(collect(folders, order), against="full")
    assert left_out == ["No run of full with the same seed: mini-bert/mini-sst2/ia3."]
    paths = write_paired(made, tmp_path, against="full", left_out=left_out, **DRAWN)
    with paths[1].open() as file:
        (row,) = csv.DictReader(file)
    assert row["method"] == "lora"
    assert float(row["difference"]) == pytest.approx(-0.5)
    assert float(row["difference_low"]) < -0.5 < float(row["difference_high"]) < 0
    assert (row["only_reference_right"], row["only_method_right"]) == ("5", "0")
    assert float(row["mcnemar_p_values"]) == 2 / 2**5
    text = paths[0].read_text()
    assert all(note in text for note in left_out)


def test_texts_without_right_answers_have_no_mcnemar(tmp_path):
    for method, text in (("full", "the red house by the sea"), ("lora", "the red house")):
        edit = scoring(0.5, n_examples=10, headline_metric="bleu_fraction",
                       metrics={"bleu_fraction": 0.5})  # fmt: skip
        folder = write_run(tmp_path, method, seed=1, edit=edit)
        references = [["the red house by the sea", "a house"]] * 10
        write_predictions(folder / "predictions.parquet", IDS, [text] * 10, references)
    text = compare(tmp_path)
    assert "McNemar" not in text
    assert "bleu_fraction" in text


def test_suite_without_comparisons_still_has_its_table(tmp_path):
    folders = [write(tmp_path, "full", 9)]
    made, left_out = headline_comparisons(collect(folders, KEYS[:1]), against="full")
    assert (made, left_out) == ([], [])
    paths = write_paired(made, tmp_path, against="full", left_out=left_out, **DRAWN)
    assert "Against full, paired" in paths[0].read_text()


def test_every_run_is_read_and_resampled_once(tmp_path, monkeypatch):
    methods = ["full", "lora", "dsee", "bitfit"]
    for seed in (1, 2):
        for right, method in enumerate(methods, start=4):
            write(tmp_path, method, right, seed=seed)
    read, scored = [], []
    reader, resampler = compare_job.read_predictions, compare_job.resampled
    monkeypatch.setattr(
        compare_job, "read_predictions", lambda path, **_: read.append(path) or reader(path, **_)
    )
    monkeypatch.setattr(
        compare_job, "resampled", lambda *told: scored.append(told[1]) or resampler(*told)
    )
    order = [("mini-bert", "mini-sst2", method) for method in methods]
    suite = collect(sorted(tmp_path.glob("runs/*/*/*/*")), order)
    made, left_out = headline_comparisons(suite, against="full")
    assert ([one.key[2] for one in made], left_out) == (methods[1:], [])
    assert len(read) == len(set(read)) == len(scored) == 8


def rows(results, *methods):
    """The runs of methods, seed by seed."""
    groups = collect(sorted(results.glob("runs/*/*/*/seed-*"))).groups
    sides = [list(groups["mini-bert", "mini-sst2", method].itertuples()) for method in methods]
    return list(zip(*sides, strict=True))


def test_noise_of_the_examples_is_of_left_less_right_in_points(tmp_path, monkeypatch):
    for seed in (1, 2):
        write(tmp_path, "full", 9, seed=seed)
        write(tmp_path, "lora", 4, seed=seed)
    noise = ExampleNoise()
    found = noise([rows(tmp_path, "lora", "full")])
    # Five of ten examples lost: minus a binomial share of sd sqrt(0.25 / 10), in tenths.
    assert (found.mean, found.over) == (pytest.approx(-50.0), "examples")
    assert (found.low, found.high) == pytest.approx((-80.0, -20.0), abs=10.1)
    monkeypatch.setattr(compare_job, "read_predictions", None)  # each run is read once
    back = noise([rows(tmp_path, "full", "lora")])
    assert (back.mean, back.low, back.high) == pytest.approx((50.0, -found.high, -found.low))


def test_noise_of_the_examples_pairs_what_seeds_and_mistakes_have_in_common(tmp_path):
    # Both are wrong on the same example: no draw tells them apart.
    for method in ("full", "lora"):
        write(tmp_path, method, 9)
    found = ExampleNoise()([rows(tmp_path, "lora", "full")])
    assert (found.low, found.mean, found.high) == (0.0, 0.0, 0.0)


def test_noise_of_the_examples_refuses_other_examples(tmp_path):
    write(tmp_path, "full", 9)
    write(tmp_path, "lora", 4, ids=[*IDS[:9], "other"])
    with pytest.raises(DataError, match=r"row 10: id is 'other', .* has 'dev-9'"):
        ExampleNoise()([rows(tmp_path, "full", "lora")])

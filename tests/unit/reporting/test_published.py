import csv

import pytest
from unit.reporting.runs import scoring, write_run

from sparsetune.config.files import read_checked
from sparsetune.config.load import Catalogue
from sparsetune.reporting.collect import collect
from sparsetune.reporting.published import write_published

ORDER = [("mini-bert", "mini-sst2", method) for method in ("full", "lora")]
TABLE = {
    "title": "A table",
    "source": "a paper, table 1",
    "columns": [
        {"heading": "SST-2", "tasks": ["mini-sst2"], "value": "score"},
        {"heading": "time saved", "tasks": ["mini-sst2"], "value": "saved-seconds"},
    ],
    "rows": [
        {"label": "BERT", "backbone": "mini-bert", "method": "full", "published": [91.5, None]},
        {"label": "LoRA", "backbone": "mini-bert", "method": "lora", "published": [None, "40-45"]},
        {"label": "IMP", "backbone": "mini-bert", "method": "imp", "published": [88.0, 1.0]},
    ],
    "notes": ["A doubt."],
}


def quick(records):
    scoring(0.85)(records)
    records["tune"]["measured"].update(train_seconds=2.75)


@pytest.fixture
def lines(tmp_path):
    folders = [
        write_run(tmp_path, "full", seed=seed, edit=scoring(score))
        for seed, score in enumerate((0.90, 0.92))
    ]
    folders.append(write_run(tmp_path, "lora", edit=quick))
    write_published(TABLE, collect(folders), tmp_path / "one", order=ORDER, reference_method="full")
    with (tmp_path / "one.csv").open() as file:
        return {line["row"]: line for line in csv.DictReader(file)}, (tmp_path / "one.md")


def test_ours_stands_beside_the_published_value(lines):
    found, text = lines
    # Mean of 90 and 92; sample deviation 2 / sqrt 2; 91 - 91.5.
    assert float(found["BERT"]["sst-2_mean_percent"]) == pytest.approx(91.0)
    assert float(found["BERT"]["sst-2_sd_points"]) == pytest.approx(2**0.5)
    assert float(found["BERT"]["sst-2_difference_points"]) == pytest.approx(-0.5)
    assert "91.0 ± 1.4 (2)" in text.read_text()


def test_time_saved_is_against_the_dense_run(lines):
    found, _ = lines
    # full: 5.25 s less 0.25 s of loading; lora: 2.75 - 0.25 = 2.5 s.
    assert float(found["LoRA"]["time_saved_mean_percent"]) == pytest.approx(50.0)
    assert found["LoRA"]["time_saved_difference_points"] == ""
    assert found["LoRA"]["time_saved_published_percent"] == "40-45"
    assert found["BERT"]["time_saved_mean_percent"] == ""


def test_what_is_not_known_or_not_run_is_not_invented(lines):
    found, text = lines
    assert found["LoRA"]["sst-2_published_percent"] == ""
    assert found["IMP"]["sst-2_mean_percent"] == ""
    assert "not known" in text.read_text()
    assert "A doubt." in text.read_text()


@pytest.mark.parametrize(
    ("before", "ours", "difference"),
    [
        # 0.81 / 0.90 - 1 = -10 %; published -4.
        (0.90, "-10.0 (1)", "-6.0"),
        # Nothing is relative to zero.
        (0.0, "-", "-"),
    ],
)
def test_change_is_relative_to_the_other_backbone(tmp_path, before, ours, difference):
    folders = [
        write_run(tmp_path, "full", edit=scoring(0.81)),
        write_run(tmp_path, "full", backbone="mini-roberta", edit=scoring(before)),
    ]
    table = {
        **TABLE,
        "columns": [{"heading": "change", "tasks": ["mini-sst2"], "value": "change"}],
        "rows": [
            {"label": "less", "backbone": "mini-bert", "against": "mini-roberta", "method": "full",
             "published": [-4.0]},
        ],
    }  # fmt: skip
    order = [(backbone, "mini-sst2", "full") for backbone in ("mini-bert", "mini-roberta")]
    write_published(table, collect(folders), tmp_path / "one", order=order, reference_method="full")
    cells = [cell.strip() for cell in (tmp_path / "one.md").read_text().splitlines()[4].split("|")]
    assert cells[1:-1] == ["less", "-4.0", ours, difference]


def test_what_is_saved_and_trained_stands_beside_the_published_share(tmp_path):
    def small(records):
        # 750 of 1,000 MACs; 5,390 of the dense model's 1,000,000 parameters.
        records["cost"]["measured"].update(
            macs_effective_per_example=750, parameters_trained=5_390, parameters_total=900_000
        )

    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=small)]
    columns = [
        {"heading": "MACs saved", "tasks": ["mini-sst2"], "value": "saved-inference-macs"},
        {"heading": "trained", "tasks": ["mini-sst2"], "value": "trained-share"},
    ]
    row = {"label": "DSEE", "backbone": "mini-bert", "method": "lora", "published": [25, 0.5]}
    table = {**TABLE, "columns": columns, "rows": [row]}
    write_published(table, collect(folders), tmp_path / "one", order=ORDER, reference_method="full")
    text = (tmp_path / "one.md").read_text()
    cells = [cell.strip() for cell in text.splitlines()[4].split("|")]
    assert cells[1:-1] == ["DSEE", "25", "25.0 (1)", "+0.0", "0.5", "0.54 (1)", "+0.04"]
    assert "- DSEE: [mini-sst2 seed 0](runs/mini-bert/mini-sst2/lora/seed-0/" in text


def test_every_shipped_table_names_things_that_exist(repository):
    catalogue = Catalogue(repository / "config")
    known = {kind: set(catalogue.known(kind)) for kind in ("backbone", "task", "method")}
    paths = sorted((repository / "config" / "tables").glob("*.yaml"))
    assert paths
    for path in paths:
        table = read_checked(path, "table")
        for column in table["columns"]:
            assert set(column["tasks"]) <= known["task"], path
        for row in table["rows"]:
            assert row["backbone"] in known["backbone"], path
            assert row["method"] in known["method"], path
            assert len(row["published"]) == len(table["columns"]), path

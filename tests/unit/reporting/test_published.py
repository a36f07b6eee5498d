import pytest
from unit.reporting.runs import cells_of, changing, lines_of, scoring, suite_of, write_run

from sparsetune.config.load import Catalogue
from sparsetune.config.table import PublishedTable, read_tables
from sparsetune.reporting.published import write_published

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


def written(folders, tmp_path, order=("full", "lora"), **changes):
    """Lines of the CSV by their label, and the Markdown."""
    table = PublishedTable.model_validate({**TABLE, **changes})
    paths = write_published(table, suite_of(folders, order), tmp_path / "one")
    return {line["row"]: line for line in lines_of(paths)}, paths[0].read_text()


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
    return written(folders, tmp_path)


def test_ours_stands_beside_the_published_value(lines):
    found, text = lines
    # Mean of 90 and 92; sample deviation 2 / sqrt 2; 91 - 91.5.
    assert float(found["BERT"]["sst-2_mean_percent"]) == pytest.approx(91.0)
    assert float(found["BERT"]["sst-2_sd_points"]) == pytest.approx(2**0.5)
    assert float(found["BERT"]["sst-2_difference_points"]) == pytest.approx(-0.5)
    assert "91.0 ± 1.4 (2)" in text


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
    assert "not known" in text
    assert "A doubt." in text


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
    columns = [{"heading": "change", "tasks": ["mini-sst2"], "value": "change"}]
    row = {"label": "less", "backbone": "mini-bert", "against": "mini-roberta", "method": "full",
           "published": [-4.0]}  # fmt: skip
    order = [(backbone, "mini-sst2", "full") for backbone in ("mini-bert", "mini-roberta")]
    _, text = written(folders, tmp_path, order, columns=columns, rows=[row])
    assert cells_of(text.splitlines()[4]) == ["less", "-4.0", ours, difference]


def test_what_is_saved_and_trained_stands_beside_the_published_share(tmp_path):
    # 750 of 1,000 MACs; 5,390 of the dense model's 1,000,000 parameters.
    small = changing(
        "cost",
        macs_effective_per_example=750, parameters_trained=5_390, parameters_total=900_000,
    )  # fmt: skip
    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=small)]
    columns = [
        {"heading": "MACs saved", "tasks": ["mini-sst2"], "value": "saved-inference-macs"},
        {"heading": "trained", "tasks": ["mini-sst2"], "value": "trained-share"},
    ]
    row = {"label": "DSEE", "backbone": "mini-bert", "method": "lora", "published": [25, 0.5]}
    _, text = written(folders, tmp_path, columns=columns, rows=[row])
    told = ["DSEE", "25", "25.0 (1)", "+0.0", "0.5", "0.54 (1)", "+0.04"]
    assert cells_of(text.splitlines()[4]) == told
    assert "- DSEE: [mini-sst2 seed 0](runs/mini-bert/mini-sst2/lora/seed-0/" in text


def test_every_shipped_table_names_things_that_exist(repository):
    catalogue = Catalogue(repository / "config")
    known = {kind: set(catalogue.known(kind)) for kind in ("backbone", "task", "method")}
    tables = read_tables(repository / "config" / "tables")
    assert tables
    for name, table in tables.items():
        for column in table.columns:
            assert set(column.tasks) <= known["task"], name
        for row in table.rows:
            assert row.backbone in known["backbone"], name
            assert row.method in known["method"], name

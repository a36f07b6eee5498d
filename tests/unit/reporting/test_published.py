import pytest
from unit.reporting.runs import cells_of, changing, lines_of, scoring, suite_of, write_run

from sparsetune.config.load import Catalogue
from sparsetune.config.table import PublishedTable, read_tables
from sparsetune.reporting.published import write_published


def row(label, method, *published, **more):
    given = {"label": label, "backbone": "mini-bert", "method": method, "published": published}
    return {**given, **more}


def written(folders, tmp_path, values, rows, order=("full", "lora")):
    """Cells of the table's lines, fields of its lines by label, and the Markdown."""
    columns = [
        {"heading": name, "tasks": ["mini-sst2"], "value": of} for name, of in values.items()
    ]
    table = {"title": "A table", "source": "a paper, table 1", "notes": ["A doubt."],
             "columns": columns, "rows": rows}  # fmt: skip
    suite = suite_of(folders, order)
    paths = write_published(PublishedTable.model_validate(table), suite, tmp_path / "one")
    text = paths[0].read_text()
    cells = [cells_of(line) for line in text.splitlines()[4 : 4 + len(rows)]]
    return cells, {line["row"]: line for line in lines_of(paths)}, text


def test_ours_stands_beside_the_published_value_and_nothing_is_invented(tmp_path):
    def quick(records):
        scoring(0.85)(records)
        records["tune"]["measured"].update(train_seconds=2.75)

    folders = [
        write_run(tmp_path, "full", seed=seed, edit=scoring(score))
        for seed, score in enumerate((0.90, 0.92))
    ]
    folders.append(write_run(tmp_path, "lora", edit=quick))
    values = {"SST-2": "score", "time saved": "saved-seconds"}
    rows = [row("BERT", "full", 91.5, None), row("LoRA", "lora", None, "40-45"),
            row("IMP", "imp", 88.0, 1.0)]  # fmt: skip
    cells, found, text = written(folders, tmp_path, values, rows)
    assert cells == [
        ["BERT", "91.5", "91.0 ± 1.4 (2)", "-0.5", "not known", "-", "-"],
        # full: 5.25 s less 0.25 s of loading; lora: 2.75 - 0.25 = 2.5 s.
        ["LoRA", "not known", "85.0 (1)", "-", "40-45", "50.0 (1)", "-"],
        ["IMP", "88.0", "-", "-", "1.0", "-", "-"],
    ]
    # Mean of 90 and 92; sample deviation 2 / sqrt 2; 91 - 91.5.
    numbers = [float(found["BERT"][f"sst-2_{end}"]) for end in
               ("mean_percent", "sd_points", "difference_points")]  # fmt: skip
    assert numbers == pytest.approx([91.0, 2**0.5, -0.5])
    assert float(found["LoRA"]["time_saved_mean_percent"]) == pytest.approx(50.0)
    assert found["LoRA"]["time_saved_published_percent"] == "40-45"
    lacking = [("LoRA", "time_saved_difference_points"), ("LoRA", "sst-2_published_percent"),
               ("BERT", "time_saved_mean_percent"), ("IMP", "sst-2_mean_percent")]  # fmt: skip
    assert {found[label][name] for label, name in lacking} == {""}
    assert "- A doubt." in text


@pytest.mark.parametrize(
    ("before", "ours", "difference"),
    [
        # 0.81 / 0.90 - 1 = -10 %; published -4. Nothing is relative to zero.
        (0.90, "-10.0 (1)", "-6.0"),
        (0.0, "-", "-"),
    ],
)
def test_change_is_relative_to_the_other_backbone(tmp_path, before, ours, difference):
    scores = {"mini-bert": 0.81, "mini-roberta": before}
    folders = [write_run(tmp_path, backbone=b, edit=scoring(s)) for b, s in scores.items()]
    rows = [row("less", "full", -4.0, against="mini-roberta")]
    order = [(backbone, "mini-sst2", "full") for backbone in scores]
    cells, *_ = written(folders, tmp_path, {"change": "change"}, rows, order)
    assert cells == [["less", "-4.0", ours, difference]]


def test_what_is_saved_and_trained_stands_beside_the_published_share(tmp_path):
    # 750 of 1,000 MACs; 5,390 of the dense model's 1,000,000 parameters.
    small = changing(
        "cost",
        macs_effective_per_example=750, parameters_trained=5_390, parameters_total=900_000,
    )  # fmt: skip
    folders = [write_run(tmp_path, "full"), write_run(tmp_path, "lora", edit=small)]
    values = {"MACs saved": "saved-inference-macs", "trained": "trained-share"}
    cells, _, text = written(folders, tmp_path, values, [row("DSEE", "lora", 25, 0.5)])
    assert cells == [["DSEE", "25", "25.0 (1)", "+0.0", "0.5", "0.54 (1)", "+0.04"]]
    assert "- DSEE: [mini-sst2 seed 0](runs/mini-bert/mini-sst2/lora/seed-0/" in text


def test_every_shipped_table_names_things_that_exist(repository):
    catalogue = Catalogue(repository / "config")
    known = {kind: set(catalogue.known(kind)) for kind in ("backbone", "task", "method")}
    tables = read_tables(repository / "config" / "tables")
    assert tables
    for name, table in tables.items():
        assert {task for column in table.columns for task in column.tasks} <= known["task"], name
        assert {row.backbone for row in table.rows} <= known["backbone"], name
        assert {row.method for row in table.rows} <= known["method"], name


def test_means_and_savings_that_an_anchor_states_follow_from_its_other_cells(repository):
    table = read_tables(repository / "config" / "tables")["dsee-anchors-bert"]
    mean = [column.heading for column in table.columns].index("mean")
    tasks = table.columns[mean].tasks
    assert tasks == tuple(column.tasks[0] for column in table.columns[: len(tasks)])
    lora, lonas, dsee = (row.published for row in table.rows)
    for cells in (lora, lonas):  # printed with two decimals, halves either way
        assert cells[mean] == pytest.approx(sum(cells[: len(tasks)]) / len(tasks), abs=0.0051)
    assert lonas[mean + 1] == pytest.approx(100 * (1 - 8.0 / 11.2), abs=0.05)
    assert set(dsee) == {None}

"""Folders with the records of finished runs, as the stages write them."""

import csv
import hashlib
import json

from unit.made_records import MACS, made_record

from sparsetune.config.claim import Claim
from sparsetune.reporting.load import collect

LENGTHS = [
    {"split": split, "padding": padding, "sequences": 400, "tokens_mean": 17.0, **MACS}
    for split, padding in (("training", "none"), ("evaluation", "none"), ("evaluation", "batches"))
]


def write_run(
    root, method="full", *, backbone="mini-bert", task="mini-sst2", seed=0, edit=None,
    model=b"weights",
):  # fmt: skip
    """Write one run; ``edit`` changes the three records before they are written."""
    folder = root / "runs" / backbone / task / method / f"seed-{seed}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(model)
    ids = {"backbone": backbone, "task": task, "method": method, "seed": seed}
    settings = {"scoring": {"evaluation_split": "dev"}}
    records = {
        stage: made_record(stage, **ids, settings=settings, stage_version=1)
        for stage in ("tune", "evaluate", "cost")
    }
    digest = hashlib.sha256(model).hexdigest()
    records["tune"]["measured"]["model_sha256"] = digest
    records["evaluate"]["inputs"] = {str(folder / "model.safetensors"): digest}
    records["cost"]["measured"]["macs_over_lengths"] = LENGTHS
    if edit is not None:
        edit(records)
    for stage, record in records.items():
        (folder / f"{stage}.json").write_text(json.dumps(record))
    return folder


def scoring(value, **others):
    """An edit that sets the accuracy, and any other measured value of ``evaluate``."""

    def edit(records):
        measured = records["evaluate"]["measured"]
        measured["metrics"]["accuracy_fraction"] = value
        measured.update(others)

    return edit


def changing(stage, **values):
    """An edit that sets measured values of one stage."""
    return lambda records: records[stage]["measured"].update(values)


def suite_of(folders, order=("full", "lora"), refusals=None):
    """The finished runs beside what was asked for: keys, or methods on one backbone and task."""
    keys = [key if isinstance(key, tuple) else ("mini-bert", "mini-sst2", key) for key in order]
    return collect(folders, keys, refusals)


def lines_of(paths):
    """The lines of the CSV among the files of a table."""
    (path,) = (path for path in paths if path.suffix == ".csv")
    return list(csv.DictReader(path.read_text().splitlines()))


def cells_of(line):
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def claim(*, backbones=("bert-base",), tasks=("qnli",), **changes):
    """A claim that tests change, whatever rules it breaks: EarlyBERT's score is above full's."""
    told = {
        "id": "a-claim", "says": "A claim.", "paper": "EarlyBERT", "source": "a paper",
        "quantity": "score", "left": "earlybert", "right": "full", "relation": "above",
        "published": {"backbones": backbones, "tasks": tasks},
    }  # fmt: skip
    return Claim.model_validate({**told, **changes}, context={"rules": False})

"""Folders with the records of finished runs, as the stages write them."""

import hashlib
import json

from unit.made_records import made_record


def write_run(
    root, method="full", *, backbone="mini-bert", task="mini-sst2", seed=0, edit=None,
    model=b"weights",
):  # fmt: skip
    """Write one run; ``edit`` changes the three records before they are written."""
    folder = root / "runs" / backbone / task / method / f"seed-{seed}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(model)
    ids = {"backbone": backbone, "task": task, "method": method, "seed": seed}
    records = {
        stage: made_record(stage, **ids, stage_version=1) for stage in ("tune", "evaluate", "cost")
    }
    digest = hashlib.sha256(model).hexdigest()
    records["tune"]["measured"]["model_sha256"] = digest
    records["evaluate"]["inputs"] = {str(folder / "model.safetensors"): digest}
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

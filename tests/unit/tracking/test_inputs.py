import hashlib
import json

from unit.tracking.runs import KEY, client_of, live, runs_of, write_entry

from sparsetune.tracking import publish
from sparsetune.tracking.inputs import DataInput

SUM = "0123456789abcdef" * 4
TRAINING = DataInput("rte", "training", {"train.tsv": SUM}, {"kind": "hub", "subset": "rte"}, 9)
VALIDATION = DataInput("rte", "validation", {"dev.tsv": SUM[::-1]}, {"kind": "hub"}, 4)


def with_data(entry):
    return type(entry)(**{**vars(entry), "data": (TRAINING, VALIDATION)})


def test_digest_of_one_file_begins_its_sum_and_fits_into_mlflow():
    assert TRAINING.digest == SUM[:36]


def test_digest_of_several_files_is_that_of_their_listing():
    listing = f"{SUM}  a.json\n{SUM[::-1]}  b.json\n"
    several = DataInput("webnlg", "training", {"b.json": SUM[::-1], "a.json": SUM}, {}, 1)
    assert several.digest == hashlib.sha256(listing.encode()).hexdigest()[:36]


def test_data_sets_are_inputs_of_a_run_once_each(results, tmp_path):
    entry = with_data(write_entry(tmp_path / "run", run_id=live(results).run_id))
    for _ in range(2):
        assert publish(results, "mini", [entry]).problems == ()
    (run,) = runs_of(results)
    told = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert len(run.inputs.dataset_inputs) == 2
    assert (told["training"].name, told["training"].digest) == ("rte", SUM[:36])
    assert json.loads(told["training"].source) == {"kind": "hub", "subset": "rte"}
    assert json.loads(told["validation"].profile) == {
        "examples": 4, "sha256": {"dev.tsv": SUM[::-1]}
    }  # fmt: skip


def test_two_runs_share_a_data_set(results, tmp_path):
    other = type(KEY)("tune", "mini", "tiny", "rte", "lora", 2)
    entries = [with_data(write_entry(tmp_path / key.text, key=key)) for key in (KEY, other)]
    assert publish(results, "mini", entries).problems == ()
    client = client_of(results)
    runs = runs_of(results)
    digests = [
        sorted(one.dataset.digest for one in client.get_run(r.info.run_id).inputs.dataset_inputs)
        for r in runs
    ]
    assert digests[0] == digests[1] == sorted([TRAINING.digest, VALIDATION.digest])

import json
from dataclasses import replace
from pathlib import Path

import pytest
from unit.made_records import write_made

from sparsetune.config.load import Catalogue
from sparsetune.cost.params import dense_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ConfigError, DataError
from sparsetune.estimating.sizes import TaskSize, after_removal, backbone_shapes, task_size

CATALOGUE = Catalogue(Path(__file__).resolve().parents[3] / "config")


def fetched(folder, task, train, evaluation):
    measured = {"train_examples": train, "evaluation_examples": evaluation, "stored_bytes": 77}
    write_made(folder / "record.json", "dataset", task=task, measured=measured)


def test_what_was_fetched_comes_before_the_catalogue_and_a_difference_is_told(tmp_path):
    task = CATALOGUE.task("sst2")
    assert task_size(task, folder=tmp_path, tokens=None) == (TaskSize(67349, 872, 13), "")
    fetched(tmp_path, "sst2", 67349, 870)
    size, remark = task_size(task, folder=tmp_path, tokens=13.5)
    assert size == TaskSize(67349, 870, 13.5, tokens_measured=True, stored_bytes=77)
    assert remark.startswith("sst2: evaluation_examples is 870 in ")
    assert remark.endswith("872 in the catalogue")


@pytest.mark.parametrize(
    ("expected", "message"),
    [(None, "sst2: expected.train_examples: missing, and nothing was fetched"),
     ({"train_examples": 5, "tokens": 3}, "sst2: expected.evaluation_examples: missing"),
     ({"train_examples": 5, "evaluation_examples": 5}, "sst2: expected.tokens: missing")],
)  # fmt: skip
def test_a_size_that_nobody_knows_is_refused(expected, message):
    task = replace(CATALOGUE.task("sst2"), expected=expected)
    with pytest.raises(ConfigError, match=message):
        task_size(task, folder=None, tokens=None)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(DataError, match=r"record\.json"):
        task_size(CATALOGUE.task("sst2"), folder=tmp_path, tokens=None)


def test_every_task_and_backbone_of_the_catalogue_can_be_sized():
    for name in CATALOGUE.known("task"):
        size, _ = task_size(CATALOGUE.task(name), folder=None, tokens=None)
        assert size.tokens <= CATALOGUE.task(name).maximum_tokens
    for name in CATALOGUE.known("backbone"):
        dense, stored = backbone_shapes(CATALOGUE.backbone(name), CATALOGUE, folder=None)
        assert dense_parameters(stored) <= dense_parameters(dense)


@pytest.mark.parametrize(
    ("name", "millions"),
    # As their papers and model cards give them, pooler included.
    [("bert-base", 110), ("bert-large", 335), ("roberta-base", 125), ("roberta-large", 356),
     ("gpt2", 124), ("gpt2-medium", 355), ("minilm", 22.7)],
)  # fmt: skip
def test_published_sizes_give_the_published_parameters(name, millions):
    dense, _ = backbone_shapes(CATALOGUE.backbone(name), CATALOGUE, folder=None)
    assert dense_parameters(dense) / 1e6 == pytest.approx(millions, rel=0.01)


def test_a_folder_s_own_sizes_come_first(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "bert", "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 61,
        "num_hidden_layers": 2, "intermediate_size": 40, "max_position_embeddings": 32,
        "type_vocab_size": 2}))  # fmt: skip
    dense, stored = backbone_shapes(CATALOGUE.backbone("minilm"), CATALOGUE, folder=tmp_path)
    assert (dense.hidden_size, stored) == (24, dense)


def test_removal_keeps_the_exact_sum():
    shape = ModelShape.dense({
        "model_type": "bert", "hidden_size": 96, "num_attention_heads": 12, "vocab_size": 61,
        "num_hidden_layers": 3, "intermediate_size": 384, "max_position_embeddings": 32,
        "type_vocab_size": 2}, "classification", 2)  # fmt: skip
    small = after_removal(shape, 1 / 3, 0.4)
    # 0.4 x 1,152 = 460.8, so 461 go and 691 are left: 231 + 230 + 230.
    assert [layer.heads for layer in small.layers] == [8, 8, 8]
    assert [layer.ffn_width for layer in small.layers] == [231, 230, 230]
    uneven = shape.with_kept([range(8)] * 3, [range(287), range(241), range(163)])
    assert dense_parameters(small) == dense_parameters(uneven)
    assert after_removal(shape, 0.0, 0.0) == shape


def test_limits_never_add_examples():
    size = TaskSize(100, 50, 9.0)
    cut = size.limited({"train_examples": 30, "evaluation_examples": None})
    assert (cut.train_examples, cut.evaluation_examples) == (30, 50)
    assert size.limited({"train_examples": 300, "evaluation_examples": 300}) == size
    assert size.download_bytes == 150 * 9 * 4

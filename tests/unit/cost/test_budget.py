import pytest
from unit.cost.configs import BERT_BASE

from sparsetune.config.load import Catalogue
from sparsetune.cost.macs import training_macs
from sparsetune.cost.shapes import ModelShape

MINI = BERT_BASE | {"hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 384}


def price(shape, tokens):
    return sum(training_macs(shape, tokens).values())


@pytest.mark.parametrize(
    ("backbone", "task", "config", "tokens"),
    [
        ("bert-base", "qqp", BERT_BASE, 128), ("minilm", "mrpc", BERT_BASE, 53),
        ("mini-bert", "mini-sst2", MINI, 20), ("mini-bert", "mini-rte", MINI, 30),
        ("mini-bert", "mini-stsb", MINI, 25), ("mini-bert", "mini-squad", MINI, 72),
    ],
)  # fmt: skip
def test_the_cut_dense_run_costs_what_earlybert_costs(repository, backbone, task, config, tokens):
    catalogue = Catalogue(repository / "config")
    ids = {"backbone_id": backbone, "task_id": task}
    method, cut = (catalogue.method(name, **ids) for name in ("earlybert", "full-budget"))
    search = catalogue.ticket("earlybert", **ids).search
    dense = ModelShape.dense(config, "classification", 2)
    layers = len(dense.layers)
    # 8 of 12 heads, 60 % of the neurons.
    width = round(0.6 * dense.layers[0].ffn_width)
    drawn = dense.with_kept([range(8)] * layers, [range(width)] * layers)
    earlybert = search.stop_epochs * price(dense, tokens) + method.phases[0].epochs * price(
        drawn, tokens
    )
    assert cut.phases[0].epochs * price(dense, tokens) == pytest.approx(earlybert, rel=0.01)

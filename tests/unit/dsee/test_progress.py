import io
import logging
import sys

import pytest
from unit.tiny import tiny_model

from sparsetune.dsee.progress import Progress
from sparsetune.dsee.support import model_supports


class Terminal(io.StringIO):
    def isatty(self):
        return True


def walk(progress, total):
    for done in range(1, total + 1):
        progress(done, total, f"layer.{done - 1}.query")


@pytest.mark.parametrize(("total", "lines"), [(48, 10), (10, 10), (3, 3), (1, 1)])
def test_a_log_gets_a_few_lines_and_the_last_matrix(total, lines, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="sparsetune"):
        walk(Progress(), total)
    assert len(caplog.messages) == lines
    assert caplog.messages[-1] == f"{total} of {total} matrices, last layer.{total - 1}.query"
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_that_ends_full(caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    walk(Progress(), 48)
    shown = sys.stderr.getvalue().split("\r")
    assert "48/48" in shown[-1]
    assert "layer.47.query" in shown[-1]
    assert shown[-1].endswith("\n")
    assert caplog.messages == []


def test_every_matrix_is_told_once_in_the_order_of_the_layers():
    calls = []
    results = model_supports(
        tiny_model("gpt2"), ("query", "value"), recipe="magnitude", n_sparse=3, seed=0,
        on_matrix=lambda *call: calls.append(call),
    )  # fmt: skip
    assert calls == [(n, 4, key) for n, key in enumerate(results, start=1)]

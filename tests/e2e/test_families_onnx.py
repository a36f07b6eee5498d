"""Families as ONNX files, smaller and with an update beside their weights; run elsewhere."""

import pytest
import torch
from unit.families_page import PAGE
from unit.test_families import UPDATE, ticket
from unit.tiny_families import PAIRS, family_batch, family_model

import sparsetune
from sparsetune.architectures.families import FAMILIES

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
# One of each file of architectures; the others are like one of them, and exporting takes seconds.
ALWAYS = ("bert", "gpt2", "distilbert", "deberta-v2", "modernbert", "llama")


def row_of(kind):
    """The cells of a family on the page, by the column's name."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    names = next(row for row in rows if row[0] == "family")
    return dict(zip(names, next(row for row in rows if row[0] == kind), strict=True))


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        *(
            pytest.param(kind, "sequence", marks=() if kind in ALWAYS else pytest.mark.onnx)
            for kind in FAMILIES
        ),
        *(
            pytest.param(kind, task, marks=pytest.mark.onnx)
            for kind, task in PAIRS
            if kind in ALWAYS and task != "sequence"
        ),
    ],
)
def test_the_file_gives_what_torch_gives(kind, task, tmp_path):
    assert row_of(kind)["ONNX file"] == "yes"
    model = sparsetune.apply_dsee(sparsetune.shrink(family_model(kind, task), ticket()), UPDATE)
    sparsetune.export_onnx(model, tmp_path / "model.onnx")
    batch = family_batch(task, seed=1)
    seen = batch["attention_mask"].bool()
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = {one.name for one in session.get_inputs()}
    given = {name: batch.get(name, torch.zeros_like(batch["input_ids"])) for name in names}
    arrays = session.run(None, {name: one.numpy() for name, one in given.items()})
    with torch.no_grad():
        own = model(**batch)
    for output, array in zip(session.get_outputs(), arrays, strict=True):
        found, expected = torch.from_numpy(array), own[output.name]
        if task != "sequence":  # a window may see only padding, where runtimes differ
            found, expected = found[seen], expected[seen]
        # Rounding of float32 in another order; the logits are of size one.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

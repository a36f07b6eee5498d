"""Writes ``docs/families.md`` from what the families' tests find: ``python -m unit.families_page``.

Run it in ``tests``. Every cell is a run on a tiny model; a test holds the page to it.
"""

import tempfile
from pathlib import Path

from unit import test_families as checks
from unit.tiny_families import TASKS, class_of, family_model

import sparsetune
from sparsetune.architectures.families import FAMILIES, UNLIKE
from sparsetune.cost.parameters import dense_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import SparsetuneError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
_TASK = "sequence"
FEATURES = {
    "update": lambda kind, _: (
        checks.test_an_update_from_zero_changes_nothing_and_exactly_it_and_the_head_train(
            kind, _TASK
        )
    ),
    "masks": lambda kind, _: checks.test_every_projection_is_pruned_and_zeros_stay_in_training(
        kind
    ),
    "search": lambda kind, _: checks.test_a_search_sees_each_head_and_neuron_and_leaves_no_trace(
        kind
    ),
    "heads and neurons removed": lambda kind, _: checks.test_a_removal_equals_zeros_in_its_place(
        kind, _TASK
    ),
    "first layer removed": lambda kind, folder: (
        checks.test_a_layer_is_removed_as_if_it_handed_on_its_input(kind, 0, folder)
    ),
    "another removed": lambda kind, folder: (
        checks.test_a_layer_is_removed_as_if_it_handed_on_its_input(kind, 1, folder)
    ),
    "save, load": lambda kind, folder: checks.test_what_was_saved_is_loaded_bit_for_bit(
        kind, _TASK, True, folder
    ),
    "merge": lambda kind, _: checks.test_merging_keeps_the_function_or_the_zeros(kind, _TASK),
    "multiply-adds": lambda kind, _: sparsetune.summary(family_model(kind, _TASK), tokens=7),
    "parameters": lambda kind, _: dense_parameters(_shape(kind)),
}


def _shape(kind: str) -> ModelShape:
    told = family_model(kind, _TASK).config.to_dict() | {"model_type": kind}
    return ModelShape.dense(told, "classification", 3)


_HEADS = {"sequence": "sequences", "token": "tokens", "answer": "answers", "language": "language"}
_TOP = """# Families

What works on which family of models, as `config.json` names it in `model_type`. This page is
written by `cd tests && python -m unit.families_page` from runs on tiny models of every family; do
not edit it. *yes* says that the check passed: an update from zero changes nothing, and exactly it
and the head train; masked weights stay zero in training; coefficients of a search act as a removal;
a removal equals zeros in its place; what was saved is loaded bit for bit; a merge keeps the
function, or the zeros; multiply-adds and parameters are counted from the config alone, as torch
counts them. Where something is refused, a number leads to what the refusal says.

*ONNX file* is checked elsewhere, for an export takes seconds: a smaller model with an update beside
its weights, written by `export_onnx` and run by onnxruntime, gives what torch gives, outputs of
padding left out (`tests/e2e/test_families_onnx.py`). `make test` runs one family for each file of
`sparsetune/architectures` with a head for sequences, `make test-onnx` the others, and every other
head of these.

Where query heads share a key and value head (Llama and those like it), *head* means such a group:
it is scored, kept and removed together. Their neurons are gated, and ModernBERT's: a seventh
projection, `ffn_gate`, is pruned, can be adapted, and loses the same neurons as `ffn_in`. SmolLM
and TinyLlama are of type `llama`, DeBERTa of versions 2 and 3 of type `deberta-v2`.
"""
_ONNX = "ONNX file"
_UNLIKE = """Not supported, although they look alike:
"""


def page() -> str:
    """Run every check on every family and tell the results as a page."""
    names = [*FEATURES, *(f"head: {_HEADS[task]}" for task in TASKS), _ONNX]
    lines = [f"| family | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    refusals: list[str] = []
    for kind in FAMILIES:
        cells = [_cell(check, kind, refusals) for check in FEATURES.values()]
        cells += ["yes" if class_of(kind, task) else "none in transformers" for task in TASKS]
        cells.append("yes")  # tests/e2e/test_families_onnx.py holds it to that
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    notes = [f"{number}. {text}" for number, text in enumerate(refusals, start=1)]
    unlike = [f"- `{kind}`: {why}." for kind, why in UNLIKE.items()]
    return "\n".join([_TOP, *lines, "", *(notes and [*notes, ""]), _UNLIKE, *unlike, ""])


def _cell(check, kind: str, refusals: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(kind, Path(folder))
        except SparsetuneError as error:
            refusals.append(str(error))
            return f"refused ({len(refusals)})"
    return "yes"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

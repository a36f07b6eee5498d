"""What the small files of a backbone's folder say against the catalogue and a task.

Looked at before the first job where the folder is on this machine, and by the jobs that read it.
Weights are not read, only which shapes there are; nothing heavy is imported. A file that is damaged
is left to the stage that reads it, which says so.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.architectures.families import FAMILIES
from sparsetune.architectures.weight_files import stored_shapes, weight_files
from sparsetune.config.load import Backbone, Task
from sparsetune.errors import DataError, ModelError
from sparsetune.records import read_json

_OUTPUTS = ("classifier", "score", "out_proj", "qa_outputs")
# Modules whose rows are a head's outputs.
_SPAN_OUTPUTS = 2
_UNNAMED = re.compile(r"label_?\d+|-?\d+", re.IGNORECASE)
_SPAN_HEAD = "qa_outputs"
_OTHER_HEADS = ("ForTokenClassification", "ForMultipleChoice")
# Classes of transformers whose heads are called like those of texts.


def task_head(folder: Path, backbone: Backbone) -> dict[str, list[int]]:
    """Name the tensors of a task head that a checkpoint brings, and their shapes.

    Args:
        folder: Hugging Face folder.
        backbone: catalogue entry; ``id``, ``architecture`` and ``head`` are read.

    Returns:
        None, if it was never fine-tuned.

    Raises:
        ModelError: it was, and the catalogue does not say what becomes of its head; or a file of
            weights is missing or damaged.
    """
    prefixes = tuple(f"{name}." for name in FAMILIES[backbone.architecture].task_head)
    shapes: dict[str, list[int]] = {}
    for path in weight_files(folder):
        shapes |= stored_shapes(path)
    found = {name: shapes[name] for name in sorted(shapes) if name.startswith(prefixes)}
    if found and backbone.head is None:
        first, shape = next(iter(found.items()))
        raise ModelError(
            f"{folder}: brings a task head ({first}, shape {tuple(shape)}); say in "
            f"backbone {backbone.id} what becomes of it: head: fresh leaves it out, head: keep "
            "starts from it, with its order of labels"
        )
    return found


def check_kept_head(folder: Path, backbone: Backbone, task: Task) -> None:
    """Check that the head which a backbone keeps is one for a task: its kind, labels and order.

    Args:
        folder: Hugging Face folder, or our copy of one.
        backbone: catalogue entry; nothing is checked unless its ``head`` is ``keep``.
        task: whose examples the head is to tell apart.

    Raises:
        ModelError: the checkpoint has no head, one of another kind or with other outputs, or its
            ``id2label`` names labels otherwise than the task does.
    """
    if backbone.head != "keep" or task.kind == "generation":
        return
    span = task.kind == "span"
    wanted = _SPAN_OUTPUTS if span else task.label_count
    head, told = task_head(folder, backbone), f"does not fit task {task.id}"
    written_as = [str(one) for one in _listed(_config(folder), "architectures")]
    outputs = {
        name: shape
        for name, shape in head.items()
        if name.endswith(".weight") and name.split(".")[-2] in _OUTPUTS
        and (name.split(".")[0] == _SPAN_HEAD) == span
    }  # fmt: skip
    if not outputs or any(one.endswith(_OTHER_HEADS) for one in written_as):
        modules = dict.fromkeys(name.split(".")[0] for name in head)
        there = ", ".join(written_as if head and written_as else modules) or "none"
        raise ModelError(
            f"{folder}: head: keep {told} of kind {task.kind}: received a checkpoint with head "
            f"{there}; allowed: one of that kind, or head: fresh"
        )
    name, shape = next(iter(outputs.items()))
    if shape[0] != wanted:
        raise ModelError(
            f"{folder}: head: keep {told}: {name}: received {shape[0]} outputs; allowed: {wanted}, "
            "or head: fresh, which leaves the head out"
        )
    names = _label_names(folder)
    if task.kind == "classification" and names and not _alike(names, task.labels):
        raise ModelError(
            f"{folder / 'config.json'}: id2label: head: keep {told}: received labels "
            f"{', '.join(names)}; allowed: {', '.join(task.labels)}, in this order (change the "
            "order in the task's file, or say head: fresh)"
        )


def _label_names(folder: Path) -> tuple[str, ...]:
    """Names of a checkpoint's labels in the order of their numbers; none if they say nothing."""
    told = _config(folder).get("id2label")
    if not isinstance(told, dict) or not all(str(key).isdecimal() for key in told):
        return ()
    names = tuple(str(told[key]) for key in sorted(told, key=int))
    return () if all(_UNNAMED.fullmatch(name) for name in names) else names


def _alike(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether two lists of labels are the same; numbers stand in no other order than their own."""
    if all(_UNNAMED.fullmatch(label) for label in labels):
        return True
    plain = [[re.sub(r"[\W_]+", " ", one).strip().casefold() for one in two]
             for two in (names, labels)]  # fmt: skip
    return plain[0] == plain[1]


def check_token_numbers(folder: Path) -> None:
    """Check that a model has an embedding for the largest number that its tokenizer gives.

    Args:
        folder: Hugging Face folder.

    Raises:
        ModelError: it has fewer.
    """
    rows, (largest, name) = _config(folder).get("vocab_size"), _largest_number(folder)
    if isinstance(rows, int) and largest >= rows:
        raise ModelError(
            f"{folder / name}: received a token numbered {largest}; allowed: up to {rows - 1}, as "
            "the vocab_size of its config.json has it"
        )


def _largest_number(folder: Path) -> tuple[int, str]:
    """The largest number of a token, and the file that has it; -1 if no file can be read."""
    found = [(-1, "tokenizer.json")]
    whole = _object(folder / "tokenizer.json")
    if whole:
        model = whole.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
        if isinstance(vocabulary, list):  # unigram: each at its place
            numbers = [len(vocabulary) - 1]
        numbers += [
            one.get("id") for one in _listed(whole, "added_tokens") if isinstance(one, dict)
        ]
        found.append((_largest(numbers), "tokenizer.json"))
    elif (folder / "vocab.txt").is_file():
        with (folder / "vocab.txt").open("rb") as lines:
            found.append((sum(1 for _ in lines) - 1, "vocab.txt"))
    else:
        found.append((_largest(_object(folder / "vocab.json").values()), "vocab.json"))
    added = _object(folder / "tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(added, dict):
        numbers = [int(key) for key in added if str(key).isdecimal()]
        found.append((_largest(numbers), "tokenizer_config.json"))
    return max(found)


def _largest(numbers: Any) -> int:
    return max((one for one in numbers if isinstance(one, int)), default=-1)


def _listed(told: Mapping[str, Any], key: str) -> list[Any]:
    value = told.get(key)
    return value if isinstance(value, list) else []


def _config(folder: Path) -> Mapping[str, Any]:
    return _object(folder / "config.json")


def _object(path: Path) -> Mapping[str, Any]:
    """An object of a JSON file, empty if there is none."""
    try:
        value = read_json(path, what="file of a backbone")
    except (DataError, OSError):
        return {}
    return value if isinstance(value, dict) else {}

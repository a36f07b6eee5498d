"""Backbones: checked and loaded; where they come from is in ``sparsetune.data.sources``.

A backbone is a Hugging Face folder with safetensors weights and a tokenizer. Pickle checkpoints
are refused by name and code that comes with a checkpoint is never run.
"""

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparsetune.architectures.weight_files import (
    stored_parameters,
    stored_shapes,
    weight_files,
)
from sparsetune.cost.stored import SHAPES_FILE
from sparsetune.errors import DataError, ModelError, first_line
from sparsetune.randomness import derive
from sparsetune.records import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FORMS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
_SEQUENCE_HEADS = dict.fromkeys(("classification", "regression"), "ForSequenceClassification")
_HEADS = {**_SEQUENCE_HEADS, "span": "ForQuestionAnswering"}
_ENCODER_HEADS = {**_HEADS, "masked_lm": "ForMaskedLM"}
_MODEL_CLASSES = {
    "bert": ("Bert", _ENCODER_HEADS),
    "roberta": ("Roberta", _ENCODER_HEADS),
    "gpt2": ("GPT2", {**_HEADS, "generation": "LMHeadModel"}),
}
_LANGUAGE_HEADS = ("cls.predictions.", "lm_head.")
# Weights that a pre-trained checkpoint may lack: the task's head, and a pooler over [CLS].
_MAY_BE_NEW = ("classifier.", "qa_outputs.", "score.", "bert.pooler.", *_LANGUAGE_HEADS)

Kind = Literal["classification", "regression", "span", "generation", "masked_lm"]


def check_folder(directory: Path, architecture: str) -> int:
    """Check that a folder holds a usable backbone, without loading it.

    Args:
        directory: Hugging Face folder.
        architecture: the ``model_type`` that its config.json must name.

    Returns:
        Weights stored in its safetensors files.

    Raises:
        ModelError: naming the file that is missing, damaged or refused.
    """
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such backbone folder")
    model_type = _model_type(directory)
    if model_type != architecture:
        raise ModelError(
            f"{directory / 'config.json'}: model_type: got {model_type!r}, "
            f"need {architecture!r} (the catalogue's architecture)"
        )
    if not any(all((directory / n).is_file() for n in form) for form in _TOKENIZER_FORMS):
        raise ModelError(
            f"{directory}: no tokenizer; need tokenizer.json, vocab.txt, or vocab.json with "
            "merges.txt"
        )
    return sum(stored_parameters(path) for path in weight_files(directory))


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """Load a backbone's fast tokenizer; where it has no pad token, the end token pads.

    Args:
        directory: Hugging Face folder.

    Returns:
        The tokenizer of the class that the folder names, with a pad token.

    Raises:
        ModelError: missing or damaged tokenizer, or neither pad nor end token.
    """
    from transformers import AutoTokenizer

    _model_type(directory)
    try:
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library raises many kinds for a damaged folder
        raise ModelError(f"{directory}: no readable tokenizer: {first_line(error)}") from None
    if not tokenizer.is_fast:
        raise ModelError(f"{directory}: need a fast tokenizer (tokenizer.json), got a slow one")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{directory}: the tokenizer has neither a pad nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    directory: Path,
    *,
    kind: Kind,
    label_count: int,
    seed: int,
    random_weights: bool = False,
) -> "PreTrainedModel":
    """Load a backbone under a task's head, in float32 on the CPU.

    One that was made smaller in pre-training keeps its own sizes in every layer.

    Args:
        directory: Hugging Face folder.
        kind: which head; ``generation`` needs GPT-2, ``masked_lm`` BERT or RoBERTa.
        label_count: classes, at least 1; regression needs 1; the other kinds ignore it.
        seed: of everything the checkpoint lacks; the same seed gives the same head. The
            global generators are left as they were.
        random_weights: ignore the checkpoint and draw every weight.

    Returns:
        The model in evaluation mode, scaled-dot-product attention.

    Raises:
        ModelError: unusable folder, a head the architecture does not have, or a checkpoint
            that lacks weights of the backbone itself.
    """
    import torch

    model_class = _model_class(directory, kind)
    config = _configuration(model_class, directory, kind=kind, label_count=label_count)
    # Only the CPU generator is forked and seeded: weights are drawn there.
    with torch.random.fork_rng(devices=[]), _quiet_transformers():
        stream = "weights" if random_weights else "head"
        torch.default_generator.manual_seed(derive(seed, stream))
        if (directory / SHAPES_FILE).is_file():
            return _load_smaller(model_class, directory, config, random_weights=random_weights)
        if random_weights:
            return model_class(config).float().eval()
        return _load_checkpoint(model_class, directory, config).eval()


def has_language_head(directory: Path) -> bool:
    """Tell whether a checkpoint of BERT or RoBERTa brings its masked language model's head.

    Args:
        directory: Hugging Face folder.

    Returns:
        True if it does; else ``load_model`` draws that head from its seed. The output matrix is
        the embedding's in either case.

    Raises:
        ModelError: a weight file is missing or unreadable.
    """
    return any(
        name.startswith(_LANGUAGE_HEADS)
        for path in weight_files(directory)
        for name in stored_shapes(path)
    )


def _load_smaller(model_class: Any, directory: Path, config: Any, *, random_weights: bool) -> Any:
    """Put the layers of a folder of ``save_compact`` under a new head; the head is drawn."""
    from sparsetune.pruning.checkpoint import load_compact
    from sparsetune.pruning.structured import remove, shapes

    stored = load_compact(directory)
    sizes = shapes(stored)
    model = model_class(config).float()
    remove(
        model,
        [range(count) for count in sizes["heads"]],
        [range(count) for count in sizes["ffn_width"]],
    )
    if not random_weights:
        state = stored.base_model.float().state_dict()
        missing, unknown = model.base_model.load_state_dict(state, strict=False)
        prefix = model.base_model_prefix
        _refuse_lacking(directory, [f"{prefix}.{key}" for key in (*missing, *unknown)])
    return model.eval()


def _load_checkpoint(model_class: Any, directory: Path, config: Any) -> Any:
    import torch

    weight_files(directory)
    try:
        model, loading = model_class.from_pretrained(
            directory,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except Exception as error:  # the library raises many kinds for a damaged folder
        raise ModelError(f"{directory}: cannot be loaded: {first_line(error)}") from None
    # Notices about new weights are silenced, so weights that must not be new are looked for.
    _refuse_lacking(directory, loading["missing_keys"])
    return model


def _refuse_lacking(directory: Path, missing: Iterable[str]) -> None:
    lacking = sorted(key for key in missing if not key.startswith(_MAY_BE_NEW))
    if lacking:
        raise ModelError(
            f"{directory}: the checkpoint lacks {len(lacking)} weights of the backbone, "
            f"first {lacking[0]}"
        )


def _configuration(model_class: Any, directory: Path, *, kind: Kind, label_count: int) -> Any:
    if label_count < 1 or (kind == "regression" and label_count != 1):
        need = "1" if kind == "regression" else "at least 1"
        raise ModelError(f"label_count: got {label_count}, need {need} for {kind}")
    try:
        config = model_class.config_class.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the library raises many kinds for a damaged file
        raise ModelError(f"{directory / 'config.json'}: unusable: {first_line(error)}") from None
    if kind in _SEQUENCE_HEADS:
        config.num_labels = label_count
        regression = kind == "regression"
        config.problem_type = "regression" if regression else "single_label_classification"
    elif kind == "span":
        config.num_labels = 2  # start and end
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    config._attn_implementation = "sdpa"
    return config


def _model_class(directory: Path, kind: Kind) -> Any:
    model_type = _model_type(directory)
    if model_type not in _MODEL_CLASSES:
        raise ModelError(
            f"{directory / 'config.json'}: model_type: got {model_type!r}; "
            f"allowed: {', '.join(_MODEL_CLASSES)}"
        )
    prefix, heads = _MODEL_CLASSES[model_type]
    if kind not in heads:
        raise ModelError(
            f"{directory}: {model_type} has no {kind} head; allowed: {', '.join(heads)}"
        )
    # The one modelling module, not the whole library: start-up is paid in every job.
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    return getattr(module, prefix + heads[kind])


def _model_type(directory: Path) -> str:
    path = directory / "config.json"
    try:
        config = read_json(path, what="backbone configuration")
    except DataError as error:
        raise ModelError(str(error)) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path}: model_type is missing; need one of {', '.join(_MODEL_CLASSES)}")
    return config["model_type"]


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the library from telling about heads that are new on purpose, and from its bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

"""Backbones: checked and loaded; where they come from is in ``sparsetune.data.sources``.

A backbone is a Hugging Face folder with safetensors weights and a tokenizer. Pickle checkpoints
are refused by name and code that comes with a checkpoint is never run.
"""

import contextlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetune.architectures.anatomy import (
    HEADS_BY_LAYER,
    NEURONS_BY_LAYER,
    Anatomy,
    model_class,
)
from sparsetune.architectures.base import Family, Kind
from sparsetune.architectures.families import FAMILIES, longest_input
from sparsetune.architectures.weight_files import (
    stored_parameters,
    stored_shapes,
    weight_files,
)
from sparsetune.errors import DataError, ModelError, first_line, refusal
from sparsetune.randomness import derive
from sparsetune.records import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTENCEPIECE = "spm.model"
_TEXTS = 2  # at most, in an example
_TOKENIZER_FORMS = (
    ("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), (SENTENCEPIECE,)
)  # fmt: skip


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
            f"{directory / 'config.json'}: model_type: received {model_type!r}, "
            f"need {architecture!r} (the catalogue's architecture)"
        )
    if not any(all((directory / n).is_file() for n in form) for form in _TOKENIZER_FORMS):
        raise ModelError(
            f"{directory}: no tokenizer; need tokenizer.json, vocab.txt, vocab.json with "
            f"merges.txt, or {SENTENCEPIECE}"
        )
    _check_sentencepiece(directory)
    return sum(stored_parameters(path) for path in weight_files(directory))


def _check_sentencepiece(directory: Path) -> None:
    """Refuse a tokenizer that transformers would need another package to read.

    Raises:
        ModelError: it is ``spm.model`` alone, and ``sentencepiece`` is not installed.
    """
    if (directory / "tokenizer.json").is_file() or not (directory / SENTENCEPIECE).is_file():
        return
    if importlib.util.find_spec("sentencepiece") is None:
        raise ModelError(
            f"{directory / SENTENCEPIECE}: is read by the package sentencepiece, which is not "
            "installed; install it, or put the tokenizer.json beside it that AutoTokenizer saves "
            "where it is"
        )


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """Load a backbone's fast tokenizer; where it has no pad token, the end token pads.

    Args:
        directory: Hugging Face folder.

    Returns:
        The tokenizer of the class that the folder names, with a pad token. It numbers the two texts
        of a pair only if the model has an embedding for each.

    Raises:
        ModelError: missing or damaged tokenizer, or neither pad nor end token.
    """
    from transformers import AutoConfig, AutoTokenizer

    _model_type(directory)
    try:
        with _quiet_transformers():
            config: Any = AutoConfig.from_pretrained(directory, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library raises many kinds for a damaged folder
        raise ModelError(f"{directory}: no readable tokenizer: {first_line(error)}") from None
    if not tokenizer.is_fast:
        raise ModelError(f"{directory}: received a slow tokenizer; need tokenizer.json")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{directory}: the tokenizer has neither a pad nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    # Most classes of tokenizers make token types, whatever the model; GPT-2 would add tokens' own
    # embeddings by them, and other models would take their second for one that is not there.
    if (getattr(config, "type_vocab_size", 0) or 0) < _TEXTS:
        names = tokenizer.model_input_names
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    return tokenizer


def check_tokens(directory: Path) -> None:
    """Check that a folder's tokenizer can be read and that the model knows all of its tokens.

    Args:
        directory: Hugging Face folder.

    Raises:
        ModelError: as :func:`load_tokenizer`, or there are more tokens than embeddings.
    """
    from transformers import AutoConfig

    tokens = len(load_tokenizer(directory))
    config: Any = AutoConfig.from_pretrained(directory, local_files_only=True)
    if tokens > config.vocab_size:
        raise ModelError(
            f"{directory}: the tokenizer has {tokens} tokens; allowed: up to {config.vocab_size}, "
            "the vocab_size of its config.json"
        )


def check_length(directory: Path, tokens: int) -> None:
    """Check that a model has a position for every token of an input.

    Args:
        directory: Hugging Face folder.
        tokens: of the longest input.

    Raises:
        ModelError: its table of positions is shorter.
    """
    _family(directory)
    longest = longest_input(read_json(directory / "config.json", what="backbone configuration"))
    if longest is not None and tokens > longest:
        raise ModelError(
            f"{directory}: received inputs of up to {tokens} tokens; allowed: up to {longest}, the "
            "positions that its config.json tells"
        )


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
        kind: which head; not every architecture has each.
        label_count: classes, at least 1; regression needs 1; the other kinds ignore it.
        seed: of everything the checkpoint lacks; the same seed gives the same head. The
            global generators are left as they were.
        random_weights: ignore the checkpoint and draw every weight.

    Returns:
        The model in evaluation mode, with scaled-dot-product attention where the library has it.

    Raises:
        ModelError: unusable folder, a head the architecture does not have, or a checkpoint
            that lacks weights of the backbone itself.
    """
    import torch

    family = _family(directory)
    found = _model_class(directory, family, kind)
    config = _configuration(found, directory, kind=kind, label_count=label_count)
    if family.generates and kind in ("classification", "regression"):
        # The last token that is not this one is classified, so it must be the one that pads.
        config.pad_token_id = load_tokenizer(directory).pad_token_id
    # Only the CPU generator is forked and seeded: weights are drawn there.
    with torch.random.fork_rng(devices=[]), _quiet_transformers():
        stream = "weights" if random_weights else "head"
        torch.default_generator.manual_seed(derive(seed, stream))
        if hasattr(config, HEADS_BY_LAYER):
            model = _smaller(found, directory, config)
            if not random_weights:
                _read_base_weights_(model, directory, family)
        elif random_weights:
            model = found(config).float()
        else:
            model = _load_checkpoint(found, directory, config, family)
    return model.eval()


def has_language_head(directory: Path) -> bool:
    """Tell whether a checkpoint brings its masked language model's head.

    Args:
        directory: Hugging Face folder.

    Returns:
        True if it does; else ``load_model`` draws that head from its seed. The output matrix is
        the embedding's in either case.

    Raises:
        ModelError: a weight file is missing or unreadable.
    """
    head = _family(directory).language_head
    shapes = (stored_shapes(path) for path in weight_files(directory))
    return any(name.startswith(head) for names in shapes for name in names)


def _smaller(found: Any, directory: Path, config: Any) -> Any:
    """Build a model that was made smaller in pre-training, with weights that are thrown away."""
    model = found(config).float()
    anatomy = Anatomy.of(model)
    layers = range(anatomy.layers)
    sizes = (
        (HEADS_BY_LAYER, [anatomy.heads(n) for n in layers]),
        (NEURONS_BY_LAYER, [anatomy.ffn_width(n) for n in layers]),
    )
    for key, most in sizes:
        counts: Any = getattr(config, key, None)
        fits = isinstance(counts, list) and len(counts) == len(most)
        if not fits or not all(type(n) is int and 1 <= n <= m for n, m in zip(counts, most)):  # noqa: B905
            raise ModelError(
                f"{directory / 'config.json'}: {key}: received {counts}; allowed: for each layer "
                f"1 to {most[0]}"
            )
        keep = anatomy.keep_heads_ if key == HEADS_BY_LAYER else anatomy.keep_neurons_
        for layer in layers:
            keep(layer, range(counts[layer]))
    return model


def _read_base_weights_(model: Any, directory: Path, family: Family) -> None:
    """Write a checkpoint's layers and embeddings into a model; its head stays as it was drawn."""
    from safetensors.torch import load_file

    state = {name: one for path in weight_files(directory) for name, one in load_file(path).items()}
    prefix = f"{model.base_model_prefix}."
    if any(name.startswith(prefix) for name in state):
        named = {name.removeprefix(prefix): one for name, one in state.items()
                 if name.startswith(prefix)}  # fmt: skip
    else:
        named = state
    try:
        lacking, unknown = model.base_model.load_state_dict(named, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{directory}: cannot be loaded: {first_line(error)}") from None
    _refuse_lacking(directory, family, [prefix + name for name in (*lacking, *unknown)])


def _load_checkpoint(found: Any, directory: Path, config: Any, family: Family) -> Any:
    import torch

    weight_files(directory)
    try:
        model, loading = found.from_pretrained(
            directory,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=_attention(found),
            output_loading_info=True,
            key_mapping=_renamed(found, family),
            ignore_mismatched_sizes=True,  # looked for below: the library's words name no file
        )
    except Exception as error:  # the library raises many kinds for a damaged folder
        raise ModelError(f"{directory}: cannot be loaded: {first_line(error)}") from None
    # Notices about new weights are silenced, so weights that must not be new are looked for.
    _refuse_lacking(directory, family, loading["missing_keys"])
    _refuse_other_sizes(directory, family, loading["mismatched_keys"])
    return model


def _refuse_other_sizes(directory: Path, family: Family, found: Iterable[Any]) -> None:
    """Refuse tensors of another shape: mostly the head of a model that was fine-tuned before."""
    for name, stored, wanted in sorted(found, key=lambda one: str(one[0])):
        told = f"{directory}: {name}: received shape {tuple(stored)}; allowed: {tuple(wanted)}"
        if name.split(".")[0] in family.task_head:
            told += (
                "; the checkpoint brings the head of another task; head: fresh in the backbone's "
                "file leaves it out"
            )
        raise ModelError(told)


def _renamed(found: Any, family: Family) -> dict[str, str] | None:
    """Names of a language model's weights -> those that a class with another head has for them.

    The library's Llama and its like answer questions under another prefix than they write texts.
    """
    pretrained = _class_of(family, family.language_model).base_model_prefix
    own = found.base_model_prefix
    return None if own == pretrained else {rf"^{re.escape(pretrained)}\.": f"{own}."}


def _refuse_lacking(directory: Path, family: Family, missing: Iterable[str]) -> None:
    head = tuple(f"{name}." for name in family.task_head)
    may_be_new = (*head, *family.new_weights, *family.language_head)
    lacking = sorted(key for key in missing if not key.startswith(may_be_new))
    if lacking:
        raise ModelError(
            f"{directory}: the checkpoint lacks {len(lacking)} weights of the backbone, "
            f"first {lacking[0]}"
        )


def _configuration(found: Any, directory: Path, *, kind: Kind, label_count: int) -> Any:
    if label_count < 1 or (kind == "regression" and label_count != 1):
        need = "1" if kind == "regression" else "at least 1"
        raise ModelError(f"label_count: received {label_count}, need {need} for {kind}")
    try:
        config = found.config_class.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the library raises many kinds for a damaged file
        raise ModelError(f"{directory / 'config.json'}: unusable: {first_line(error)}") from None
    if kind in ("classification", "regression"):
        config.num_labels = label_count
        regression = kind == "regression"
        config.problem_type = "regression" if regression else "single_label_classification"
    elif kind == "span":
        config.num_labels = 2  # start and end
    if config.pad_token_id is None:
        ends = config.eos_token_id
        config.pad_token_id = ends[0] if isinstance(ends, list) else ends
    config._attn_implementation = _attention(found)
    return config


def _attention(found: Any) -> str:
    """How a class computes attention: in one step where the library can (not for DeBERTa)."""
    return "sdpa" if found._supports_sdpa else "eager"


def _model_class(directory: Path, family: Family, kind: Kind) -> Any:
    if kind not in family.heads:
        raise ModelError(
            f"{directory}: {family.model_type} has no {kind} head; "
            f"allowed: {', '.join(family.heads)}"
        )
    return _class_of(family, kind)


def _class_of(family: Family, kind: Kind) -> Any:
    return model_class(family.model_type, family.class_prefix + family.heads[kind])


def _family(directory: Path) -> Family:
    path, model_type = directory / "config.json", _model_type(directory)
    if model_type not in FAMILIES:
        raise ModelError(refusal(path, "model_type", model_type, FAMILIES))
    return FAMILIES[model_type]


def _model_type(directory: Path) -> str:
    path = directory / "config.json"
    try:
        config = read_json(path, what="backbone configuration")
    except DataError as error:
        raise ModelError(str(error)) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path}: model_type is missing; need one of {', '.join(FAMILIES)}")
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

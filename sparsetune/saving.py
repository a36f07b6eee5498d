"""A model's folder: ``save`` writes it, ``load`` gives the model back, and so do checkpoints.

The format is ``pruning.checkpoint``'s. Here is what goes into it of a model with an update, and
how that comes onto its base again.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import (
    HEADS_BY_LAYER,
    Anatomy,
    check_has_values,
    task_head_parameters,
)
from sparsetune.architectures.base import PROJECTIONS, check_no_peft, check_plain
from sparsetune.dsee import layer as dsee
from sparsetune.dsee.adapters import Newcomer, naming, set_labels, updates_aside, using
from sparsetune.dsee.config import DseeConfig, sites_of
from sparsetune.dsee.layer import dsee_branches
from sparsetune.earlybert.search import refuse_search
from sparsetune.errors import ConfigError, ModelError, refusal, shown
from sparsetune.pruning.base_model import is_plain, kept_of, load_base, load_plain, source_of
from sparsetune.pruning.card import reader_of, write_card
from sparsetune.pruning.checkpoint import (
    CONFIG,
    MASK,
    SUPPORT,
    TENSORS,
    Manifest,
    base_of,
    check_base,
    check_tensors,
    foreign_config,
    load_whole,
    masks_of,
    packed,
    part_of,
    read_file,
    read_manifest,
    save_whole,
    write_file,
)
from sparsetune.pruning.masks import apply_masks_, unpack_mask
from sparsetune.pruning.structured import sizes_of
from sparsetune.pruning.zeros import check_zeros, zero_masks
from sparsetune.records import checked_path, read_json, write_json

M = TypeVar("M", bound=nn.Module)
_SAVE = "save_pretrained"
_GENERATION = "generation_config.json"
_UNATTACHED = ("full", "bitfit")  # updates of a run that change weights and attach nothing


def save(model: nn.Module, folder: Path | str, name: str | None = None) -> None:
    """Save a model so that ``load`` gives it back, bit for bit.

    With DSEE attached, the folder gets ``model.safetensors`` with the update, the task head,
    whatever else trains and the masks, not the frozen weights; it names its base model as
    transformers loaded it (a folder by its absolute path, so that ``load`` finds it from any
    directory), its revision and the sha256 of its file of weights. A plain model, from
    which heads, neurons or layers may have been removed, is saved whole. Settings of generation go
    along as ``generation_config.json``, and a card as ``README.md`` unless another is there.
    Beside it stands ``config.json``. With it transformers reads the folder of a whole model, also
    of one that lost as many heads and neurons in every layer, if the family's config can tell it
    (``Family.config_heads``: fewer heads than the width leaves room for are told by Llama's kind
    only). Of an update, or of layers of different sizes, it says what reads them instead. After a
    merge, reversible or not, the whole merged model is saved.

    Args:
        model: of a known architecture. Zeros in the frozen projections are saved as their masks.
        folder: made if it is not there; other files in it are left alone.
        name: of the adapter to save, of several; None = the active one.

    Raises:
        ModelError: no adapter has this name, or none is active; updates of several kinds,
            something else is attached, a value that is NaN or infinite, a masked weight that is
            not zero any more, a whole model of a class of one's own, or ``folder`` is a file;
            nothing is written then.

    Example:
        >>> import tempfile
        >>> from sparsetune import random_ticket, shrink, summary
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=10, **sizes))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(shrink(model, random_ticket(model, heads=0.5)), folder)
        ...     summary(load(folder)).weights == summary(model).weights
        True
    """
    folder = checked_path("save: folder", folder)
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder}: a file; needed: a folder")
    check_has_values(model, "save")
    refuse_search(model, "save")
    if name is not None:
        with using(model, name):
            save(model, folder)
        return
    aside = updates_aside(model)
    if aside is not None and aside.names and aside.active is None:
        raise ModelError(
            "save: none of this model's adapters is active; needed: name=, one of "
            f"{', '.join(aside.names)}"
        )
    branches = [branch for _, branch in dsee_branches(model)]
    if not branches:
        _check_finite(model.state_dict())
        save_whole(model, folder, reader="sparsetune.load(folder)")
        _save_generation(model, folder)
        write_card(folder, model, read_manifest(folder / TENSORS))
        return
    check_no_peft(model)
    update = _settings(model)
    check_zeros(model)
    masks = zero_masks(model)
    held = {id(p) for branch in branches for p in branch.parameters()}
    held |= {id(p) for p in task_head_parameters(model).values()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad or id(p) in held}
    _check_finite(trained)
    kept = kept_of(model)
    source = source_of(model) if kept is None or kept.heads is not None else {}
    manifest = Manifest(
        model_class=type(model).__name__,
        sizes=sizes_of(model),
        base=base_of(model, trained, masks).model_copy(update=source),
        config=_config_of(model),
        kept=kept if source else None,
        update=update,
        trained=sorted(trained),
    )
    supports = {branch.key: branch.positions for branch in branches}
    write_json(folder / CONFIG, foreign_config(model.config, reader_of(manifest)))
    write_file(folder / TENSORS, {**trained, **packed(supports, masks)}, manifest)
    _save_generation(model, folder)
    write_card(folder, model, manifest)


@overload
def load(
    folder: Path | str,
    model: None = None,
    *,
    name: str | None = None,
    check_frozen: bool = True,
) -> nn.Module: ...
@overload
def load(
    folder: Path | str, model: M, *, name: str | None = None, check_frozen: bool = True
) -> M: ...
def load(
    folder: Path | str,
    model: nn.Module | None = None,
    *,
    name: str | None = None,
    check_frozen: bool = True,
) -> nn.Module:
    """Load what ``save`` wrote, the file of one of the workflow's runs, or a model of transformers.

    A folder in which transformers has saved a model of a known family, in one file or in shards, is
    read too.

    Args:
        folder: holds ``model.safetensors``, or the shards of one.
        model: for a folder that holds an update: the plain model, of the class and with the weights
            that it was trained on and with the same heads and neurons removed; changed in place.
            None = the base model that the folder names, from its path or the hub's local cache,
            if its file of weights is still the same; nothing is fetched. A whole model needs none.
        name: makes the update one of several adapters on these frozen weights, and the active one;
            see ``use``. Its head may have other labels than the model's. None = the only update
            of this model.
        check_frozen: refuse other frozen weights than those of the saved model. Give False for
            the same weights in another dtype.

    Returns:
        ``model``, or the whole model on the CPU in evaluation mode. Outputs are those of the saved
        model, bit for bit on the same device.

    Raises:
        ModelError: the file is missing, damaged or does not fit the model, or an update comes
            without one and its base is not there, or is another; or a name that is taken, is given
            to a whole model, or that an update beside it lacks; nothing is changed then.
    """
    path = checked_path("load: folder", folder) / TENSORS
    if type(check_frozen) is not bool:
        raise ConfigError(
            f"load: check_frozen: received {shown(check_frozen)}; allowed: True, False"
        )
    if model is not None:
        check_has_values(model, "load")
    if is_plain(path.parent):
        if model is not None:
            raise ModelError(f"{folder}: holds a whole model; received another beside it")
        if name is not None:
            raise ModelError(f"{folder}: holds a whole model; received name {name!r} for an update")
        return load_plain(path.parent)
    manifest, tensors = read_file(path)
    if manifest.base is None:
        if model is not None:
            raise ModelError(f"{path}: holds a whole model; received another beside it")
        if name is not None:
            raise ModelError(f"{path}: holds a whole model; received name {name!r} for an update")
        model = load_whole(path, manifest, tensors)
        _load_generation(model, path.parent)
        own: Any = model.config
        own.name_or_path = str(path.parent.resolve())  # an update of it names it as its base
        if hasattr(own, HEADS_BY_LAYER):
            save_readably(model)
        return model
    found = load_base(path, manifest) if model is None else model
    with naming(found, name, f"{path}: load") as newcomer:
        _load_update(path, manifest, tensors, found, newcomer, check_frozen=check_frozen)
    if model is None:
        found.eval()
        _load_generation(found, path.parent)
    return found


def _load_update(
    path: Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    newcomer: Newcomer,
    *,
    check_frozen: bool,
) -> None:
    for key, own in sizes_of(model).model_dump().items():
        if getattr(manifest.sizes, key) != own:
            raise ModelError(
                f"{path}: the update is for a model with {key} {getattr(manifest.sizes, key)}, "
                f"this model has {own}"
            )
    for site in Anatomy.of(model).sites():
        check_plain(site)
    supports = {key: one.long() for key, one in part_of(tensors, SUPPORT).items()}
    config = _config(path, manifest.update, supports)
    trained = part_of(tensors, "")
    labels = _labels(manifest) if newcomer.named else {}
    expected = _expected(path, model, config, supports=supports, trained=trained)
    check_tensors(path, trained, expected | _head_shapes(model, labels))
    masks = masks_of(tensors, model)
    newcomer.check_masks(path, masks)
    if check_frozen and manifest.base:
        check_base(path, manifest.base, model, trained.keys(), masks)
    plain = dict(model.named_parameters()).keys()
    if config:
        refuse_search(model, "load")
        dsee.apply_dsee(model, config)
        save_readably(model)
    else:
        model.requires_grad_(False)
    apply_masks_(model, masks)
    newcomer.bring({name: trained[name].shape for name in plain & trained.keys()})
    set_labels(model, labels)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in trained.items():
            own[name].copy_(tensor)
            own[name].requires_grad_(True)


def _labels(manifest: Manifest) -> dict[str, Any]:
    """The labels that a file's head has, in the form of ``set_labels``; none if it tells none."""
    told = manifest.config or {}
    if not told.get("id2label"):
        count = manifest.head.label_count if manifest.head else 0
        told = {"id2label": {n: f"LABEL_{n}" for n in range(count)}} if count else {}
    if not told:
        return {}
    names = {int(number): name for number, name in told["id2label"].items()}
    return {
        "id2label": names,
        "label2id": told.get("label2id") or {name: number for number, name in names.items()},
        "problem_type": told.get("problem_type"),
        "num_labels": len(names),
    }


def _head_shapes(model: nn.Module, labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a head of other labels than the model's, where the two differ."""
    count, own = labels.get("num_labels"), getattr(model, "num_labels", None)
    head = task_head_parameters(model)
    if count is None or own is None or count == own:
        return {}
    return {n: (count, *p.shape[1:]) for n, p in head.items() if p.shape[0] == own}


def _config_of(model: nn.Module) -> dict[str, Any]:
    own: Any = model.config
    dtype = str(next(p.dtype for p in model.parameters() if not p.requires_grad))
    config: dict[str, Any] = json.loads(own.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)  # the manifest's base tells it, from any directory
    return {**config, "dtype": dtype.removeprefix("torch.")}


def _save_generation(model: nn.Module, folder: Path) -> None:
    settings = getattr(model, "generation_config", None)
    if settings is not None:
        write_json(folder / _GENERATION, json.loads(settings.to_json_string()))


def _load_generation(model: Any, folder: Path) -> None:
    if (folder / _GENERATION).is_file() and getattr(model, "generation_config", None) is not None:
        from transformers import GenerationConfig

        settings = read_json(folder / _GENERATION, what="settings of generation")
        model.generation_config = GenerationConfig.from_dict(settings)


class _ReadableSaving:
    """``save_pretrained`` of a model that transformers' own could not give back."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def __call__(
        self,
        save_directory: Path | str,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Save as ``save``; a model that transformers reads, as transformers."""
        model = self.model
        smaller, aside = hasattr(model.config, HEADS_BY_LAYER), updates_aside(model)
        adapted = any(True for _ in dsee_branches(model)) or (aside and not aside.merged)
        if not smaller and not adapted:
            options |= {"is_main_process": is_main_process, "state_dict": state_dict}
            type(model).save_pretrained(model, save_directory, push_to_hub=push_to_hub, **options)
            return
        if push_to_hub or options.get("variant"):
            raise ModelError(
                "save_pretrained: received push_to_hub or variant for a model that has an update "
                "or lost heads; needed: sparsetune.save(model, folder)"
            )
        if state_dict is not None:
            _check_state(model, state_dict)
        if is_main_process:
            save(model, save_directory)


def save_readably(model: nn.Module) -> None:
    """Let a model's ``save_pretrained`` write what ``save`` writes, while there is need for it.

    So does that of its backbone. A state dict that is loaded into the model, such as a Trainer's
    checkpoint, brings the places of its update with it.

    Args:
        model: that got an update or lost heads; one without ``save_pretrained`` is left alone.
    """
    for one in (model, getattr(model, "base_model", None)):
        if isinstance(one, nn.Module) and hasattr(one, _SAVE):
            setattr(one, _SAVE, _ReadableSaving(one))
    if _place_updates not in [getattr(one, "hook", one) for one in _hooks(model)]:
        model.register_load_state_dict_pre_hook(_place_updates)


def _hooks(model: nn.Module) -> list[Any]:
    return list(model._load_state_dict_pre_hooks.values())


def _place_updates(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Read a file of ours as a state dict: places by the names that the update has them under."""
    for layer, branch in dsee_branches(model):
        places = state.pop(prefix + SUPPORT + branch.key, None)
        if places is not None:
            name = branch.key.rpartition(".")[2]
            path = next(path for path, module in model.named_modules() if module is layer)
            state[f"{prefix}{path}.branches.{name}.positions"] = places
    for name in [name for name in state if name.startswith(prefix + MASK)]:
        key, bits = name.removeprefix(prefix + MASK), state.pop(name)
        site = Anatomy.of(model).site_of(key)
        if bool((site.weight_view() != 0)[~unpack_mask(bits, site.shape)].any()):
            raise ModelError(
                f"load_state_dict: {key}: the saved model has zeros where this one has none; "
                "needed: the base model, pruned as it was"
            )


def _check_state(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Refuse to save other values than the model's own under its name."""
    own = model.state_dict()
    if not own.keys() & given.keys():
        raise ModelError(
            f"save_pretrained: state_dict: received {shown(next(iter(given), None))} and others; "
            f"allowed: the names of the {type(model).__name__} itself"
        )
    for name, tensor in own.items():
        other = given.get(name, tensor)
        same = other.dtype == tensor.dtype and other.shape == tensor.shape
        if other is not tensor and not (same and torch.equal(other.to(tensor.device), tensor)):
            raise ModelError(
                f"save_pretrained: state_dict: {name}: received other values than the model's; "
                "needed: its own, loaded into it first"
            )


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
        if wrong:
            raise ModelError(
                f"save: {name}: {wrong} of {tensor.numel()} values are NaN or infinite; "
                "needed: finite ones"
            )


def _settings(model: nn.Module) -> dict[str, Any]:
    """The one configuration of all attached updates."""
    branches = list(dsee_branches(model))
    found = {branch.key for _, branch in branches}
    targets = [name for name in PROJECTIONS if any(key.endswith(f".{name}") for key in found)]
    kinds = {(branch.alpha, layer.dropout) for layer, branch in branches}
    layers = {_layer_of(key) for key in found}
    sites = [site.key for site in Anatomy.of(model).sites(targets) if site.layer in layers]
    if len(kinds) > 1 or found != set(sites):
        raise ModelError(
            f"{len(found)} DSEE updates of {len(kinds)} kinds; needed: one alpha and dropout, and "
            f"{', '.join(targets)} of every layer that has one"
        )
    alpha, dropout = kinds.pop()
    rank, others = _ranks({branch.key: branch.rank for _, branch in branches}, targets)
    settings = {"kind": "dsee", "rank": rank, "alpha": alpha}
    settings |= {"dropout": dropout} if dropout else {}
    return settings | ({"rank_pattern": others} if others else {})


def _ranks(ranks: Mapping[str, int], targets: Sequence[str]) -> tuple[int, dict[str, int]]:
    """The rank of most sites, and a short pattern for the others."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    pattern: dict[str, int] = {}
    for projection in targets:
        own = {key: rank for key, rank in ranks.items() if key.endswith(f".{projection}")}
        if len(set(own.values())) == 1:
            own = {projection: next(iter(own.values()))}
        pattern |= {key: rank for key, rank in own.items() if rank != usual}
    return usual, pattern


def _layer_of(key: str) -> int:
    """Number of the layer of a site key, which need not be one of this model."""
    number = key.removeprefix("layer.").partition(".")[0]
    if not number.isdecimal():
        raise ModelError(f"site {key!r} is not of the form layer.<number>.<projection>")
    return int(number)


def _config(
    path: Path, update: Mapping[str, Any] | None, supports: Mapping[str, Tensor]
) -> DseeConfig | None:
    """The update that is attached before the trained values are written; None = nothing is."""
    update = update or {"kind": "full"}
    kind = update.get("kind")
    if kind in _UNATTACHED:
        return None
    if kind != "dsee":
        raise ModelError(refusal(path, "update.kind", kind, ("dsee", *_UNATTACHED)))
    adapted = {key.rpartition(".")[2] for key in supports}
    try:
        return DseeConfig(
            rank=update["rank"],
            alpha=update["alpha"],
            dropout=update.get("dropout", 0.0),
            layers=sorted({_layer_of(key) for key in supports}),
            rank_pattern=update.get("rank_pattern"),
            n_sparse=max((one.numel() for one in supports.values()), default=0),
            targets=[name for name in PROJECTIONS if name in adapted],
            support=supports,
            modules_to_save=[],  # what trained is told by the file
        )
    except (ConfigError, KeyError, ModelError) as error:
        raise ModelError(f"{path}: update: {error}") from None


def _expected(
    path: Path,
    model: nn.Module,
    config: DseeConfig | None,
    *,
    supports: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
) -> dict[str, tuple[int, ...]]:
    """Shapes that the saved parameters must have: of the update, the head and what else trained."""
    own = {name: tuple(p.shape) for name, p in model.named_parameters()}
    expected = {name: own[name] for name in own.keys() & trained.keys()}
    if config is None:
        return expected
    expected |= {name: own[name] for name in task_head_parameters(model)}
    try:
        sites = sites_of(Anatomy.of(model), config)
    except ModelError as error:
        raise ModelError(f"{path}: update: {error}") from None
    for site in sites:
        branch, rank = f"{site.path}.branches.{site.projection}", config.rank_of(site)
        expected[f"{branch}.U"] = (site.shape[0], rank)
        expected[f"{branch}.V"] = (rank, site.shape[1])
        expected[f"{branch}.S2"] = (supports[site.key].numel() if site.key in supports else 0,)
    return expected

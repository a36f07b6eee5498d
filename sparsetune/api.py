"""The way in from Python: attach DSEE to any BERT, RoBERTa or GPT-2, save it, merge it.

What ``import sparsetune`` offers, for models loaded and trained elsewhere. Nothing here computes;
folders hold JSON and safetensors only. Pruned models are saved by ``models.compact``.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsetune.architectures.base import PROJECTIONS, Anatomy, check_plain, task_head_parameters
from sparsetune.dsee import layer as dsee
from sparsetune.dsee.fitting import check_sizes
from sparsetune.dsee.layer import dsee_branches, load_trainable_state, merge
from sparsetune.dsee.support import RECIPES, Recipe, model_supports
from sparsetune.errors import ConfigError, DataError, ModelError
from sparsetune.export import export_onnx
from sparsetune.pruning.checkpoint import check_tensors, load_compact, read_tensors, save_compact
from sparsetune.pruning.masks import apply_masks_, pack_mask, unpack_mask
from sparsetune.pruning.structured import shapes
from sparsetune.pruning.zeros import check_zeros, remember_zeros
from sparsetune.randomness import derive
from sparsetune.records import read_json, replacing, sha256_of, write_json

__all__ = [
    "DseeConfig",
    "apply_dsee",
    "export_onnx",
    "load_compact",
    "load_dsee",
    "merge",
    "save_compact",
    "save_dsee",
    "trainable_parameters",
]

_CONFIG, _TENSORS = "dsee_config.json", "dsee_model.safetensors"
_FORMAT = 1
_MASK = "mask."


@dataclass(frozen=True)
class DseeConfig(dsee.DseeConfig):
    """Everything that ``apply_dsee`` needs to know beside the model.

    The names are this project's own, one word for one thing everywhere: PEFT's ``r``,
    ``lora_alpha`` and ``target_modules`` are ``rank``, ``alpha`` and ``targets`` here, and targets
    are named alike for all architectures. There is no dropout, and no base model's name: a saved
    update knows its backbone by the weights.

    Attributes:
        rank: rank of U V, 1 to the smaller side of a target matrix.
        alpha: the update is scaled by ``alpha / rank``, above 0.
        n_sparse: trained entries of S2 per matrix, 0 to the size of a target matrix.
        targets: projections adapted in every layer: ``query``, ``key``, ``value``,
            ``attention_output``, ``ffn_in``, ``ffn_out``.
        init: ``zero``: training starts at the backbone; ``normal``: from a random update.
        support: how the positions of S2 are chosen from the model's weights (``grebsmo``
            ``magnitude`` ``random`` ``empty``), or the positions: site key -> int64, flat in
            ``O x I``, distinct, at most ``n_sparse``.
        seed: of the choice and of the update's start; the global generators are left alone.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3.
    Differs:
        Nothing beyond ``sparsity.dsee`` and ``sparsity.support``.
    """

    support: Recipe | Mapping[str, Tensor] = "grebsmo"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.targets, list | tuple):
            raise ConfigError(f"dsee targets: received {self.targets!r}, allowed: a list of names")
        object.__setattr__(self, "targets", tuple(self.targets))
        for name in ("rank", "n_sparse", "seed"):
            value = getattr(self, name)
            if type(value) is not int:
                raise ConfigError(f"dsee {name}: received {value!r}, allowed: a whole number")
        if type(self.alpha) not in (int, float):
            raise ConfigError(f"dsee alpha: received {self.alpha!r}, allowed: a number above 0")
        super().__post_init__()
        if not isinstance(self.support, Mapping) and self.support not in RECIPES:
            raise ConfigError(
                f"dsee support: received {self.support!r}, "
                f"allowed: {', '.join(RECIPES)}, or site -> positions"
            )


def apply_dsee(model: nn.Module, config: DseeConfig) -> nn.Module:
    """Freeze a model and attach DSEE's update to it, in place.

    Afterwards exactly the update and the task head train; any training loop will do. What is zero
    in the projections by then, or is masked later, must still be zero when the update is saved.

    Args:
        model: a Hugging Face BERT, RoBERTa or GPT-2, bare or with a task head, after any
            removal of heads and neurons.
        config: what is attached, and how the positions of S2 are chosen.

    Returns:
        The same model, so that loading and attaching fit in one line.

    Raises:
        ConfigError: ``config`` is something else than a ``sparsetune.DseeConfig``.
        ModelError: another architecture, a rank or positions that do not fit, or projections
            that are wrapped already; nothing is changed then.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3.
    Differs:
        Nothing beyond ``sparsity.dsee`` and ``sparsity.support``.
    """
    if not isinstance(config, DseeConfig):
        kind = type(config).__name__
        raise ConfigError(f"config: received a {kind}, allowed: a sparsetune.DseeConfig")
    sites = list(Anatomy.of(model).sites(config.targets))
    for site in sites:  # before the choice, which may take minutes
        check_plain(site)
        check_sizes(site, rank=config.rank, n_sparse=config.n_sparse)
    support = config.support
    if isinstance(support, str):
        chosen = model_supports(
            model, config.targets, recipe=support, n_sparse=config.n_sparse, seed=config.seed
        )
        support = {key: result.positions for key, result in chosen.items()}
    unknown = sorted(support.keys() - {site.key for site in sites})
    if unknown:
        raise ModelError(
            f"support has positions for {unknown[0]}; {type(model).__name__} has "
            f"{', '.join(config.targets)} in {Anatomy.of(model).layers} layers to adapt"
        )
    generator = torch.Generator().manual_seed(derive(config.seed, "update"))
    dsee.apply_dsee(model, config, support, generator=generator)
    remember_zeros(Anatomy.of(model).sites())
    return model


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Count what trains: entries of parameters that require a gradient.

    Args:
        model: a BERT, RoBERTa or GPT-2.

    Returns:
        ``head`` in the task head, ``update`` anywhere else, ``total`` both together.
    """
    head = {id(parameter) for parameter in task_head_parameters(model).values()}
    counts = {"update": 0, "head": 0}
    for parameter in model.parameters():
        if parameter.requires_grad:
            counts["head" if id(parameter) in head else "update"] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def save_dsee(model: nn.Module, folder: Path | str) -> None:
    """Save the update, the task head and the masks; not the frozen weights.

    The folder gets ``dsee_config.json`` and ``dsee_model.safetensors``, each written atomically;
    the first names the other's sha256, so that halves of two savings are never loaded.

    Args:
        model: a model with DSEE attached, of the same rank and scale everywhere. Zeros in the
            frozen projections are saved as their masks.
        folder: made if it is not there; other files in it are left alone.

    Raises:
        ModelError: nothing is attached, something trains that the folder would not hold, or a
            masked weight is not zero any more.
    """
    folder = Path(folder)
    settings = _settings(model)
    _refuse_other_training(model)
    check_zeros(model)
    masks = _masks(model)
    tensors = {name: tensor.cpu() for name, tensor in dsee.trainable_state(model).items()}
    tensors |= {_MASK + key: pack_mask(mask) for key, mask in masks.items()}
    with replacing(folder / _TENSORS) as partial:
        save_file(tensors, partial)
    saved = {
        "format": _FORMAT,
        "model_class": type(model).__name__,
        "shapes": shapes(model),
        "dsee": settings,
        "frozen_sha256": _frozen_sha256(model, masks),
        "tensors_sha256": sha256_of(folder / _TENSORS),
    }
    write_json(folder / _CONFIG, saved)


def load_dsee(model: nn.Module, folder: Path | str, *, check_backbone: bool = True) -> nn.Module:
    """Attach a saved update to the model it was trained on, in place.

    Task head and masks are put back too; the outputs are then those of the saved model, bit for
    bit on the same device.

    Args:
        model: the plain model: same class and weights as when DSEE was attached, with the same
            heads and neurons removed.
        folder: as ``save_dsee`` wrote it.
        check_backbone: refuse other frozen weights than those of the saved model. Give False
            for the same weights in another dtype.

    Returns:
        The same model.

    Raises:
        ModelError: files are missing, damaged or not of one saving, or do not fit the model;
            nothing is changed then.
    """
    folder = Path(folder)
    saved = _read_settings(folder / _CONFIG)
    if not (folder / _TENSORS).is_file() or sha256_of(folder / _TENSORS) != saved["tensors_sha256"]:
        raise ModelError(f"{folder / _TENSORS}: missing, or not the file that {_CONFIG} names")
    tensors = read_tensors(folder / _TENSORS)
    _compare_shapes(folder, saved["shapes"], shapes(model))
    anatomy, config = Anatomy.of(model), saved["config"]
    for site in anatomy.sites():
        check_plain(site)
    packed = {n.removeprefix(_MASK): t for n, t in tensors.items() if n.startswith(_MASK)}
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(_MASK)}
    check_tensors(folder / _TENSORS, state, _expected(model, config, state))
    masks = {key: unpack_mask(bits, anatomy.site_of(key).shape) for key, bits in packed.items()}
    if check_backbone and _frozen_sha256(model, masks) != saved["frozen_sha256"]:
        raise ModelError(
            f"{folder}: the update was trained on a {saved['model_class']} with other frozen "
            f"weights than this {type(model).__name__}: another checkpoint, other kept heads or "
            "neurons, another dtype, or a part drawn anew (a pooler)"
        )
    supports = {
        site.key: tensors[f"{site.key}.positions"] for site in anatomy.sites(config.targets)
    }
    apply_dsee(model, replace(config, support=supports))
    apply_masks_(model, masks)
    load_trainable_state(model, state)
    return model


def _settings(model: nn.Module) -> dict[str, Any]:
    """The one configuration of all attached updates."""
    branches = list(dsee_branches(model))
    if not branches:
        raise ModelError("nothing to save: no DSEE update is attached")
    found = {branch.key for _, branch in branches}
    targets = [name for name in PROJECTIONS if any(key.endswith(f".{name}") for key in found)]
    kinds = {(branch.U.shape[1], layer.scale) for layer, branch in branches}
    if len(kinds) > 1 or found != {site.key for site in Anatomy.of(model).sites(targets)}:
        raise ModelError(
            f"{len(found)} DSEE updates of {len(kinds)} kinds; needed: one rank and scale, and "
            f"every layer's {', '.join(targets)}"
        )
    rank, scale = kinds.pop()
    n_sparse = max(branch.S2.numel() for _, branch in branches)
    # No float is nearer to scale * rank than this product, so divided it gives that scale again.
    return {"rank": rank, "alpha": scale * rank, "n_sparse": n_sparse, "targets": targets}


def _refuse_other_training(model: nn.Module) -> None:
    held = {id(parameter) for parameter in task_head_parameters(model).values()}
    held |= {id(p) for _, branch in dsee_branches(model) for p in branch.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in held:
            raise ModelError(f"{name} trains, but only updates and the task head are saved")


def _masks(model: nn.Module) -> dict[str, Tensor]:
    """True = not zero, for each projection that has zeros."""
    masks = {site.key: site.weight_view() != 0 for site in Anatomy.of(model).sites()}
    return {key: mask for key, mask in masks.items() if not bool(mask.all())}


def _frozen_sha256(model: nn.Module, masks: Mapping[str, Tensor]) -> str:
    """Identify the weights that are not saved, as they are under the masks."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_frozen(model, masks), key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _frozen(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    skipped = set(task_head_parameters(model).values())
    skipped |= {p for _, branch in dsee_branches(model) for p in branch.parameters()}
    masked: dict[str, list[Any]] = {}
    for site in Anatomy.of(model).sites():
        if site.key in masks:
            masked.setdefault(f"{site.path}.weight", []).append(site)
    for name, parameter in model.named_parameters():
        if parameter in skipped:
            continue
        tensor = parameter.detach()
        if name in masked:
            tensor = tensor.clone()
            for site in masked[name]:
                site.weight_view(tensor).masked_fill_(~masks[site.key].to(tensor.device), 0.0)
        yield name, tensor


def _read_settings(path: Path) -> dict[str, Any]:
    """Read and check ``dsee_config.json``; adds ``config``."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; needed: a folder that save_dsee wrote")
    try:
        saved = read_json(path, what="DSEE configuration")
        if saved["format"] != _FORMAT:
            raise ModelError(f"{path}: format: received {saved['format']!r}, allowed: {_FORMAT}")
        own = saved["dsee"]
        rank, alpha, n_sparse = int(own["rank"]), float(own["alpha"]), int(own["n_sparse"])
        config = DseeConfig(rank, alpha, n_sparse, tuple(own["targets"]))
        needed = {key: saved[key] for key in ("model_class", "frozen_sha256", "tensors_sha256")}
        return {**needed, "shapes": dict(saved["shapes"]), "config": config}
    except (DataError, ConfigError) as error:
        raise ModelError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: not a DSEE configuration: {error!r}") from None


def _compare_shapes(folder: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for key, value in own.items():
        if saved.get(key) != value:
            raise ModelError(
                f"{folder}: the update is for a model with {key} {saved.get(key)}, "
                f"this model has {value}"
            )


def _expected(
    model: nn.Module, config: DseeConfig, state: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the saved tensors that would fit the model; the number of positions is free."""
    expected: dict[str, tuple[int, ...]] = {
        f"head.{name}": tuple(parameter.shape)
        for name, parameter in task_head_parameters(model).items()
    }
    for site in Anatomy.of(model).sites(config.targets):
        out_features, in_features = site.shape
        positions = state.get(f"{site.key}.positions", torch.empty(0))
        expected[f"{site.key}.U"] = (out_features, config.rank)
        expected[f"{site.key}.V"] = (config.rank, in_features)
        expected[f"{site.key}.S2"] = expected[f"{site.key}.positions"] = (positions.numel(),)
    return expected

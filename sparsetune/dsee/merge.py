"""DSEE's update taken into the weights, off the model, or out of what it computes for a while."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy, check_has_values
from sparsetune.architectures.base import ASIDE
from sparsetune.dsee.adapters import Merged, UpdatesAside, drop_adapter, updates_aside
from sparsetune.dsee.layer import DseeLinear, dsee_branches
from sparsetune.errors import ModelError
from sparsetune.pruning.prune import keep_zeros
from sparsetune.pruning.zeros import remember_zeros

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class MergeReport:
    """What a merge did to the adapted matrices.

    Attributes:
        policy: ``unmerged``, ``dense`` or ``masked``.
        zero_share_before: zeros in W over its entries, in [0, 1].
        zero_share_after: the same for the matrix that inference then multiplies by.
        relative_change: norm of the part of the update that the mask dropped over the norm of the
            whole update; 0 unless ``masked``, or if the update is zero.
        rounding_change: norm of what rounding to the weights' dtype took from the rest or added to
            it, over the norm of the whole update, as measured on the merged weights: near 1e-7 in
            float32 for an update as large as the weights, a large part of a small update in 16
            bits; 0 if ``unmerged``.
    """

    policy: str
    zero_share_before: float
    zero_share_after: float
    relative_change: float
    rounding_change: float


def merge(
    model: nn.Module, policy: Literal["unmerged", "dense", "masked"], *, reversible: bool = False
) -> MergeReport:
    """Fold the updates into the weights, or leave them beside, in place.

    ``dense`` and ``masked`` turn the layers back into plain ones with new weights. ``masked`` takes
    the mask from the zeros of W, so that they survive, and so changes what the model computes.
    Weights in 16 bits are merged in float32 and rounded once; the report says what that lost. The
    merged model is a plain one to everything: it is saved whole, as it computes.

    Args:
        model: a model with DSEE attached; of several named adapters the active one is merged.
        policy: ``unmerged`` changes nothing; ``dense`` keeps the function and loses the zeros;
            ``masked`` keeps the zeros and drops the update there.
        reversible: keep what ``unmerge`` needs beside the model: the update, and the adapted
            matrices of before, which then are in memory twice.

    Returns:
        Shares of zeros and how much of the update was dropped, and lost in rounding.

    Raises:
        ModelError: if the policy is unknown, nothing is attached, a weight or an update is not
            finite, or other named adapters stand on these weights and the merge is not
            reversible; nothing is changed then.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> from sparsetune.dsee.layer import DseeConfig, apply_dsee
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes))
        >>> _ = apply_dsee(model, DseeConfig(rank=2, n_sparse=4))
        >>> merge(model, "dense").zero_share_after
        0.0
        >>> model.encoder.layer[0].attention.self.query
        Linear(in_features=8, out_features=8, bias=True)
    """
    if policy not in ("unmerged", "dense", "masked"):
        raise ModelError(f"merge policy {policy!r}; allowed: unmerged, dense, masked")
    check_has_values(model, "merge")
    anatomy = Anatomy.of(model)
    attached = [(anatomy.site_of(branch.key), layer) for layer, branch in dsee_branches(model)]
    aside = updates_aside(model)
    if aside is not None:
        aside.check_unmerged("merge")
    if not attached:
        raise ModelError("nothing to merge: no DSEE update is attached")
    if aside is not None and policy != "unmerged" and not reversible:
        aside.check_alone("merge")
    before, after, total = 0, 0, 0
    dropped, rounded, whole = 0.0, 0.0, 0.0
    merged: dict[str, Tensor] = {}
    for site, layer in attached:
        stored = merged.setdefault(site.path, layer.weight.detach().clone())
        view, update = site.weight_view(stored), layer.delta(site.projection)
        _check_finite(site.key, view, update)
        zero = view == 0
        before, total = before + int(zero.sum()), total + zero.numel()
        whole += _squares(update)
        if policy == "masked":
            dropped += _squares(update[zero])
            update = update.masked_fill(zero, 0.0)
        if policy != "unmerged":
            old = view.to(update.dtype, copy=True)
            view.copy_(old + update)
            rounded += _squares(view.double() - old.double() - update.double())
        after += int((view == 0).sum())
    if policy != "unmerged":
        layers = {site.path: layer for site, layer in attached}
        _replace(model, layers, merged)
        vars(model).pop(ASIDE, None)
        if reversible:
            aside = aside or UpdatesAside()
            aside.merged = Merged(layers, {path: _sha256(one) for path, one in merged.items()})
            vars(model)[ASIDE] = aside
    if policy == "masked":
        _keep_their_zeros(model, merged)
    dropped, rounded = (math.sqrt(one / whole) if whole else 0.0 for one in (dropped, rounded))
    return MergeReport(policy, before / total, after / total, dropped, rounded)


def unmerge(model: M) -> M:
    """Take a reversible merge back, in place: bit for bit the model from before it.

    The update is beside its weights again, and trains as it did. What else is in the model stays
    as it is now: a head that trained meanwhile keeps what it learned.

    Args:
        model: after ``merge(model, policy, reversible=True)``.

    Returns:
        The same model, with its update.

    Raises:
        ModelError: nothing was merged reversibly, or the merged weights were changed, cast or
            replaced since; nothing is changed then.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> from sparsetune.dsee.layer import DseeConfig, apply_dsee
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes)).eval()
        >>> _ = apply_dsee(model, DseeConfig(rank=2, n_sparse=4, init="normal"))
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> before = model(ids).last_hidden_state
        >>> report = merge(model, "dense", reversible=True)
        >>> torch.equal(unmerge(model)(ids).last_hidden_state, before)
        True
    """
    check_has_values(model, "unmerge")
    aside = updates_aside(model)
    if aside is None or aside.merged is None:
        raise ModelError(
            f"unmerge: nothing is merged reversibly into this {type(model).__name__}; needed: "
            "merge(model, policy, reversible=True) before"
        )
    for path, known in aside.merged.weights.items():
        try:
            weight = model.get_submodule(path).weight
        except AttributeError:
            weight = None
        if not isinstance(weight, Tensor) or _sha256(weight) != known:
            raise ModelError(
                f"unmerge: {path}: its merged weight was changed, cast or replaced since; needed: "
                "the model as merge left it"
            )
    for path, layer in aside.merged.layers.items():
        merged: Any = model.get_submodule(path)
        layer.bias = merged.bias
        model.set_submodule(path, layer.to(merged.weight.device).train(merged.training))
    for folding in dict.fromkeys(layer.folding for layer in aside.merged.layers.values()):
        if folding is not None:
            folding.attach(model)
    aside.merged = None
    if not aside.names:
        del vars(model)[ASIDE]
    return model


def detach(model: M, name: str | None = None) -> M:
    """Take DSEE's update off a model, in place; its weights are what they were before.

    The task head keeps what it learned, and what was frozen stays frozen. A named adapter takes
    its head along: the base's own stands in the model again, if the adapter was active.

    Args:
        model: a model with DSEE attached.
        name: of a named adapter, active or not; None = what is in the model.

    Returns:
        The same model, with plain layers.

    Raises:
        ModelError: nothing is attached, no adapter has this name, or it is merged reversibly.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> from sparsetune.dsee.config import DseeConfig
        >>> from sparsetune.dsee.layer import apply_dsee
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes))
        >>> _ = apply_dsee(model, DseeConfig(rank=2, n_sparse=4))
        >>> detach(model).encoder.layer[0].attention.self.query
        Linear(in_features=8, out_features=8, bias=True)
    """
    check_has_values(model, "detach")
    if name is not None or updates_aside(model) is not None:
        drop_adapter(model, name)
        return model
    layers = _layers(model, "detach")
    _replace(model, layers, {path: layer.weight for path, layer in layers.items()})
    _keep_their_zeros(model, layers)
    return model


@contextmanager
def disabled(model: M) -> Iterator[M]:
    """Compute without DSEE's update in this context, as the model did before it was attached.

    Args:
        model: a model with DSEE attached; its task head stays as it is.

    Raises:
        ModelError: nothing is attached.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> from sparsetune.dsee.config import DseeConfig
        >>> from sparsetune.dsee.layer import apply_dsee
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes)).eval()
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> before = model(ids).last_hidden_state
        >>> _ = apply_dsee(model, DseeConfig(rank=2, n_sparse=4, init="normal"))
        >>> with disabled(model):
        ...     torch.equal(model(ids).last_hidden_state, before)
        True
    """
    layers = [one for one in _layers(model, "disabled").values() if "forward" not in vars(one)]
    for layer in layers:
        # The plain module is held by the function alone, so that its weight stays one parameter.
        layer.forward = _plain(layer, layer.weight).forward  # type: ignore[method-assign]
    try:
        yield model
    finally:
        for layer in layers:
            del layer.forward


def _layers(model: nn.Module, where: str) -> dict[str, DseeLinear]:
    check_has_values(model, where)
    found = {path: one for path, one in model.named_modules() if isinstance(one, DseeLinear)}
    if not found:
        raise ModelError(f"{where}: no DSEE update is attached to this {type(model).__name__}")
    return found


def _keep_their_zeros(model: nn.Module, paths: Collection[str]) -> None:
    """Keep the zeros of modules that are new in their place: the old ones' notes went with them."""
    sites = [site for site in Anatomy.of(model).sites() if site.path in paths]
    masks = {site.key: site.weight_view().detach() != 0 for site in sites}
    remember_zeros(sites, masks)
    keep_zeros(model, masks)


def _check_finite(key: str, weight: Tensor, update: Tensor) -> None:
    for name, tensor in (("weight", weight), ("update", update)):
        wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
        if wrong:
            raise ModelError(
                f"merge: {key}: {wrong} of {tensor.numel()} values of the {name} are NaN or "
                "infinite; needed: finite ones"
            )


def _sha256(weight: Tensor) -> str:
    told = hashlib.sha256(f"{weight.dtype} {tuple(weight.shape)}\n".encode())
    told.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return told.hexdigest()


def _squares(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _replace(
    model: nn.Module, layers: Mapping[str, DseeLinear], weights: Mapping[str, Tensor]
) -> None:
    """Put plain layers with these weights, by path, in the place of those with an update."""
    for path, layer in layers.items():
        if layer.folding is not None:
            layer.folding.detach()
        model.set_submodule(path, _plain(layer, weights[path]))


def _plain(layer: DseeLinear, weight: Tensor) -> nn.Module:
    """Make a module of the original kind around a merged weight."""
    if layer.stored_in_by_out:
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):  # no draw from the global generator for values thrown away
            module: Any = Conv1D(weight.shape[1], weight.shape[0])
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    if not isinstance(weight, nn.Parameter):
        weight = nn.Parameter(weight, requires_grad=False)
    module.weight = weight
    module.bias = layer.bias
    return module.train(layer.training)

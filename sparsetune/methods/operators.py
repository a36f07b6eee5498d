"""Which of a model's weights are multiplied, looked up in the model itself.

The cost stage counts from shapes alone. This is the other side of its ledger: every parameter of
the model that was really run is either multiplied, known to be free, or refused by name.
"""

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from sparsetune.architectures.anatomy import Anatomy, family_of, task_head_parameters
from sparsetune.architectures.base import Family
from sparsetune.dsee.layer import DseeBranch, DseeLinear
from sparsetune.errors import ModelError
from sparsetune.methods.kind import UpdateKind

_FREE_MODULES = (nn.Embedding, nn.LayerNorm, nn.RMSNorm)  # looked up, or element by element
_MATRICES = (nn.Linear, Conv1D)
_EMBEDDING_PROJECTIONS = ("embed_proj", "embeddings_project")  # from token embeddings to layers
_BRANCHES = (nn.Linear, nn.ParameterDict, DseeBranch)  # that hold an update's values


def multiplied_weights(model: nn.Module, update: UpdateKind) -> dict[str, int]:
    """Count the weights that a token's products go through, by module.

    Args:
        model: of a known architecture with a task head, smaller or not, with its update.
        update: the one that is attached.

    Returns:
        Projection, ``embeddings``, ``pooler``, ``head`` or ``update`` -> weights, biases not
        counted; modules without any are absent. GPT-2's fused matrix counts as the three that it
        holds.

    Raises:
        ModelError: a module has parameters and its cost is not known; named by its path.
    """
    at: dict[str, list[str]] = {}  # path of a stored matrix -> the projections that it holds
    for site in Anatomy.of(model).sites():
        at.setdefault(site.path, []).append(site.projection)
    family = family_of(model)
    heads = {name.rpartition(".")[0] for name in task_head_parameters(model)}
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own or type(module) in _FREE_MODULES or _is_free(module, family):
            continue
        stored = next((one for one in _upwards(path) if one in at), None)
        if stored is not None:
            held = _of_projection(module, path[len(stored) + 1 :], at[stored], update)
        else:
            held = _outside_layers(module, path, heads, family)
        if held is None:
            count = sum(parameter.numel() for parameter in own.values())
            raise ModelError(
                f"{path or 'the model itself'}: a {type(module).__name__} with {count} parameters "
                "whose cost is not known; nothing that multiplies may go uncounted"
            )
        for name, weights in held.items():
            found[name] = found.get(name, 0) + weights
    return found


def _upwards(path: str) -> list[str]:
    """The path and those of the modules around it."""
    names = path.split(".")
    return [".".join(names[:count]) for count in range(len(names), 0, -1)]


def _of_projection(
    module: Any, rest: str, projections: list[str], update: UpdateKind
) -> dict[str, int] | None:
    """What is multiplied at a projection or below it; None = not known."""
    if rest in ("", "base_layer") and type(module) in (*_MATRICES, DseeLinear):
        part = module.weight.numel() // len(projections)
        return dict.fromkeys(projections, part)
    name = rest.partition(".")[0]
    if name in update.scales:
        return {}
    if name in update.products and type(module) in _BRANCHES:
        return {"update": sum(parameter.numel() for parameter in module.parameters())}
    return None


def _outside_layers(
    module: Any, path: str, heads: set[str], family: Family
) -> dict[str, int] | None:
    """Likewise for everything else: what stands around the layers, and for positions in them."""
    if family.convolution and _at(path, family.convolution) and type(module) is nn.Conv1d:
        return {"embeddings": module.weight.numel()}
    if type(module) not in _MATRICES:
        return None
    generates = family.generates and f"{path}.".startswith(family.language_head)
    if path in heads or generates:
        return {"head": module.weight.numel()}
    if _at(path, family.pooler):
        return {"pooler": module.weight.numel()}
    if path.rpartition(".")[2] in _EMBEDDING_PROJECTIONS:
        return {"embeddings": module.weight.numel()}
    if any(_at(path, one) for one in family.like_query):
        return {}  # of relative positions alone: no token goes through it
    return None


def _at(path: str, end: str) -> bool:
    return f".{path}".endswith(f".{end}")


def _is_free(module: nn.Module, family: Family) -> bool:
    """Whether a module is a norm, or a look-up, that the family's own file in the library has."""
    kind = type(module)
    if kind.__module__ != family.module:
        return False
    norm = kind.__name__.endswith("Norm") and all(one.dim() == 1 for one in module.parameters())
    return norm or isinstance(module, nn.Embedding)

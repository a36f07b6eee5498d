"""What a model of anyone's holds, trains and costs, in one small object."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsetune.architectures.anatomy import Anatomy, check_has_values
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.shapes import Head, ModelShape
from sparsetune.cost.updates import Branch, UpdateCount
from sparsetune.dsee.adapters import updates_aside
from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ConfigError, shown
from sparsetune.pruning.zeros import zero_counts


@dataclass(frozen=True)
class Summary:
    """Counts of a model as it is now; printed, a few short lines.

    Attributes:
        parameters: entries of all parameters, each once.
        trained: entries that have a gradient: what an optimizer would move.
        weights: entries of the projections of all layers: query, key, value, attention output,
            feed-forward in and out.
        zeros: how many of them are zero.
        tokens: length of the sequence that the multiply-adds are of.
        macs: multiply-adds of one sequence as a dense kernel executes them, updates of DSEE beside
            the weights.
        effective_macs: the same without those of zeros: what an ideal sparse kernel would run.
        head: kind of the task head that ``macs`` holds; None = the model's head is none of those
            that are counted, and is left out.
        adapters: names of the adapters of the model; all counts are with the active one.
        active: its name; None = none is active, or has a name.
    """

    parameters: int
    trained: int
    weights: int
    zeros: int
    tokens: int
    macs: int
    effective_macs: int
    head: str | None
    adapters: tuple[str, ...] = ()
    active: str | None = None

    def __str__(self) -> str:
        """Tell it in four lines, and one of named adapters."""
        marked = [f"{one} (active)" if one == self.active else one for one in self.adapters]
        names = f"\nadapters   {', '.join(marked)}" if marked else ""
        head = f"with its {self.head} head" if self.head else "without its head"
        return (
            f"trained    {self.trained:,} of {self.parameters:,} parameters "
            f"({self.trained / self.parameters:.2%})\n"
            f"zeros      {self.zeros:,} of {self.weights:,} weights "
            f"({self.zeros / self.weights:.2%})\n"
            f"executed   {self.macs:,} multiply-adds at {self.tokens} tokens, {head}\n"
            f"effective  {self.effective_macs:,} without those of zeros{names}"
        )


def summary(model: nn.Module, tokens: int = 128) -> Summary:
    """Count what a model holds, what of it trains, its zeros, and its multiply-adds.

    Nothing is run: multiply-adds follow from shapes. Updates of other libraries than this are in
    the parameters, and not in the multiply-adds.

    Args:
        model: of a known architecture, whole or shrunken, with or without DSEE.
        tokens: length of a sequence, 1 or more.

    Raises:
        ConfigError: ``tokens`` is no whole number from 1.
        ModelError: another architecture.

    Source:
        Counting rules: ``cost.macs``.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes))
        >>> print(summary(model, tokens=4))
        trained    4,872 of 4,872 parameters (100.00%)
        zeros      0 of 512 weights (0.00%)
        executed   2,304 multiply-adds at 4 tokens, without its head
        effective  2,304 without those of zeros
    """
    if type(tokens) is not int or tokens < 1:
        raise ConfigError(
            f"summary: tokens: received {shown(tokens)}; allowed: a whole number from 1"
        )
    check_has_values(model, "summary")
    counts = zero_counts(model)
    zeros = {key: zero for key, (zero, _) in counts.items()}
    head = _head(model)
    shape, update = _shape(model, head), _update(model)
    executed, effective = (
        sum(count for name, count in macs.items() if head or name not in ("pooler", "head"))
        for macs in (
            macs_by_module(shape, tokens, update),
            macs_by_module(shape, tokens, update, zeros),
        )
    )
    parameters, aside = list(model.parameters()), updates_aside(model)
    return Summary(
        parameters=sum(one.numel() for one in parameters),
        trained=sum(one.numel() for one in parameters if one.requires_grad),
        weights=sum(total for _, total in counts.values()),
        zeros=sum(zeros.values()),
        tokens=tokens,
        macs=executed,
        effective_macs=effective,
        head=head,
        adapters=aside.names if aside else (),
        active=aside.active if aside else None,
    )


def _head(model: nn.Module) -> Head | None:
    """The kind of head that a class of transformers, or one derived from it, has."""
    family = Anatomy.of(model).family
    kinds: dict[str, Any] = {}  # class -> kind; of two with one class, the first
    for kind, name in family.heads.items():
        kinds.setdefault(family.class_prefix + name, kind)
    inner: Any = model
    if hasattr(inner, "get_base_model"):  # PEFT's wrapper
        inner = inner.get_base_model()
    return next((kinds[one.__name__] for one in type(inner).__mro__ if one.__name__ in kinds), None)


def _shape(model: nn.Module, head: Head | None) -> ModelShape:
    anatomy = Anatomy.of(model)
    config: Any = model.config
    told = config.to_dict() | {"model_type": anatomy.model_type}
    labels = int(getattr(config, "num_labels", 1) or 1)
    dense = ModelShape.dense(told, head or "classification", labels)
    layers = range(anatomy.layers)
    return dense.with_sizes(
        [anatomy.heads(layer) for layer in layers], [anatomy.ffn_width(layer) for layer in layers]
    )


def _update(model: nn.Module) -> UpdateCount:
    branches = [branch for _, branch in dsee_branches(model)]
    return UpdateCount(
        tuple(
            Branch(one.key, one.U.numel() + one.V.numel() + one.S2.numel(), one.S2.numel())
            for one in branches
        )
    )

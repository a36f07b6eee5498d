"""What ``import sparsetune`` offers, for models loaded and trained elsewhere.

Nothing here computes: it puts together ``earlybert``, ``dsee``, ``pruning``, ``saving``,
``counting`` and ``export``.
"""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from sparsetune.architectures.anatomy import (
    Anatomy,
    check_has_values,
    check_known,
    drawn_modules,
    task_head_parameters,
)
from sparsetune.architectures.base import check_alone, check_plain
from sparsetune.counting import Summary, summary
from sparsetune.dsee import layer as dsee
from sparsetune.dsee.adapters import naming, trained_shapes, use_adapter
from sparsetune.dsee.config import DseeConfig
from sparsetune.dsee.merge import MergeReport, detach, disabled, merge, unmerge
from sparsetune.dsee.progress import Progress
from sparsetune.dsee.support_cache import cache_folder
from sparsetune.earlybert import ticket as tickets
from sparsetune.earlybert.search import TicketSearch, check_number, refuse_search, search_ticket
from sparsetune.earlybert.ticket import DrawConfig, Ticket, TicketLabel, check_share
from sparsetune.errors import ConfigError, ModelError, SparsetuneError, TrainingError, shown
from sparsetune.export import OnnxReport, export_onnx
from sparsetune.pruning.base_model import kept_of, note_kept
from sparsetune.pruning.prune import prune
from sparsetune.pruning.structured import keep_layers, remove, sizes_of
from sparsetune.pruning.zeros import has_kept_zeros, zero_masks
from sparsetune.saving import load, save, save_readably

__all__ = [
    "ConfigError",
    "DseeConfig",
    "MergeReport",
    "ModelError",
    "OnnxReport",
    "SparsetuneError",
    "Summary",
    "Ticket",
    "TicketSearch",
    "TrainingError",
    "apply_dsee",
    "detach",
    "disabled",
    "export_onnx",
    "load",
    "merge",
    "prune",
    "random_ticket",
    "save",
    "search_ticket",
    "shrink",
    "summary",
    "trainable_parameters",
    "unmerge",
    "use",
]

M = TypeVar("M", bound=nn.Module)


def apply_dsee(
    model: M,
    config: DseeConfig = DseeConfig(),  # noqa: B008 (frozen)
    *,
    name: str | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> M:
    """Freeze a model and attach DSEE's update to it, in place.

    Afterwards exactly the update, the task head and ``config.modules_to_save`` train; any training
    loop will do. ``model.save_pretrained``, and so a Trainer's checkpoints, then write what
    ``save`` writes: the update, which ``load`` gives back and a Trainer resumes from.

    GreBsmo works on a matrix for seconds, so that the places it chose are kept in a folder, for the
    same weights and settings: in ``~/.cache/sparsetune``, or the one that ``SPARSETUNE_CACHE``
    names; ``SPARSETUNE_CACHE=off`` keeps none.

    Args:
        model: of a known architecture, bare or with a task head, after any removal of heads and
            neurons.
        config: what is attached, and how the places of S2 are chosen.
        name: makes it one of several adapters on these frozen weights, and the active one; see
            ``use``. It trains copies of the head and of ``config.modules_to_save``, from the
            base's own. None = the only update of this model.
        progress: called after each matrix that GreBsmo has worked on with how many of them are
            done, how many there are, and where this one is; None = a bar, on a terminal.

    Returns:
        The same model.

    Raises:
        ConfigError: ``config`` is something else than a ``DseeConfig``, or ``progress`` than a
            function.
        ModelError: another architecture, a rank or positions that do not fit, projections that
            are wrapped already, a module that would stay frozen unseen, or was drawn anew because
            the checkpoint lacks it, or a name that is taken or that an update beside it lacks;
            nothing is changed then.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3.
    Differs:
        See ``DseeConfig``, ``dsee.layer.DseeLinear`` and ``dsee.support.decompose``.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes))
        >>> model = apply_dsee(model, DseeConfig(rank=2, n_sparse=4, modules_to_save=["pooler"]))
        >>> model.encoder.layer[0].attention.self.query
        DseeLinear(
          (branches): ModuleDict(
            (query): DseeBranch(8 x 8, rank=2, n_sparse=4)
          )
        )
    """
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress: received {shown(progress)}; allowed: a function, or None")
    check_has_values(model, "apply_dsee")
    refuse_search(model, "apply_dsee")
    if isinstance(config, DseeConfig) and config.modules_to_save is None:
        drawn = drawn_modules(model)
        if drawn:
            raise ModelError(
                f"{type(model).__name__}: {', '.join(drawn)}: not in the checkpoint, so drawn "
                "anew; it would stay random, and be another with the next start; needed: "
                f"modules_to_save={drawn} to train and save it, or modules_to_save=[] to leave it"
            )
    with naming(model, name, "apply_dsee") as newcomer:
        dsee.apply_dsee(model, config, cache=cache_folder(), on_matrix=progress or Progress())
        newcomer.bring(trained_shapes(model))
    save_readably(model)
    return model


def use(model: M, name: str | None) -> M:
    """Make one of a model's named adapters the active one, in place.

    The model then is what it would be with that adapter alone, bit for bit: its update, its task
    head and labels, its ``modules_to_save``. The others wait beside it, with all they learned;
    optimizers, ``state_dict`` and ``save`` see the active one only. Switching copies no weights.

    Args:
        model: with adapters that got names by ``apply_dsee`` or ``load``.
        name: of the adapter; None = none of them: the base model with its own head, frozen.

    Returns:
        The same model.

    Raises:
        ModelError: no adapter has this name, or one is disabled or merged now.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=16, **sizes))
        >>> _ = apply_dsee(model, DseeConfig(rank=2, n_sparse=4), name="mrpc")
        >>> _ = apply_dsee(model, DseeConfig(rank=3, n_sparse=0), name="rte")
        >>> use(model, "mrpc").encoder.layer[0].attention.self.query
        DseeLinear(
          adapter='mrpc'
          (branches): ModuleDict(
            (query): DseeBranch(8 x 8, rank=2, n_sparse=4)
          )
        )
        >>> summary(model).adapters, summary(model).active
        (('mrpc', 'rte'), 'mrpc')
    """
    check_has_values(model, "use")
    refuse_search(model, "use")
    use_adapter(model, name)
    return model


def random_ticket(
    model: nn.Module, *, heads: float = 1 / 3, neurons: float = 0.4, seed: int = 0
) -> Ticket:
    """Draw a ticket of the size of a searched one at random: the control beside it.

    Args:
        model: of a known architecture, nothing removed yet; only its sizes are looked at.
        heads: fraction of the heads dropped in every layer, in [0, 1).
        neurons: fraction of the neurons dropped over all layers, in [0, 1).
        seed: of the draw, 0 or more.

    Raises:
        ConfigError: a fraction or the seed is out of range.
        ModelError: layers of different sizes, or one that would be emptied.

    Source:
        Chen et al. 2021, arXiv:2101.00063: its random baseline.
    Differs:
        See ``earlybert.ticket.random_ticket``.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=10, **sizes))
        >>> random_ticket(model, heads=0.5)
        Ticket(heads [1] of 2, neurons [6] of 10, origin random)
    """
    check_share("random_ticket: heads", heads)
    check_share("random_ticket: neurons", neurons)
    check_number("random_ticket: seed", seed, whole=True)
    sizes = sizes_of(model)
    for name, counts in (("heads", sizes.heads), ("neurons", sizes.ffn_width)):
        if len(set(counts)) > 1:
            raise ModelError(f"random_ticket: {name}: received {counts}; needed: one for all")
    return tickets.random_ticket(
        (sizes.layers, sizes.heads[0], sizes.ffn_width[0]),
        DrawConfig(head_ratio=heads, neuron_ratio=neurons),
        label=TicketLabel(seed=seed),
    )


def shrink(model: M, ticket: Ticket) -> M:
    """Remove every head, neuron and layer that a ticket does not keep, for real, in place.

    What is kept stays bit for bit, and so do the embeddings and the task head; zeros that
    ``prune`` watches are watched further. Optimizers made before hold the old weights: make them
    afterwards. ``model.save_pretrained`` then writes what ``save`` writes.

    Args:
        model: of the sizes that the ticket was drawn for, before updates are attached.
        ticket: from a search, from ``random_ticket`` or from a file.

    Returns:
        The same model.

    Raises:
        ConfigError: ``ticket`` is something else than a ``Ticket``.
        ModelError: other sizes, or something is attached; nothing is changed then.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 3.2.
    Differs:
        See ``pruning.structured.remove``.

    Example:
        >>> from transformers.models.bert import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertModel(BertConfig(vocab_size=9, intermediate_size=10, **sizes))
        >>> small = shrink(model, random_ticket(model, heads=0.5, neurons=0.4))
        >>> small.encoder.layer[0].intermediate
        BertIntermediate(
          (dense): Linear(in_features=8, out_features=6, bias=True)
          (intermediate_act_fn): GELUActivation()
        )
    """
    if not isinstance(ticket, Ticket):
        kind = type(ticket).__name__
        raise ConfigError(f"ticket: received a {kind}; allowed: a sparsetune.Ticket")
    check_known(model, "shrink")
    refuse_search(model, "shrink")
    check_alone(model, "shrink")
    ticket.check_fits(model)
    anatomy = Anatomy.of(model)
    for site in anatomy.sites():
        check_plain(site)
    if ticket.kept_layers is not None:
        reason = anatomy.family.keeps_layers(model.config, ticket.kept_layers)
        if reason:
            raise ModelError(reason)
    watched = has_kept_zeros(model)
    remove(model, ticket.kept_heads, ticket.kept_neurons)
    whole = ticket.kept_layers is None and getattr(kept_of(model), "layers", None) is None
    note_kept(model, ticket.kept_heads, ticket.kept_neurons, layers=whole)
    if ticket.kept_layers is not None:
        keep_layers(model, ticket.kept_layers)
    if watched and zero_masks(model):
        prune(model, None)
    save_readably(model)
    return model


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Count what trains: entries of parameters that require a gradient.

    Args:
        model: of a known architecture.

    Returns:
        ``head`` in the task head, ``update`` anywhere else, ``total`` both together.
    """
    head = {id(parameter) for parameter in task_head_parameters(model).values()}
    counts = {"update": 0, "head": 0}
    for parameter in model.parameters():
        if parameter.requires_grad:
            counts["head" if id(parameter) in head else "update"] += parameter.numel()
    return {**counts, "total": sum(counts.values())}

"""Losses over the classes of a task or the tokens of its answers, one mean for each step."""

from collections.abc import Callable

from torch import Tensor, nn

from sparsetune.data.tokenization import IGNORED_LABEL

StepLoss = Callable[..., Tensor]


def step_loss(head: str, label_smoothing: float) -> StepLoss | None:
    """Choose the loss of a phase, in the form that the Trainer calls.

    Args:
        head: task kind: ``classification regression span generation``.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1);
            needs classes: a classification or, over the vocabulary, a generation.

    Returns:
        Function of (outputs, labels, ``num_items_in_batch``); None = the model's own loss serves.
        A generation always has one: its mean is over the target tokens of the whole step, while
        the model's own is over those of a batch, and batches differ in their tokens.
    """
    if head == "generation":
        return lambda outputs, labels, num_items_in_batch=None: smoothed_cross_entropy(
            outputs["logits"], _next_tokens(labels), label_smoothing, items=num_items_in_batch
        )
    if label_smoothing == 0:
        return None
    return lambda outputs, labels, num_items_in_batch=None: smoothed_cross_entropy(
        outputs["logits"], labels, label_smoothing, items=num_items_in_batch
    )


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, *, items: Tensor | int | None = None
) -> Tensor:
    """Cross-entropy against ``(1 - smoothing) * one-hot + smoothing / C``.

    Args:
        logits: float, shape ``(..., C)``.
        labels: int64, shape ``(...)``; -100 = left out.
        smoothing: in [0, 1); 0 = plain cross-entropy.
        items: labels in the whole step that are not left out; None = those of ``labels``.

    Returns:
        The batch's part of the step's mean: the parts of a step's batches add up to it.

    Source:
        Szegedy et al. 2016, arXiv:1512.00567, section 7.
    Differs:
        Nothing.

    Example:
        >>> import torch
        >>> smoothed_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), 0.1)
        tensor(0.6931)
    """
    labels = labels.flatten().to(logits.device)
    mean = nn.functional.cross_entropy(
        logits.float().flatten(0, -2), labels, label_smoothing=smoothing, ignore_index=IGNORED_LABEL
    )
    # Not the sum over ``items``: so that a step of one batch is the model's own loss to the bit.
    return mean if items is None else mean * ((labels != IGNORED_LABEL).sum() / items)


def _next_tokens(labels: Tensor) -> Tensor:
    """What each position must predict: the label after it; nothing at the end."""
    return nn.functional.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:]

"""Losses over the classes of a task or the tokens of its answers, one mean for each step."""

from dataclasses import dataclass

from torch import Tensor, nn

from sparsetune.data.tokenization import IGNORED_LABEL


@dataclass(frozen=True)
class StepLoss:
    """Cross-entropy as one mean over all labels of an optimizer step, whatever its batches are.

    Attributes:
        smoothing: share of the target that is spread evenly over all classes, in [0, 1).
        next_token: each position predicts the label after it.
    """

    smoothing: float
    next_token: bool = False

    def count(self, labels: Tensor) -> int:
        """Labels of a batch that the mean is over."""
        return int((self._targets(labels) != IGNORED_LABEL).sum())

    def __call__(self, logits: Tensor, labels: Tensor, items: int | Tensor) -> Tensor:
        """A batch's part of the step's mean: the parts of a step's batches add up to it.

        Args:
            logits: float, shape ``(N, C)`` or ``(N, T, C)``.
            labels: int64, shape ``(N,)`` or ``(N, T)``; -100 = left out.
            items: ``count`` over the step's batches.
        """
        targets = self._targets(labels)
        mean = smoothed_cross_entropy(logits, targets, self.smoothing)
        # Not the sum over ``items``: a step of one batch then is the model's own loss to the bit.
        return mean * ((targets != IGNORED_LABEL).sum() / items)

    def _targets(self, labels: Tensor) -> Tensor:
        if not self.next_token:
            return labels
        return nn.functional.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:]


def step_loss(head: str, label_smoothing: float) -> StepLoss | None:
    """Choose the loss of a phase.

    Args:
        head: task kind: ``classification regression span generation``.
        label_smoothing: in [0, 1); needs classes: a classification or, over the vocabulary, a
            generation.

    Returns:
        None = the model's own loss serves. A generation always has one: its mean is over the
        target tokens of the whole step, while the model's own is over those of a batch, and
        batches differ in their tokens.
    """
    if head == "generation":
        return StepLoss(label_smoothing, next_token=True)
    return StepLoss(label_smoothing) if label_smoothing else None


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy against ``(1 - smoothing) * one-hot + smoothing / C``.

    Args:
        logits: float, shape ``(..., C)``.
        labels: int64, shape ``(...)``; -100 = left out.
        smoothing: in [0, 1); 0 = plain cross-entropy.

    Returns:
        The mean over the labels that are not left out.

    Source:
        Szegedy et al. 2016, arXiv:1512.00567, section 7.
    Differs:
        Nothing.

    Example:
        >>> import torch
        >>> smoothed_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), 0.1)
        tensor(0.6931)
    """
    return nn.functional.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten().to(logits.device),
        label_smoothing=smoothing,
        ignore_index=IGNORED_LABEL,
    )

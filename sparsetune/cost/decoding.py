"""Multiply-adds of generating a text: the prompt once, then a token a step with cached keys."""

from collections.abc import Mapping

from sparsetune.cost.macs import effective_macs
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import Update
from sparsetune.errors import ModelError


def prefill_macs(
    shape: ModelShape,
    tokens: float,
    update: Update | None = None,
    zeros: Mapping[str, int] | None = None,
) -> int:
    """MACs of running a prompt and scoring the vocabulary after its last token only.

    Args:
        shape: of a model with a generation head.
        tokens: length of the prompt, > 0, padding not counted.
        update: the branches to add; None or full = none.
        zeros: site key -> zeros that cost nothing; None = executed MACs.

    Raises:
        ModelError: another head, or as :func:`sparsetune.cost.macs.effective_macs`.
    """
    _check(shape)
    macs = effective_macs(shape, tokens, update, zeros)
    return sum(macs.values()) - macs["head"] + effective_macs(shape, 1)["head"]


def decoding_macs(
    shape: ModelShape,
    steps: int,
    keys: int,
    *,
    beams: int,
    update: Update | None = None,
    zeros: Mapping[str, int] | None = None,
) -> int:
    """MACs of the steps after the prompt; every hypothesis of the beam runs a token in each.

    Args:
        shape: of a model with a generation head.
        steps: forward passes after the prompt's, >= 0.
        keys: that one hypothesis sees, summed over the steps: see :func:`visible_keys`.
        beams: hypotheses of a prompt, >= 1; all of them count in every step.
        update: the branches to add; None or full = none.
        zeros: site key -> zeros that cost nothing; None = executed MACs.

    Raises:
        ModelError: another head, a count out of range, or as ``effective_macs``.

    Differs:
        From what a shared cache runs: keys of a prompt's other hypotheses, which are masked
        there, and padding are not counted.
    """
    _check(shape)
    if steps < 0 or keys < steps or beams < 1:
        raise ModelError(
            f"decoding: got {steps} steps, {keys} keys and {beams} beams; need steps >= 0, a key "
            "or more for each step, and beams >= 1"
        )
    macs = effective_macs(shape, 1, update, zeros)
    attention = macs["scores"] + macs["context"]  # for one key
    return beams * (steps * (sum(macs.values()) - attention) + keys * attention)


def visible_keys(prompt_tokens: int, steps: int) -> int:
    """Keys that one hypothesis sees over all steps: the prompt's, and one more in every step.

    Args:
        prompt_tokens: >= 1.
        steps: forward passes after the prompt's, >= 0.

    Example:
        >>> visible_keys(4, 3)  # 5 + 6 + 7
        18
    """
    return steps * prompt_tokens + steps * (steps + 1) // 2


def _check(shape: ModelShape) -> None:
    if shape.head != "generation":
        raise ModelError(f"decoding: got a model with head {shape.head!r}, need 'generation'")

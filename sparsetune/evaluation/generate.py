"""Prompts continued by the library's beam search, by the rules of the data-to-text literature."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from sparsetune.config.task import Generation


class Continued(NamedTuple):
    """What followed the prompts.

    Attributes:
        tokens: ids after each prompt, without the end token.
        steps: forward passes after the prompt's own that each needs, its end token included.
    """

    tokens: list[list[int]]
    steps: list[int]


class NoRepeat(LogitsProcessor):
    """The library's ban of n-grams that occurred, for continuations alone: prompts may be copied.

    Args:
        prompt_tokens: length of the prompts, padding included.
        size: n, >= 1.

    Example:
        >>> said = torch.tensor([[9, 9, 1, 2, 1]])  # after a prompt of two tokens
        >>> NoRepeat(2, 2)(said, torch.zeros(1, 4))
        tensor([[0., 0., -inf, 0.]])
    """

    def __init__(self, prompt_tokens: int, size: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._ban = NoRepeatNGramLogitsProcessor(size)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """Give the scores with -inf for tokens that would complete such an n-gram."""
        return self._ban(input_ids[:, self._prompt_tokens :], scores)


def continue_prompts(
    model: Any,
    batch: Mapping[str, Tensor],
    settings: Generation,
    *,
    end_token_id: int,
    pad_token_id: int,
) -> Continued:
    """Continue every prompt with the best of the hypotheses that beam search finds.

    A hypothesis scores its log-probability over ``tokens ** length_penalty``, tokens counted with
    the end token. No sequence of ``no_repeat_ngram`` tokens occurs twice in a continuation.
    With one beam the search is greedy, and the penalty has no effect.

    Args:
        model: of transformers, with a language-model head, in eval mode. Decoding settings that
            came with its checkpoint do not count.
        batch: ``input_ids`` and ``attention_mask``, int64 ``(N, T)``, padded on the left.
        settings: of the task; ``maximum_new_tokens`` counts the end token.
        end_token_id: ends a hypothesis.
        pad_token_id: fills what follows an end.

    Returns:
        N continuations, at most ``maximum_new_tokens`` long, and their steps.

    Source:
        Transformers' ``generate`` with the ending, scoring and n-gram rules of the released LoRA
        code (github.com/microsoft/LoRA, examples/NLG), which Hu et al. 2021, arXiv:2106.09685,
        decode E2E, WebNLG and DART with.
    Differs:
        Of each step's candidates the library keeps as many that go on as there are beams,
        whatever number ends; in the LoRA code those that end leave a beam empty for one step. It
        stops once as many hypotheses have ended as there are beams and none that goes on can
        score better than the worst of them; there all steps are made. The end token is the
        tokenizer's own.
    """
    beams, size = settings.beams, settings.no_repeat_ngram
    searching = {"length_penalty": settings.length_penalty, "early_stopping": "never"}
    asked = GenerationConfig(
        num_beams=beams,
        do_sample=False,
        max_new_tokens=settings.maximum_new_tokens,
        eos_token_id=end_token_id,
        pad_token_id=pad_token_id,
        renormalize_logits=size > 0,  # what is forbidden has no share of the probability
        **(searching if beams > 1 else {}),
    )
    prompt_tokens = batch["input_ids"].shape[1]
    rules = [NoRepeat(prompt_tokens, size)] if size else []
    loaded, model.generation_config = model.generation_config, GenerationConfig()
    try:
        found = model.generate(
            **batch, generation_config=asked, logits_processor=LogitsProcessorList(rules)
        )
    finally:
        model.generation_config = loaded
    rows = found[:, prompt_tokens:].tolist()
    tokens = [row[: row.index(end_token_id)] if end_token_id in row else row for row in rows]
    longest = settings.maximum_new_tokens
    return Continued(tokens, [min(len(row) + 1, longest) - 1 for row in tokens])

"""Beam search over many prompts at once, with a key-value cache that is never reordered.

The hypotheses of a prompt are one row of the batch: every step appends their tokens to the cache,
and a mask says which keys each hypothesis sees. So the prompt's keys are computed and kept once,
not once a beam, and choosing among hypotheses moves booleans instead of keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

_STEPS_BETWEEN_CLEANINGS = 4  # of the cache; each copies it once, as every step does
_ROWS_WORTH_DROPPING = 0.1  # share of finished prompts from which their rows are dropped


@dataclass(frozen=True)
class BeamSettings:
    """How to search.

    Attributes:
        beams: hypotheses kept for each prompt, >= 1; 1 = greedy search.
        maximum_new_tokens: the longest continuation, end token included, >= 1.
        length_penalty: a hypothesis scores its log-probability over ``tokens ** length_penalty``,
            tokens counted with the end token.
        no_repeat_ngram: no sequence of so many tokens occurs twice in a continuation; 0 = allowed.
            Sequences of the prompt may occur: names are copied from there.
    """

    beams: int
    maximum_new_tokens: int
    length_penalty: float
    no_repeat_ngram: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "BeamSettings":
        """Take the settings out of a task's ``generation`` section."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


class Found(NamedTuple):
    """What a search found.

    Attributes:
        continuations: token ids for each prompt, without the end token.
        steps: for each prompt the forward passes after the prompt's own. At least as many as
            its continuation needed: the search goes on until the result is certain, and prompts
            leave a batch several at a time.
    """

    continuations: list[list[int]]
    steps: list[int]


def search(
    model: nn.Module, batch: Mapping[str, Tensor], settings: BeamSettings, *, end_token_id: int
) -> Found:
    """Continue every prompt with the best of the hypotheses that beam search finds.

    A step extends the live hypotheses of a prompt by one token and keeps the ``beams`` most
    probable; those that end leave the beam. A prompt is done when no live hypothesis can still
    score better than its best ended one, so stopping early never changes the result.

    Args:
        model: GPT-2 with its language-model head, in eval mode.
        batch: ``input_ids`` and ``attention_mask``, int64 ``(N, T)``, padded on the left.
        settings: see :class:`BeamSettings`.
        end_token_id: ends a hypothesis.

    Returns:
        N continuations, at most ``maximum_new_tokens`` long, and their steps.

    Source:
        Beam search with the ending, scoring and n-gram rules of the released LoRA code
        (github.com/microsoft/LoRA, examples/NLG), which Hu et al. 2021, arXiv:2106.09685, decode
        E2E, WebNLG and DART with.
    Differs:
        Stops when the result is certain, there all steps are made; the end token is the
        tokenizer's own.
    """
    found = _Search(model, batch, settings, end_token_id)
    while found.step():
        found.forward()
    return Found(found.best, found.steps)


class _Search:
    """The live hypotheses of a batch of prompts, and the best ended one of each.

    N = prompts still searched, B = beams, S = tokens generated so far, K = keys in the cache.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Mapping[str, Tensor],
        settings: BeamSettings,
        end_token_id: int,
    ) -> None:
        prompts, mask = batch["input_ids"], batch["attention_mask"]
        count, beams, place = len(prompts), settings.beams, prompts.device
        self.model, self.settings, self.end_token_id = model, settings, end_token_id
        self.cache = DynamicCache()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        result = model(
            input_ids=prompts, attention_mask=mask, position_ids=positions,
            past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        self.logits = result.logits.float().expand(count, beams, -1)
        self.rows = torch.arange(count)  # of the batch, for each prompt that is still searched
        self.positions = mask.sum(1)  # of the next token
        self.visible = mask.bool()[:, None].expand(count, beams, -1)  # (N, B, K)
        self.tokens = prompts.new_empty(count, beams, 0)  # (N, B, S)
        # All hypotheses are the empty one yet: only the first may be extended.
        self.scores = torch.full((count, beams), -torch.inf, device=place)
        self.scores[:, 0] = 0.0
        self.best: list[list[int]] = [[] for _ in range(count)]
        self.steps = [0] * count
        self.best_scores = torch.full((count,), -torch.inf, device=place)

    def step(self) -> bool:
        """Extend the hypotheses by a token; False = every prompt is done."""
        logits = without_repeats(self.logits, self.tokens, self.settings.no_repeat_ngram)
        scores = self.scores[..., None] + logits.log_softmax(-1)
        self.scores, chosen = scores.flatten(1).topk(self.settings.beams)
        parents, tokens = chosen // logits.shape[-1], chosen % logits.shape[-1]
        self.tokens = torch.cat([_of_beams(self.tokens, parents), tokens[..., None]], dim=-1)
        self.visible = _of_beams(self.visible, parents)
        last = self.tokens.shape[-1] == self.settings.maximum_new_tokens
        ended = torch.ones_like(tokens, dtype=torch.bool) if last else tokens == self.end_token_id
        self._end(ended)
        self._drop_done(all_done=last)
        return len(self.rows) > 0

    def forward(self) -> None:
        """Run the model on the last token of every hypothesis."""
        count, beams = self.scores.shape
        for row in self.rows.tolist():
            self.steps[row] += 1
        if self.tokens.shape[-1] % _STEPS_BETWEEN_CLEANINGS == 0:
            self._clean_cache()
        own = torch.eye(beams, dtype=torch.bool, device=self.visible.device)
        self.visible = torch.cat([self.visible, own.expand(count, -1, -1)], dim=-1)
        # Additive, for attention kernels of every kind.
        hidden = torch.zeros(self.visible.shape, device=self.visible.device, dtype=self._dtype())
        hidden.masked_fill_(~self.visible, torch.finfo(hidden.dtype).min)
        result = self.model(
            input_ids=self.tokens[..., -1],
            attention_mask=hidden[:, None],
            position_ids=self.positions[:, None].expand(-1, beams),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits = result.logits.float()
        self.positions = self.positions + 1

    def _dtype(self) -> torch.dtype:
        return self.cache.layers[0].keys.dtype

    def _end(self, ended: Tensor) -> None:
        """Take ended hypotheses out of the beam; note where one is the best so far."""
        final = self._scored(self.scores, self.tokens.shape[-1]).masked_fill(~ended, -torch.inf)
        scores, beams = final.max(dim=1)
        better = (scores > self.best_scores).nonzero().flatten()
        self.best_scores = torch.maximum(self.best_scores, scores)
        self.scores = self.scores.masked_fill(ended, -torch.inf)
        continuations = self.tokens[better, beams[better]].tolist()
        for row, tokens in zip(self.rows[better.cpu()].tolist(), continuations, strict=True):
            self.best[row] = tokens[:-1] if tokens[-1] == self.end_token_id else tokens

    def _scored(self, log_probabilities: Tensor, length: int) -> Tensor:
        return log_probabilities / length**self.settings.length_penalty

    def _drop_done(self, *, all_done: bool) -> None:
        """Leave out prompts whose result is certain, once they are enough to be worth a copy."""
        # A hypothesis never gets more probable, so the bound is at the next length or the longest.
        lengths = (self.tokens.shape[-1] + 1, self.settings.maximum_new_tokens)
        live = self.scores.max(dim=1).values
        bound = torch.stack([self._scored(live, length) for length in lengths]).max(dim=0).values
        open_rows = (bound > self.best_scores).nonzero().flatten()
        done = len(self.rows) - len(open_rows)
        if all_done or done == len(self.rows):
            self.rows = self.rows[:0]
        elif done >= _ROWS_WORTH_DROPPING * len(self.rows):
            self.rows = self.rows[open_rows.cpu()]
            self.cache.batch_select_indices(open_rows)
            for name in ("positions", "visible", "tokens", "scores", "best_scores"):
                setattr(self, name, getattr(self, name)[open_rows])

    def _clean_cache(self) -> None:
        """Leave out keys that no live hypothesis sees; shorter rows keep some of them."""
        seen = self.visible.any(dim=1)
        kept = seen.byte().argsort(dim=1, descending=True, stable=True)[:, : seen.sum(1).max()]
        self.visible = self.visible.gather(2, kept[:, None].expand(-1, self.visible.shape[1], -1))
        for layer in self.cache.layers:
            index = kept[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)


def without_repeats(logits: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Forbid every token that would complete an n-gram which the hypothesis already holds.

    Args:
        logits: float, shape ``(N, B, V)``.
        tokens: int64, shape ``(N, B, S)``: what each hypothesis generated, prompt left out.
        size: n, >= 1; 0 = nothing is forbidden.

    Returns:
        ``logits`` with -inf for what is forbidden.

    Example:
        >>> said = torch.tensor([[[1, 2, 1]]])
        >>> without_repeats(torch.zeros(1, 1, 4), said, 2)
        tensor([[[0., 0., -inf, 0.]]])
    """
    length = tokens.shape[-1]
    if size == 0 or length < size:
        return logits
    ngrams = tokens.unfold(2, size, 1)
    begun = tokens[..., length - size + 1 :]
    repeated = (ngrams[..., :-1] == begun[:, :, None]).all(dim=-1)
    row, beam, place = repeated.nonzero(as_tuple=True)
    if len(row) == 0:
        return logits
    logits = logits.clone()
    logits[row, beam, ngrams[row, beam, place, -1]] = -torch.inf
    return logits


def _of_beams(values: Tensor, beams: Tensor) -> Tensor:
    """``values[n, beams[n, b]]`` for every n and b; values is (N, B, anything)."""
    return values.gather(1, beams[..., None].expand(-1, -1, values.shape[-1]))

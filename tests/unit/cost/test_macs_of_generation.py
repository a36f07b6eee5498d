import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache
from unit.cost.configs import TINY_BERT, TINY_GPT2, dsee
from unit.tiny import tiny_model

from sparsetune.config.task import Generation
from sparsetune.cost.macs import decoding_macs, macs_by_module, prefill_macs, visible_keys
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ModelError
from sparsetune.evaluation.generate import continue_prompts

GPT2 = ModelShape.dense(TINY_GPT2, "generation", 1)


def counted(model, prompt, beams, steps):
    """MACs of a prompt and of ``steps`` tokens for each of its hypotheses, with cached keys."""
    model.set_attn_implementation("eager")
    cache = DynamicCache()
    with torch.no_grad():
        with FlopCounterMode(display=False) as first:
            model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(beams)
        with FlopCounterMode(display=False) as later:
            for _ in range(steps):
                token = torch.ones(beams, 1, dtype=torch.long)
                model(input_ids=token, past_key_values=cache, use_cache=True)
    return first.get_total_flops() // 2, later.get_total_flops() // 2


@pytest.mark.parametrize(("beams", "steps"), [(1, 0), (1, 5), (3, 4)])
def test_generation_equals_torchs_counter(beams, steps):
    model = tiny_model("gpt2", task="lm")
    shape = ModelShape.dense(model.config.to_dict(), "generation", 1)
    ours = (
        prefill_macs(shape, 6),
        decoding_macs(shape, steps, visible_keys(6, steps), beams=beams),
    )
    assert ours == counted(model, torch.arange(2, 8)[None], beams, steps)


def test_a_search_runs_what_is_counted_for_its_own_steps():
    model = tiny_model("gpt2", task="lm")
    model.set_attn_implementation("eager")
    shape = ModelShape.dense(model.config.to_dict(), "generation", 1)
    prompt = torch.arange(2, 8)[None]
    batch = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    asked = Generation(beams=1, maximum_new_tokens=9, length_penalty=1.0, no_repeat_ngram=0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = continue_prompts(model, batch, asked, end_token_id=49, pad_token_id=0)
    (steps,) = found.steps
    assert steps == 8  # the last of nine tokens is chosen, not run
    ours = prefill_macs(shape, 6) + decoding_macs(shape, steps, visible_keys(6, steps), beams=1)
    assert ours == counter.get_total_flops() // 2


def test_one_step_by_hand():
    # D = 24, 2 layers of 4 * 24 * 24 + 2 * 24 * 96 weights, 61 words; the new token sees 7 keys.
    per_token = 2 * (4 * 24 * 24 + 2 * 24 * 96) + 24 * 61
    assert decoding_macs(GPT2, 1, 7, beams=2) == 2 * (per_token + 2 * 2 * 24 * 7)
    assert prefill_macs(GPT2, 6) == sum(macs_by_module(GPT2, 6).values()) - 5 * 24 * 61


def test_steps_cost_what_a_longer_prompt_costs_and_updates_and_zeros_count():
    update, zeros = dsee(GPT2, 2, 5, ["query"]), {"layer.0.key": 50}
    steps = [decoding_macs(GPT2, 1, n, beams=1, update=update, zeros=zeros) for n in (5, 6, 7)]
    assert decoding_macs(GPT2, 3, visible_keys(4, 3), beams=1, update=update, zeros=zeros) == sum(
        steps
    )
    dense = decoding_macs(GPT2, 1, 5, beams=1)
    assert steps[0] - dense == 2 * (2 * 48 + 5) - 50
    full = macs_by_module(GPT2, 4, update, zeros)
    assert prefill_macs(GPT2, 4, update, zeros) == sum(full.values()) - 3 * 24 * 61


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoding_macs(GPT2, -1, 0, beams=1), "received -1 steps"),
        (lambda: decoding_macs(GPT2, 2, 1, beams=1), "1 keys"),
        (lambda: decoding_macs(GPT2, 2, 9, beams=0), "0 beams"),
        (lambda: prefill_macs(ModelShape.dense(TINY_BERT, "span", 2), 3), "head 'span'"),
    ],
)
def test_impossible_generations_are_refused(call, message):
    with pytest.raises(ModelError, match=message):
        call()

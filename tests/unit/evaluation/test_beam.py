from itertools import pairwise

import pytest
import torch
from unit.tiny import VOCAB, adapted, tiny_model

from sparsetune.data.encoding import collate
from sparsetune.evaluation.beam import BeamSettings, search, without_repeats

END = 7
LENGTHS = (3, 9, 1, 6, 12, 4, 9, 2)


def prompts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(8, VOCAB, (n,), generator=generator).tolist() for n in LENGTHS]


def batch_of(rows):
    features = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    return collate(features, pad_token_id=0, side="left")


def model_that_ends(bias=2.0):
    """A random GPT-2, sharper and fonder of the end token, so that lengths differ."""
    model = tiny_model("gpt2", task="lm")
    plain = model.forward

    def forward(**inputs):
        result = plain(**inputs)
        result.logits = 3 * result.logits
        result.logits[..., END] += bias
        return result

    model.forward = forward
    return model


def batched(model, rows, settings):
    with torch.inference_mode():
        return search(model, batch_of(rows), settings, end_token_id=END).continuations


def plain_search(model, prompt, settings):
    """The definition: no batch, no cache, every step made, n-grams compared as lists."""
    live, ended = [([], 0.0)], []
    for length in range(1, settings.maximum_new_tokens + 1):
        grown = []
        for tokens, score in live:
            ids = torch.tensor([prompt + tokens])
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            size = settings.no_repeat_ngram
            held = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
            for token in range(VOCAB):
                if size and (*tokens[length - size :], token) in held:
                    logits[token] = -torch.inf
            values = logits.double().log_softmax(-1).tolist()
            grown += [([*tokens, token], score + value) for token, value in enumerate(values)]
        best = sorted(grown, key=lambda one: -one[1])[: settings.beams]
        done = length == settings.maximum_new_tokens
        ended += [(s / length**settings.length_penalty, t) for t, s in best if done or t[-1] == END]
        live = [(tokens, score) for tokens, score in best if tokens[-1] != END]
    tokens = max(ended)[1]
    return tokens[:-1] if tokens[-1] == END else tokens


@pytest.mark.parametrize(
    "settings",
    [
        BeamSettings(1, 8, 1.0, 0),
        BeamSettings(3, 8, 0.8, 2),
        BeamSettings(4, 10, 0.0, 0),
        BeamSettings(5, 9, 2.0, 1),
        BeamSettings(3, 9, -0.5, 3),
    ],
)
def test_a_batch_gives_what_a_plain_search_gives_for_each_prompt(settings):
    model, rows = model_that_ends(), prompts()
    found = batched(model, rows, settings)
    assert found == [plain_search(model, row, settings) for row in rows]


@pytest.mark.parametrize("beams", [1, 4, 10])
def test_prompts_of_mixed_lengths_in_one_batch_are_searched_as_if_alone(beams):
    model, rows = model_that_ends(), prompts(seed=1)
    settings = BeamSettings(beams, 12, 0.8, 4)
    together = batched(model, rows, settings)
    assert together == [batched(model, [row], settings)[0] for row in rows]
    assert len({len(tokens) for tokens in together}) > 2  # they do end at different lengths


def test_one_beam_is_the_library_greedy_search():
    model, rows = model_that_ends(), prompts(seed=2)
    expected = []
    for row in rows:
        ids = torch.tensor([row])
        produced = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            num_beams=1, eos_token_id=END, pad_token_id=0,
        )  # fmt: skip
        expected.append([token for token in produced[0, len(row) :].tolist() if token != END])
    assert batched(model, rows, BeamSettings(1, 12, 1.0, 0)) == expected


def test_a_model_with_dsee_and_eager_attention_is_searched_alike():
    model = adapted("gpt2")
    lm = tiny_model("gpt2", task="lm")
    lm.transformer = model.transformer
    rows, settings = prompts(seed=3), BeamSettings(4, 10, 0.8, 3)
    together = batched(lm, rows, settings)
    lm.set_attn_implementation("eager")
    assert batched(lm, rows, settings) == together
    assert together == [plain_search(lm, row, settings) for row in rows]


def test_search_stops_once_the_results_are_certain():
    model, steps = model_that_ends(bias=60.0), []
    inner = model.forward
    model.forward = lambda **inputs: steps.append(1) or inner(**inputs)
    assert batched(model, prompts(), BeamSettings(3, 20, 1.0, 0)) == [[]] * len(LENGTHS)
    assert len(steps) == 1  # the prompts alone


def test_no_ngram_occurs_twice_in_a_continuation_but_the_prompt_may_be_copied():
    model = model_that_ends(bias=-50.0)
    for tokens in batched(model, prompts(), BeamSettings(3, 20, 1.0, 2)):
        pairs = list(pairwise(tokens))
        assert len(tokens) == 20
        assert len(set(pairs)) == len(pairs)


def test_forbidden_tokens_are_those_worked_by_hand():
    # 1 2 3 1 2: a third 3 after "1 2" would repeat the trigram 1 2 3; the second row is free.
    said = torch.tensor([[[1, 2, 3, 1, 2], [1, 2, 3, 3, 2]]])
    found = without_repeats(torch.zeros(1, 2, 5), said, 3)
    assert found.isinf().nonzero().tolist() == [[0, 0, 3]]
    assert torch.equal(without_repeats(torch.zeros(1, 2, 5), said, 0), torch.zeros(1, 2, 5))

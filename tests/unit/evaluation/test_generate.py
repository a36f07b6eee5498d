from itertools import pairwise

import pytest
import torch
from unit.tiny import VOCAB, adapted, tiny_model

from sparsetune.config.task import Generation
from sparsetune.data.tokenization import collate
from sparsetune.evaluation.generate import continue_prompts

END = 7
LENGTHS = (3, 9, 1, 6, 12, 4, 9, 2)


def settings(beams, longest, penalty=1.0, ngram=0):
    return Generation(
        beams=beams, maximum_new_tokens=longest, length_penalty=penalty, no_repeat_ngram=ngram
    )


def prompts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(8, VOCAB, (n,), generator=generator).tolist() for n in LENGTHS]


def continued(model, rows, asked, end=END):
    features = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    batch = collate(features, pad_token_id=0, side="left")
    with torch.inference_mode():
        return continue_prompts(model, batch, asked, end_token_id=end, pad_token_id=0)


def model_that_ends(bias=2.0):
    """A random GPT-2, sharper and fonder of the end token, so that lengths differ."""
    model = tiny_model("gpt2", task="lm")
    model.lm_head.register_forward_hook(
        lambda _module, _inputs, logits: 3 * logits + bias * torch.eye(VOCAB)[END]
    )
    return model


def model_of(chances):
    """A model of five tokens (pad, end, a, b, c) and their chances after the last one, or 0.2."""
    table = torch.full((5, 5), 0.2)
    for before, after in chances.items():
        table[before] = torch.tensor(after)
    model = tiny_model("gpt2", task="lm")

    def answer(_module, _args, given, result):
        result.logits = table.log()[given["input_ids"][:, -1:]]
        return result

    model.register_forward_hook(answer, with_kwargs=True)
    return model


A, B, C = 2, 3, 4


@pytest.mark.parametrize(
    ("penalty", "expected"),
    # "end" has 0.4, "b end" 0.6 * 0.6 = 0.36, "b a" 0.24: the mean logarithm favours "b end".
    [(0.0, []), (1.0, [B]), (-1.0, [])],
)
def test_a_hypothesis_scores_its_log_probability_over_its_length(penalty, expected):
    model = model_of({A: [0, 0.4, 0, 0.6, 0], B: [0, 0.6, 0.4, 0, 0]})
    assert continued(model, [[A]], settings(2, 2, penalty), end=1).tokens == [expected]


def test_as_many_hypotheses_go_on_as_there_are_beams_whatever_number_ends():
    # "end" (0.5) and "b" (0.3) are the two best; "c" (0.2) takes the place of the one that ended
    # and wins: log(0.2 * 0.95) / 2^2 = -0.42. Of "b" there would be "b a", log(0.12) / 4 = -0.53.
    chances = {A: [0, 0.5, 0, 0.3, 0.2], B: [0, 0.3, 0.4, 0, 0.3], C: [0, 0.95, 0.05, 0, 0]}
    assert continued(model_of(chances), [[A]], settings(2, 2, 2.0), end=1).tokens == [[C]]


def test_an_end_that_is_not_among_the_best_candidates_does_not_count():
    # "end" has 0.25, more than any longer one: "c end" 0.21; but "b" and "c" were likelier.
    chances = {A: [0, 0.25, 0, 0.4, 0.35], B: [0, 0.5, 0.5, 0, 0], C: [0, 0.6, 0.4, 0, 0]}
    assert continued(model_of(chances), [[A]], settings(2, 2, 0.0), end=1).tokens == [[C]]


def test_what_is_forbidden_has_no_share_of_the_probability():
    # After "b" another "b" (0.9) is forbidden, and the others share its part: "b end" gets
    # 0.4 * 0.06 / 0.1 = 0.24 and not 0.024; "c end" has 0.6 * 0.35 = 0.21.
    chances = {A: [0, 0, 0, 0.4, 0.6], B: [0, 0.06, 0.04, 0.9, 0], C: [0, 0.35, 0.33, 0.32, 0]}
    assert continued(model_of(chances), [[A]], settings(3, 2, 1.0, 1), end=1).tokens == [[B]]


def plain_search(model, prompt, asked):
    """The rules as defined: no batch, no cache, every step made, n-grams compared as lists."""
    beams, longest, penalty, size = asked.model_dump().values()
    live, ended = [([], 0.0)], []
    for length in range(1, longest + 1):
        grown = []
        for tokens, score in live:
            ids = torch.tensor([prompt + tokens])
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            held = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
            for token in range(VOCAB):
                if size and (*tokens[length - size :], token) in held:
                    logits[token] = -torch.inf
            values = logits.double().log_softmax(-1).tolist()
            grown += [([*tokens, token], score + value) for token, value in enumerate(values)]
        best = sorted(grown, key=lambda one: -one[1])[: 2 * beams]
        done = length == longest
        ended += [(s / length**penalty, t) for t, s in best[:beams] if done or t[-1] == END]
        live = [(tokens, score) for tokens, score in best if tokens[-1] != END][:beams]
    tokens = max(ended)[1]
    return tokens[:-1] if tokens[-1] == END else tokens


@pytest.mark.parametrize(
    "asked",
    [settings(3, 8, 0.8, 2), settings(4, 10, 0.0), settings(5, 9, 2.0, 1), settings(3, 9, -0.5, 3)],
)
def test_a_batch_gives_what_a_plain_search_gives_for_each_prompt(asked):
    model, rows = model_that_ends(), prompts()
    assert continued(model, rows, asked).tokens == [plain_search(model, row, asked) for row in rows]


@pytest.mark.parametrize("beams", [1, 4, 10])
def test_prompts_of_mixed_lengths_in_one_batch_are_searched_as_if_alone(beams):
    model, rows = model_that_ends(), prompts(seed=1)
    asked = settings(beams, 12, 0.8, 4)
    together = continued(model, rows, asked)
    alone = [continued(model, [row], asked) for row in rows]
    assert together.tokens == [one.tokens[0] for one in alone]
    assert together.steps == [one.steps[0] for one in alone]
    assert len(set(together.steps)) > 2  # they do end at different lengths


def test_a_model_with_dsee_and_eager_attention_is_searched_alike():
    lm = tiny_model("gpt2", task="lm")
    lm.transformer = adapted("gpt2").transformer
    rows, asked = prompts(seed=3)[:4], settings(4, 10, 0.8, 3)
    together = continued(lm, rows, asked).tokens
    lm.set_attn_implementation("eager")
    assert continued(lm, rows, asked).tokens == together
    assert together == [plain_search(lm, row, asked) for row in rows]


def test_steps_are_the_passes_that_a_continuation_needs_after_its_prompts_own():
    asked = settings(1, 5)
    assert continued(model_that_ends(bias=90.0), [[8]], asked) == ([[]], [0])
    model, passes = model_that_ends(bias=-90.0), []
    model.register_forward_hook(lambda *_args: passes.append(1))
    (tokens,), (steps,) = continued(model, [[8]], asked)
    assert (len(tokens), steps, len(passes)) == (5, 4, 5)  # the last token is chosen, not run


def test_no_ngram_occurs_twice_in_a_continuation_but_the_prompt_may_be_copied():
    model = model_that_ends(bias=-50.0)
    for tokens in continued(model, prompts(), settings(3, 20, 1.0, 2)).tokens:
        pairs = list(pairwise(tokens))
        assert len(tokens) == 20
        assert len(set(pairs)) == len(pairs)
    copying = model_of({A: [0, 0, 0, 1, 0], B: [0, 0, 0, 0, 1], C: [0, 1, 0, 0, 0]})
    assert continued(copying, [[A, B, C, A]], settings(1, 9, 1.0, 2), end=1).tokens == [[B, C]]


def test_decoding_settings_of_the_checkpoint_do_not_count():
    model, asked = model_that_ends(), settings(3, 8, 0.8)
    expected = continued(model, prompts(), asked)
    loaded = model.generation_config
    loaded.update(repetition_penalty=5.0, min_length=15)
    assert continued(model, prompts(), asked) == expected
    assert model.generation_config is loaded

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D
from unit.cost.configs import BERT_BASE, TINY_BERT, TINY_GPT2, dsee, lora
from unit.tiny import SMALL_DSEE, attach, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.cost.lengths import Lengths
from sparsetune.cost.macs import (
    TrainingPhase,
    decoding_macs,
    prefill_macs,
    training_macs,
    visible_keys,
)
from sparsetune.cost.run import TunedShape, training_over_lengths
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import UpdateCount, low_rank_branches
from sparsetune.dsee.layer import DseeBranch, DseeLinear
from sparsetune.errors import DataError
from sparsetune.pruning.masks import apply_masks_
from sparsetune.pruning.structured import remove

TOKENS = 7
KEPT = [[0, 3], [1]], [list(range(9)), [3, 5, 30]]


def pruned(kind):
    """A tiny model without some heads and neurons, half of some matrices zero, and DSEE on it."""
    model = tiny_model(kind, task="bare")
    remove(model, *KEPT)
    attach(model)
    generator = torch.Generator().manual_seed(4)
    masks = {
        site.key: torch.rand(site.shape, generator=generator) < 0.5
        for site in Anatomy.of(model).sites(("query", "ffn_in"))
    }
    apply_masks_(model, masks)
    return model, {key: int((~mask).sum()) for key, mask in masks.items()}


def products_by_element(model):
    """Walk every weight of every matrix that runs: one MAC a token for each that is not 0."""
    counts = {"elements": 0, "zeros": 0}

    def seen(module, inputs, _):
        tokens = inputs[0].shape[:-1].numel()
        matrix = module.weight.flatten().tolist()
        counts["elements"] += tokens * len(matrix)
        counts["zeros"] += tokens * sum(value == 0 for value in matrix)
        for branch in module.modules():
            if isinstance(branch, DseeBranch):
                values = branch.U.numel() + branch.V.numel() + branch.S2.numel()
                counts["elements"] += tokens * values

    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D | DseeLinear):
            module.register_forward_hook(seen)
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(2, 2 + TOKENS)[None])
    flops = counter.get_flop_counts()["Global"]
    attention = sum(n for operator, n in flops.items() if "bmm" in str(operator)) // 2
    executed = counts["elements"] + attention
    return {"executed": executed, "effective": executed - counts["zeros"]}


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_a_pruned_model_costs_what_a_walk_over_its_elements_counts(kind):
    model, zeros = pruned(kind)
    # A head of no cost: these models are bare.
    head = {"gpt2": "generation"}.get(kind, "span")
    dense = ModelShape.dense(model.config.to_dict(), head, 1)
    shape = dense.with_kept(*KEPT)
    branches = low_rank_branches(
        shape, SMALL_DSEE.targets, SMALL_DSEE.rank, fused=False,
        entries={b.key: b.S2.numel() for b in model.modules() if isinstance(b, DseeBranch)},
    )  # fmt: skip
    tuned = TunedShape(dense, shape, UpdateCount(branches), zeros)
    expected = products_by_element(model)
    if kind != "gpt2":  # the library gives a bare encoder BERT's pooler
        expected = {name: n - 24 * 24 for name, n in expected.items()}
    own_head = {"gpt2": TOKENS * 24 * dense.vocabulary_size}.get(kind, TOKENS * 24 * 2)
    ours = tuned.macs(TOKENS)
    assert {name: ours[name] - own_head for name in expected} == expected
    assert ours["effective"] < ours["executed"] < ours["dense"]


@pytest.mark.parametrize(("neurons", "saved_percent"), [(2304, 25.0), (1843, 34.7)])
def test_the_papers_headlines_hold_at_length_128(neurons, saved_percent):
    dense = ModelShape.dense(BERT_BASE, "classification", 2)
    shape = dense.with_kept([range(9)] * 12, [range(neurons)] * 12)
    update = dsee(shape, 16, 64, ["query", "value"])
    macs = TunedShape(dense, shape, update).macs(128)
    branches = 128 * (24 * (16 * (768 + 576)) + 24 * 64)
    saved = 1 - (macs["executed"] - branches) / macs["dense"]
    assert 100 * saved == pytest.approx(saved_percent, abs=0.06)
    assert macs["dense"] == pytest.approx(11.17e9, rel=1e-3)


def test_what_is_expected_of_a_split_is_the_mean_over_its_sequences():
    dense = ModelShape.dense(TINY_BERT, "classification", 2)
    tuned = TunedShape(dense, dense, lora(dense, 2, ["query"]), {"layer.0.key": 40})
    lengths = [3, 3, 9]
    found = tuned.over(Lengths.of(lengths))
    for kind in ("dense", "executed", "effective"):
        assert found[kind] == round(sum(tuned.macs(n)[kind] for n in lengths) / 3)


def test_generation_is_its_prompts_and_its_steps():
    dense = ModelShape.dense(TINY_GPT2, "generation", 1)
    smaller = dense.with_kept([[0], [1]], [range(5)] * 2)
    tuned = TunedShape(dense, smaller, zeros={"layer.0.key": 40})
    prompts, steps = [4, 6], [3, 1]
    keys = sum(map(visible_keys, prompts, steps))
    decoding = {"beams": 2, "steps_total": 4, "visible_keys_total": keys}
    found = tuned.generation(Lengths.of(prompts), decoding)
    for kind, shape, zeros in (("dense", dense, None), ("executed", smaller, None),
                               ("effective", smaller, {"layer.0.key": 40})):  # fmt: skip
        texts = [
            (prefill_macs(shape, n, zeros=zeros),
             decoding_macs(shape, s, visible_keys(n, s), beams=2, zeros=zeros))
            for n, s in zip(prompts, steps, strict=True)
        ]  # fmt: skip
        assert found["prefill"][kind] == round(sum(text[0] for text in texts) / 2)
        assert found["decode"][kind] == round(sum(text[1] for text in texts) / 2)


def test_training_over_lengths_adds_up_phases_of_one_name():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    phase = TrainingPhase("train", 10, 99, shape)
    search = TrainingPhase("search", 4, 99, shape)
    mean = round(sum(sum(training_macs(shape, n).values()) for n in (2, 5, 5)) / 3)
    assert training_over_lengths([search, phase, phase], Lengths.of([2, 5, 5])) == [
        {"phase": "search", "macs": 4 * mean}, {"phase": "train", "macs": 20 * mean},
    ]  # fmt: skip


def test_a_weight_that_is_counted_wrongly_is_named():
    shape = ModelShape.dense(TINY_BERT, "classification", 2)
    weights = dict.fromkeys(("query", "key", "value", "attention_output"), 2 * 24 * 24)
    weights |= {"ffn_in": 1920, "ffn_out": 1920, "pooler": 576, "head": 48}
    tuned = TunedShape(shape, shape)
    tuned.check_weights(list(weights.items()))
    with pytest.raises(DataError, match=r"value: counted 1152 multiplied weights, .* has 1153"):
        tuned.check_weights(list({**weights, "value": 1153}.items()))
    with pytest.raises(DataError, match=r"adapter: counted 0 multiplied weights, .* has 7"):
        tuned.check_weights([*weights.items(), ("adapter", 7)])
    with pytest.raises(DataError, match=r"pooler: counted 576 .* has 0"):
        tuned.check_weights([(name, n) for name, n in weights.items() if name != "pooler"])

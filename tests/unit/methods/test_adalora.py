import pytest
import torch
from unit.tiny import tiny_batch, tiny_model
from unit.training.tiny_jobs import UPDATES, build_tiny, save_backbone

from sparsetune.errors import ModelError
from sparsetune.methods.kinds.adalora import RankAllocation
from sparsetune.methods.registry import update_of

LABELS = torch.tensor([0, 1, 2])
SITES = {f"layer.{layer}.{name}" for layer in (0, 1) for name in ("query", "value")}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("backbone"), "bert")


def stepped(bert, steps, total, *, tuned=None, first=1):
    """Plain steps of gradient descent, with the companion called as the training loop calls it."""
    tuned = tuned or build_tiny(bert, "adalora")
    tuned.model.eval()
    tuned.companion.begin(total)
    for step in range(first, first + steps):
        loss = tuned.model(**tiny_batch(seed=step), labels=LABELS).loss + tuned.companion.loss()
        loss.backward()
        with torch.no_grad():
            for parameter in tuned.trained_parameters().values():
                parameter -= 0.1 * parameter.grad
        tuned.companion.after_gradients(step)
        tuned.model.zero_grad()
    return tuned


def survivors(tuned):
    """Non-zero singular values of every matrix."""
    return [int((p != 0).sum()) for n, p in tuned.model.named_parameters() if "lora_E" in n]


def test_the_loss_term_is_the_one_that_peft_adds():
    from peft import AdaLoraConfig, AdaLoraModel

    config = AdaLoraConfig(
        init_r=5, target_r=3, lora_alpha=6, total_step=9, orth_reg_weight=0.1,
        target_modules=["query", "value"],
    )  # fmt: skip
    torch.manual_seed(0)
    tuner = AdaLoraModel(tiny_model("bert"), config, "default").eval()
    loss = tuner(**tiny_batch(), labels=LABELS).loss
    bare = tuner.model(**tiny_batch(), labels=LABELS).loss
    assert loss > bare + 0.2
    term = RankAllocation(tuner, update_of(UPDATES["adalora"]), {}).loss()
    torch.testing.assert_close(bare + term, loss)


def test_the_loss_term_by_hand(bert):
    tuned = build_tiny(bert, "adalora")
    with torch.no_grad():
        for name, parameter in tuned.model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.zero_()
    # All vectors zero: each of the 8 factors is |0 - I| = sqrt(5) off; times the weight 0.1.
    assert tuned.companion.loss().item() == pytest.approx(0.1 * 5**0.5)


def test_ranks_fall_from_the_first_budget_to_the_last(bert):
    # 12 steps: 3 at first, 3 at last; from 4 x 5 triplets to 4 x 3, settled after step 9.
    tuned = build_tiny(bert, "adalora")
    found = []
    for step in range(1, 13):
        stepped(bert, 1, 12, tuned=tuned, first=step)
        found.append(sum(survivors(tuned)))
    assert found[:3] == [20, 20, 20]
    # Cubic from step 4 on: 12 + floor(8 * (1 - n/6)^3) for n = 1..5 is 16, 14, 13, 12, 12.
    assert found[3:] == [16, 14, 13, 12, 12, 12, 12, 12, 12]


def test_finishing_removes_what_the_budget_gave_up_and_keeps_the_function(bert):
    tuned = stepped(bert, 12, 12)
    kept = survivors(tuned)
    with torch.no_grad():
        before = tuned.model(**tiny_batch()).logits
        random = torch.random.get_rng_state()
        tuned.finish()
        assert torch.equal(random, torch.random.get_rng_state())
        after = tuned.model(**tiny_batch()).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)  # other sums of the same products
    ranks = tuned.structure.update.ranks
    assert ranks.keys() == SITES
    assert sorted(ranks.values()) == sorted(kept) == sorted(survivors(tuned))
    assert sum(ranks.values()) == 12
    sizes = {n: p.shape for n, p in tuned.trained_parameters().items() if "lora_A" in n}
    assert sorted(shape[0] for shape in sizes.values()) == sorted(kept)
    assert tuned.companion is None


def test_a_state_carries_scores_and_ranks_exactly(bert):
    whole = stepped(bert, 12, 12)
    half = stepped(bert, 7, 12)
    state = {name: tensor.clone() for name, tensor in half.state().items()}
    other = build_tiny(bert, "adalora", seed=9)
    other.load_state(state)
    stepped(bert, 5, 12, tuned=other, first=8)
    # The frozen head's backbone is the same; all else came from the state.
    found, expected = other.state(), whole.state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_unfinished_model_can_be_finished_from_its_state(bert):
    done = stepped(bert, 12, 12)
    other = build_tiny(bert, "adalora")
    other.load_state(done.state())
    done.finish()
    other.finish()
    assert other.structure == done.structure
    assert all(torch.equal(other.state()[name], tensor) for name, tensor in done.state().items())


def test_a_matrix_may_lose_all_its_ranks(bert, monkeypatch):
    ranks = dict.fromkeys(SITES, 2) | {"layer.1.query": 0}
    monkeypatch.setitem(UPDATES, "adalora", {**UPDATES["adalora"], "ranks": ranks})
    tuned = build_tiny(bert, "adalora")
    layer = tuned.model.get_submodule("bert.encoder.layer.1.attention.self.query")
    assert layer.lora_A["default"].shape == (0, 24)
    x = torch.ones(1, 24)
    assert torch.equal(layer(x), layer.base_layer(x))
    # What is left is still scaled by the first rank: s = 6 / 5.
    other = tuned.model.get_submodule("bert.encoder.layer.0.attention.self.query")
    assert other.lora_A["default"].shape == (2, 24)
    assert float(other.ranknum["default"]) == 5


@pytest.mark.parametrize(("total", "final"), [(1, 0), (2, 1), (3, 2)])
def test_too_few_steps_to_choose_ranks_are_refused(bert, monkeypatch, total, final):
    share = {"initial_fraction": 0.0, "final_fraction": (final + 0.01) / total}
    monkeypatch.setitem(UPDATES, "adalora", {**UPDATES["adalora"], **share})
    with pytest.raises(ModelError, match=rf"received {total} optimizer steps.* last {final} come"):
        build_tiny(bert, "adalora").companion.begin(total)


def test_ranks_and_states_of_another_model_are_refused(bert, monkeypatch):
    tuned = build_tiny(bert, "adalora")
    with pytest.raises(ModelError, match=r"ranks of nothing\.lora_E"):
        tuned.companion.load_state({"kept/nothing.lora_E": torch.zeros(5)})
    update = {**UPDATES["adalora"], "ranks": {"layer.0.query": 2}}
    monkeypatch.setitem(UPDATES, "adalora", update)
    with pytest.raises(ModelError, match=r"update\.ranks: received layer\.0\.query; allowed"):
        build_tiny(bert, "adalora")

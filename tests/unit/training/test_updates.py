"""Every update trained by the real loop: saved, loaded, counted, interrupted and resumed."""

import pytest
import torch
from safetensors.torch import load_file
from unit.tiny import KINDS, tiny_batch
from unit.training.tiny_jobs import (
    COLLATE,
    NO_MASK,
    PHASE,
    UPDATES,
    Interrupted,
    build_tiny,
    features,
    phases_of,
    save_backbone,
    stop_at,
    workplace,
)

from sparsetune.cost.parameters import count_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.methods.registry import update_of
from sparsetune.methods.tuned import load_tuned
from sparsetune.pruning.manifest import read_counts
from sparsetune.training.phases import run_phases

pytestmark = pytest.mark.slow

CASES = [(kind, name) for kind in KINDS for name in UPDATES if (kind, name) != ("gpt2", "supra")]
LONGER = {**PHASE, "epochs": 3.0}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {kind: save_backbone(root, kind) for kind in KINDS}


def trained(backbone, name, place, phase=PHASE):
    tuned = build_tiny(backbone, name)
    results = run_phases(
        tuned, phases_of(phase), features=features(), collate=COLLATE, mask=NO_MASK,
        workplace=place,
    )  # fmt: skip
    return tuned, results


def logits(tuned):
    tuned.model.eval()
    with torch.no_grad():
        return tuned.model(**tiny_batch()).logits


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_trained_run_loads_bit_for_bit_and_is_counted_to_the_byte(
    backbones, tmp_path, kind, name
):
    start = build_tiny(backbones[kind], name).trained_parameters()
    tuned, _ = trained(backbones[kind], name, workplace(tmp_path))
    now = tuned.trained_parameters()
    assert any(not torch.equal(start[name], now[name]) for name in now)
    trained_count = sum(parameter.numel() for parameter in now.values())
    tuned.finish()
    path = tmp_path / "model.safetensors"
    tuned.save(path)
    loaded = load_tuned(path, backbones[kind])
    assert torch.equal(logits(loaded), logits(tuned))
    assert loaded.structure == tuned.structure
    manifest, counts = read_counts(path)
    shape = ModelShape.dense(tuned.model.config.to_dict(), "classification", 3)
    count = count_parameters(shape, update_of(manifest.update).count(shape, counts.supports))
    assert count.trained_with_head == trained_count
    stored = load_file(path).values()
    assert count.stored_bytes == sum(t.numel() * t.element_size() for t in stored)


# 12 steps, ranks fall in 4 to 9: before, while and after they do.
@pytest.mark.parametrize("stop", [2, 6, 11])
def test_adalora_interrupted_anywhere_ends_bit_identical(backbones, tmp_path, stop):
    whole, expected = trained(backbones["bert"], "adalora", workplace(tmp_path / "a"), LONGER)
    broken = workplace(tmp_path / "b", checkpoint_seconds=0, on_curve=stop_at(stop))
    with pytest.raises(Interrupted):
        trained(backbones["bert"], "adalora", broken, LONGER)
    tuned, found = trained(backbones["bert"], "adalora", workplace(tmp_path / "b"), LONGER)
    assert found[0]["resumed_at_step"] == stop - 1
    assert found[0]["curve"] == expected[0]["curve"]
    whole.finish()
    tuned.finish()
    assert tuned.structure == whole.structure
    assert sum(tuned.structure.update.ranks.values()) == 12
    state, other = tuned.state(), whole.state()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_finished_phase_is_enough_to_finish_the_run(backbones, tmp_path):
    whole, _ = trained(backbones["bert"], "adalora", workplace(tmp_path), LONGER)
    again, _ = trained(backbones["bert"], "adalora", workplace(tmp_path), LONGER)
    whole.finish()
    again.finish()
    assert again.structure == whole.structure
    assert torch.equal(logits(again), logits(whole))


def test_the_curve_of_adalora_holds_its_loss_term(backbones, tmp_path):
    _, results = trained(backbones["bert"], "adalora", workplace(tmp_path / "a"))
    _, plain = trained(backbones["bert"], "lora", workplace(tmp_path / "b"))
    # Both begin as the backbone; the singular vectors begin small, so each of the 8 factors is
    # almost |I| = sqrt(5) away from orthogonal.
    term = results[0]["curve"][0]["loss"] - plain[0]["curve"][0]["loss"]
    assert term == pytest.approx(0.1 * 5**0.5, rel=0.02)

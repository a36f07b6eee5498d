import itertools
import json

import pytest
import torch
from unit.training.tiny_jobs import (
    COLLATE,
    HEADS,
    MASK,
    NO_MASK,
    PHASES,
    Interrupted,
    build_tiny,
    changed,
    features,
    phases_of,
    save_backbone,
    stop_at,
    workplace,
)

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.config.method import NOfMMask
from sparsetune.errors import ModelError
from sparsetune.methods.tuned import load_tuned
from sparsetune.training import phases as module
from sparsetune.training.phases import peak_memory_bytes, run_phases

pytestmark = pytest.mark.slow

SHORT = [{**phase, "epochs": 1.0} if "epochs" in phase else phase for phase in PHASES]
IMP = [
    SHORT[0],
    {"name": "prune-1", "kind": "prune", "share": 0.5, "rewind": True},
    {**SHORT[0], "name": "again"},
    {"name": "prune-2", "kind": "prune", "share": 1, "rewind": True},
    SHORT[2],
]
MAGNITUDE = changed(MASK, pools="one", adapted_sparsity=0.5, score="weight")
# Case -> update, phases, mask.
CASES = {
    "full": ("full", SHORT[:1], NO_MASK),
    "dsee": ("dsee", SHORT, MASK),
    "heads": ("dsee", SHORT, HEADS),
    "imp": ("full", IMP, MAGNITUDE),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("backbone"), "bert")


@pytest.fixture(scope="module")
def uninterrupted(bert, tmp_path_factory):
    """Case -> the trained model, what its phases measured, and what the watcher was told."""
    made = {}
    for case in CASES:
        told = []
        place = workplace(
            tmp_path_factory.mktemp(case),
            on_curve=lambda step, values, told=told: told.append((step, values["loss"])),
        )
        made[case] = *run_case(bert, case, place), told
    return made


def run_case(backbone, case, place):
    """Build a case's model and run its phases: the model, what was measured."""
    update, phases, mask = CASES[case]
    tuned = build_tiny(backbone, update)
    return tuned, run(tuned, place, phases=phases, mask=mask)


def run(tuned, place, *, phases=SHORT, mask=MASK):
    return run_phases(
        tuned, phases_of(*phases), features=features(), collate=COLLATE, mask=mask, workplace=place
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def without_times(results):
    drop = ("seconds", "loading_seconds", "resumed_at_step")
    return [{key: r[key] for key in r if key not in drop} for r in results]


def test_masks_stay_exact_zeros_and_kept_weights_stay_the_backbone_s(bert, tmp_path):
    tuned = build_tiny(bert, "dsee")
    before = {s.key: s.weight_view().clone() for s in Anatomy.of(tuned.model).sites()}
    train, prune, recover = run(tuned, workplace(tmp_path))
    # Two layers: 4 matrices of 24 x 24 in the pool of query and value; the others hold
    # 4 of 24 x 24 and 4 of 24 x 40. A quarter and a half of them.
    assert prune["weights_in_pools"] == 4 * 576 + (4 * 576 + 4 * 960)
    assert prune["weights_zeroed"] == 576 + 3072
    assert (train["steps"], recover["steps"]) == (4, 4)
    for site in Anatomy.of(tuned.model).sites():
        mask = tuned.masks[site.key]
        assert torch.equal(site.weight_view(), before[site.key] * mask)
        assert not site.weight_view()[~mask].any()
    loaded = _saved_and_loaded(tuned, tmp_path, bert)
    assert same(loaded.masks, tuned.masks)


def _saved_and_loaded(tuned, folder, backbone):
    tuned.save(folder / "model.safetensors")
    return load_tuned(folder / "model.safetensors", backbone)


@pytest.mark.parametrize(
    ("case", "stop", "phase", "resumed"),
    # 4 steps a phase that trains: step 3 is in the first, step 6 is the second of the next.
    [
        ("full", 3, 0, 2), ("dsee", 3, 0, 2), ("dsee", 6, 2, 1),
        ("heads", 3, 0, 2), ("heads", 5, 2, 0), ("heads", 6, 2, 1),
        ("imp", 6, 2, 1), ("imp", 9, 4, 0), ("imp", 11, 4, 2),
    ],
)  # fmt: skip
def test_an_interrupted_run_ends_bit_identical(
    bert, tmp_path, uninterrupted, case, stop, phase, resumed
):
    whole, expected, _ = uninterrupted[case]
    broken = workplace(tmp_path, checkpoint_seconds=0, on_curve=stop_at(stop))
    with pytest.raises(Interrupted):
        run_case(bert, case, broken)
    tuned, found = run_case(bert, case, workplace(tmp_path))
    assert same(tuned.state(), whole.state())
    assert tuned.structure == whole.structure
    assert without_times(found) == without_times(expected)
    assert found[phase]["resumed_at_step"] == resumed


def test_heads_are_gone_from_the_phase_after_they_were_pruned(bert, uninterrupted, tmp_path):
    tuned, (train, prune, recover), _ = uninterrupted["heads"]
    assert (prune["heads"], prune["heads_removed"]) == (8, 2)
    assert [len(kept) for kept in prune["kept_heads"]] == [3, 3]
    assert tuned.structure.kept_heads == prune["kept_heads"]
    assert (train["steps"], recover["steps"]) == (4, 4)
    loaded = _saved_and_loaded(tuned, tmp_path, bert)
    assert same(loaded.state(), tuned.state())


def test_iterative_pruning_rewinds_and_its_zeros_stay(bert, uninterrupted, tmp_path):
    tuned, results, _ = uninterrupted["imp"]
    # Half of 4 x 576 + 4 x 576 + 4 x 960 weights, in two equal shares.
    assert [r["weights_zeroed"] for r in results if r["kind"] == "prune"] == [2112, 4224]
    start = {s.key: s.weight_view() for s in Anatomy.of(build_tiny(bert, "full").model).sites()}
    run_folder = tmp_path / "rewound"
    rewound = build_tiny(bert, "full")
    run(rewound, workplace(run_folder), phases=IMP[:2], mask=MAGNITUDE)
    for site in Anatomy.of(rewound.model).sites():
        early, late = rewound.masks[site.key], tuned.masks[site.key]
        assert torch.equal(site.weight_view(), start[site.key] * early)
        assert not (late & ~early).any()
        trained = Anatomy.of(tuned.model).site_of(site.key).weight_view()
        assert not trained[~late].any()
        assert (trained != start[site.key])[late].all()
    loaded = _saved_and_loaded(tuned, tmp_path, bert)
    assert same(loaded.state(), tuned.state())


def test_a_mask_that_does_not_fit_stops_before_training(bert, tmp_path):
    mask = NOfMMask(kind="n-of-m", n=1, m=7, score="delta")
    with pytest.raises(ModelError, match=r"mask 1:7: layer\.0\.query has 24 inputs"):
        run(build_tiny(bert, "dsee"), workplace(tmp_path), mask=mask)
    assert not list(tmp_path.iterdir())


def test_finished_phases_are_not_repeated(bert, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        run(build_tiny(bert, "dsee"), workplace(tmp_path, on_curve=stop_at(5)))
    names = sorted(path.name for path in tmp_path.glob("phase-?.safetensors"))
    assert names == ["phase-0.safetensors", "phase-1.safetensors"]
    began, told = [], []
    real = module._train
    monkeypatch.setattr(module, "_train", lambda *of: began.append(of[-1].name) or real(*of))
    results = run(
        build_tiny(bert, "dsee"),
        workplace(tmp_path, on_curve=lambda step, values: told.append(step)),
    )
    assert began == ["recover"]
    assert [result["name"] for result in results] == ["train", "prune", "recover"]
    # The watcher of the new process hears of all steps, those of finished phases included.
    assert told == list(range(1, 9))


def test_a_finished_phase_whose_file_was_cut_off_is_run_again(bert, tmp_path, uninterrupted):
    run(build_tiny(bert, "dsee"), workplace(tmp_path))
    (tmp_path / "phase-2.safetensors").write_bytes(b"half")
    tuned = build_tiny(bert, "dsee")
    run(tuned, workplace(tmp_path))
    assert same(tuned.state(), uninterrupted["dsee"][0].state())


def test_the_curve_counts_steps_over_all_phases(uninterrupted):
    _, results, told = uninterrupted["dsee"]
    losses = [point["loss"] for result in results for point in result.get("curve", ())]
    assert told == list(zip(range(1, 9), losses, strict=True))


def test_each_phase_has_an_order_and_random_numbers_of_its_own(bert, tmp_path):
    # Nothing is learnt, so the same phase twice would have the same curve twice.
    still = {**SHORT[0], "learning_rate": 1e-30}
    first, second = run(
        build_tiny(bert, "full"), workplace(tmp_path), phases=[still, {**still, "name": "again"}]
    )
    assert first["curve"] != second["curve"]


def test_phases_of_one_run_draw_different_dropout_masks(bert, tmp_path):
    """Two phases alike but for their index and name, on examples of one length."""
    data = [{"input_ids": [2 + n] * 8, "attention_mask": [1] * 8, "labels": 0} for n in range(6)]
    phase = {**SHORT[0], "gradient_accumulation": 1}

    def masks(folder):
        """The dropped entries of the embeddings, batch by batch."""
        tuned, found = build_tiny(bert, "full"), []
        dropout = tuned.model.bert.embeddings.dropout
        dropout.register_forward_hook(lambda module, given, out: found.append((out == 0).clone()))
        again = {**phase, "name": "again"}
        run_phases(tuned, phases_of(phase, again), features=data, collate=COLLATE, mask=NO_MASK,
                   workplace=workplace(folder))  # fmt: skip
        return found

    first = masks(tmp_path / "first")
    assert [mask.shape for mask in first] == [(3, 8, 24)] * 4  # two phases of two batches
    assert all(0 < mask.float().mean() < 0.5 for mask in first)
    for one, other in itertools.combinations(first, 2):
        assert not torch.equal(one, other)
    assert all(map(torch.equal, first, masks(tmp_path / "second")))


def test_results_are_plain_json(uninterrupted):
    _, results, _ = uninterrupted["dsee"]
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_peak_memory_is_in_bytes():
    assert 50e6 < peak_memory_bytes("cpu") < 50e9  # a process with torch in it

import numpy as np
import pytest
import torch
import yaml
from unit.tiny import KINDS, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.support import (
    RECIPES,
    GreBsmoConfig,
    choose_support,
    decompose,
    model_supports,
    restrict_support,
    site_seed,
)
from sparsetune.errors import ConfigError, ModelError

QUICK = GreBsmoConfig(rounds=6)


def weight_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def plain_transcription(weight, start, config):
    """The released loop in float64, whole QR and all; V grows by the first rows of R."""
    w = weight.numpy()
    v = start
    for _ in range(config.rounds):
        s = np.zeros_like(w)
        for _ in range(config.inner_rounds):
            u, _ = np.linalg.qr((w - s) @ v.T)
            v = u.T @ (w - s)
            s = w - u @ v
            s[np.abs(s) < config.threshold] = 0.0
        e = w - u @ v - s
        _, r = np.linalg.qr(e)
        v_used, v = v, np.vstack([v, r[: config.rank_growth]])
    return u @ v_used, s


@pytest.mark.parametrize("config", [QUICK, GreBsmoConfig(6, inner_rounds=10, rank_growth=1)])
@pytest.mark.parametrize("shape", [(48, 48), (60, 40), (40, 60)])
def test_grebsmo_equals_its_plain_transcription(shape, config):
    # float64: the hard threshold amplifies rounding, so float32 positions soon differ
    weight = weight_of(shape).double()
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(1, shape[1], generator=generator, dtype=torch.float64)
    low, sparse = plain_transcription(weight, start.numpy(), config)
    result = choose_support(weight, recipe="grebsmo", n_sparse=16, seed=7, grebsmo=config)
    expected = np.sort(np.argsort(-np.abs(sparse).ravel(), kind="stable")[:16])
    assert result.positions.tolist() == expected.tolist()
    residual = np.linalg.norm(weight.numpy() - low - sparse) / np.linalg.norm(weight.numpy())
    assert result.residual == pytest.approx(residual, rel=1e-9)


def test_grebsmo_separates_planted_spikes_from_low_rank():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(40, 2, generator=generator) @ torch.randn(2, 40, generator=generator) * 0.05
    planted = torch.tensor([3, 400, 777, 1234])
    weight = low.clone()
    weight.view(-1)[planted] += 0.5
    config = GreBsmoConfig(rounds=2, inner_rounds=30, rank_growth=1)
    result = choose_support(weight, recipe="grebsmo", n_sparse=4, seed=0, grebsmo=config)
    assert result.positions.tolist() == planted.tolist()


def test_grebsmo_rank_stops_at_the_matrix_size():
    low, sparse = decompose(weight_of((8, 6)), torch.Generator(), GreBsmoConfig())
    torch.testing.assert_close(low, weight_of((8, 6)), atol=1e-6, rtol=1e-5)
    assert not sparse.any()


def test_entries_at_the_threshold_stay_sparse():
    # rank 1 fits the first row exactly, so the rest is the lower entry alone: 0.25 is kept, and
    # what is just under it goes
    weight = torch.tensor([[8.0, 0.0], [0.0, 0.25]])
    for below, kept in ((0.0, 1), (1e-7, 0)):
        weight[1, 1] = 0.25 - below
        config = GreBsmoConfig(rounds=1, inner_rounds=30, threshold=0.25)
        _, sparse = decompose(weight, torch.Generator().manual_seed(0), config)
        assert int((sparse != 0).sum()) == kept


def test_same_seed_same_support_and_other_seed_another():
    supports = [
        choose_support(weight_of((50, 50)), recipe=recipe, n_sparse=20, seed=seed, grebsmo=QUICK)
        for recipe in ("grebsmo", "random")
        for seed in (1, 1, 2)
    ]
    for one, same, other in (supports[:3], supports[3:]):
        assert torch.equal(one.positions, same.positions)
        assert not torch.equal(one.positions, other.positions)


def test_magnitude_by_hand_and_ties_keep_the_lower_index():
    # |W| = 1 3 2 / 3 0 2: two threes, then the first of the two twos; the rest is 1, 0, 2
    weight = torch.tensor([[1.0, -3.0, 2.0], [3.0, 0.0, -2.0]])
    result = choose_support(weight, recipe="magnitude", n_sparse=3, seed=0)
    assert result.positions.tolist() == [1, 2, 3]
    assert result.residual == pytest.approx((5 / 27) ** 0.5)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("count", [0, 1, 37, 600])
def test_positions_are_distinct_increasing_and_as_many_as_asked(recipe, count):
    weight = weight_of((20, 30))
    found = choose_support(weight, recipe=recipe, n_sparse=count, seed=4, grebsmo=QUICK)
    assert found.positions.dtype == torch.int64
    assert len(found.positions) == (0 if recipe == "empty" else count)
    assert (found.positions.diff() > 0).all()
    assert ((found.positions >= 0) & (found.positions < 600)).all()


def test_empty_support_leaves_the_whole_weight_as_residual():
    found = choose_support(weight_of((4, 4)), recipe="empty", n_sparse=5, seed=0)
    assert found.residual == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_model_supports_match_each_projection_alone(kind):
    model = tiny_model(kind)
    found = model_supports(model, ("query", "value"), recipe="magnitude", n_sparse=9, seed=0)
    assert list(found) == [f"layer.{n}.{p}" for n in range(2) for p in ("query", "value")]
    for key, result in found.items():
        weight = Anatomy.of(model).site_of(key).weight_view().detach()
        top = weight.reshape(-1).abs().topk(9).indices.sort().values
        assert torch.equal(result.positions, top)


def test_every_setting_of_the_decomposition_is_a_key_of_the_catalogue(repository):
    path = repository / "config" / "supports" / "grebsmo-2021-64.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    read = {name: written[name] for name in GreBsmoConfig.__dataclass_fields__}
    assert GreBsmoConfig(**read) == GreBsmoConfig(100, 10, 1, 0.01)


def test_progress_names_each_matrix_once_done():
    calls = []
    found = model_supports(
        tiny_model("gpt2"),
        ("query", "value"),
        recipe="empty",
        n_sparse=0,
        seed=0,
        on_matrix=lambda *call: calls.append(call),
    )
    assert calls == [(done, 4, key) for done, key in enumerate(found, start=1)]


def test_each_matrix_draws_its_own_random_positions():
    found = model_supports(tiny_model("bert"), ("query",), recipe="random", n_sparse=9, seed=0)
    assert not torch.equal(*(result.positions for result in found.values()))
    assert site_seed(0, "layer.0.query") != site_seed(1, "layer.0.query")


def test_bad_requests_are_named():
    weight = weight_of((4, 4))
    with pytest.raises(ModelError, match="known: magnitude, random, empty, grebsmo"):
        choose_support(weight, recipe="svd", n_sparse=1, seed=0)
    with pytest.raises(ModelError, match=r"17 positions of a \(4, 4\)"):
        choose_support(weight, recipe="random", n_sparse=17, seed=0)
    with pytest.raises(ConfigError, match="grebsmo rounds: received 0"):
        GreBsmoConfig(rounds=0)
    with pytest.raises(ConfigError, match="grebsmo threshold"):
        GreBsmoConfig(threshold=float("nan"))


def test_positions_follow_removed_rows_and_columns():
    # In a 3 x 4 matrix: (0, 1) = 1, (1, 3) = 7, (2, 0) = 8. Without row 1, rows are 0 and 2;
    # (1, 3) is lost, (2, 0) moves to row 1 = 4. Without column 0, the width is 3.
    positions = torch.tensor([1, 7, 8])
    rows, _ = restrict_support(positions, (3, 4), kept_rows=[0, 2])
    assert rows.tolist() == [1, 4]
    columns, _ = restrict_support(positions, (3, 4), kept_columns=[1, 2, 3])
    assert columns.tolist() == [0, 5]


def test_followed_positions_name_the_same_weights():
    weight = torch.arange(30.0).view(5, 6)
    kept_rows, kept_columns = [0, 2, 3], [1, 4, 5]
    positions = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:12]
    followed, survives = restrict_support(
        positions, (5, 6), kept_rows=kept_rows, kept_columns=kept_columns
    )
    smaller = weight[kept_rows][:, kept_columns]
    expected = [p for p in positions.tolist() if p // 6 in kept_rows and p % 6 in kept_columns]
    assert smaller.flatten()[followed].tolist() == [float(p) for p in expected]
    assert positions[survives].tolist() == expected

import logging
import threading
from pathlib import Path

import pytest
import torch
from unit.tiny import KINDS, tiny_model

import sparsetune
from sparsetune import ConfigError, DseeConfig
from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee import support_cache
from sparsetune.dsee.layer import dsee_branches
from sparsetune.dsee.support import model_supports
from sparsetune.dsee.support_cache import cache_folder, cached_supports

CONFIG = DseeConfig(rank=2, n_sparse=5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "supports"


def attached(kind="bert", config=CONFIG, seed=0):
    """Places, and the matrices that were worked on for them."""
    worked = []
    model = sparsetune.apply_dsee(
        tiny_model(kind, seed=seed), config, progress=lambda *call: worked.append(call)
    )
    return {branch.key: branch.positions.long() for _, branch in dsee_branches(model)}, worked


def assert_same(places, others):
    assert places.keys() == others.keys()
    assert all(torch.equal(places[key], others[key]) for key in places)


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_time_takes_what_was_chosen_the_first_time(kind, folder):
    first, worked = attached(kind)
    assert worked == [(n, 4, key) for n, key in enumerate(first, start=1)]
    expected = model_supports(
        tiny_model(kind), CONFIG.targets, recipe="grebsmo", n_sparse=5, seed=0
    )
    assert_same(first, {key: result.positions for key, result in expected.items()})
    assert len(list(folder.iterdir())) == 4
    second, worked = attached(kind)
    assert worked == []
    assert_same(first, second)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"config": DseeConfig(2, n_sparse=6)},
        {"config": DseeConfig(2, n_sparse=5, seed=1)},
    ],
)
def test_other_weights_counts_and_seeds_are_chosen_anew(other, folder):
    attached()
    _, worked = attached(**other)
    assert len(worked) == 4
    assert len(list(folder.iterdir())) == 8


def test_a_newer_algorithm_does_not_take_the_places_of_an_older_one(folder, monkeypatch):
    attached()
    monkeypatch.setattr(support_cache, "ALGORITHM", support_cache.ALGORITHM + 1)
    assert len(attached()[1]) == 4


def test_layers_and_targets_share_what_they_have_in_common(folder):
    first, _ = attached(config=DseeConfig(2, n_sparse=5, layers=[1]))
    wider = DseeConfig(2, n_sparse=5, targets=["query", "key", "value"], rank_pattern={"key": 3})
    places, worked = attached(config=wider)
    assert [key for _, _, key in worked] == ["layer.0.query", "layer.0.key", "layer.0.value",
                                             "layer.1.key"]  # fmt: skip
    assert_same(first, {key: places[key] for key in first})


def damaged(data, way):
    if way == "half":
        return data[: len(data) // 2]
    if way == "empty":
        return b""
    return data[:-1] + bytes([data[-1] ^ 1])  # one bit of the last place


@pytest.mark.parametrize("way", ["half", "empty", "bit"])
def test_a_damaged_file_is_made_again(way, folder):
    first, _ = attached()
    files = {path: path.read_bytes() for path in folder.iterdir()}
    for path, data in files.items():
        path.write_bytes(damaged(data, way))
    second, worked = attached()
    assert len(worked) == 4
    assert_same(first, second)
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


def test_what_was_done_before_an_interruption_is_kept(folder):
    def stop(done, total, key):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparsetune.apply_dsee(tiny_model("bert"), CONFIG, progress=stop)
    assert [key for _, _, key in attached()[1]] == ["layer.1.value"]


def test_a_folder_that_cannot_be_written_costs_a_warning_and_no_more(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("SPARSETUNE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="sparsetune"):
        places, worked = attached()
    assert (len(places), len(worked)) == (4, 4)
    assert len(caplog.messages) == 1
    assert "chosen places are not kept" in caplog.messages[0]


def test_two_at_once_get_the_same_places(folder):
    model = tiny_model("bert")
    sites = list(Anatomy.of(model).sites(["query", "value"]))
    start, found = threading.Barrier(2), []

    def choose():
        start.wait(timeout=60)
        found.append(cached_supports(sites, n_sparse=5, seed=0, folder=folder))

    threads = [threading.Thread(target=choose) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert_same(*found)
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"] * 4


def test_weights_of_16_bits_have_files_of_their_own(folder):
    attached()
    worked = []
    sparsetune.apply_dsee(
        tiny_model("bert").bfloat16(), CONFIG, progress=lambda *call: worked.append(call)
    )
    assert len(worked) == 4


@pytest.mark.parametrize("recipe", ["magnitude", "random", "empty"])
def test_only_grebsmo_is_kept_and_told(recipe, folder):
    _, worked = attached(config=DseeConfig(2, n_sparse=5, support=recipe))
    assert worked == []
    assert not folder.exists()


def test_the_folder_is_the_one_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSETUNE_CACHE", "off")
    assert cache_folder() is None
    monkeypatch.setenv("SPARSETUNE_CACHE", "~/own")
    assert cache_folder() == Path.home() / "own" / "supports"
    monkeypatch.setenv("SPARSETUNE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sparsetune" / "supports"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its standard
    assert cache_folder() == Path.home() / ".cache" / "sparsetune" / "supports"


def test_switched_off_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSETUNE_CACHE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(attached()[1]) == 4
    assert len(attached()[1]) == 4
    assert list(tmp_path.iterdir()) == []


def test_progress_that_is_no_function_is_refused_before_the_work():
    with pytest.raises(ConfigError, match="progress: received 'bar'; allowed: a function"):
        sparsetune.apply_dsee(tiny_model("bert"), CONFIG, progress="bar")

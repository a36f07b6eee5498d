import numpy as np
import pytest
from unit.reporting.runs import lines_of

from sparsetune.errors import DataError
from sparsetune.records import write_json
from sparsetune.reporting.tickets import read_kept, share_in_common, write_tickets

WIDTH = 6
EVERY = [list(range(WIDTH))] * 2
KEPT = [[0, 1], [0, 1]]


def write_ticket(root, heads, neurons=EVERY, *, task="rte", recipe="earlybert", seed=1, **changes):
    content = {
        "backbone": "bert", "task": task, "recipe": recipe, "seed": seed, "heads": 4,
        "neurons": WIDTH, "kept_heads": heads, "kept_neurons": neurons, "origin": "search",
        **changes,
    }  # fmt: skip
    path = root / "bert" / task / recipe / f"seed-{seed}" / "ticket.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path


def test_share_by_hand():
    one = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)
    other = np.array([[1, 0, 1, 0], [1, 1, 0, 0]], dtype=bool)
    # 3 of 4 in common; two independent masks of 4 in 8: 2 of 4
    assert share_in_common(one, other) == (0.75, 0.5)
    # 2 kept by both, sizes 2 and 4, mean 3; expected 2 * 4 / 8 = 1
    assert share_in_common(one & other & [True, False, False, False], other)[0] == 2 / 3
    assert share_in_common(one[:1], ~one[:1]) == (0.0, 0.5)
    assert share_in_common(one | True, one | True) == (1.0, 1.0)
    with pytest.raises(DataError, match="cannot be compared"):
        share_in_common(one, other[:1])


def test_chance_is_what_random_masks_have_in_common():
    draws = np.random.default_rng(0)
    masks = [draws.permutation(10_000) < size for size in (6000, 3000)]
    share, chance = share_in_common(*masks)
    assert chance == pytest.approx(6000 * 3000 / 10_000 / 4500)
    assert share == pytest.approx(chance, abs=0.02)


def test_seeds_tasks_and_recipes_are_compared_apart(tmp_path):
    other = [[0, 2], [0, 1]]
    paths = [
        write_ticket(tmp_path, KEPT),
        write_ticket(tmp_path, other, seed=2),
        write_ticket(tmp_path, KEPT, task="cola"),
        write_ticket(tmp_path, other, recipe="converged"),
    ]
    names = ("compared", "tickets", "heads_common_fraction_mean", "pairs_count",
             "heads_chance_fraction", "neurons_common_fraction_mean")  # fmt: skip
    lines = [[line[name] for name in names] for line in lines_of(write_tickets(paths, tmp_path))]
    assert lines == [
        ["seeds", "earlybert", "0.75", "1", "0.5", "1.0"],
        ["tasks", "earlybert", "1.0", "1", "0.5", "1.0"],
        ["recipes", "earlybert, converged", "0.75", "1", "0.5", "1.0"],
    ]


def test_random_tickets_are_not_compared_between_tasks(tmp_path):
    paths = [
        write_ticket(tmp_path, KEPT, KEPT, task=task, seed=seed, recipe="random", origin="random")
        for task in ("rte", "cola") for seed in (1, 2)
    ]  # fmt: skip
    (line,) = lines_of(write_tickets(paths, tmp_path))
    assert (line["compared"], line["pairs_count"]) == ("seeds", "2")


def test_units_of_dropped_layers_are_not_kept(tmp_path):
    whole = [[0, 1, 2, 3]] * 2
    path = write_ticket(tmp_path, whole, whole, origin="layers", kept_layers=[1])
    assert read_kept(path).heads.tolist() == [[False] * 4, [True] * 4]


def test_a_suite_without_tickets_says_so(tmp_path):
    paths = write_tickets([], tmp_path)
    assert "No two tickets of this suite can be compared." in paths[0].read_text()
    assert lines_of(paths) == []


def test_a_ticket_that_is_not_what_its_folder_says_is_named(tmp_path):
    path = write_ticket(tmp_path, [[0]], [[0]])
    other = path.parent.parent / "seed-2" / "ticket.json"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    path.write_text("{}")
    missing = other.parent / "none" / "ticket.json"
    for file, told in (
        (other, r"seed-2/ticket\.json: is ticket bert/rte/earlybert/seed-1"),
        (path, r"ticket\.json: not a ticket: KeyError\('backbone'\)"),
        (missing, r"none/ticket\.json"),
    ):
        with pytest.raises(DataError, match=told):
            read_kept(file)

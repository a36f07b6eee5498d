from torch import nn

from sparsetune.pruning.base_model import kept_of, note_kept
from sparsetune.pruning.manifest import Kept


def test_what_is_kept_of_what_was_kept_is_counted_in_the_base():
    model = nn.Linear(1, 1)
    assert kept_of(model) is None
    note_kept(model, [(0, 2, 3), (1, 2)], ((4, 6), (5, 7, 9)), layers=True)
    note_kept(model, [(1, 2), (0,)], None, layers=True)
    # By hand: of heads 0 2 3 the second and third are 2 and 3; of 1 2 the first is 1.
    assert kept_of(model) == Kept(heads=[[2, 3], [1]], neurons=[[4, 6], [5, 7, 9]])
    note_kept(model, [(0, 1), (0,)], ((1,), (0, 2)), layers=True)
    assert kept_of(model) == Kept(heads=[[2, 3], [1]], neurons=[[6], [5, 9]])


def test_a_model_that_lost_layers_names_no_base():
    model = nn.Linear(1, 1)
    note_kept(model, [(0,), (1,)], None, layers=False)
    assert kept_of(model) == Kept(layers=[])

import copy

import pytest
import torch
from unit.tiny import KINDS, adapted, tiny_model

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.errors import ModelError
from sparsetune.pruning.masks import apply_masks_, mask_n_of_m, two_pool_masks
from sparsetune.pruning.structured import remove
from sparsetune.pruning.zeros import check_zeros, remember_zeros


def masked(kind, model=None):
    model = model or tiny_model(kind)
    masks = two_pool_masks(model, 0.5, choice="weight")
    apply_masks_(model, masks)
    return model, masks


@pytest.mark.parametrize("kind", KINDS)
def test_what_stays_zero_passes_and_kept_weights_may_change(kind):
    model, masks = masked(kind, adapted(kind))
    check_zeros(model)
    with torch.no_grad():
        for site in Anatomy.of(model).sites():
            site.weight_view().add_(0.5 * masks[site.key])
    check_zeros(model)


@pytest.mark.parametrize("kind", KINDS)
def test_revived_weights_are_counted_at_their_site(kind):
    model, masks = masked(kind)
    # By hand: 3 of the zeros of one matrix come alive; the pool decides how many it has.
    zeros = int((~masks["layer.1.value"]).sum())
    view = Anatomy.of(model).site(1, "value").weight_view()
    rows, columns = (~masks["layer.1.value"]).nonzero()[:3].unbind(1)
    with torch.no_grad():
        view[rows, columns] = -1e-30
    with pytest.raises(ModelError, match=f"layer.1.value: 3 of its {zeros} masked weights"):
        check_zeros(model)
    with pytest.raises(ModelError, match="3 of its"):
        check_zeros(copy.deepcopy(model))  # a copy remembers too


def test_a_later_mask_replaces_what_was_remembered():
    model, _ = masked("bert")
    site = Anatomy.of(model).site(0, "key")
    with torch.no_grad():
        site.weight_view().fill_(1.0)
    apply_masks_(model, {"layer.0.key": mask_n_of_m(site.weight_view().detach())})
    check_zeros(model)


def test_nothing_of_it_reaches_the_state_dict():
    model, plain = masked("gpt2")[0], tiny_model("gpt2")
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in model.named_buffers()] == [n for n, _ in plain.named_buffers()]


def test_removal_makes_matrices_without_a_memory():
    model, _ = masked("bert")
    remove(model, [[0, 2], [1]], [[0, 1], [5]])
    with torch.no_grad():
        for site in Anatomy.of(model).sites():
            site.weight_view().fill_(1.0)
    check_zeros(model)
    remember_zeros(Anatomy.of(model).sites())
    check_zeros(model)

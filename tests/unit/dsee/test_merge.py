import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from unit.tiny import KINDS, SMALL_DSEE, adapted, output_of, tiny_batch

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.dsee.merge import merge
from sparsetune.pruning.masks import apply_masks_, mask_n_of_m


def masked_model(kind):
    model = adapted(kind)
    anatomy = Anatomy.of(model)
    masks = {
        s.key: mask_n_of_m(s.weight_view().detach().abs())
        for s in anatomy.sites(SMALL_DSEE.targets)
    }
    apply_masks_(model, masks)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_unmerged_changes_nothing_and_keeps_the_zeros(kind):
    model = masked_model(kind)
    before = output_of(model, tiny_batch())
    report = merge(model, "unmerged")
    assert (report.zero_share_before, report.zero_share_after) == (0.5, 0.5)
    assert torch.equal(output_of(model, tiny_batch()), before)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_merge_keeps_the_function_and_loses_the_zeros(kind):
    model = masked_model(kind)
    before = output_of(model, tiny_batch())
    report = merge(model, "dense")
    assert (report.zero_share_before, report.relative_change) == (0.5, 0.0)
    assert report.zero_share_after < 0.01
    torch.testing.assert_close(output_of(model, tiny_batch()), before, atol=1e-5, rtol=1e-5)
    assert type(Anatomy.of(model).site(0, "query").module) in (nn.Linear, Conv1D)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_merge_keeps_the_zeros_and_changes_the_function(kind):
    model = masked_model(kind)
    before = output_of(model, tiny_batch())
    report = merge(model, "masked")
    assert report.zero_share_after == 0.5
    assert 0.1 < report.relative_change < 0.95
    assert (output_of(model, tiny_batch()) - before).abs().max() > 1e-3

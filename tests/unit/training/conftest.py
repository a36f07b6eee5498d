"""Keeps many short trainings fast."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _imported_objects_are_not_collected():
    # The Trainer collects garbage whenever training starts; going over all imported libraries
    # each time would take longer than the training itself.
    gc.freeze()
    yield
    gc.unfreeze()

import shutil

import pytest
from unit.evaluation.generated_texts import GOLDEN, PREDICTIONS, REFERENCES

from sparsetune.evaluation.metrics.meteor import meteor_1_5

pytestmark = pytest.mark.slow


def test_score_is_that_of_the_caption_scripts():
    if shutil.which("java") is None:
        pytest.skip("no java on the PATH")
    value, note = meteor_1_5(PREDICTIONS, REFERENCES)
    if value is None and "not installed" in note:
        pytest.skip(note)
    assert value == pytest.approx(GOLDEN["meteor_1_5_fraction"])

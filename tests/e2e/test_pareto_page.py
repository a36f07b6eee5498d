"""The interactive page in a real browser: it draws without network, and tells who a run is."""

import asyncio

import pytest
from e2e.browser import CHROMIUM, opened
from unit.reporting.runs import scoring, suite_of, write_run

from sparsetune.reporting.page import write_interactive

METHODS = ("full", "lora")
ORDER = [("mini-bert", task, method) for task in ("mini-sst2", "mini-rte") for method in METHODS]
FRAME = "document.querySelector('iframe').contentDocument"
POINTS = f"{FRAME}.querySelectorAll('.scatterlayer .point').length"
PLACE = f"""
(() => {{
  const runs = {FRAME}.querySelectorAll('.scatterlayer .trace')[1];
  const box = runs.querySelector('.point').getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}})()
"""
TOLD = f"{FRAME}.querySelector('.hoverlayer').textContent"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
]


@pytest.fixture
def page(tmp_path):
    folders = [
        write_run(tmp_path, method, task=task, edit=scoring(0.5 + 0.1 * index))
        for index, (_, task, method) in enumerate(ORDER)
    ]
    path = tmp_path / "pareto.html"
    write_interactive(suite_of(folders, ORDER), path, title="Suite small")
    return path


def test_pointing_at_a_run_tells_its_numbers_and_its_record(page, tmp_path):
    async def visit():
        async with opened(page, tmp_path / "profile") as browser:
            points = await browser.until(POINTS)
            await browser.point_at(*await browser.value(PLACE))
            return points, await browser.until(TOLD)

    points, told = asyncio.run(visit())
    assert points == 2 * len(ORDER)  # each run against two costs
    for part in ("mini-bert", "seed 0", "accuracy", "effective MACs", "12,345", "evaluate.json"):
        assert part in told

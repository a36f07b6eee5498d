"""Slots on a real device: a job sees one GPU and holds no more of its memory than its share."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
# Takes a slot, fills its share and a little more.
JOB = """
import json, sys
from sparsetune.stages.devices import describe_device, memory_share, take_device
device, slot = take_device("cuda", int(sys.argv[1]))
import torch
total = torch.cuda.get_device_properties(0).total_memory
share = memory_share(slot.slots, total)
held = torch.empty(int(0.9 * share * total), dtype=torch.uint8, device=device)
try:
    more = torch.empty(int(0.2 * share * total), dtype=torch.uint8, device=device)
    refused = False
except torch.OutOfMemoryError:
    refused = True
told = {"devices": torch.cuda.device_count(), "refused": refused}
print(json.dumps(told | describe_device(device, slot).model_dump()), flush=True)
sys.stdin.read()
"""


def test_jobs_that_share_hold_their_shares_side_by_side(tmp_path):
    jobs = 2 * torch.cuda.device_count()
    command = [sys.executable, "-c", JOB, str(jobs)]
    surroundings = os.environ | {"TMPDIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings
        )
        for _ in range(jobs)
    ]
    try:
        told = [json.loads(one.stdout.readline()) for one in processes]
    finally:
        for one in processes:
            one.kill()
            one.communicate(timeout=60)
    assert all(one["devices"] == 1 and one["slots"] == 2 and one["refused"] for one in told)
    ids = [one["id"] for one in told]
    assert sorted(ids) == sorted(2 * list(dict.fromkeys(ids)))

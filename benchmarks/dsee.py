"""DSEE against its neighbours: time and memory of a step, GreBsmo, removal, size of a run's file.

    python benchmarks/dsee.py [--seconds 10] [--threads 2] [--device auto]

Times are paired: the variants take turns, each round gives one ratio, and the median of the ratios
counts, so that other work on the machine falls on both. Processor time (of all threads) stands
beside the wall clock because it is disturbed less. Prints a table and writes
``benchmarks/results/dsee.json``, or ``dsee-cuda.json`` where the steps ran on a GPU.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

# Before torch: threads that wait must not burn the time of the ones they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler announces itself on every use

import grebsmo
import peft
import steps
import torch
import transformers

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.cost.macs import macs_by_module
from sparsetune.cost.shapes import ModelShape
from sparsetune.dsee.layer import dsee_branches
from sparsetune.methods.kinds.full import FullUpdate
from sparsetune.methods.tuned import Structure, TunedModel
from sparsetune.pruning.masks import exact_top_k
from sparsetune.pruning.structured import remove

BATCHES = {"cpu": ((16, 128), (32, 32)), "cuda": ((32, 128), (128, 128), (32, 32))}
OTHER_WAY = {"cpu": "together", "cuda": "apart"}  # than the one that ``dsee.choice`` takes
LEAST_ROUNDS, MOST_ROUNDS = 3, 30
KEPT_HEADS, KEPT_NEURONS = 9, 2304


def paired(runs, seconds):
    """Take turns until the time is up.

    Returns:
        Name -> list of (wall seconds, processor seconds), one per round.
    """
    taken = {name: [] for name in runs}
    end = time.monotonic() + seconds
    for turn in range(MOST_ROUNDS):
        if turn >= LEAST_ROUNDS and time.monotonic() > end:
            break
        for name in sorted(runs, reverse=turn % 2 == 1):
            wall, processor = time.perf_counter(), time.process_time()
            runs[name]()
            spent = (time.perf_counter() - wall, time.process_time() - processor)
            taken[name].append(spent)
    return taken


def ratio(taken, above, below, *, share=1.0):
    """Median and quartiles of the rounds' ratios over ``share``, for both clocks."""
    found = {"rounds": len(taken[above])}
    for clock, name in enumerate(("wall", "processor")):
        pairs = zip(taken[above], taken[below], strict=True)
        ratios = [one[clock] / other[clock] / share for one, other in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[name] = {"median": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
    for name in (above, below):
        median = statistics.median(wall for wall, _ in taken[name])
        found[f"{name}_wall_seconds"] = round(median, 4)
    return found


def step_rows(examples, tokens, seconds, device):
    """Steps of DSEE against LoRA and full tuning, in time and in memory; and its other way."""
    other = OTHER_WAY[device]
    names = ("dsee", other, "lora", "full")
    runs = {name: steps.step_of(name, examples, tokens, device) for name in names}
    taken = paired(runs, seconds)
    peaks = {name: steps.peak_bytes(runs[name], device) for name in runs}
    size = f"batch {examples} x {tokens}"
    return {
        f"step, DSEE / LoRA, {size}": ratio(taken, "dsee", "lora") | {"at most": 1.0},
        f"step, DSEE / full, {size}": ratio(taken, "dsee", "full") | {"at most": 0.58},
        f"step, DSEE {other} / as chosen, {size}": ratio(taken, other, "dsee") | {"at least": 0.95},
        f"peak memory of a step, DSEE / LoRA, {size}": {
            "value": round(peaks["dsee"] / peaks["lora"], 4),
            "at most": 1.02,
            "bytes": peaks,
        },
    }


def operators_row():
    """Operators of a step with all updates folded together, against LoRA's."""
    counts = {name: steps.operators(name) for name in ("together", "apart", "lora", "full")}
    value = round(counts["together"] / counts["lora"], 4)
    return {"operators of a step, DSEE together / LoRA": {"value": value, "at most": 0.9,
            "counts": counts}}  # fmt: skip


def grebsmo_row(seconds):
    """The decomposition of one matrix against a plain loop."""
    runs = {name: lambda name=name: grebsmo.chosen(name) for name in grebsmo.METHODS}
    row = ratio(paired(runs, seconds), "plain", "ours")
    return {"GreBsmo, plain loop / ours": row | {"at least": 2.0, "shared": grebsmo.agreement()}}


def removal_row(seconds):
    """Inference of a model without a quarter of its heads and neurons, per share of its MACs."""
    whole, smaller = steps.backbone().eval(), steps.backbone().eval()
    kept = [list(range(KEPT_HEADS))] * steps.LAYERS, [list(range(KEPT_NEURONS))] * steps.LAYERS
    remove(smaller, *kept)
    examples, tokens = BATCHES["cpu"][0]
    ids = torch.randint(1, whole.config.vocab_size, (examples, tokens))
    dense = ModelShape.dense(whole.config.to_dict(), "classification", 2)
    shapes = (dense, dense.with_kept(*kept))
    macs = [sum(macs_by_module(shape, tokens).values()) for shape in shapes]
    share = macs[1] / macs[0]

    def runner(model):
        def run():
            with torch.inference_mode():
                model(input_ids=ids)

        run()
        return run

    taken = paired({"removed": runner(smaller), "whole": runner(whole)}, seconds)
    row = ratio(taken, "removed", "whole", share=share)
    return {
        "inference after removal / MAC share": row | {"at most": 1.05, "share": round(share, 4)}
    }


def file_row():
    """The file of a DSEE run with zeros in every matrix, against the bytes it must hold."""
    model = steps.with_dsee()
    supports = {branch.key: branch.positions.long() for _, branch in dsee_branches(model)}
    structure = Structure("classification", 2, steps.SEED, False, FullUpdate(kind="full"))
    tuned = TunedModel(model, structure, supports)
    weights = {site.key: site.weight_view().detach() for site in Anatomy.of(model).sites()}
    tuned.prune({k: exact_top_k(w.abs(), int(0.8 * w.numel())) for k, w in weights.items()})
    trained = sum(p.numel() for p in tuned.trained_parameters().values())
    positions = sum(p.numel() for p in supports.values())
    masked = sum(w.numel() for w in weights.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tuned.save(path)
        size = path.stat().st_size
    needed = 4 * trained + 4 * positions + masked / 8
    return {"saved file / what it must hold": {"value": round(size / needed, 4), "at most": 1.05,
            "bytes": size}}  # fmt: skip


def measurements(seconds, device):
    """Take one measurement after the other; the last three are the CPU's affair."""
    for examples, tokens in BATCHES[device]:
        yield step_rows(examples, tokens, seconds, device)
    yield operators_row()
    if device == "cuda":
        return
    yield grebsmo_row(seconds)
    yield removal_row(seconds / 2)
    yield file_row()


def verdict(row):
    """Say whether the row's target is met, by the wall clock where there are two."""
    value = row["wall"]["median"] if "wall" in row else row["value"]
    if "at most" in row:
        return value, f"<= {row['at most']}", value <= row["at most"]
    return value, f">= {row['at least']}", value >= row["at least"]


def show(rows):
    """Print one line a row, as soon as it is known."""
    for name, row in rows.items():
        value, target, met = verdict(row)
        line = f"{name:52} {value:7.3f} {target:>7} {'met   ' if met else 'MISSED'}"
        if "wall" in row:
            low, high = row["wall"]["quartiles"]
            line += f" {low:7.3f} .. {high:.3f} {row['processor']['median']:9.3f}"
        print(line, flush=True)
        for case, shared in row.get("shared", {}).items():
            print(f"  positions shared, {case}: {shared} of {grebsmo.POSITIONS}")


def main():
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each paired measurement")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="of steps"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if asked.device == "auto" else asked.device
    load = os.getloadavg()[0]
    print(f"{'':52} {'value':>7} {'target':>7}          quartiles  processor")
    rows = {}
    for measured in measurements(asked.seconds, device):
        show(measured)
        rows |= {name: row | {"met": verdict(row)[2]} for name, row in measured.items()}
    machine = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "load_at_start": round(load, 1),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft)},
    }
    target = (
        Path(__file__).parent / "results" / ("dsee-cuda.json" if device == "cuda" else "dsee.json")
    )
    target.write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

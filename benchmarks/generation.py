"""Beam search of a batch against one prompt at a time, and encoding against its cache.

    python benchmarks/generation.py [--prompts 500] [--alone 40] [--seconds 60] [--threads 2]

The model is the default suite's GPT-2, fully tuned on mini-e2e (the Makefile has it made), searched
with the published beam and with a greedy one. A round searches all prompts in batches, and a sample
of them, spread over the lengths, one by one: by our search and by the library's. What counts is the
median of the rounds' ratios of the time for one prompt. ``--alone`` 0 searches every prompt one by
one. Encoding is timed on SST-2, if the suite ``config/minilm.yaml`` or the options gave it.
Prints a table and writes ``benchmarks/results/generation.json``.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

# Before torch: threads that wait must not burn the time of the ones they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
from sparsetune.evaluation.inference import generate_all

from sparsetune.architectures.loading import load_tokenizer
from sparsetune.config.load import Catalogue
from sparsetune.data.examples import read_examples
from sparsetune.data.features import FOLDER, training_features
from sparsetune.data.tokenization import collate, encode
from sparsetune.methods.tuned import load_tuned

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = {"maximum_new_tokens": 64, "length_penalty": 0.8, "no_repeat_ngram": 4}
BEAMS = (10, 1)
LEAST_ROUNDS, MOST_ROUNDS = 3, 20
ENCODING_LIMITS = {"first time": 15.0, "from the cache": 2.0}


def library_search(model, features, tokenizer, settings):
    """The library's beam search, one prompt at a time, with its own cache."""
    penalty = {"length_penalty": settings["length_penalty"]} if settings["beams"] > 1 else {}
    texts = []
    for feature in features:
        batch = collate([feature], pad_token_id=tokenizer.pad_token_id, side="left")
        with torch.inference_mode():
            produced = model.generate(
                **batch, num_beams=settings["beams"], do_sample=False,
                max_new_tokens=settings["maximum_new_tokens"],
                **penalty,
                no_repeat_ngram_size=settings["no_repeat_ngram"],
                pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        continued = produced[0, batch["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(continued, skip_special_tokens=True).strip())
    return texts


def timed(run, count):
    """Wall and processor seconds for one prompt, and the texts."""
    wall, processor = time.perf_counter(), time.process_time()
    texts = run()
    spent = (time.perf_counter() - wall, time.process_time() - processor)
    return tuple(seconds / count for seconds in spent), texts


def spread(features, count):
    """Indices of a sample of the prompts over all lengths; 0 = all."""
    order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]))
    return order[:: max(1, len(order) // count)] if count else order


def generation_row(model, tokenizer, features, beams, asked):
    """One width of the beam: who takes how long for a prompt, and whose texts agree."""
    settings = {"beams": beams, **PUBLISHED}
    sample = spread(features, asked.alone)
    some = [features[index] for index in sample]

    def ours(what, **options):
        place = {"settings": settings, "device": "cpu", **options}
        return generate_all(model, what, tokenizer, **place)[0]

    runs = {
        "batches": (lambda: ours(features), len(features)),
        "one by one": (lambda: ours(some, batch_size=1), len(some)),
        "library": (lambda: library_search(model, some, tokenizer, settings), len(some)),
    }
    taken, texts = {name: [] for name in runs}, {}
    end = time.monotonic() + asked.seconds
    for turn in range(MOST_ROUNDS):
        if turn >= LEAST_ROUNDS and time.monotonic() > end:
            break
        for name in sorted(runs, reverse=turn % 2 == 1):
            seconds, texts[name] = timed(*runs[name])
            taken[name].append(seconds)
    batched = [texts["batches"][index] for index in sample]
    same = {name: sum(map(str.__eq__, texts[name], batched)) for name in ("one by one", "library")}
    row = {"at least": 5.0, "compared": len(some), "same texts": same, "prompts": len(features)}
    for name in ("one by one", "library"):
        for clock, told in enumerate(("wall", "processor")):
            pairs = zip(taken[name], taken["batches"], strict=True)
            ratios = [alone[clock] / batch[clock] for alone, batch in pairs]
            row[f"{name} / batches, {told}"] = round(statistics.median(ratios), 2)
    for name, rounds in taken.items():
        row[f"{name}, ms a prompt"] = round(1000 * statistics.median(wall for wall, _ in rounds), 2)
    return row | {"rounds": len(taken["batches"])}


def show_generation(beams, row):
    """Print one width of the beam."""
    value = row["one by one / batches, wall"]
    met = "met" if value >= row["at least"] else "MISSED"
    print(
        f"beam {beams:>2}, {row['prompts']} prompts: one by one / batches "
        f"{value:5.2f} (>= {row['at least']:g}: {met}; processor time "
        f"{row['one by one / batches, processor']:.2f}), library one by one / batches "
        f"{row['library / batches, wall']:.2f}",
        f"  {row['batches, ms a prompt']} ms a prompt; same text as alone: "
        f"{row['same texts']['one by one']} of {row['compared']}, as the library, whose rules "
        f"are a little other: {row['same texts']['library']}",
        sep="\n",
        flush=True,
    )


def encoding_rows(dataset, backbone):
    """Seconds from SST-2's files to features, without and with the cache."""
    task, tokenizer = Catalogue(ROOT / "config").task("sst2"), load_tokenizer(backbone)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(
            dataset, Path(folder) / "sst2", ignore=shutil.ignore_patterns(FOLDER)
        )
        if not (copy / "record.json").exists():
            (copy / "record.json").write_text("{}\n")
        for name, limit in ENCODING_LIMITS.items():
            wall, processor = time.perf_counter(), time.process_time()
            features, _ = training_features(task, copy, tokenizer, {"train_examples": None})
            seconds = time.perf_counter() - wall
            rows[name] = {
                "seconds": round(seconds, 2), "at most": limit, "examples": len(features),
                "processor_seconds": round(time.process_time() - processor, 2),
            }  # fmt: skip
            print(
                f"encoding {len(features)} rows, {name}: {seconds:.2f} s (<= {limit:g}: "
                f"{'met' if seconds <= limit else 'MISSED'}; processor "
                f"{rows[name]['processor_seconds']})"
            )
    return rows


def options():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--alone", type=int, default=40, help="of them one by one; 0 = all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each width of the beam")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--project", type=Path, default=ROOT, help="folder with the default suite")
    parser.add_argument("--sst2", type=Path, default=ROOT / "resources/datasets/sst2")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "resources/backbones/minilm")
    return parser.parse_args()


def main():
    """Measure, print and save."""
    asked = options()
    torch.set_num_threads(asked.threads)
    load = os.getloadavg()[0]
    backbone = asked.project / "resources/backbones/mini-gpt2"
    run = asked.project / "results/mini/runs/mini-gpt2/mini-e2e/full/seed-1/model.safetensors"
    if not run.exists():
        raise SystemExit(f"benchmarks/generation.py: {run}: no such run; snakemake makes it")
    model, tokenizer = load_tuned(run, backbone).model.eval(), load_tokenizer(backbone)
    task = Catalogue(ROOT / "config").task("mini-e2e")
    examples = read_examples(asked.project / "resources/datasets/mini-e2e", task, "train")
    features = encode(examples[: asked.prompts], task, tokenizer, for_training=False)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads",
        "load_at_start": round(load, 1),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers)},
        "beams": {},
    }
    for beams in BEAMS:
        row = generation_row(model, tokenizer, features, beams, asked)
        show_generation(beams, row)
        report["beams"][str(beams)] = row
    if asked.sst2.is_dir() and asked.tokenizer.is_dir():
        report["encoding"] = encoding_rows(asked.sst2, asked.tokenizer)
    else:
        print(f"encoding: not measured, needs {asked.sst2} and {asked.tokenizer}")
    target = Path(__file__).parent / "results" / "generation.json"
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

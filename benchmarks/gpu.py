"""Training, inference and sharing on a GPU, beside PEFT and plain loops: one table, six minutes.

    python benchmarks/gpu.py [--out benchmarks/results/gpu.json] [--minutes 6]
    python benchmarks/gpu.py --suite config/minilm.yaml --mirror FOLDER   # that part alone
    python benchmarks/gpu.py --device cpu --small --out gpu-small.json    # whether it still runs

BERT-base with random weights, dropout on, bfloat16 autocast. Ours are trained by the project's own
loop (``sparsetune.training.loop``), captured and eager; the plain loops are forward,
backward, clipping and fused AdamW. Milliseconds are medians over groups of steps, the device waited
for between groups. Results are written after every part; a part that fails leaves its reason.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import math
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import peft
import torch
import transformers
from transformers import BertConfig, set_seed
from transformers.models.bert.modeling_bert import BertForSequenceClassification

from sparsetune.architectures.graphs import cuda_graph
from sparsetune.config.method import TrainPhase
from sparsetune.config.reading import read_yaml
from sparsetune.data.tokenization import collate
from sparsetune.dsee.config import DseeConfig
from sparsetune.dsee.layer import apply_dsee
from sparsetune.evaluation.predict import inference_mode
from sparsetune.methods.kinds.full import FullUpdate
from sparsetune.methods.tuned import Structure, TunedModel
from sparsetune.pruning.structured import remove
from sparsetune.stages.devices import take_device, visible_devices
from sparsetune.training.loop import Engine, PhaseJob, run_phase
from sparsetune.training.plan import make_plan
from sparsetune.training.step import EagerStep

ROOT = Path(__file__).resolve().parent.parent
COLLATE = partial(collate, pad_token_id=0)
TARGETS, RANK, ALPHA, POSITIONS, SEED = ("query", "value"), 16, 32.0, 64, 0
SETTINGS = {
    "name": "train", "kind": "train", "epochs": 1.0, "learning_rate": 1e-4,
    "gradient_accumulation": 1, "weight_decay": 0.01, "warmup_fraction": 0.1,
    "schedule": "linear", "maximum_gradient_norm": 1.0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is computed; shares of heads and neurons are those of BERT-base's table."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    ffn: int = 3072
    words: int = 30522
    batches: tuple = ((32, 128), (128, 128))
    answers: tuple = (64, 128)
    groups: int = 4  # of steps that are timed
    steps: int = 10  # in a group
    warm_up: int = 12  # steps before: kernels are chosen, graphs captured
    compared: int = 20  # steps whose losses two engines must agree on
    jobs: tuple = (1, 2, 4, 8, 12)
    sharing_seconds: float = 5.0

    def kept(self, heads, neurons):
        """Head and neuron numbers kept in each layer, as shares of BERT-base's."""
        counts = (max(1, round(self.heads * heads / 12)), round(self.ffn * neurons / 3072))
        return [[list(range(count))] * self.layers for count in counts]


LARGE = Sizes()
MINILM = dataclasses.replace(LARGE, hidden=384, layers=6, ffn=1536, batches=((32, 48),))
SMALL = Sizes(
    hidden=48, layers=2, heads=12, ffn=192, words=200, batches=((4, 16),), answers=(4, 16),
    groups=2, steps=3, warm_up=4, compared=8, jobs=(1, 2), sharing_seconds=0.3,
)  # fmt: skip


def backbone(sizes):
    """A BERT with random weights, as training sees it."""
    set_seed(SEED)
    config = BertConfig(
        vocab_size=sizes.words, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, intermediate_size=sizes.ffn, num_labels=2,
    )  # fmt: skip
    return BertForSequenceClassification(config).train()


def smaller(sizes, heads, neurons):
    """The backbone with so many of 12 heads and 3,072 neurons left in each layer."""
    model = backbone(sizes)
    remove(model, *sizes.kept(heads, neurons))
    return model


def with_dsee(model):
    """Our update, with as many positions as published."""
    config = DseeConfig(RANK, ALPHA, POSITIONS, TARGETS, support="random", seed=SEED)
    return apply_dsee(model, config)


def with_lora(model):
    """PEFT's LoRA; its task type makes the classifier train too."""
    settings = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS, r=RANK, lora_alpha=ALPHA, lora_dropout=0.0,
        target_modules=list(TARGETS),
    )  # fmt: skip
    return peft.get_peft_model(model, settings)


OURS = {
    "full": backbone,
    "dsee": lambda sizes: with_dsee(backbone(sizes)),
    "ticket": lambda sizes: smaller(sizes, 8, 1843),
    "structured dsee": lambda sizes: with_dsee(smaller(sizes, 9, 2304)),
}
PLAIN = {"plain full": backbone, "peft lora": lambda sizes: with_lora(backbone(sizes))}


ENGINES = {"captured": True, "eager": False}
"""Of the project's loop; what cannot be captured runs eagerly, and the row says why."""


def wait(device):
    """Wait until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


def features_of(sizes, examples, tokens, count):
    """Examples of one length, with labels."""
    draws = np.random.default_rng(SEED)
    rows = [draws.integers(5, sizes.words, size=tokens).tolist() for _ in range(4 * examples)]
    made = [{"input_ids": r, "attention_mask": [1] * tokens, "labels": r[0] % 2} for r in rows]
    return [made[index % len(made)] for index in range(count)]


def batch_of(sizes, examples, tokens, device):
    """One batch on the device, with labels."""
    made = COLLATE(features_of(sizes, examples, tokens, examples))
    return {name: values.to(device) for name, values in made.items()}


def phase_of(sizes, examples, tokens, steps, *, device, captured, **watching):
    """One phase of so many steps, for the project's loop."""
    data = features_of(sizes, examples, tokens, steps * examples)
    return PhaseJob(
        name="train", features=data, collate=COLLATE, folder=Path(tempfile.gettempdir()) / "none",
        settings=TrainPhase.model_validate({**SETTINGS, "batch_size": examples}),
        plan=make_plan([tokens] * len(data), batch_size=examples, epochs=1.0, seed=SEED),
        engine=Engine(device, captured, checkpoint_seconds=math.inf), seed=SEED, **watching,
    )  # fmt: skip


def tuned(model):
    """The model as the pipeline holds it; of its structure nothing is read here."""
    structure = Structure("classification", 2, SEED, False, FullUpdate(kind="full"))
    return TunedModel(model, structure, {})


def train_ours(model, job):
    """Run a phase as a run of the pipeline does; what it measured."""
    model.to(job.engine.device)
    with tuned(model).computing(job.engine.device, trains=True):
        return run_phase(model, job, state=dict, load_state=lambda state: None)


class Stopwatch:
    """Milliseconds a step, over groups of steps after a warm-up."""

    def __init__(self, sizes, device):
        self._sizes, self._device, self._marks = sizes, device, []
        self.steps = sizes.warm_up + sizes.groups * sizes.steps

    def __call__(self, step):
        """Note the time at a group's end."""
        if (step - self._sizes.warm_up) % self._sizes.steps == 0 and step >= self._sizes.warm_up:
            wait(self._device)
            self._marks.append(time.perf_counter())

    def milliseconds(self):
        """Return the median over the groups."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        spent = [1000 * (end - start) / self._sizes.steps for start, end in pairs]
        return round(statistics.median(spent), 3)


def ours(sizes, name, size, device, captured):
    """Milliseconds of one of our steps, and how it was computed."""
    watch = Stopwatch(sizes, device)
    job = phase_of(sizes, *size, watch.steps, device=device, captured=captured, on_step=watch)
    measured = train_ours(OURS[name](sizes), job)
    return watch.milliseconds(), measured["engine"]


def plain(sizes, name, size, device):
    """Milliseconds of a step of a plain loop over batches that are on the device."""
    watch, model = Stopwatch(sizes, device), PLAIN[name](sizes).to(device)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    batch = batch_of(sizes, *size, device)
    for step in range(1, watch.steps + 1):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch(step)
    return watch.milliseconds()


class Results:
    """What was measured so far, on disk at every moment."""

    def __init__(self, path, device, minutes):
        self._path, self._end = path, time.monotonic() + 60 * minutes
        name = torch.cuda.get_device_name(0) if device == "cuda" else platform.machine()
        versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
        self.rows, self.problems = {}, {}
        self._told = {"device": name, "kind": device, "versions": versions, "cores": os.cpu_count()}

    @contextlib.contextmanager
    def part(self, name):
        """Measure one thing; if it fails, the reason is its result, and the rest goes on."""
        started = time.monotonic()
        try:
            if started > self._end:
                raise TimeoutError("not measured: the time is up (--minutes)")
            yield
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            self.problems[name] = told
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        self.write()

    def add(self, name, value, target=None, **more):
        """Add a row; ``target`` is an upper bound."""
        met = {} if target is None else {"at most": target, "met": value <= target}
        self.rows[name] = {"value": value, **met, **more}
        self.write()

    def ratio(self, name, above, below, target=None):
        """Add the ratio of two rows, if both are there."""
        if above in self.rows and below in self.rows:
            value = self.rows[above]["value"] / self.rows[below]["value"]
            self.add(name, round(value, 3), target)

    def write(self):
        """Write everything, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(".part")
        content = {**self._told, "rows": self.rows, "problems": self.problems}
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        aside.replace(self._path)

    def table(self):
        """Lay out the rows, and below them what failed."""
        yield f"{self._told['device']}: milliseconds and their ratios, where nothing else is said"
        yield f"{'':58} {'value':>9} {'target':>8}"
        for name, row in self.rows.items():
            bound = f"<= {row['at most']}" if "at most" in row else ""
            met = {True: "met", False: "MISSED"}.get(row.get("met"), "")
            # A row of captured steps that were not.
            how = row.get("engine", "") if ", captured" in name else ""
            failed = how if how.startswith("eager") or how.endswith("none") else ""
            yield f"{name:58} {row['value']:9.3f} {bound:>8} {met:6} {failed}".rstrip()
        for name, told in self.problems.items():
            yield f"{name}: NOT MEASURED: {told}"


def step_rows(results, sizes, device):
    """Steps of ours and of plain loops, and their ratios with the project's targets."""
    for size in sizes.batches:
        shape = f"{size[0]} x {size[1]}"
        for name in PLAIN:
            with results.part(f"{name}, {shape}"), peak(device) as held:
                value = plain(sizes, name, size, device)
                results.add(f"{name}, {shape}", value, **held())
        for engine, captured in ENGINES.items():
            for name in OURS:
                row = f"{name}, {engine}, {shape}"
                with results.part(row), peak(device) as held:
                    value, how = ours(sizes, name, size, device, captured)
                    results.add(row, value, **held(), engine=how)
            first = size == sizes.batches[0]
            dsee, full, ticket = (
                f"{name}, {engine}, {shape}" for name in ("dsee", "full", "ticket")
            )
            for name, above, below, target, everywhere in (
                ("DSEE / PEFT LoRA", dsee, f"peft lora, {shape}", 0.40, False),
                ("DSEE / our full", dsee, full, 0.75, False),
                ("our full / plain full", full, f"plain full, {shape}", 0.50, False),
                ("ticket / our full", ticket, full, 0.70, True),
            ):
                # Targets are for what a run does unless it is told otherwise.
                bound = target if captured and (everywhere or first) else None
                results.ratio(f"{name}, {engine}, {shape}", above, below, bound)


@contextlib.contextmanager
def peak(device):
    """Measure the most memory that torch held on the GPU; a function that tells it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    told = {"peak_mb": lambda: round(torch.cuda.max_memory_allocated() / 1e6)}
    yield lambda: {name: read() for name, read in told.items() if device == "cuda"}


def agreement_rows(results, sizes, device):
    """Losses of the same steps, captured against eager, dropout off, in both precisions."""
    for name in OURS:
        for precision, at_most in (("bfloat16", 0.02), ("float32", 0.001)):
            row = f"losses of {name}, captured - eager, {precision}"
            with results.part(row):
                told = {
                    engine: losses_of(sizes, name, device, captured, precision)
                    for engine, captured in ENGINES.items()
                }
                pairs = zip(told["captured"][0], told["eager"][0], strict=True)
                apart = max(abs(one - other) for one, other in pairs)
                results.add(row, round(apart, 6), at_most, engine=told["captured"][1])


def losses_of(sizes, name, device, captured, precision):
    """Losses of some steps without dropout, and how they were computed."""
    size = sizes.batches[0]
    job = phase_of(sizes, *size, sizes.compared, device=device, captured=captured)
    model = OURS[name](sizes)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # The loop knows no other precision on a GPU than autocast's: here it is taken away.
    plain_one = contextlib.nullcontext()
    plainly = mock.patch.object(EagerStep, "_precision", return_value=plain_one)
    with plainly if precision == "float32" else contextlib.nullcontext():
        measured = train_ours(model, job)
    return [point["loss"] for point in measured["curve"]], measured["engine"]


def inference_rows(results, sizes, device):
    """Answers of the dense model, and of smaller ones, replayed as a graph and eager."""
    examples, tokens = sizes.answers
    batch = batch_of(sizes, examples, tokens, device)
    del batch["labels"]
    models = {
        "dense": backbone, "9 heads, 2304": lambda sizes: smaller(sizes, 9, 2304),
        "8 heads, 1843": lambda sizes: smaller(sizes, 8, 1843),
    }  # fmt: skip
    for engine in ("captured", "eager") if device == "cuda" else ("eager",):
        rows = {name: f"answers, {name}, {engine}, {examples} x {tokens}" for name in models}
        for name, row in rows.items():
            with results.part(row), peak(device) as told:
                watch, held = Stopwatch(sizes, device), tuned(models[name](sizes))
                with inference_mode(held.model, device), held.computing(device, trains=False):
                    answer = partial(held.model, **batch)
                    answer = cuda_graph(answer) if engine == "captured" else answer
                    for step in range(1, watch.steps + 1):
                        answer()
                        watch(step)
                results.add(row, watch.milliseconds(), **told())
        for name, target in (("9 heads, 2304", 0.80), ("8 heads, 1843", None)):
            bound = target if engine == "captured" else None
            results.ratio(f"answers, {name} / dense, {engine}", rows[name], rows["dense"], bound)


def sharing_rows(results, sizes, asked):
    """Steps a second of 1, 2, 4, ... jobs at once on one device, each a process with a slot."""
    with results.part("sharing"):
        command = [sys.executable, __file__, "--device", asked.device]
        command += ["--worker", str(max(sizes.jobs)), *(["--small"] if asked.small else [])]
        names = visible_devices()
        one_device = {"CUDA_VISIBLE_DEVICES": names[0]} if names else {}
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as complaints, contextlib.ExitStack() as held:
            workers = [
                held.enter_context(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=complaints,
                        text=True,
                        env=os.environ | one_device,
                    )
                )
                for _ in range(max(sizes.jobs))
            ]
            limit = threading.Timer(240, lambda: [one.kill() for one in workers])
            limit.start()
            held.callback(limit.cancel)
            held.callback(lambda: [one.stdin.close() for one in workers])
            slots = [line_of(one, complaints)["slot"] for one in workers]
            seconds = round(time.monotonic() - started, 1)
            results.add(f"start of {len(slots)} jobs at once, seconds", seconds, slots=slots)
            for count in sizes.jobs:
                for one in workers[:count]:
                    print("go", file=one.stdin, flush=True)
                told = [line_of(one, complaints) for one in workers[:count]]
                rate = round(sum(one["rate"] for one in told), 1)
                results.add(f"jobs at once: {count}; steps a second of all", rate)


def line_of(worker, complaints):
    """Read a worker's next line; if it ended, say what it complained of."""
    line = worker.stdout.readline()
    if not line:
        complaints.seek(0)
        raise RuntimeError(f"a job ended: {complaints.read()[-300:]}")
    return json.loads(line)


def work(sizes, wish, jobs):
    """Be one of the jobs that share a device: train for some seconds at every word."""
    device, slot = take_device(wish, jobs)
    model = backbone(sizes).to(device)
    print(json.dumps({"slot": [slot.device, slot.slots] if slot else None}), flush=True)
    marks = []

    def watch(step):
        if step == sizes.warm_up or (marks and time.perf_counter() - marks[0][0] > length):
            wait(device)
            marks.append((time.perf_counter(), step))

    length = sizes.sharing_seconds
    for _ in sys.stdin:
        marks.clear()
        job = phase_of(
            sizes, *sizes.batches[0], 4000, device=device, captured=True,
            on_step=watch, stopped=lambda: len(marks) > 1,
        )  # fmt: skip
        train_ours(model, job)
        (start, first), (end, last) = marks[0], marks[-1]
        print(json.dumps({"rate": (last - first) / (end - start)}), flush=True)


def suite_rows(results, asked):
    """A whole suite through the workflow, in a folder of its own."""
    with results.part("suite"), tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "config", Path(folder) / "config")
        changed = {"device": asked.device, "seeds": list(range(1, asked.seeds + 1))}
        suite = {**read_yaml(asked.suite), **changed, "mirror": asked.mirror}
        path = Path(folder) / "suite.json"  # YAML reads it
        path.write_text(json.dumps(suite), encoding="utf-8")
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile",
            "--directory", folder, "--profile", ROOT / "profiles" / "gpu", "--cores", "all",
            "--scheduler", "greedy", "--configfile", path, *shlex.split(asked.snakemake),
        ]  # fmt: skip
        log, started = Path(folder) / "log", time.monotonic()
        with log.open("w") as written:
            process = subprocess.Popen(
                list(map(str, command)), stdout=written, stderr=written, cwd=folder,
                start_new_session=True,
            )  # fmt: skip
            for how in (None, signal.SIGTERM, signal.SIGKILL):
                if how is not None:
                    os.killpg(process.pid, how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60 * asked.minutes if how is None else 20)
                    break
        seconds = time.monotonic() - started
        done = len(list(Path(folder).glob("results/*/runs/*/*/*/seed-*/cost.json")))
        if not done:
            raise RuntimeError(f"no run was finished: {log.read_text()[-300:]}")
        row = f"minutes of 120 runs of {suite['suite']}, from {done} in {seconds / 60:.1f}"
        whole = process.returncode == 0
        results.add(row, round(seconds / 60 / done * 120, 2), 5.0, whole=whole)


def main():
    """Measure what was asked for, print one table, and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model: only whether it runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--minutes", type=float, default=6.0, help="no part begins after them")
    parser.add_argument("--suite", type=Path, help="suite file; this part is measured alone")
    parser.add_argument("--mirror", help="folder with its data sets and backbones")
    parser.add_argument("--seeds", type=int, default=3, help="of the suite")
    parser.add_argument("--snakemake", default="", help="more options, as '--resources gpu=8'")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.worker:  # before anything touches CUDA: it takes a slot first
        work(SMALL if asked.small else MINILM, asked.device, asked.worker)
        return
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("gpu.py: no CUDA device here; --device cpu --small shows whether it runs")
        return
    sizes = SMALL if asked.small else LARGE
    results = Results(asked.out, asked.device, asked.minutes)
    if asked.suite:
        suite_rows(results, asked)
    else:
        # Sharing first: this process holds no memory of the device yet.
        sharing_rows(results, sizes, asked)
        step_rows(results, sizes, asked.device)
        agreement_rows(results, sizes, asked.device)
        inference_rows(results, sizes, asked.device)
    print("\n".join(results.table()))


if __name__ == "__main__":
    main()

"""What finished jobs took, read from their records and from Snakemake's benchmark files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.estimating.workload import Work
from sparsetune.records import read_record

DEVICE_STAGES = ("backbone", "ticket", "tune", "evaluate")
_TABLES = ("tables", "claims", "figures", "track")


@dataclass(frozen=True)
class Sample:
    """One finished job.

    Attributes:
        id: as :class:`sparsetune.estimating.workload.Job` has it.
        stage: its rule's.
        suite: its id; empty for what suites share.
        work: what it computed; None = not known, as while its cost is not counted yet.
        work_seconds: of that work alone.
        job_seconds: from the start of its process to its end.
        ended: seconds since 1970; None where only a benchmark file tells of it.
        device: name; empty for stages that use none.
        device_kind: ``cpu`` or ``cuda``; likewise.
        backbone: its id, or empty.
        task: likewise.
        tokens: mean length of the examples it saw; None = it saw none.
        digest: of its settings.
    """

    id: str
    stage: str
    suite: str
    job_seconds: float
    work: Work | None = None
    work_seconds: float = 0.0
    ended: float | None = None
    device: str = ""
    device_kind: str = ""
    backbone: str = ""
    task: str = ""
    tokens: float | None = None
    digest: str = ""

    @property
    def start_up_seconds(self) -> float:
        """Everything but the work."""
        return max(0.0, self.job_seconds - self.work_seconds)


def read_samples(results: Sequence[Path]) -> list[Sample]:
    """Read what is under some ``results`` folders, with ``resources`` and ``logs`` beside them.

    Args:
        results: each holds ``<suite>/runs``; a job that two folders hold is taken from the first.

    Returns:
        Finished jobs; one whose record is not written yet is left out.

    Raises:
        DataError: a record is damaged.
    """
    found: dict[tuple[str, str], Sample] = {}
    for folder in results:
        for sample in _folder(folder):
            found.setdefault((sample.suite, sample.id), sample)
    return list(found.values())


def _folder(results: Path) -> Iterator[Sample]:
    home = results.parent
    parameters: dict[str, int | None] = {}
    for stage, room in (("dataset", "datasets"), ("backbone", "backbones")):
        for path in sorted(home.glob(f"resources/{room}/*/record.json")):
            record = read_record(path, stage)
            done = record["measured"]  # pre-trained here, or fetched
            parameters[path.parent.name] = done.get("parameters") or done.get("parameters_stored")
            benchmark = home / "logs" / stage / f"{path.parent.name}.tsv"
            yield _shared(record, f"{stage}/{path.parent.name}", benchmark)
    for suite in sorted(path for path in results.glob("*") if path.is_dir()):
        logs = home / "logs" / suite.name
        searches: dict[str, float] = {}
        for path in sorted(suite.glob("runs/*/*/*/seed-*/tune.json")):
            yield from _run(path, suite, logs, searches)
        for path in sorted(suite.glob("tickets/*/*/*/seed-*/record.json")):
            tail = path.parent.relative_to(suite / "tickets")
            counts = (searches.get(str(tail)), parameters.get(tail.parts[0]))
            yield _ticket(path, tail, logs, counts)
        for path in sorted(suite.glob("support/*/*/record.json")):
            tail = path.parent.relative_to(suite / "support")
            record = read_record(path, "support")
            yield _sample(record, f"support/{tail}", logs / "support" / f"{tail}.tsv")
        yield from _unrecorded(suite.name, logs)


def _shared(record: Mapping[str, Any], name: str, benchmark: Path) -> Sample:
    done = record["measured"].get("pretraining") or {}
    work, seconds = _pretraining(record, done) if done else (None, 0.0)
    return _sample(record, name, benchmark, work, seconds)


def _pretraining(record: Mapping[str, Any], done: Mapping[str, Any]) -> tuple[Work, float]:
    planned = {p["name"]: p for p in record["asked"]["settings"]["pretraining"]["phases"]}
    batches = sum(
        phase["steps"] * planned[phase["name"]]["gradient_accumulation"] for phase in done["phases"]
    )
    updates = done["steps"] * record["measured"]["parameters"]
    if "search" in done:
        first = next(iter(planned.values()))
        batches += done["search"]["steps"] * first["gradient_accumulation"]
        updates += done["search"]["steps"] * record["measured"]["parameters"]
    seconds = done["train_seconds"] + done.get("search_seconds", 0.0)
    return Work(batches, done["macs_total"], updates), seconds


def _run(path: Path, suite: Path, logs: Path, searches: dict[str, float]) -> Iterator[Sample]:
    """Tune, evaluate and cost of one run; work is known once the run's cost was counted."""
    tail = path.parent.relative_to(suite / "runs")
    tune = read_record(path, "tune")
    counted = path.with_name("cost.json")
    cost = read_record(counted, "cost") if counted.exists() else None
    work = _tuning(tune, cost) if cost else None
    seconds = tune["measured"]["train_seconds"]
    yield _sample(tune, f"tune/{tail}", logs / "tune" / f"{tail}.tsv", work, seconds)
    if cost:
        yield _sample(cost, f"cost/{tail}", logs / "cost" / f"{tail}.tsv")
        ticket = tune["asked"].get("ticket")
        life = cost["measured"]["breakdown"]["whole_life"]
        if ticket and "search" in life:
            searches[f"{tail.parent.parent}/{ticket}/{tail.name}"] = life["search"]
    scored = path.with_name("evaluate.json")
    if scored.exists():
        record = read_record(scored, "evaluate")
        seconds = record["measured"]["evaluate_seconds"]
        work = _evaluation(record, cost) if cost else None
        yield _sample(record, f"evaluate/{tail}", logs / "evaluate" / f"{tail}.tsv", work, seconds)


def _tuning(tune: Mapping[str, Any], cost: Mapping[str, Any]) -> Work:
    measured, life = tune["measured"], cost["measured"]["breakdown"]["whole_life"]
    settings = {p["name"]: p for p in tune["asked"]["settings"]["method"]["phases"]}
    batches = sum(
        phase["steps"] * settings[phase["name"]]["gradient_accumulation"]
        for phase in measured["phases"]
        if phase["kind"] == "train"
    )
    macs = sum(n for name, n in life.items() if name not in ("search", "inference", "total"))
    return Work(batches, macs, measured["steps"] * measured["parameters_trained"])


def _evaluation(record: Mapping[str, Any], cost: Mapping[str, Any]) -> Work:
    examples = record["measured"]["n_examples"]
    generation = record["asked"]["settings"]["scoring"]["generation"]
    batches = -(-examples // EVALUATION_BATCH)
    macs = examples * cost["measured"]["macs_executed_per_example"]
    if generation is None:
        return Work(batches, macs)
    return Work(batches * generation["maximum_new_tokens"], macs * generation["beams"])


def _ticket(path: Path, tail: Path, logs: Path, counts: tuple[float | None, int | None]) -> Sample:
    """A search's MACs are in the cost of its runs, the parameters it trained in the backbone's."""
    macs, parameters = counts
    record = read_record(path, "ticket")
    search = record["measured"].get("search")
    work, seconds = None, search["seconds"] if search else 0.0
    if search and macs and parameters:
        train = record["asked"]["settings"]["ticket"]["search"]["train"]
        batches = search["steps"] * train["gradient_accumulation"]
        work = Work(batches, macs, search["steps"] * parameters)
    return _sample(record, f"ticket/{tail}", logs / "ticket" / f"{tail}.tsv", work, seconds)


def _sample(
    record: Mapping[str, Any],
    name: str,
    benchmark: Path,
    work: Work | None = None,
    work_seconds: float = 0.0,
) -> Sample:
    asked, where, measured = record["asked"], record["where"], record["measured"]
    stage = asked["stage"]
    device = where["device"] if stage in DEVICE_STAGES else {}
    seen = measured.get("examples_seen")
    return Sample(
        id=name,
        stage=stage,
        suite=asked.get("suite", ""),
        job_seconds=_benchmark(benchmark) or where["seconds"] + (where["start_up_seconds"] or 0.0),
        work=work,
        work_seconds=work_seconds,
        ended=datetime.fromisoformat(where["ended"]).timestamp(),
        device=device.get("name", ""),
        device_kind=device.get("kind", ""),
        backbone=asked.get("backbone", ""),
        task=asked.get("task", ""),
        tokens=measured["tokens_seen"] / seen if seen else None,
        digest=asked.get("digest", ""),
    )


def _unrecorded(suite: str, logs: Path) -> Iterator[Sample]:
    """Stages that write tables and pictures, whose time only Snakemake keeps."""
    for path in sorted(logs.glob("tables/*/*.tsv")):
        seconds, name = _benchmark(path), f"{path.parent.name}/{path.stem}"
        if seconds is not None:
            yield Sample(f"tables/{name}", "tables", suite, seconds,
                         backbone=path.parent.name, task=path.stem)  # fmt: skip
    for stage in _TABLES:
        place = "tables/suite" if stage == "tables" else stage
        seconds = _benchmark(logs / f"{place}.tsv")
        if seconds is not None:
            yield Sample(stage, stage, suite, seconds)


def _benchmark(path: Path) -> float | None:
    """Wall-clock seconds in the last line of one of Snakemake's benchmark files, if it is there."""
    try:
        return float(path.read_text(encoding="utf-8").splitlines()[-1].split("\t")[0])
    except (OSError, ValueError, IndexError):
        return None


def busy_seconds(samples: Sequence[Sample]) -> float:
    """Time in which at least one of the jobs ran.

    Args:
        samples: those without an end are left out.

    Returns:
        Length of the union of their spans: pauses between two calls of the workflow do not
        count, and jobs side by side count once.
    """
    spans = sorted((s.ended - s.job_seconds, s.ended) for s in samples if s.ended is not None)
    busy, reached = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy

"""The command line: one sub-command for each stage; parse, call one function, map errors.

Heavy libraries are imported by the sub-command that needs them, after threads are set; and next to
nothing before a job of a workflow has handed itself over to a process that has them already.
"""

import argparse
import gc
import io
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from sparsetune import __version__
from sparsetune.errors import (
    ConfigError,
    DiskError,
    SparsetuneError,
    is_full_disk,
    is_full_gpu,
    is_full_memory,
    require_extra,
)
from sparsetune.warm import WARM_STAGES
from sparsetune.warm.client import hand_over

if TYPE_CHECKING:
    from sparsetune.config.load import Catalogue
    from sparsetune.config.suite import Limits, RunSpec, Suite

LOCK_FILE = "revisions.lock.yaml"
WORKFLOW_MODULES = (
    "datasets", "huggingface_hub", "jinja2", "matplotlib", "mlflow", "pandas", "peft", "plotly",
    "pyarrow", "pytorch_optimizer", "sacrebleu", "scipy", "sklearn", "snakemake", "sqlalchemy",
    "tokenizers",
)  # fmt: skip
"""What the extra ``workflow`` brings, by the names that are imported."""

CORE_COMMANDS = {"check", "schema", "show"}
"""Sub-commands that do without it: they read settings and finished tables only."""

_FULL_GPU = (
    "let fewer jobs share the GPU (--gpu-jobs; Snakemake: --resources gpu=N), or take a smaller "
    "batch_size with gradient_accumulation"
)
_FULL_MEMORY = "run fewer jobs at once (--cores), ask for mem_mb, or take a smaller batch_size"


def at_least(minimum: int) -> Callable[[str], int]:
    """A type for options that are whole numbers, ``minimum`` or more."""

    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < minimum:
            told = f"received {text!r}; allowed: whole number >= {minimum}"
            raise argparse.ArgumentTypeError(told)
        return int(text)

    return parse


OPTIONS: dict[str, dict[str, Any]] = {
    "--thing": {"help": "backbone, task, method, support, ticket, suite, table, claim or study"},
    "--task": {"help": "task id"},
    "--backbone": {"help": "backbone id"},
    "--support": {"help": "support id"},
    "--ticket": {"help": "ticket id"},
    "--run": {"help": "BACKBONE/TASK/METHOD/seed-N"},
    "--config": {"help": "suite file (YAML), or its content as JSON"},
    "--configfile": {"help": "suite file (YAML)"},
    "--group": {"help": "BACKBONE/TASK: one table; without it, the suite's tables"},
    "--part": {"action": "store_true", "help": "judge by what has finished of a suite in parts"},
    "--method": {"help": "method id"},
    "--against": {"help": "method id that it is compared with", "default": "full"},
    "--suite": {"help": "suite id: the MLflow experiment", "default": "by-hand"},
    "--seed": {"type": at_least(0), "help": "seed of the search"},
    "--digest": {"help": "refuse to run if the resolved settings differ from this"},
    "--mirror": {"help": "folder that replaces the hub"},
    "--train-examples": {"type": at_least(1), "help": "use only the first N training examples"},
    "--evaluation-examples": {"type": at_least(1), "help": "likewise, of evaluation examples"},
    "--score-epochs": {"action": "store_true", "help": "score the evaluation split every epoch"},
    "--output": {"type": Path, "help": "folder to write to"},
    "--dataset-dir": {"type": Path, "help": "the task's folder"},
    "--backbone-dir": {"type": Path, "help": "the backbone's folder"},
    "--run-dir": {"type": Path, "help": "the run's folder"},
    "--support-file": {"type": Path, "help": "support.safetensors"},
    "--ticket-file": {"type": Path, "help": "ticket.json"},
    "--checkpoints": {"type": Path, "help": "where to keep what resuming needs"},
    "--results": {"type": Path, "help": "folder with the suite's results or the MLflow store"},
    "--resources": {"type": Path, "help": "folder with data sets and backbones"},
    "--checkpoint-seconds": {"type": float, "default": 60.0, "help": "between checkpoints"},
    "--device": {"choices": ["auto", "cpu", "cuda"], "default": "auto", "help": "where to compute"},
    "--gpu-jobs": {
        "type": at_least(1),
        "default": 1,
        "help": "jobs at once on this machine's GPUs; beyond their number they share them",
    },
    "--steps": {
        "choices": ["captured", "eager"],
        "default": "captured",
        "help": "on CUDA: replay training steps as graphs, or run operation by operation",
    },
    "--threads": {"type": at_least(1), "help": "CPU threads"},
    "--prepare": {"action": "store_true", "help": "only create the store, before parallel jobs"},
    "--fetch": {"help": "name of this fetch from the hub, if not the first; for the record"},
    "--attempt": {"help": "name of this attempt, for the record; else the next one's"},
    "--cores": {"type": at_least(1), "help": "jobs at once (default: all cores)"},
    "--gpus": {"type": at_least(1), "help": "likewise, on GPUs"},
    "--json": {"action": "store_true", "help": "print data instead of tables"},
    "--readme": {"type": Path, "help": "write the block between its marks, too"},
    "--studies": {"type": Path, "help": "folder of the studies' pages: write their blocks, too"},
    "--to": {"type": Path, "help": "folder of the mirror"},
    "--only": {"choices": ["datasets", "backbones"], "help": "leave the rest out"},
    "--listener": {"type": at_least(0), "help": "descriptor of the socket that it inherits"},
    "--dry-run": {"action": "store_true", "help": "list files and sizes only"},
}
"""What options mean, whichever sub-command has them."""

OWN_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("estimate", "--results"): {
        "type": Path, "action": "append", "default": [],
        "help": "folder with finished suites to learn from (default: results); may be repeated",
    },
    ("estimate", "--device"): {"help": "part of its name in records; or cpu, a100, h100, ..."},
    ("mirror", "--suite"): {"help": "id of a suite of the catalogue"},
}  # fmt: skip
"""Options that mean something else to one sub-command."""

_LIMITS = "[--train-examples] [--evaluation-examples]"
_RUN = f"--run [--suite] [--digest] [--mirror] {_LIMITS} [--score-epochs]"
_FOLDERS = "--dataset-dir --backbone-dir"
_DEVICE = "[--device] [--gpu-jobs] [--threads]"
_RESUMED = f"--checkpoints [--checkpoint-seconds] [--steps] {_DEVICE}"


class OneLineParser(argparse.ArgumentParser):
    """Tells a wrong option in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with the exit code of a user's mistake."""
        self.exit(ConfigError.exit_code, f"{self.prog}: {message}; {self.prog} --help tells more\n")


class Command(NamedTuple):
    """One sub-command: what it calls and is for, and its options, optional ones in brackets."""

    call: Callable[[argparse.Namespace], None]
    summary: str
    options: str


COMMANDS: dict[str, Command] = {}


def command(name: str, summary: str, options: str = "") -> Callable[..., Any]:
    """Register a function as a sub-command; see :class:`Command`."""

    def register(call: Callable[[argparse.Namespace], None]) -> Callable[..., None]:
        COMMANDS[name] = Command(call, summary, options)
        return call

    return register


def _parser() -> argparse.ArgumentParser:
    from sparsetune.records import STAGES

    parser = OneLineParser(prog="sparsetune", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"sparsetune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (call, summary, options) in COMMANDS.items():
        version = f" (stage version {STAGES[name]})" if name in STAGES else ""
        sub = commands.add_parser(name, help=summary, description=summary + version)
        sub.set_defaults(call=call)
        for word in options.split():
            _add(sub, name, word)
        sub.add_argument(
            "--catalogue", type=Path, default=Path("config"), help="the catalogue's folder"
        )
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _add(sub: argparse.ArgumentParser, name: str, word: str) -> None:
    """Add ``--needed``, ``[--optional]`` or ``--one|--other`` to a sub-command."""
    options = word.strip("[]").split("|")
    place = sub.add_mutually_exclusive_group(required=True) if len(options) > 1 else sub
    for option in options:
        meaning = OWN_OPTIONS.get((name, option)) or OPTIONS[option]
        if place is sub and not word.startswith("["):
            meaning = {**meaning, "required": True}
        place.add_argument(option, **meaning)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        argv: arguments without the program's name; None = the process's own, which a workflow's
            warm process may run in this one's place.

    Returns:
        Exit code: 0; 2 for a mistake in the input; 3 when training cannot go on or the disk is
        full.
    """
    if argv is None and sys.argv[1:2] and sys.argv[1] in WARM_STAGES:
        code = hand_over(sys.argv)
        if code is not None:
            return code
    _print_anything()
    # Imports allocate much and free little: collecting in between costs up to a sixth of start-up.
    gc.disable()
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("sparsetune").setLevel(logging.INFO)
    if getattr(arguments, "threads", None):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
            os.environ[name] = str(arguments.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = str(arguments.threads > 1).lower()
    try:
        if arguments.command not in CORE_COMMANDS:
            # All at once: the first that is missed might be asked for when training has ended.
            require_extra("workflow", "workflow", WORKFLOW_MODULES)
        arguments.call(arguments)
    except Exception as error:
        full_gpu = is_full_gpu(error)
        full_memory = not isinstance(error, SparsetuneError) and is_full_memory(error)
        full = is_full_disk(error) or full_gpu or full_memory
        if arguments.debug or not (full or isinstance(error, SparsetuneError)):
            raise
        told = " ".join(str(error).split()) + (f"; {_FULL_GPU}" if full_gpu else "")
        told = f"no memory is left; {_FULL_MEMORY}" if full_memory else told
        print(f"sparsetune {arguments.command}: {told}", file=sys.stderr)
        return getattr(error, "exit_code", DiskError.exit_code)
    return 0


def _print_anything() -> None:
    """Let a terminal that is not UTF-8 take every text: what it lacks is written as code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _catalogue(arguments: argparse.Namespace, *, mirror: str | None = None) -> "Catalogue":
    from sparsetune.config.load import Catalogue

    return Catalogue(arguments.catalogue, mirror=mirror or getattr(arguments, "mirror", None))


def _suite(arguments: argparse.Namespace, given: str | None = None) -> "Suite":
    from sparsetune.config.reading import suite_content

    config, origin = suite_content(given or arguments.config)
    mirror = config.get("mirror") if isinstance(config, dict) else None
    return _catalogue(arguments, mirror=mirror).suite(config, origin=origin)


def _run_spec(arguments: argparse.Namespace) -> "RunSpec":
    parts = arguments.run.split("/")
    seed = parts[-1].removeprefix("seed-")
    if len(parts) != 4 or not parts[-1].startswith("seed-") or not seed.isdecimal():
        allowed = "BACKBONE/TASK/METHOD/seed-N"
        raise ConfigError(f"--run: received {arguments.run!r}; allowed: {allowed}")
    spec = _catalogue(arguments).run(
        (parts[0], parts[1], parts[2], int(seed)),
        suite=arguments.suite,
        limits=_limits(arguments),
        score_epochs=arguments.score_epochs,
    )
    _require_digest(spec.digest, arguments, what=arguments.run)
    return spec


def _limits(arguments: argparse.Namespace) -> "Limits":
    from sparsetune.config.suite import Limits

    return Limits(
        train_examples=arguments.train_examples, evaluation_examples=arguments.evaluation_examples
    )


def _require_digest(found: str, arguments: argparse.Namespace, *, what: str) -> None:
    """Refuse to work on settings that are not the ones that the caller planned."""
    if arguments.digest is not None and found != arguments.digest:
        raise ConfigError(
            f"{what}: settings have digest {found}, the caller planned {arguments.digest}; "
            "the catalogue was edited in between: run the command again"
        )


def _planned(thing: Any, arguments: argparse.Namespace) -> tuple[Any, Path, Any]:
    """A thing of the catalogue as the caller planned it, where it goes, and the job."""
    from sparsetune.records import digest_of

    _require_digest(digest_of(thing.settings()), arguments, what=arguments.command)
    return thing, arguments.output, _context(arguments)


def _folders(arguments: argparse.Namespace) -> dict[str, Path]:
    """The folders that the arguments name, by the names that the stages have for them."""
    options = {
        "dataset": "dataset_dir", "backbone": "backbone_dir", "run": "run_dir",
        "support": "support_file", "ticket": "ticket_file", "output": "output",
        "results": "results", "resources": "resources",
    }  # fmt: skip
    given = vars(arguments)
    return {name: given[option] for name, option in options.items() if option in given}


def _context(arguments: argparse.Namespace) -> Any:
    # Made after the stage's imports, which are start-up and not work.
    from sparsetune.stages.context import Context

    names = ("checkpoints", "checkpoint_seconds", "gpu_jobs", "steps")
    given = {name: getattr(arguments, name, None) for name in names}
    device = getattr(arguments, "device", "cpu")
    return Context(device, **{name: value for name, value in given.items() if value is not None})


@command("dataset", "check and copy, or generate, a task's files",
         "--task [--digest] [--mirror] [--fetch] --output")  # fmt: skip
def _dataset(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.dataset import make_dataset

    task = _catalogue(arguments).task(arguments.task)
    lock = arguments.catalogue / LOCK_FILE
    make_dataset(*_planned(task, arguments), lock_file=lock, fetch=arguments.fetch)


@command("backbone", "fetch, mirror or pre-train a backbone",
         f"--backbone [--digest] [--mirror] [--fetch] --output {_RESUMED}")  # fmt: skip
def _backbone(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.backbone import make_backbone

    backbone = _catalogue(arguments).backbone(arguments.backbone)
    backbone, directory, context = _planned(backbone, arguments)
    lock = arguments.catalogue / LOCK_FILE
    with context:
        make_backbone(backbone, directory, context, lock_file=lock, fetch=arguments.fetch)


@command("support", "choose the positions of the sparse residual S2",
         "--support --backbone [--suite] [--digest] [--mirror] --backbone-dir --output [--threads]",
         )  # fmt: skip
def _support(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.support import make_support

    catalogue = _catalogue(arguments)
    recipe, output, context = _planned(catalogue.support(arguments.support), arguments)
    backbone = catalogue.backbone(arguments.backbone)
    place = {"suite": arguments.suite, "backbone_directory": arguments.backbone_dir}
    make_support(recipe, backbone, context, **place, output=output)


@command("ticket", "search (or draw at random) which heads and neurons to keep",
         f"--ticket --backbone --task --seed [--suite] [--digest] [--mirror] {_LIMITS} {_FOLDERS}"
         f" --output {_RESUMED}")  # fmt: skip
def _ticket(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.ticket import TicketJob, make_ticket

    job = TicketJob.of(
        _catalogue(arguments),
        arguments.ticket,
        suite=arguments.suite,
        ids=(arguments.backbone, arguments.task, arguments.seed),
        limits=_limits(arguments),
    )
    _require_digest(job.digest, arguments, what=f"ticket {arguments.ticket}")
    inputs = (arguments.dataset_dir, arguments.backbone_dir)
    with _context(arguments) as context:
        make_ticket(job, context, inputs=inputs, output=arguments.output)


@command("tune", "train one run",
         f"{_RUN} {_FOLDERS} [--support-file] [--ticket-file] --output [--results] {_RESUMED}",
         )  # fmt: skip
def _tune(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.tune import TunePaths, tune

    spec = _run_spec(arguments)
    paths = TunePaths(**_folders(arguments))
    for needed, given, option in (
        (spec.support, paths.support, "--support-file"),
        (spec.ticket, paths.ticket, "--ticket-file"),
    ):
        if (needed is None) != (given is None):
            state = "needs" if needed else "does not take"
            raise ConfigError(f"{option}: method {spec.method.id!r} {state} it; received {given}")
    with _context(arguments) as context:
        tune(spec, paths, context)


@command("evaluate", "predict with one run and score it",
         f"{_RUN} {_FOLDERS} --run-dir --output {_DEVICE}")  # fmt: skip
def _evaluate(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.evaluate import evaluate

    evaluate(_run_spec(arguments), _context(arguments), **_folders(arguments))


@command("cost", "count one run's parameters, MACs and bytes",
         f"{_RUN} --backbone-dir --run-dir [--ticket-file] --output")  # fmt: skip
def _cost(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.cost import count_cost

    count_cost(_run_spec(arguments), _context(arguments), **_folders(arguments))


@command("tables", "write tables from records", "--config [--group] --results --output")
def _tables(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.tables import make_tables

    definitions = arguments.catalogue / "tables"
    given = {"group": arguments.group, "definitions": definitions, **_folders(arguments)}
    make_tables(_suite(arguments), **given)


@command("claims", "give each claim of the papers a verdict, from records",
         "--config --results --resources [--part]")  # fmt: skip
def _claims(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.claims import make_claims

    given = {"part": arguments.part, **_folders(arguments)}
    make_claims(_suite(arguments), _catalogue(arguments), **given)


@command("figures", "draw figures from records", "--config --results --output")
def _figures(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.figures import make_figures

    make_figures(_suite(arguments), **_folders(arguments))


@command("track", "complete MLflow from records",
         "--config --results [--resources] [--prepare] [--attempt]")  # fmt: skip
def _track(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.track import prepare_store, track_suite

    suite = _suite(arguments)
    if arguments.prepare:
        problem = prepare_store(suite, results=arguments.results)
        problems: Sequence[str] = [problem] if problem else []
    else:
        report = track_suite(suite, **_folders(arguments), attempt=arguments.attempt)
        print(f"MLflow: {report.published} published, {report.unchanged} unchanged")
        problems = report.problems
    for problem in problems:
        print(f"sparsetune track: warning: {problem}", file=sys.stderr)


@command("warm", "import once and fork a workflow's jobs (Snakemake starts it)", "--listener")
def _warm(arguments: argparse.Namespace) -> None:
    from sparsetune.warm.server import serve

    serve(main, arguments.listener)


@command("schema", "print the JSON Schema of a file of the catalogue, for editors", "--thing")
def _schema(arguments: argparse.Namespace) -> None:
    from sparsetune.config.schema import schema_of

    print(json.dumps(schema_of(arguments.thing), indent=1))


@command("check", "validate a suite and everything it names", "--config")
def _check(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.check import check_sources

    suite = _suite(arguments)
    check_sources(suite, _catalogue(arguments, mirror=suite.mirror))
    print(f"suite {suite.id}: {len(suite.runs)} runs, {len(suite.groups())} tables; all valid")
    for refusal in suite.refusals:
        place = f"{refusal.backbone}/{refusal.task}"
        print(f"{refusal.method} on {place}: not run: {refusal.reason}")


@command("compare", "test two methods on the same examples, from predictions",
         "--results --group --method [--against]")  # fmt: skip
def _compare(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.compare import compare_methods

    methods = (arguments.against, arguments.method)
    print(compare_methods(arguments.results, arguments.group, methods=methods))


@command("submit", "answer GLUE's unlabelled test, in the files that its server takes",
         f"{_RUN} {_FOLDERS} --run-dir --output {_DEVICE}")  # fmt: skip
def _submit(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.submit import submit

    told = submit(_run_spec(arguments), _context(arguments), **_folders(arguments))
    print("\n".join(told))


@command("estimate", "tell what a suite will take, before it runs",
         "--configfile|--config [--results] [--cores] [--gpus] [--device] [--json]")  # fmt: skip
def _estimate(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.estimate import as_text, estimate

    suite = _suite(arguments, arguments.configfile or arguments.config)
    catalogue = _catalogue(arguments, mirror=suite.mirror)
    limits = {"cores": arguments.cores, "gpus": arguments.gpus, "device": arguments.device}
    told = estimate(suite, catalogue, results=arguments.results, **limits)
    print(json.dumps(told, indent=1) if arguments.json else as_text(told))


@command("results", "write what the repository keeps of finished suites, from records",
         "--results --output [--readme] [--studies]")  # fmt: skip
def _results(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.results import make_results

    names = ("results", "output", "readme", "studies")
    folders = {name: getattr(arguments, name) for name in names}
    print("\n".join(make_results(_catalogue(arguments), **folders)))


@command("links", "print where MLflow shows each suite's runs", "--results")
def _links(arguments: argparse.Namespace) -> None:
    from sparsetune.tracking.client import experiments, store_uri
    from sparsetune.tracking.views import ADVICE, LOCAL_ADDRESS, links

    uri = store_uri(arguments.results)
    address = uri if uri.startswith(("http://", "https://")) else LOCAL_ADDRESS
    print("\n".join([*links(experiments(arguments.results), address), *ADVICE]))


@command("show", "print a suite's headline table", "--results")
def _show(arguments: argparse.Namespace) -> None:
    table = arguments.results / "tables" / "headline.md"
    if not table.exists():
        raise ConfigError(f"{table}: not there yet; run snakemake first")
    print(table.read_text(encoding="utf-8"))
    print(f"Claims of the papers, with verdicts: {arguments.results}/claims.html")
    print(f"More: {arguments.results}/tables/ (HTML, Markdown, CSV, LaTeX); `make ui`: every run.")


@command("mirror", "write a folder that replaces the hub for a suite",
         "--config|--suite --to [--only] [--dry-run]")  # fmt: skip
def _mirror(arguments: argparse.Namespace) -> None:
    from sparsetune.config.reading import suite_content
    from sparsetune.stages.mirror import mirror_suite, parts_of, suite_file

    given = arguments.config or str(suite_file(arguments.catalogue, arguments.suite))
    content, origin = suite_content(given)
    # Without the suite's own mirror: what matters is what would come from the hub.
    catalogue = _catalogue(arguments)
    suite = catalogue.suite(content, origin=origin)
    parts = parts_of(catalogue, suite, only=arguments.only)
    lines = mirror_suite(
        parts,
        arguments.to,
        lock_file=arguments.catalogue / LOCK_FILE,
        use=f"snakemake --cores all --configfile {shlex.quote(given)}",
        dry_run=arguments.dry_run,
    )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

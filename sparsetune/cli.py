"""The command line: one sub-command for each stage; parse, call one function, map errors.

Heavy libraries are imported by the sub-command that needs them, after threads are set.
"""

import argparse
import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsetune import __version__, cli_mirror
from sparsetune.cli_options import OPTIONAL, OPTIONAL_FOR, OPTIONS, OneLineParser, at_least
from sparsetune.config.files import suite_content
from sparsetune.config.load import Catalogue, RunSpec, Suite
from sparsetune.errors import ConfigError, DiskError, SparsetuneError, is_full_disk
from sparsetune.records import STAGES

LOCK_FILE = "revisions.lock.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        argv: arguments without the program's name; None = the process's own.

    Returns:
        Exit code: 0; 2 for a mistake in the input; 3 when training cannot go on or the disk is
        full.
    """
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
        arguments.call(arguments)
    except Exception as error:
        if arguments.debug or not (isinstance(error, SparsetuneError) or is_full_disk(error)):
            raise
        print(f"sparsetune {arguments.command}: {_one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", DiskError.exit_code)
    return 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _dataset(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.dataset import make_dataset

    task = _catalogue(arguments).task(arguments.task)
    _require_settings(task.settings(), arguments)
    make_dataset(task, arguments.output, lock_file=arguments.catalogue / LOCK_FILE)


def _backbone(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.backbone import make_backbone

    backbone = _catalogue(arguments).backbone(arguments.backbone)
    _require_settings(backbone.settings(), arguments)
    make_backbone(
        backbone,
        arguments.output,
        lock_file=arguments.catalogue / LOCK_FILE,
        checkpoints=arguments.checkpoints,
        device=arguments.device,
        checkpoint_seconds=arguments.checkpoint_seconds,
    )


def _support(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.support import make_support

    catalogue = _catalogue(arguments)
    recipe = catalogue.support(arguments.support)
    _require_settings(recipe.settings(), arguments)
    make_support(
        recipe,
        catalogue.backbone(arguments.backbone),
        suite=arguments.suite,
        backbone_directory=arguments.backbone_dir,
        output=arguments.output,
    )


def _ticket(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.asked import require_digest
    from sparsetune.stages.ticket import TicketJob, make_ticket

    job = TicketJob.of(
        _catalogue(arguments),
        arguments.ticket,
        suite=arguments.suite,
        ids=(arguments.backbone, arguments.task, arguments.seed),
        limits=_limits(arguments),
    )
    require_digest(job.digest, arguments.digest, what=f"ticket {arguments.ticket}")
    make_ticket(
        job,
        inputs=(arguments.dataset_dir, arguments.backbone_dir),
        output=arguments.output,
        checkpoints=arguments.checkpoints,
        device=arguments.device,
        checkpoint_seconds=arguments.checkpoint_seconds,
    )


def _tune(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.tune import TunePaths, tune

    spec = _run_spec(arguments)
    paths = TunePaths(
        dataset=arguments.dataset_dir,
        backbone=arguments.backbone_dir,
        output=arguments.output,
        checkpoints=arguments.checkpoints,
        support=arguments.support_file,
        ticket=arguments.ticket_file,
        results=arguments.results,
    )
    _require_inputs(spec, paths)
    tune(spec, paths, device=arguments.device, checkpoint_seconds=arguments.checkpoint_seconds)


def _require_inputs(spec: RunSpec, paths: Any) -> None:
    for needed, given, option in (
        (spec.support, paths.support, "--support-file"),
        (spec.ticket, paths.ticket, "--ticket-file"),
    ):
        if (needed is None) != (given is None):
            state = "needs" if needed else "does not take"
            raise ConfigError(f"{option}: method {spec.method.id!r} {state} it, got {given}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.evaluate import evaluate

    evaluate(_run_spec(arguments), **_around_run(arguments))


def _submit(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.submit import submit

    print("\n".join(submit(_run_spec(arguments), **_around_run(arguments))))


def _around_run(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "dataset": arguments.dataset_dir,
        "backbone": arguments.backbone_dir,
        "run": arguments.run_dir,
        "output": arguments.output,
        "device": arguments.device,
    }


def _cost(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.cost import count_cost

    count_cost(
        _run_spec(arguments),
        backbone=arguments.backbone_dir,
        run=arguments.run_dir,
        ticket=arguments.ticket_file,
        output=arguments.output,
    )


def _tables(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.tables import make_tables

    suite = _suite(arguments)
    make_tables(
        suite,
        results=arguments.results,
        group=arguments.group,
        output=arguments.output,
        definitions=arguments.catalogue / "tables",
    )


def _compare(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.compare import compare_methods

    methods = (arguments.against, arguments.method)
    print(compare_methods(arguments.results, arguments.group, methods=methods))


def _claims(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.claims import make_claims

    make_claims(
        _suite(arguments),
        Catalogue(arguments.catalogue),
        results=arguments.results,
        resources=arguments.resources,
    )


def _figures(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.figures import make_figures

    make_figures(_suite(arguments), results=arguments.results, output=arguments.output)


def _track(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.track import prepare_store, track_suite

    suite = _suite(arguments)
    if arguments.prepare:
        problem = prepare_store(suite, results=arguments.results)
        if problem:
            print(f"sparsetune track: warning: {problem}", file=sys.stderr)
        return
    places = {"results": arguments.results, "resources": arguments.resources}
    report = track_suite(suite, **places, attempt=arguments.attempt)
    print(f"MLflow: {report.published} published, {report.unchanged} unchanged")
    for problem in report.problems:
        print(f"sparsetune track: warning: {problem}", file=sys.stderr)


def _links(arguments: argparse.Namespace) -> None:
    from sparsetune.tracking.client import experiments, store_uri
    from sparsetune.tracking.views import ADVICE, LOCAL_ADDRESS, links

    uri = store_uri(arguments.results)
    address = uri if uri.startswith(("http://", "https://")) else LOCAL_ADDRESS
    print("\n".join([*links(experiments(arguments.results), address), *ADVICE]))


def _check(arguments: argparse.Namespace) -> None:
    suite = _suite(arguments)
    print(f"suite {suite.id}: {len(suite.runs)} runs, {len(suite.groups())} tables; all valid")
    for refusal in suite.refusals:
        place = f"{refusal.backbone}/{refusal.task}"
        print(f"{refusal.method} on {place}: not run: {refusal.reason}")


def _mirror(arguments: argparse.Namespace) -> None:
    for line in cli_mirror.mirror_lines(arguments, lock_file=arguments.catalogue / LOCK_FILE):
        print(line, flush=True)


def _estimate(arguments: argparse.Namespace) -> None:
    from sparsetune.stages.estimate import as_text, estimate

    suite = _suite(arguments, arguments.configfile)
    limits = {"cores": arguments.cores, "gpus": arguments.gpus, "device": arguments.device}
    catalogue = Catalogue(arguments.catalogue, mirror=suite.mirror)
    told = estimate(suite, catalogue, results=arguments.results, **limits)
    print(json.dumps(told, indent=1) if arguments.json else as_text(told))


def _show(arguments: argparse.Namespace) -> None:
    table = arguments.results / "tables" / "headline.md"
    if not table.exists():
        raise ConfigError(f"{table}: not there yet; run snakemake first")
    print(table.read_text(encoding="utf-8"))
    print(f"Claims of the papers, with verdicts: {arguments.results}/claims.md")
    print(f"More: {arguments.results}/tables/ (HTML, Markdown, CSV, LaTeX); `make ui`: every run.")


def _catalogue(arguments: argparse.Namespace) -> Catalogue:
    return Catalogue(arguments.catalogue, mirror=arguments.mirror)


def _suite(arguments: argparse.Namespace, given: str | None = None) -> Suite:
    config, origin = suite_content(given or arguments.config)
    mirror = config.get("mirror") if isinstance(config, dict) else None
    return Catalogue(arguments.catalogue, mirror=mirror).suite(config, origin=origin)


def _run_spec(arguments: argparse.Namespace) -> RunSpec:
    from sparsetune.stages.asked import require_digest

    parts = arguments.run.split("/")
    seed = parts[-1].removeprefix("seed-")
    if len(parts) != 4 or not parts[-1].startswith("seed-") or not seed.isdecimal():
        raise ConfigError(f"--run: got {arguments.run!r}, need BACKBONE/TASK/METHOD/seed-N")
    spec = _catalogue(arguments).run(
        (parts[0], parts[1], parts[2], int(seed)),
        suite=arguments.suite,
        limits=_limits(arguments),
        score_epochs=arguments.score_epochs,
    )
    require_digest(spec.digest, arguments.digest, what=arguments.run)
    return spec


def _require_settings(settings: Any, arguments: argparse.Namespace) -> None:
    from sparsetune.records import digest_of
    from sparsetune.stages.asked import require_digest

    require_digest(digest_of(settings), arguments.digest, what=arguments.command)


def _limits(arguments: argparse.Namespace) -> dict[str, int | None]:
    return {
        "train_examples": arguments.train_examples,
        "evaluation_examples": arguments.evaluation_examples,
    }


_RUN = ("--run", "--suite", "--digest", "--mirror", "--train-examples", "--evaluation-examples",
        "--score-epochs")  # fmt: skip

_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], None], str, tuple[str, ...]]] = {
    "dataset": (_dataset, "check and copy, or generate, a task's files",
                ("--task", "--digest", "--mirror", "--output")),
    "backbone": (_backbone, "fetch, mirror or pre-train a backbone",
                 ("--backbone", "--digest", "--mirror", "--output", "--checkpoints", "--device",
                  "--threads", "--checkpoint-seconds")),
    "support": (_support, "choose the positions of the sparse residual S2",
                ("--support", "--backbone", "--suite", "--digest", "--mirror", "--backbone-dir",
                 "--output", "--threads")),
    "ticket": (_ticket, "search (or draw at random) which heads and neurons to keep",
               ("--ticket", "--backbone", "--task", "--seed", "--suite", "--digest", "--mirror",
                "--train-examples", "--evaluation-examples", "--dataset-dir", "--backbone-dir",
                "--output", "--checkpoints", "--device", "--threads", "--checkpoint-seconds")),
    "tune": (_tune, "train one run",
             (*_RUN, "--dataset-dir", "--backbone-dir", "--support-file", "--ticket-file",
              "--output", "--checkpoints", "--results", "--device", "--threads",
              "--checkpoint-seconds")),
    "evaluate": (_evaluate, "predict with one run and score it",
                 (*_RUN, "--dataset-dir", "--backbone-dir", "--run-dir", "--output", "--device",
                  "--threads")),
    "cost": (_cost, "count one run's parameters, MACs and bytes",
             (*_RUN, "--backbone-dir", "--run-dir", "--ticket-file", "--output")),
    "tables": (_tables, "write tables from records", ("--config", "--group", "--results",
                                                      "--output")),
    "claims": (_claims, "give each claim of the papers a verdict, from records",
               ("--config", "--results", "--resources")),
    "figures": (_figures, "draw figures from records", ("--config", "--results", "--output")),
    "compare": (_compare, "test two methods on the same examples, from predictions",
                ("--results", "--group", "--method", "--against")),
    "submit": (_submit, "answer GLUE's unlabelled test, in the files that its server takes",
               (*_RUN, "--dataset-dir", "--backbone-dir", "--run-dir", "--output", "--device",
                "--threads")),
    "track": (_track, "complete MLflow from records", ("--config", "--results", "--resources")),
    "check": (_check, "validate a suite and everything it names", ("--config",)),
    "estimate": (_estimate, "tell what a suite will take, before it runs", ()),
    "links": (_links, "print where MLflow shows each suite's runs", ("--results",)),
    "show": (_show, "print a suite's headline table", ("--results",)),
    "mirror": (_mirror, "write a folder that replaces the hub for a suite", ()),
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="sparsetune", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"sparsetune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (call, summary, options) in _COMMANDS.items():
        version = f" (stage version {STAGES[name]})" if name in STAGES else ""
        command = commands.add_parser(name, help=summary, description=summary + version)
        command.set_defaults(call=call)
        for option in options:
            optional = option in OPTIONAL | OPTIONAL_FOR.get(name, set())
            command.add_argument(option, required=not optional, **OPTIONS[option])
        command.add_argument(
            "--catalogue", type=Path, default=Path("config"), help="the catalogue's folder"
        )
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    commands.choices["track"].add_argument(
        "--prepare", action="store_true", help="only create the store, before parallel jobs start"
    )
    commands.choices["track"].add_argument(
        "--attempt", help="name of this attempt, for the record; else the next one's"
    )
    cli_mirror.add_options(commands.choices["mirror"])
    _add_estimate_options(commands.choices["estimate"])
    return parser


def _add_estimate_options(command: argparse.ArgumentParser) -> None:
    results = "folder with finished suites to learn from (default: results); may be repeated"
    command.add_argument(
        "--config", "--configfile", dest="configfile", required=True, help="suite file (YAML)"
    )
    command.add_argument("--results", type=Path, action="append", default=[], help=results)
    command.add_argument("--cores", type=at_least(1), help="jobs at once (default: all cores)")
    command.add_argument("--gpus", type=at_least(1), help="likewise, on GPUs")
    command.add_argument("--device", help="part of its name in records; or cpu, a100, h100, ...")
    command.add_argument("--json", action="store_true", help="print data instead of tables")


if __name__ == "__main__":
    sys.exit(main())

"""Stage ``claims``: a verdict on every claim of the papers, from records, answers and tickets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sparsetune.config.claim import Claim, read_claims
from sparsetune.config.load import Catalogue, Suite
from sparsetune.config.suite import read_suite
from sparsetune.errors import ConfigError
from sparsetune.records import (
    BackboneRecord,
    ClaimsRecord,
    Clock,
    read_record,
    sha256_of,
    write_record,
)
from sparsetune.reporting.untested import Missing, missing_of
from sparsetune.stages.tables import record_paths, ticket_paths

CLAIMS_FILE = "claims.yaml"
FOREST = "claims-forest.svg"


def make_claims(
    suite: Suite, catalogue: Catalogue, *, results: Path, resources: Path, part: bool = False
) -> None:
    """Judge every claim; write ``claims.md``, ``.html``, ``.csv``, ``.json`` and the forest plot.

    Args:
        suite: which runs, and in which order.
        catalogue: whose ``claims.yaml`` says what is claimed, and whose suites are named where
            one of them would test what this one does not.
        results: the suite's results folder; the files are written there.
        resources: the folder with the backbones, for what their pre-training cost.
        part: judge by the runs that have finished, of a suite that is run in parts.

    Raises:
        ConfigError: a claim breaks its schema or names something unknown; or ``part``, and
            nothing has finished.
        DataError: a record is missing or does not fit the others, by name; or the predictions of
            a pair of runs are missing, damaged, or of other examples.
    """
    # Here and not above: they need pandas, and the workflow imports this module for names only.
    from sparsetune.reporting.claims import Reported, as_data, counts, counts_by_paper, write_claims
    from sparsetune.reporting.forest import write_forest
    from sparsetune.reporting.load import collect
    from sparsetune.reporting.tickets import read_kept
    from sparsetune.reporting.verdicts import Evidence, judge
    from sparsetune.stages.compare import ExampleNoise

    clock = Clock()
    file = catalogue.root / CLAIMS_FILE
    claims = read_claims(file, catalogue)
    if part:
        suite = _finished_part(suite, results)
    records = (path for run in suite.runs for path in record_paths(results, run))
    done = collect(records, [run.key for run in suite.runs])
    evidence = Evidence(
        groups=done.groups,
        architectures={run.backbone.id: run.backbone.architecture for run in suite.runs},
        tickets=[read_kept(path) for path in ticket_paths(results, suite)],
        pretraining_macs=_pretraining_macs(suite, resources),
        over_examples=ExampleNoise(),
    )
    clock.ready()
    missing = missing_by_claim(claims, suite, catalogue)
    reported = [Reported(judge(claim, evidence), missing[claim.id]) for claim in claims]
    judgements = [one.judgement for one in reported]
    write_forest(judgements, results / FOREST)
    write_claims(suite.id, reported, results / "claims", forest=results / FOREST)
    record = ClaimsRecord.of(
        {"suite": suite.id},
        inputs={str(file): sha256_of(file)},
        measured={
            "verdicts": counts(judgements),
            "verdicts_by_paper": counts_by_paper(judgements),
            "claims": [as_data(one) for one in reported],
            "runs_count": len(done.runs),
        },
        where=clock.where(),
    )
    write_record(results / "claims.json", record)


def _finished_part(suite: Suite, results: Path) -> Suite:
    done = [run for run in suite.runs if all(path.exists() for path in record_paths(results, run))]
    if not done:
        raise ConfigError(
            f"--part: {results}: received no finished run of suite {suite.id}; allowed: one or more"
        )
    return replace(suite, runs=tuple(done))


def missing_by_claim(
    claims: Sequence[Claim], suite: Suite, catalogue: Catalogue
) -> dict[str, Missing]:
    """What the suite lacks for each claim, and which suites of the catalogue have it.

    A file that is no suite, or one that would be refused, is never named.
    """
    others = []
    for path in sorted(catalogue.root.glob("*.yaml")):
        try:
            others.append(catalogue.suite(read_suite(path), origin=str(path)))
        except ConfigError:
            continue
    return {claim.id: missing_of(claim, suite, others) for claim in claims}


def pretrained(suite: Suite) -> list[str]:
    """Ids of the suite's backbones that are pre-trained here, each once."""
    return list(dict.fromkeys(run.backbone.id for run in suite.runs if run.backbone.pretraining))


def _pretraining_macs(suite: Suite, resources: Path) -> dict[str, int]:
    found = {}
    for backbone in pretrained(suite):
        record = read_record(resources / "backbones" / backbone / "record.json", BackboneRecord)
        if record.measured.pretraining:
            found[backbone] = record.measured.pretraining.macs_total
    return found

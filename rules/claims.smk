from dataclasses import asdict

from sparsetune.config.claim import read_claims
from sparsetune.stages.claims import CLAIMS_FILE, FOREST, missing_by_claim, pretrained

try:
    CLAIMS = read_claims(CATALOGUE.root / CLAIMS_FILE, CATALOGUE)
    MISSING = missing_by_claim(CLAIMS, SUITE, CATALOGUE)
except SparsetuneError as error:
    print(f"sparsetune: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)


rule claims:
    """Each claim of the two papers with a verdict, and the numbers that decide it."""
    input:
        records_of(SUITE.runs),
        predictions_of_suite(),
        tickets_of_suite(),
        expand("resources/backbones/{name}/record.json", name=pretrained(SUITE)),
    output:
        in_report(multiext(f"{RESULTS}/claims", ".md", ".csv", ".html", ".json")),
        in_report([f"{RESULTS}/{FOREST}"]),
    log:
        f"logs/{SUITE.id}/claims.log",
    benchmark:
        f"logs/{SUITE.id}/claims.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        version=STAGES["claims"],
        digest=digest_of([[one.as_data(), asdict(MISSING[one.id])] for one in CLAIMS]),
    shell:
        f"sparsetune claims {SUITE_OPTION} --results {RESULTS} --resources resources" " &> {log}"

import re
import subprocess
import sys

import pytest

from sparsetune import cli
from sparsetune.records import STAGES

RULE = re.compile(r"^rule (\w+):\n((?:    .*\n|\n)*)", re.MULTILINE)


def rules_of(repository):
    found = {}
    for path in sorted((repository / "rules").glob("*.smk")):
        for name, body in RULE.findall(path.read_text(encoding="utf-8")):
            found[name] = body.rstrip("\n")
    return found


def test_every_stage_is_a_rule_and_a_sub_command(repository):
    rules = rules_of(repository)
    assert set(rules) == set(STAGES) | {"group_table"}
    for name, body in rules.items():
        stage = "tables" if name == "group_table" else name
        assert f"sparsetune {stage} " in body
        assert f'version=STAGES["{stage}"]' in body
    assert set(STAGES) <= set(cli.COMMANDS)


def test_every_rule_says_what_it_needs_and_is_short(repository):
    for name, body in rules_of(repository).items():
        assert body.startswith('    """'), name
        for directive in ("log", "benchmark", "conda", "threads", "resources", "params", "shell"):
            assert re.search(rf"^    {directive}:", body, re.MULTILINE), (name, directive)
        assert "&> {log}" in body, name
        assert len(body.splitlines()) + 1 <= 35, name
        assert not re.search(r"^    (script|run|wrapper):|\blambda\b", body, re.MULTILINE), name


def test_snakefile_is_a_table_of_contents(repository):
    text = (repository / "Snakefile").read_text(encoding="utf-8")
    included = set(re.findall(r'include: "rules/(\w+)\.smk"', text))
    assert included == {path.stem for path in (repository / "rules").glob("*.smk")}
    assert RULE.findall(text)[0][0] == "all"
    assert len(RULE.findall(text)) == 1


def test_snakemake_lint_has_nothing_to_say(workplace):
    done = workplace.snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good condition" in done.stdout + done.stderr


def test_rules_are_formatted(repository):
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules"],
        cwd=repository, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["default", "gpu", "slurm"])
def test_profile_reruns_only_for_what_a_job_depends_on(repository, name):
    import yaml

    path = repository / "profiles" / name / "config.yaml"
    profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    # Without "code" and "software-env": results change by stage versions and digests.
    assert profile["rerun-triggers"] == ["mtime", "params", "input"]
    assert set(profile.get("set-threads", {})) <= set(STAGES)

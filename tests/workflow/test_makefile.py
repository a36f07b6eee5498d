"""What ``make`` does with a suite file, with stubs in the place of what takes long."""

import os
import subprocess
import sys

import pytest

LINES = {
    "comment": "suite: mini  # the default",
    "quotes": 'suite: "mini"',
    "quotes and comment": "suite: 'mini'   # the default",
    "blank before the colon": "suite : mini",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_report_takes_the_suite_as_yaml_reads_it(line, repository, tmp_path):
    text = (repository / "config" / "config.yaml").read_text(encoding="utf-8")
    suite = tmp_path / "a suite.yaml"
    suite.write_text(text.replace("suite: mini\n", f"{line}\n", 1), encoding="utf-8")
    assert line in suite.read_text(encoding="utf-8")
    ready = tmp_path / "ready"
    stubs = {
        "snakemake": 'echo "$0: $*"',
        "sparsetune": f'[ "$1" = track ] || exec {sys.executable} -m sparsetune.cli "$@"',
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["make", "-o", ready, f"READY={ready}", "BIN=none", "report", f"CONFIG={suite}"],
        cwd=repository, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"--configfile {suite} --report results/mini/report.html" in done.stdout
    assert "Open results/mini/report.html." in done.stdout

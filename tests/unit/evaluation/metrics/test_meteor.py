import os
import types

import pytest

from sparsetune.evaluation.metrics import meteor
from sparsetune.evaluation.metrics.meteor import meteor_1_5

# Stands in for Java: the tokeniser gives every line back; METEOR is up to the test.
JAVA = """#!/bin/sh
case "$*" in *PTBTokenizer*) exec cat;; esac
{}
"""
ANSWERS = """
while read -r line; do
  echo "$line" >> "$HEARD"
  case "$line" in
    EVAL*) printf '0.5\\n0.7\\n0.6\\n';;
    *) echo "1 2 3";;
  esac
done
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Install a stand-in for Java that does what the given shell lines say."""

    def install(lines):
        for jar in (meteor._METEOR, meteor._TOKENIZER):
            (tmp_path / jar).parent.mkdir(parents=True)
            (tmp_path / jar).touch()
        java = tmp_path / "java"
        java.write_text(JAVA.format(lines))
        java.chmod(0o755)
        package = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
        monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: package)
        return tmp_path / "heard"

    return install


def test_score_is_the_corpus_value_and_the_variant_is_told(program):
    heard = program(ANSWERS)
    value, note = meteor_1_5(["a pub , ||| here", ""], [["a pub .", "..."], ["b"]])
    assert value == 0.6
    assert "METEOR 1.5" in note
    assert "Java" in note
    # References first; punctuation, empty references and the program's own sign are gone.
    assert heard.read_text().splitlines() == [
        "SCORE ||| a pub ||| a pub here",
        "SCORE ||| b |||",
        "EVAL ||| 1 2 3 ||| 1 2 3",
    ]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("echo 'no memory left' >&2; exit 1", "ended at line 1: no memory left"),
        ("read -r line; echo 1; exit 3", "ended at line 2: without a message"),
        ("while read -r line; do echo NaN; echo x; echo x; done", "gave 'x' for the corpus"),
    ],
)
def test_a_program_that_fails_is_told_of(program, lines, reason):
    program(lines)
    value, note = meteor_1_5(["a", "b"], [["a"], ["b"]])
    assert value is None
    assert note.startswith("absent: METEOR's program ")
    assert reason in note


def test_a_program_that_hangs_is_stopped(program):
    program("exec cat > /dev/null")
    value, note = meteor_1_5(["a"], [["a"]], timeout_seconds=0.3)
    assert (value, "stopped for its time" in note) == (None, True)


def test_a_tokeniser_that_loses_lines_is_told_of(program, tmp_path):
    program("")
    (tmp_path / "java").write_text("#!/bin/sh\necho one line\n")
    value, note = meteor_1_5(["a"], [["a"]])
    assert value is None
    assert "gave 1 lines for 2" in note


def test_line_breaks_of_any_kind_stay_inside_their_text(program):
    heard = program(ANSWERS)
    meteor_1_5(["a\nb\u2028c\rd\x85e", "x"], [["a"], ["b"]])
    assert heard.read_text().splitlines()[0] == "SCORE ||| a ||| a b c d e"


def test_without_java_there_is_none_and_the_reason(monkeypatch):
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    value, note = meteor_1_5(["a"], [["a"]])
    assert (value, note) == (None, "absent: no java on the PATH, and METEOR 1.5 is a Java program")


def test_without_the_package_there_is_none_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(meteor.shutil, "which", lambda name: "java")
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    value, note = meteor_1_5(["a"], [["a"]])
    assert value is None
    assert note.startswith("absent: ")
    assert "pip install 'sparsetune[meteor]'" in note

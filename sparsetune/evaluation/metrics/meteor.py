"""METEOR 1.5 by its authors' Java program, run on texts prepared as the COCO scripts do.

Program, paraphrase table and tokeniser come with the optional package ``pycocoevalcap``, of
which no Python is run. Where they or Java are missing there is no METEOR, and the reason is told.
"""

import contextlib
import importlib.util
import math
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

TIMEOUT_SECONDS = 1800.0
NOTE = (
    "METEOR 1.5, -l en -norm, by its Java program; PTB words by Stanford CoreNLP 3.4.1, lower "
    "case, without punctuation, as COCO's and E2E's scripts prepare them"
)

_PACKAGE = "pycocoevalcap"
_TOKENIZER = Path("tokenizer", "stanford-corenlp-3.4.1.jar")
_METEOR = Path("meteor", "meteor-1.5.jar")
_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BETWEEN = " ||| "


class _AbsentError(Exception):
    """METEOR cannot be had; the message says why."""


def meteor_1_5(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> tuple[float | None, str]:
    """Corpus METEOR 1.5, or why there is none.

    Args:
        predictions: ``(N,)`` texts, N >= 1; an empty one matches nothing.
        references: ``(N,)`` lists of at least one text.
        timeout_seconds: after which the program is stopped, > 0.

    Returns:
        METEOR in [0, 1] with the variant in words; or None with ``absent: `` and the reason:
        Java or the package is missing, or the program failed.

    Source:
        Denkowski and Lavie 2014 (WMT), by the program and options of the COCO caption
        evaluation, Chen et al. 2015, arXiv:1504.00325.
    Differs:
        An empty reference beside others is left out, and so is a ``|||``, which the program
        takes for the end of a text.
    """
    try:
        java, home = _tools()
        words = _prepared([*predictions, *_flat(references)], java, home, timeout_seconds)
        lines = _score_lines(words, [len(texts) for texts in references])
        return _score(lines, java, home, timeout_seconds), NOTE
    except _AbsentError as reason:
        return None, f"absent: {reason}"


def _tools() -> tuple[str, Path]:
    java = shutil.which("java")
    if java is None:
        raise _AbsentError("no java on the PATH, and METEOR 1.5 is a Java program")
    package = importlib.util.find_spec(_PACKAGE)
    for place in (package.submodule_search_locations or []) if package else []:
        if (Path(place) / _METEOR).is_file() and (Path(place) / _TOKENIZER).is_file():
            return java, Path(place)
    raise _AbsentError(
        f"METEOR 1.5's program comes with {_PACKAGE}, which is not installed "
        "(pip install 'sparsetune[meteor]')"
    )


def _flat(lists: Sequence[Sequence[str]]) -> list[str]:
    return [text for texts in lists for text in texts]


def _prepared(texts: Sequence[str], java: str, home: Path, timeout_seconds: float) -> list[str]:
    """Tokenise the texts with the Java tokeniser, one line each, and drop punctuation."""
    # One line in must be one line out, so that no kind of line break may stay in a text.
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    command = [
        java, "-Dfile.encoding=UTF-8", "-cp", str(home / _TOKENIZER),
        "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, input=lines.encode("utf-8", "replace"), capture_output=True,
            timeout=timeout_seconds, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _AbsentError(f"the tokeniser did not run: {error}") from None
    told = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode or len(told) != len(texts):
        raise _AbsentError(
            f"the tokeniser gave {len(told)} lines for {len(texts)} (exit {done.returncode}: "
            f"{_first_line(done.stderr)})"
        )
    return [_words(line) for line in told]


def _words(line: str) -> str:
    return " ".join(word for word in line.split() if word not in _DROPPED and "|||" not in word)


def _score_lines(words: Sequence[str], reference_counts: Sequence[int]) -> list[str]:
    """Write what the program reads: references, then prediction, of each example."""
    lines, first = [], len(reference_counts)
    for prediction, count in zip(words, reference_counts, strict=False):
        texts = [text for text in words[first : first + count] if text] or [""]
        lines.append(_BETWEEN.join(["SCORE", *texts, prediction]))
        first += count
    return lines


def _score(lines: Sequence[str], java: str, home: Path, timeout_seconds: float) -> float:
    """Ask for the statistics of every example, then for the score of all together."""
    command = [
        java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(home / _METEOR),
        "-", "-", "-stdio", "-l", "en", "-norm",
    ]  # fmt: skip
    with _talking_to(command, timeout_seconds) as ask:
        statistics = [ask(line) for line in lines]
        told = ask(_BETWEEN.join(["EVAL", *statistics]), answers=len(lines) + 1)
    try:
        value = float(told)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise _AbsentError(f"METEOR's program gave {told!r} for the corpus, not a fraction")
    return value


class _Dialogue:
    """A running program that answers each line with lines of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        self._asked = 0

    def __call__(self, line: str, *, answers: int = 1) -> str:
        """Write a line and give the last of the lines that come back."""
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise _AbsentError("METEOR's program has no pipes")
        self._asked += 1
        told = b""
        try:
            to.write(line.encode("utf-8", "replace") + b"\n")
            to.flush()
            for _ in range(answers):
                told = back.readline()
        except OSError:
            told = b""
        if not told:
            self._errors.seek(0)
            why = _first_line(self._errors.read()) or "without a message, or stopped for its time"
            raise _AbsentError(f"METEOR's program ended at line {self._asked}: {why}")
        return told.decode("utf-8", "replace").strip()


@contextlib.contextmanager
def _talking_to(command: Sequence[str], timeout_seconds: float) -> Iterator[_Dialogue]:
    # Messages go to a file: an unread pipe would fill up and stop the program.
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as error:
            raise _AbsentError(f"METEOR's program did not start: {error}") from None
        watchdog = threading.Timer(timeout_seconds, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield _Dialogue(process, errors)
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()


def _first_line(message: bytes) -> str:
    lines = message.decode("utf-8", "replace").strip().splitlines()
    return lines[0].strip() if lines else ""

"""ROUGE-L, CIDEr and METEOR as the COCO caption scripts have them, by ``pycocoevalcap``.

The package is an extra (``pip install 'sparsetune[nlg]'``). Its scorers take words; its own way
to them is a Java program, so that the words of ROUGE-L and CIDEr are cut here. METEOR is a Java
program with tables beside it. What is not there has no value, and the reason is told.
"""

import importlib.util
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sparsetune.evaluation.metrics.registry import Form, Outcome, mean_form, metric

TIMEOUT_SECONDS = 1800.0  # for METEOR's program

_PACKAGE = "pycocoevalcap"
_ABSENT = f"absent: {_PACKAGE} is not installed (pip install 'sparsetune[nlg]')"
_NOTE = "as COCO's and E2E's scripts; PTB words by own rules, lower case, no punctuation"
_METEOR_NOTE = (
    "METEOR 1.5, -l en -norm, by its Java program; PTB words by Stanford CoreNLP 3.4.1, lower "
    "case, without punctuation, as COCO's and E2E's scripts prepare them"
)
_TOKENIZER_JAR = Path("tokenizer", "stanford-corenlp-3.4.1.jar")
_METEOR_JAR = Path("meteor", "meteor-1.5.jar")

_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""What the scripts drop; brackets stay, since the scripts look for them in upper case."""
_RENAMED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "£": "#", "€": "$", "&amp;": "&", '"': "''", "½": "1/2", "¼": "1/4", "¾": "3/4",
    "\u2026": "...", "\u2013": "--", "\u2014": "--",
    "\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": "''",
    "cannot": "can not", "gonna": "gon na", "wanna": "wan na", "gotta": "got ta",
    "gimme": "gim me", "lemme": "lem me",
}  # fmt: skip
_ABBREVIATIONS = (
    "adm|asst|ave|bldg|blvd|brig|bros|capt|cmdr|co|col|corp|dept|dist|dr|etc|ft|gen|gov|hon|inc|jr"
    "|lt|ltd|maj|messrs|mlle|mme|mr|mrs|ms|mt|ph|pres|prof|rd|rep|rev|sen|sgt|sr|st|supt|univ|vs"
    "|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec|mon|tues|tue|wed|thurs|thu|fri"
)
_APOSTROPHE = "['\u2019]"
_CLITIC = rf"{_APOSTROPHE}(?:s|m|d|re|ve|ll)(?!\w)"
_TOKEN = re.compile(
    rf"""
      &amp;
    | (?:{_ABBREVIATIONS})\.(?!\w)              # Mr.
    | (?<!\w)(?:[^\W\d_]\.)+(?:[^\W\d_](?!\w))? # U.S.A.
    | [^\W\d_]+\.(?=,)                          # a stop before a comma can only abbreviate
    | --+
    | \w+?(?=n{_APOSTROPHE}t(?!\w))             # do, of don't
    | n{_APOSTROPHE}t(?!\w)
    | {_CLITIC}
    | (?-i:[A-Z\d]+/[A-Z\d]+)(?![\w/])          # 3/5, HIV/AIDS
    | (?<![\w/])[-+]?(?:\d+(?:[.,:]\d+)*|\.\d+)(?![\w-])
    | \w+(?:-\w+)+
    | \w+?(?={_CLITIC})
    | \w+{_APOSTROPHE}\w+                       # d'oeuvres
    | \w+
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


class _AbsentError(Exception):
    """METEOR cannot be had; the message says why."""


def ptb_words(text: str) -> str:
    """Lower-case Penn Treebank words of an English text, without punctuation.

    Args:
        text: one sentence or more.

    Returns:
        The words with blanks between; brackets and currency signs by their Treebank names.

    Source:
        The conventions of Marcus et al. 1993 (Computational Linguistics 19), as Stanford's
        PTBTokenizer 3.4.1 applies them with ``-preserveLines -lowerCase`` in the COCO caption
        evaluation, and the punctuation that this evaluation drops.
    Differs:
        No URLs, and fewer abbreviations. Compared with the Java program: all 4,693 references
        of E2E's test set agree, as do all but 4 of the 42,061 training texts; of WebNLG 2017's
        4,928 test texts, 203 (4 %) differ, mostly where no blank follows a full stop.

    Example:
        >>> ptb_words("It isn't (really) family-friendly: £20.")
        "it is n't -lrb- really -rrb- family-friendly # 20"
    """
    tokens = [token.lower() for token in _TOKEN.findall(text)]
    words = [_RENAMED.get(token, token) for token in tokens]
    return " ".join(word for word in words if word not in _DROPPED)


def _rouge_of_each(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    return [
        float(scorer.calc_score([ptb_words(prediction)], [ptb_words(text) for text in texts]))
        for prediction, texts in zip(predictions, references, strict=True)
    ]


def _rouge_form(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    return mean_form(_rouge_of_each(predictions, references))


@metric("coco_rouge_l_fraction", form=_rouge_form)
def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Outcome:
    """Mean over examples of COCO's ROUGE-L, which favours recall (beta 1.2).

    For each example, the longest common subsequence with every reference gives a precision and
    a recall; the best of each, even if they belong to different references, are combined.

    Returns:
        ROUGE-L in [0, 1].

    Source:
        Lin 2004 (ACL workshop), as in the COCO caption evaluation, Chen et al. 2015,
        arXiv:1504.00325.
    Differs:
        The words are those of :func:`ptb_words`, which are not the Java tokeniser's in rare
        cases. Not the ROUGE-L of summarisation, which takes one reference for both.
    """
    if not _installed():
        return Outcome(None, _ABSENT)
    scores = _rouge_of_each(predictions, references)
    return Outcome(sum(scores) / len(scores), _NOTE)


@metric("coco_cider_score")
def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Outcome:
    """Mean over examples of COCO's CIDEr (the one its authors call CIDEr-D).

    N-grams of one to four words weigh by how few examples have them in their references; the
    score is 10 times the mean cosine with the references, with counts clipped and a penalty on
    unequal length.

    Returns:
        CIDEr in [0, 10]: no fraction. Undefined over one example, where every n-gram is everywhere
        and weighs nothing, and where no reference has a word.

    Source:
        Vedantam et al. 2015, arXiv:1411.5726, as in the COCO caption evaluation, Chen et al.
        2015, arXiv:1504.00325: lengths in the penalty are counted in word pairs, not in words.
    Differs:
        The words are those of :func:`ptb_words`, which are not the Java tokeniser's in rare
        cases.
    """
    if not _installed():
        return Outcome(None, _ABSENT)
    if len(predictions) < 2:
        return Outcome(None, "undefined: over one example every n-gram is in all of them")
    from pycocoevalcap.cider.cider import Cider

    words = {n: [ptb_words(text) for text in texts] for n, texts in enumerate(references)}
    if not any(text for texts in words.values() for text in texts):
        return Outcome(None, "undefined: no reference has a word")
    said = {n: [ptb_words(prediction)] for n, prediction in enumerate(predictions)}
    return Outcome(float(Cider().compute_score(words, said)[0]), _NOTE)


@metric("meteor_1_5_fraction")
def meteor(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Outcome:
    """Corpus METEOR 1.5, or why there is none.

    Args:
        predictions: ``(N,)`` texts; an empty one matches nothing.
        references: ``(N,)`` lists of at least one text.
        timeout_seconds: after which each of the two programs is stopped, > 0.

    Returns:
        METEOR in [0, 1] with the variant in words; or None with ``absent: `` and the reason:
        Java or the package is missing, or the program failed.

    Source:
        Denkowski and Lavie 2014 (WMT), by the program and options of the COCO caption
        evaluation, Chen et al. 2015, arXiv:1504.00325.
    Differs:
        The program reads files, where the package's class talks to it line by line without a
        time limit; the value is the same. An empty reference beside others is left out.
    """
    try:
        return Outcome(_meteor(predictions, references, timeout_seconds), _METEOR_NOTE)
    except _AbsentError as reason:
        return Outcome(None, f"absent: {reason}")


def _meteor(
    predictions: Sequence[str], references: Sequence[Sequence[str]], timeout_seconds: float
) -> float:
    flat = [*predictions, *(text for texts in references for text in texts)]
    lines = _java_words(flat, timeout_seconds)
    said, rest = lines[: len(predictions)], lines[len(predictions) :]
    accepted, most = [], max(map(len, references))
    for texts in references:
        own, rest = [line for line in rest[: len(texts)] if line] or [""], rest[len(texts) :]
        accepted += own + own[-1:] * (most - len(own))  # as many for each; the best one counts
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("said", "accepted")]
        for file, content in zip(files, (said, accepted), strict=True):
            file.write_text("".join(line + "\n" for line in content), encoding="utf-8")
        value = _java(
            ["-Xmx2G", "-jar", str(_program_folder() / _METEOR_JAR), *map(str, files),
             "-l", "en", "-norm", "-r", str(most), "-q"],
            "",
            timeout_seconds,
        ).strip()  # fmt: skip
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise _AbsentError(f"METEOR's program gave {value[:60]!r} for the corpus, not a fraction")
    return score


def _java_words(texts: Sequence[str], timeout_seconds: float) -> list[str]:
    """What :func:`ptb_words` gives, by the Java tokeniser itself."""
    told = _java(
        ["-cp", str(_program_folder() / _TOKENIZER_JAR), "edu.stanford.nlp.process.PTBTokenizer",
         "-preserveLines", "-lowerCase"],
        # One line in must be one line out, so that no kind of line break may stay in a text.
        "".join(" ".join(text.split()) + "\n" for text in texts),
        timeout_seconds,
    ).split("\n")[:-1]  # fmt: skip
    if len(told) != len(texts):
        raise _AbsentError(f"the tokeniser gave {len(told)} lines for {len(texts)}")
    return [" ".join(word for word in line.split() if word not in _DROPPED) for line in told]


def _installed() -> bool:
    return importlib.util.find_spec(_PACKAGE) is not None


def _program_folder() -> Path:
    if shutil.which("java") is None:
        raise _AbsentError("no java on the PATH, and METEOR 1.5 is a Java program")
    package = importlib.util.find_spec(_PACKAGE)
    for place in (package.submodule_search_locations or []) if package else []:
        if (Path(place) / _METEOR_JAR).is_file() and (Path(place) / _TOKENIZER_JAR).is_file():
            return Path(place)
    raise _AbsentError(_ABSENT.removeprefix("absent: "))


def _java(options: Sequence[str], lines: str, timeout_seconds: float) -> str:
    """Run a Java program on lines of text; give what it prints."""
    try:
        done = subprocess.run(
            ["java", "-Dfile.encoding=UTF-8", *options], input=lines.encode("utf-8", "replace"),
            capture_output=True, timeout=timeout_seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _AbsentError(f"the program did not end in {timeout_seconds:g} seconds") from None
    except OSError as error:
        raise _AbsentError(f"the program did not start: {error}") from None
    if done.returncode:
        message = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise _AbsentError(f"the program failed with exit {done.returncode}: {message[0].strip()}")
    return done.stdout.decode("utf-8", "replace")

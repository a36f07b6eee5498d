"""Pages of studies: tables of contrasts, from the kept results of suites alone.

The answer in words is written by hand and is never touched here.
"""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsetune.config.metric import scale_of
from sparsetune.config.study import Contrast, Study
from sparsetune.errors import DataError
from sparsetune.reporting.contents import REFERENCE_METHOD
from sparsetune.reporting.intervals import Interval, over_seeds
from sparsetune.reporting.load import deviation_of, mean_of
from sparsetune.reporting.render import (
    ABSENT,
    Column,
    number_column,
    percent,
    rendered,
    spread_text,
    text_column,
)
from sparsetune.reporting.results import digest_of_records, ran_text

Data = dict[str, Any]
UNANSWERED = "Not answered yet."
NO_RESULTS = "No results kept yet."

_ANSWER = "## Answer\n"
_MARKED = re.compile(
    r"(<!-- contrasts of study (?P<study>[a-z0-9.-]+): .*? -->\n)(?P<block>.*?)"
    r"(<!-- end of contrasts -->)",
    flags=re.S,
)
_NOTES = (
    "*Difference*: left less right, points of the primary metric, with the 95 % interval of "
    "Student's t over the differences of the same seed; **bold** where it excludes zero. One seed, "
    "or differences that are all alike, tell no noise. No interval is corrected for how many there "
    "are.",
    "± is the standard deviation over the seeds that both sides have, and all tasks of a mean.",
    "*Training %*: multiply-adds of left's search and training in % of right's. *Trained %*: "
    "parameters that train, without the task head, in % of the model's, left / right. Both are "
    f"counted beside `{REFERENCE_METHOD}` and not known where the suite lacks it.",
    "*Records*: digests of both sides' records, as on the suite's page.",
)


def rows_of(contrast: Contrast, data: Data) -> list[Data]:
    """What one suite's kept results say of a contrast.

    Args:
        contrast: of a study.
        data: of a suite, as :func:`sparsetune.reporting.results.data_of` makes it.

    Returns:
        A row for each backbone and task that both methods have finished with a seed in common,
        and after the tasks of a backbone, where there are several, their mean (task None): over
        the seeds that all of them share. Scores are as stored, seed by seed.
    """
    cells = {(one["backbone"], one["task"], one["method"]): one for one in data["cells"]}
    found: dict[str, list[Data]] = {}
    for backbone, task, method in cells:
        if method == contrast.left and contrast.holds_on(backbone, task):
            right = cells.get((backbone, task, contrast.right))
            row = right and _row(cells[backbone, task, method], right)
            if row:
                found.setdefault(backbone, []).append(row)
    return [row for rows in found.values() for row in (*rows, *_mean(rows))]


def _row(left: Data, right: Data) -> Data | None:
    """One backbone and task; None if no seed has both scores."""
    sides = [_by_seed(one) for one in (left, right)]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    if not seeds:
        return None
    return {
        "backbone": left["backbone"],
        "task": left["task"],
        "metric": left["metric"],
        "seeds": seeds,
        "scores": [[side[seed][0] for seed in seeds] for side in sides],
        "records": [[side[seed][1] for seed in seeds] for side in sides],
        "training": _training(left, right),
        "trained": (left["trained_fraction"], right["trained_fraction"]),
    }


def _by_seed(cell: Data) -> dict[int, tuple[float, Mapping[str, str]]]:
    parts = zip(cell["seeds"], cell["scores"], cell["records"], strict=True)
    return {seed: (score, record) for seed, score, record in parts if score is not None}


def _training(left: Data, right: Data) -> float | None:
    """Multiply-adds of left's training as a share of right's, from what both save of full's."""
    saved = [
        0.0 if one["method"] == REFERENCE_METHOD else one["training_macs_saved_fraction"]
        for one in (left, right)
    ]
    return None if None in saved else (1 - saved[0]) / (1 - saved[1])


def _mean(rows: Sequence[Data]) -> Iterator[Data]:
    """The mean over the tasks of one backbone, seed by seed; nothing for a single task."""
    seeds = sorted(set.intersection(*(set(row["seeds"]) for row in rows)))
    if len(rows) < 2 or not seeds:
        return
    sides: list[list[float]] = []
    records: list[list[Mapping[str, str]]] = []
    for side in (0, 1):
        chosen = [
            [(row["scores"][side][at], row["records"][side][at])
             for at in (row["seeds"].index(seed) for seed in seeds)]
            for row in rows
        ]  # fmt: skip
        sides.append(
            [statistics.fmean(one[0] for one in same) for same in zip(*chosen, strict=True)]
        )
        records.append([one[1] for row in chosen for one in row])
    yield {
        "backbone": rows[0]["backbone"], "task": None, "metric": None, "tasks": len(rows),
        "seeds": seeds, "scores": sides, "records": records,
        "training": _mean_of_all([row["training"] for row in rows]),
        "trained": tuple(_mean_of_all([row["trained"][at] for row in rows]) for at in (0, 1)),
    }  # fmt: skip


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    return None if None in values else mean_of(values)


def difference_of(row: Data) -> Interval | None:
    """The interval of a row's paired differences; None where seeds tell no noise.

    That is with one seed, and where all differences are alike: a spread of nothing is chance.

    Args:
        row: of :func:`rows_of`.
    """
    left, right = row["scores"]
    differences = [a - b for a, b in zip(left, right, strict=True)]
    if len(differences) < 2 or max(differences) - min(differences) < 1e-12:
        return None
    return over_seeds([differences])


def block_of(study: Study, results: Mapping[str, Data]) -> str:
    """The block of a study's page, in Markdown.

    Args:
        study: of the catalogue.
        results: suite -> its kept data; what is missing has not been run.
    """
    lines = []
    for name in study.suites:
        told = "no results kept yet."
        if name in results:
            told = f"{ran_text(results[name])} [All results](../results/{name}.md)."
        lines.append(f"- Suite `{name}`: {told}")
    for contrast in study.contrasts:
        lines += ["", f"### {contrast.left} less {contrast.right}", "", contrast.says, ""]
        rows = [
            (name, row)
            for name in study.suites
            if name in results
            for row in rows_of(contrast, results[name])
        ]
        lines.append(rendered(_columns(rows), "md").rstrip("\n") if rows else NO_RESULTS)
    return "\n".join([*lines, "", *(f"- {note}" for note in _NOTES), ""])


def _columns(rows: Sequence[tuple[str, Data]]) -> list[Column]:
    found = [row for _, row in rows]
    return [
        text_column("suite", "", [f"`{name}`" for name, _ in rows]),
        text_column("backbone", "", [row["backbone"] for row in found]),
        text_column("task", "", [_task(row) for row in found]),
        *(
            Column(side, [_score(row["scores"][at]) for row in found])
            for at, side in enumerate(("left %", "right %"))
        ),
        Column("difference", [_difference(row) for row in found]),
        number_column("seeds", "", [len(row["seeds"]) for row in found]),
        number_column("training %", "", [row["training"] for row in found], percent),
        Column("trained %", [_trained(*row["trained"]) for row in found]),
        text_column("records", "", [
            " ".join(f"`{digest_of_records(side)}`" for side in row["records"]) for row in found
        ]),
    ]  # fmt: skip


def _task(row: Data) -> str:
    if row["task"] is None:
        return f"mean of {row['tasks']}"
    return f"{row['task']} ({scale_of(row['metric']).heading})"


def _score(scores: Sequence[float]) -> str:
    return spread_text(statistics.fmean(scores), deviation_of(scores), percent)


def _difference(row: Data) -> str:
    left, right = row["scores"]
    mean = f"{100 * (statistics.fmean(left) - statistics.fmean(right)):+z.1f}"
    interval = difference_of(row)
    if interval is None:
        return f"{mean} [{ABSENT}]"
    low, high = interval.ends
    if low > 0 or high < 0:
        mean = f"**{mean}**"
    return f"{mean} [{100 * low:+z.1f}, {100 * high:+z.1f}]"


def _trained(*shares: float | None) -> str:
    texts = [ABSENT if share is None else f"{100 * share:.2f}" for share in shares]
    return texts[0] if texts[0] == texts[1] else " / ".join(texts)


def page_of(name: str, study: Study, results: Mapping[str, Data], text: str | None) -> str:
    """A study's page with title, question and block as they are now.

    Args:
        name: of the study.
        study: its content.
        results: suite -> its kept data.
        text: of the page as it is; None = there is none, and its answer is to be written.

    Raises:
        DataError: the page lacks its answer's heading or its marks, or has another study's.
    """
    marks = f"<!-- contrasts of study {name}: written by `make results`, not by hand -->\n"
    if text is None:
        text = f"{_ANSWER}\n{UNANSWERED}\n\n## Contrasts\n\n{marks}<!-- end of contrasts -->\n"
    below = text[text.index(_ANSWER) :] if _ANSWER in text else ""
    found = _MARKED.search(below)
    if not found or found["study"] != name:
        raise DataError(
            f"page of study {name}: received no '## Answer' or no marks of it below; allowed: "
            f"both, {marks.strip()} and <!-- end of contrasts -->"
        )
    block = block_of(study, results)
    below = _MARKED.sub(lambda one: f"{one[1]}{block}{one[4]}", below, count=1)
    return f"# {study.title}\n\n{study.question}\n\n{below}"


def index_of(studies: Mapping[str, Study], pages: Mapping[str, str]) -> str:
    """The page that leads to all studies, with the first sentence of each answer.

    Args:
        studies: name -> content.
        pages: name -> text of its page.
    """
    columns = [
        text_column("study", "", [f"[{one.title}]({name}.md)" for name, one in studies.items()]),
        text_column("question", "", [one.question for one in studies.values()]),
        text_column("answer", "", [_first_sentence(pages[name]) for name in studies]),
    ]
    return "\n".join([
        "# Studies", "",
        "One question each, answered by contrasts over [suites that have been run]"
        "(../results/index.md). A study is a file of `config/studies/`; `make results` writes its "
        "numbers, a person its answer.", "",
        rendered(columns, "md"),
    ])  # fmt: skip


def _first_sentence(page: str) -> str:
    answer = page.partition(_ANSWER)[2].strip().partition("\n\n")[0]
    return re.split(r"(?<=[.!?])\s", " ".join(answer.split()), maxsplit=1)[0]

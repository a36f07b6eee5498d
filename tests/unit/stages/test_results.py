"""The results that the repository keeps: made from records, and the pages that follow from them."""

import json
import shutil
import xml.etree.ElementTree as ET

import pytest
from unit.reporting.runs import scoring, write_run

from sparsetune.cli import main
from sparsetune.config.load import Catalogue
from sparsetune.config.study import read_studies
from sparsetune.records import read_json
from sparsetune.reporting import studies
from sparsetune.reporting.results import block_of, index_of, page_of, shown_suite, with_block

README = "# x\n<!-- results of mini: told -->\n<!-- end of results -->\n"


def kept(folder):
    """Stem -> data, of the suites whose results a folder keeps."""
    return {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}


def test_page_data_and_readme_of_the_repository_agree(repository):
    folder = repository / "docs" / "results"
    suites = kept(folder)
    for name, data in suites.items():
        assert (folder / f"{name}.md").read_text(encoding="utf-8") == page_of(data)
        ET.parse(folder / f"{name}.svg")
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert index == index_of(suites.values())
    assert {path.stem for path in folder.glob("*.md")} == {"index", *suites}
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert readme == with_block(readme, block_of(suites.get(shown_suite(readme))))


def test_pages_of_the_repositorys_studies_follow_from_its_results(repository):
    folder = repository / "docs" / "studies"
    asked = read_studies(repository / "config" / "studies", Catalogue(repository / "config"))
    results = kept(repository / "docs" / "results")
    pages = {name: (folder / f"{name}.md").read_text(encoding="utf-8") for name in asked}
    for name, study in asked.items():
        assert pages[name] == studies.page_of(name, study, results, pages[name]), name
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert index == studies.index_of(asked, pages)
    assert {path.stem for path in folder.glob("*.md")} == {"index", *asked}


@pytest.fixture
def project(repository, tmp_path, monkeypatch):
    """A folder with the records of a part of the default suite, and a README with marks."""
    monkeypatch.chdir(tmp_path)
    for method, score in (("full", 0.8), ("lora", 0.9)):
        write_run(tmp_path / "results" / "mini", method, seed=1, edit=scoring(score))
    (tmp_path / "README.md").write_text(README)
    catalogue = ["--catalogue", str(repository / "config")]
    return [
        "results", "--results", "results", "--output", "pages", "--readme", "README.md", *catalogue
    ]  # fmt: skip


def test_the_command_writes_page_data_figure_list_and_readme(project, tmp_path, capsys):
    assert main(project) == 0
    assert capsys.readouterr().out == "pages/mini.md: 2 runs\n"
    names = {path.name for path in (tmp_path / "pages").iterdir()}
    assert names == {"index.md", "mini.md", "mini.json", "mini.svg"}
    assert "| `lora`   |" in (tmp_path / "README.md").read_text()
    data = read_json(tmp_path / "pages" / "mini.json")
    assert (data["runs_count"], data["planned_runs_count"]) == (2, 74)
    before = {path.name: path.read_bytes() for path in (tmp_path / "pages").iterdir()}
    assert main(project) == 0
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "pages").iterdir()}


def test_a_suite_without_a_dense_run_has_no_figure(project, tmp_path, recwarn):
    shutil.rmtree(tmp_path / "results/mini/runs/mini-bert/mini-sst2/full")
    assert main(project) == 0
    names = {path.name for path in (tmp_path / "pages").iterdir()}
    assert names == {"index.md", "mini.md", "mini.json"}
    assert not [one for one in recwarn if "ylim" in str(one.message)]


def test_a_figure_is_readable_on_a_dark_page_too(project, tmp_path):
    assert main(project) == 0
    text = (tmp_path / "pages" / "mini.svg").read_text()
    assert "@media (prefers-color-scheme: dark)" in text
    assert "fill: #fefefe" in text  # its own ground


def test_a_suite_that_was_not_run_here_keeps_its_page(project, tmp_path):
    assert main(project) == 0
    other = read_json(tmp_path / "pages" / "mini.json") | {"suite": "other"}
    (tmp_path / "pages" / "other.json").write_text(json.dumps(other))
    assert main(project) == 0
    index = (tmp_path / "pages" / "index.md").read_text()
    assert "[mini](mini.md)" in index
    assert "[other](other.md)" in index


@pytest.mark.parametrize("content", ["{}", "[]", '{"suite": "other", "where": 3}'])
def test_kept_data_of_another_form_are_refused_by_name(project, tmp_path, capsys, content):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "other.json").write_text(content)
    assert main(project) == 2
    assert "pages/other.json: not as this version writes it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["other.json"]


def test_unfinished_runs_and_those_that_no_suite_asks_for_are_left_out(project, tmp_path):
    runs = tmp_path / "results" / "mini"
    half = write_run(runs, "dsee", seed=1)
    (half / "cost.json").unlink()
    write_run(runs, "full", seed=7)
    write_run(tmp_path / "results" / "own", "full", seed=1)
    assert main(project) == 0
    data = read_json(tmp_path / "pages" / "mini.json")
    assert {(cell["method"], *cell["seeds"]) for cell in data["cells"]} == {
        ("full", 1),
        ("lora", 1),
    }
    assert read_json(tmp_path / "pages" / "own.json")["planned_runs_count"] is None


@pytest.mark.parametrize(
    ("readme", "told"), [("no marks\n", "no marks"), (None, "--readme: received README.md")]
)
def test_what_is_wrong_is_told_in_a_line_before_anything_is_written(
    project, tmp_path, capsys, readme, told
):
    (tmp_path / "README.md").unlink()
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert main(project) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "pages").exists()


def test_results_without_a_finished_run_are_refused(project, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    project[2] = "empty"
    assert main(project) == 2
    assert "--results: empty: received no suite with a finished run" in capsys.readouterr().err


@pytest.fixture
def answering(project, tmp_path):
    """The command that writes the pages of studies, too, and the page of one with two runs."""
    for method, score in (("full", 0.8), ("lora", 0.7)):
        folder = tmp_path / "results" / "study-low-rank"
        write_run(folder, method, task="mini-cola", seed=1, edit=scoring(score))
    return [*project, "--studies", "studies"], tmp_path / "studies" / "low-rank.md"


def test_the_command_writes_blocks_of_studies_and_leaves_answers(answering, tmp_path):
    command, page = answering
    assert main(command) == 0
    text = page.read_text()
    assert studies.UNANSWERED in text
    assert "- Suite `study-low-rank`: 2 of 54 runs" in text
    page.write_text(text.replace(studies.UNANSWERED, "Where they see too little."))
    assert main(command) == 0
    assert page.read_text() == text.replace(studies.UNANSWERED, "Where they see too little.")
    assert "| Where they see too little. |" in (tmp_path / "studies" / "index.md").read_text()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe", "--studies: received studies/low-rank.md: cannot be read: 'utf-8'"),
        (b"# A page\n", "page of study low-rank: received no '## Answer' or no marks"),
        (b"## Answer\n\nYes.\n", "page of study low-rank: received no '## Answer'"),
    ],
)
def test_a_damaged_page_of_a_study_is_told_in_a_line_before_anything_is_written(
    answering, tmp_path, capsys, content, told
):
    command, page = answering
    page.parent.mkdir()
    page.write_bytes(content)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert page.read_bytes() == content
    assert not (tmp_path / "pages").exists()


def test_kept_data_that_studies_cannot_read_are_refused_in_a_line(answering, tmp_path, capsys):
    command, _ = answering
    assert main(command) == 0
    data = read_json(tmp_path / "pages" / "mini.json") | {"suite": "e2e"}
    for one in data["cells"]:
        one["task"] = "e2e"
        del one["seeds"]
    (tmp_path / "pages" / "e2e.json").write_text(json.dumps(data))
    assert main(command) == 2
    assert "pages: not as this version writes it (KeyError('seeds'))" in capsys.readouterr().err

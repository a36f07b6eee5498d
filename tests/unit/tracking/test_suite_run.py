from unit.tracking.runs import KEY, client_of, live, runs_of

from sparsetune.tracking import prepare
from sparsetune.tracking.suite_run import Standing, SuitePages, publish_suite

GROUP = ("tiny", "rte")


def pages(folder, *, score=80.0, overview=""):
    parent = Standing({"score_percent_mean/lora": score}, f"mean {score}", {"methods.md": "| a |"})
    rooms = {"tables": [folder / "tables"], "": [folder / "claims.md", folder / "report.html"]}
    return SuitePages("", [(*GROUP, "lora")], {GROUP: parent}, Standing(note=overview), rooms)


def suite_files(folder):
    (folder / "tables/tiny").mkdir(parents=True)
    (folder / "tables/headline.md").write_text("| all |")
    (folder / "tables/tiny/rte.md").write_text("| rte |")
    (folder / "claims.md").write_text("holds")


def runs_with(results, tag):
    return [run for run in all_runs(results) if tag in run.data.tags]


def all_runs(results):
    client = client_of(results)
    return client.search_runs([client.get_experiment_by_name("mini").experiment_id])


def files_of(results, run, room=None):
    return [one.path for one in client_of(results).list_artifacts(run.info.run_id, room)]


def test_parent_shows_the_last_means_and_keeps_its_children(results, tmp_path):
    prepare(results, "mini", [GROUP])
    live(results)
    for score in (80.0, 82.0, 81.0):
        assert publish_suite(results, "mini", pages(tmp_path, score=score)) == ()
    (parent,) = runs_with(results, "sparsetune.parent")
    assert parent.data.metrics == {"score_percent_mean/lora": 81.0}
    assert parent.data.tags["mlflow.note.content"] == "mean 81.0"
    assert files_of(results, parent) == ["methods.md"]
    (child,) = [run for run in runs_of(results) if run.info.run_name == KEY.text]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_suite_has_one_run_with_what_is_there_and_gains_what_comes_later(results, tmp_path):
    prepare(results, "mini", [GROUP])
    suite_files(tmp_path)
    publish_suite(results, "mini", pages(tmp_path))
    (first,) = runs_with(results, "sparsetune.suite_run")
    assert files_of(results, first) == ["claims.md", "tables"]
    assert files_of(results, first, "tables") == ["tables/headline.md", "tables/tiny"]
    (tmp_path / "report.html").write_text("<p>")
    publish_suite(results, "mini", pages(tmp_path, overview="all in one"))
    (again,) = runs_with(results, "sparsetune.suite_run")
    assert again.info.run_id == first.info.run_id
    assert files_of(results, again) == ["claims.md", "report.html", "tables"]
    assert (again.info.run_name, again.info.status) == ("suite mini", "FINISHED")
    assert again.data.tags["mlflow.note.content"] == "all in one"


def test_same_pages_are_written_once(results, tmp_path, monkeypatch):
    prepare(results, "mini", [GROUP])
    suite_files(tmp_path)
    publish_suite(results, "mini", pages(tmp_path))
    written, client = [], type(client_of(results))
    for name in ("log_artifact", "log_artifacts", "log_batch", "set_tag", "create_run"):
        monkeypatch.setattr(client, name, lambda *given, name=name, **more: written.append(name))
    assert publish_suite(results, "mini", pages(tmp_path)) == ()
    assert written == []


def test_trouble_with_one_thing_stops_no_other(results, tmp_path, monkeypatch):
    prepare(results, "mini", [GROUP])
    suite_files(tmp_path)

    def full(*_, **__):
        raise OSError("disk is full")

    monkeypatch.setattr(type(client_of(results)), "log_artifact", full)
    problems = publish_suite(results, "mini", pages(tmp_path))
    assert problems == ("tiny/rte: OSError: disk is full", "suite mini: OSError: disk is full")
    (suite,) = runs_with(results, "sparsetune.suite_run")
    assert files_of(results, suite) == ["tables"]
    monkeypatch.undo()
    assert publish_suite(results, "mini", pages(tmp_path)) == ()
    assert files_of(results, suite) == ["claims.md", "tables"]

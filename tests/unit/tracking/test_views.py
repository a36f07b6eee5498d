import json

from unit.tracking.runs import client_of

from sparsetune.tracking.client import experiments, prepare
from sparsetune.tracking.publish import publish_experiment
from sparsetune.tracking.views import VIEW_TAG, VIEWS, VIEWS_HERE, links, view_links, within_limit

METHODS = [("tiny", "rte", "full"), ("tiny", "rte", "lora")]


def state_of(name, groups=()):
    view = next(view for view in VIEWS if view.id == name)
    return json.loads(json.dumps(view.state(groups)))


def test_runs_open_on_who_they_are_and_the_four_headline_numbers():
    state, numbers = state_of("runs"), VIEWS[0].metrics
    assert numbers == (
        "score_percent", "macs_effective_percent", "parameters_trained", "time_saved_percent"
    )  # fmt: skip
    shown = [("tags", name) for name in ("backbone", "task", "method")]
    shown += [*(("metrics", name) for name in numbers), ("tags", "metric"), ("tags", "seed")]
    assert state["selectedColumns"] == [f"{kind}.`{name}`" for kind, name in shown]
    assert state["searchFilter"] == "tags.stage = 'tune'"


def test_methods_open_folded_unless_they_are_too_many_for_a_tag():
    grouped = state_of("methods", METHODS)
    keys = [key["groupByData"] for key in grouped["groupBy"]["groupByKeys"]]
    assert keys == ["backbone", "task", "method"]
    line = "tag.backbone.tiny,tag.task.rte,tag.method"
    assert grouped["groupsExpanded"] == {f"{line}.full": False, f"{line}.lora": False}
    many = [("roberta-large", "mnli-mismatched", f"earlybert-heads-{n}") for n in range(1000)]
    for view in VIEWS:
        for groups in (many, many[:150]):
            assert len(json.dumps(json.dumps(view.state(groups)))) < 18_000


def test_charts_set_score_against_every_cost():
    cards = state_of("charts")["compareRunCharts"]
    assert [card["xaxis"]["key"] for card in cards] == list(VIEWS[0].metrics[1:])
    assert {card["yaxis"]["key"] for card in cards} == {"score_percent"}
    assert "compareRunsMode=CHART" in VIEWS[2].page("1")


def test_experiment_gets_views_and_description_once(results, monkeypatch):
    prepare(results, "mini", [])
    publish_experiment(results, "mini", f"Two runs. Open: {VIEWS_HERE}", METHODS)
    (experiment,) = [one for one in experiments(results) if one.name == "mini"]
    tags = experiment.tags
    stored = json.loads(tags[f"{VIEW_TAG}runs"])
    assert (stored["name"], json.loads(stored["state"])) == ("Runs", state_of("runs"))
    told = tags["mlflow.note.content"]
    assert told == f"Two runs. Open: {view_links(experiment.experiment_id)}"
    assert "[Methods](#/experiments/" in told

    written = []
    monkeypatch.setattr(
        type(client_of(results)), "set_experiment_tag", lambda *given: written.append(given)
    )
    publish_experiment(results, "mini", f"Two runs. Open: {VIEWS_HERE}", METHODS)
    assert written == []


def test_links_name_each_suite_and_view(results):
    prepare(results, "mini", [])
    assert links(experiments(results), "http://127.0.0.1:5000") == []
    publish_experiment(results, "mini", "", METHODS)
    found = [one for one in experiments(results) if one.name == "mini"]
    title, first, *_ = links(found, "http://127.0.0.1:5000/")
    assert title == "Suite mini:"
    page = VIEWS[0].page(found[0].experiment_id)
    assert first.split() == ["Runs:", f"http://127.0.0.1:5000/{page}"]


def test_long_descriptions_keep_whole_lines():
    told = within_limit("\n".join(["x" * 100] * 200))
    assert len(told) <= 8000
    assert set(told.splitlines()) == {"x" * 100, "…"}
    assert within_limit("a\nb") == "a\nb"

import pytest

from sparsetune.reporting.contents import entry_of


@pytest.mark.parametrize(
    ("name", "category", "labels"),
    [
        ("tables/headline.html", "1 Headline", {"table": "headline"}),
        ("claims.html", "2 Claims", {"page": "claims"}),
        ("claims-forest.svg", "2 Claims", {"page": "claims-forest"}),
        ("figures/pareto-mini-bert.svg", "3 Pareto view", {"figure": "pareto-mini-bert"}),
        ("tables/{backbone}/{task}.html", "6 Tables", {"table": "{backbone}/{task}"}),
        ("figures/curves/b/t.svg", "8 Training curves", {"backbone": "b", "task": "t"}),
    ],
)
def test_results_have_their_place(name, category, labels):
    entry = entry_of(name)
    assert (entry.category, entry.labels) == (category, labels)


@pytest.mark.parametrize("name", ["tables/headline.csv", "runs/a.json", "figures/pareto.html"])
def test_other_files_are_not_shown(name):
    assert entry_of(name) is None


def test_every_caption_is_there_and_every_figure_has_one(repository):
    from sparsetune.config.load import Catalogue
    from sparsetune.config.reading import read_yaml
    from sparsetune.stages.figures import INTERACTIVE, figure_names

    config = read_yaml(repository / "config" / "config.yaml")
    suite = Catalogue(repository / "config").suite(config, origin="config.yaml")
    for name in set(figure_names(suite)) - {INTERACTIVE}:  # on the landing page, not in the menu
        caption = entry_of(f"figures/{name}").caption
        assert (repository / "workflow" / "report" / f"{caption}.rst").is_file()

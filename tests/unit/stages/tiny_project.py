"""A tiny task and backbone, and every stage of their runs, called as the rules call them."""

from unit.stages.tiny_catalogue import suite_config

from sparsetune.config.load import Catalogue
from sparsetune.config.suite import Limits
from sparsetune.stages.backbone import make_backbone
from sparsetune.stages.context import Context
from sparsetune.stages.cost import count_cost
from sparsetune.stages.dataset import make_dataset
from sparsetune.stages.evaluate import evaluate
from sparsetune.stages.support import make_support
from sparsetune.stages.ticket import TicketJob, make_ticket
from sparsetune.stages.tune import TunePaths, tune

LIMITS = Limits(train_examples=None, evaluation_examples=None)
TASK = "mini-sst2"


class TinyProject:
    """Folders as the workflow has them; data set and backbone are made at once."""

    def __init__(self, root, config, *, backbone="mini-bert"):
        self.root, self.catalogue = root, Catalogue(config)
        self.results, self.folder = root / "results", root / "results" / "tiny"
        self.dataset = root / "resources" / "datasets" / TASK
        self.backbone = root / "resources" / "backbones" / backbone
        lock = root / "lock.yaml"
        make_dataset(self.catalogue.task(TASK), self.dataset, Context(), lock_file=lock)
        recipe, context = self.catalogue.backbone(backbone), self.context("pretraining")
        make_backbone(recipe, self.backbone, context, lock_file=lock)

    def suite_of(self, *methods, **changes):
        config = {**suite_config(*methods), **changes}
        config["runs"][0]["backbones"] = [self.backbone.name]
        return self.catalogue.suite(config, origin="test")

    def context(self, name, **given):
        return Context("cpu", checkpoints=self.root / name, **given)

    def run(self, method):
        return self.folder / "runs" / self.backbone.name / TASK / method / "seed-1"

    def support_file(self, spec):
        if spec.support is None:
            return None
        place = self.folder / "support" / self.backbone.name / spec.support.id
        path = place / "support.safetensors"
        if not path.exists():
            make_support(
                spec.support, spec.backbone, Context(), suite="tiny",
                backbone_directory=self.backbone, output=place,
            )  # fmt: skip
        return path

    def ticket_file(self, spec):
        if spec.ticket is None:
            return None
        path = self.folder / "tickets" / spec.ticket_path / "ticket.json"
        if not path.exists():
            self.draw(spec.ticket.id, path.parent)
        return path

    def draw(self, ticket, output, *, seed=1):
        ids = (self.backbone.name, TASK, seed)
        job = TicketJob.of(self.catalogue, ticket, suite="tiny", ids=ids, limits=LIMITS)
        inputs = (self.dataset, self.backbone)
        make_ticket(job, self.context("search"), inputs=inputs, output=output)

    def tune(self, spec, *, output=None, results=None, context=None):
        paths = TunePaths(
            dataset=self.dataset, backbone=self.backbone, results=results,
            output=output or self.run(spec.method.id), support=self.support_file(spec),
            ticket=self.ticket_file(spec),
        )  # fmt: skip
        tune(spec, paths, context or self.context("checkpoints"))

    def evaluate(self, spec):
        run = self.run(spec.method.id)
        places = {"dataset": self.dataset, "backbone": self.backbone, "run": run, "output": run}
        evaluate(spec, Context(), **places)

    def count(self, spec, *, run=None, ticket=None, output=None):
        run = run or self.run(spec.method.id)
        ticket = ticket or self.ticket_file(spec)
        places = {"backbone": self.backbone, "run": run, "output": output or run}
        count_cost(spec, Context(), ticket=ticket, **places)

    def finish(self, spec, **given):
        self.tune(spec, **given)
        self.evaluate(spec)
        self.count(spec)

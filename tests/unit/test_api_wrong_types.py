"""Things of a wrong kind at every public function: each is one line of ours, none passes unseen."""

import dataclasses
import tempfile

import pytest
import torch
from torch import nn
from unit.tiny import tiny_batch, tiny_model

import sparsetune
from sparsetune import DseeConfig, Ticket, TicketSearch
from sparsetune.errors import SparsetuneError

CONFIG = DseeConfig(rank=3, n_sparse=4, support="magnitude")
BATCH = {**tiny_batch(), "labels": torch.tensor([0, 1, 2])}


class Quantised(nn.Module):
    """As libraries of 8-bit weights have it: a projection that is no ``nn.Linear``."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("weight", (linear.weight.detach() * 10).to(torch.int8))
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() / 10, self.bias)


class QuantisedLinear(nn.Linear):
    """Or one derived from it."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features)
        whole = (linear.weight.detach() * 10).to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)


def bert():
    return tiny_model("bert")


def changed(change):
    model = bert()
    change(model.bert.encoder.layer[1])
    return model


def quantised(kind):
    def change(layer):
        layer.attention.self.query = kind(layer.attention.self.query)
        layer.output.dense = kind(layer.output.dense)

    return changed(change)


MODELS = {
    "None": lambda: None,
    "text": lambda: "bert",
    "number": lambda: 5,
    "dict": dict,
    "class": lambda: type(bert()),
    "config": lambda: bert().config,
    "linear": lambda: nn.Linear(2, 2),
    "sequential": lambda: nn.Sequential(bert()),
    "data parallel": lambda: nn.DataParallel(bert()),
    "compiled": lambda: torch.compile(bert(), backend="eager"),
    "meta": lambda: bert().to("meta"),
    "part on meta": lambda: changed(lambda layer: layer.to("meta")),
    "quantised": lambda: quantised(Quantised),
    "quantised linear": lambda: quantised(QuantisedLinear),
    "two dtypes": lambda: changed(lambda layer: layer.to(torch.bfloat16)),
}
DO = {
    "apply_dsee": lambda model, folder: sparsetune.apply_dsee(model, CONFIG),
    "random_ticket": lambda model, folder: sparsetune.random_ticket(model),
    "shrink": lambda model, folder: sparsetune.shrink(model, sparsetune.random_ticket(bert())),
    "prune": lambda model, folder: sparsetune.prune(model, 0.5),
    "save": lambda model, folder: sparsetune.save(model, folder / "saved"),
    "load": lambda model, folder: sparsetune.load(folder / "update", model),
    "detach": lambda model, folder: sparsetune.detach(model),
    "merge": lambda model, folder: sparsetune.merge(model, "dense"),
    "disabled": lambda model, folder: sparsetune.disabled(model).__enter__(),
    "unmerge": lambda model, folder: sparsetune.unmerge(model),
    "use": lambda model, folder: sparsetune.use(model, "mine"),
    "summary": lambda model, folder: sparsetune.summary(model),
    "trainable_parameters": lambda model, folder: sparsetune.trainable_parameters(model),
    "export_onnx": lambda model, folder: sparsetune.export_onnx(model, folder / "model.onnx"),
    "TicketSearch": lambda model, folder: TicketSearch(model),
    "search_ticket": lambda model, folder: sparsetune.search_ticket(model, [BATCH] * 2, stop=2),
}
COUNTED = {"meta", "part on meta", "quantised", "quantised linear", "two dtypes"}
WORKS = {
    "random_ticket": COUNTED,  # only sizes are looked at
    "trainable_parameters": COUNTED,
    "summary": {"quantised", "quantised linear", "two dtypes"},
    "shrink": {"meta", "part on meta", "two dtypes"},  # nothing is computed
    "apply_dsee": {"two dtypes"},
    "prune": {"two dtypes"},
    "TicketSearch": {"two dtypes"},  # that the model cannot compute is seen by who computes
}
PAIRS = {(name, kind) for name in DO for kind in MODELS}
PAIRS -= {("load", "None")}  # it asks for the base that the folder names
PAIRS -= {("export_onnx", "quantised")}  # works, after comparing the file with the model
PAIRS = sorted(PAIRS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("saved")
    sparsetune.save(sparsetune.apply_dsee(bert(), CONFIG), made / "update")
    return made


def test_every_public_function_is_tried():
    kinds = (type, SparsetuneError)
    functions = {
        name
        for name in sparsetune.__all__
        if callable(getattr(sparsetune, name)) and not isinstance(getattr(sparsetune, name), kinds)
    }
    assert DO.keys() == functions | {"TicketSearch"}


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_what_is_no_usable_model_is_refused_in_one_line(name, kind, folder):
    if kind in WORKS.get(name, ()):
        DO[name](MODELS[kind](), folder)
        return
    with pytest.raises(SparsetuneError) as caught:
        DO[name](MODELS[kind](), folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "saved").exists()


def told_of(call, value):
    """The refusal of a value; empty if it is taken. Any error but ours goes on."""
    try:
        call(value)
    except SparsetuneError as error:
        return str(error)
    return ""


def of(call, *names):
    """One call for each argument that gets the value."""
    return {name: (lambda value, name=name: call(**{name: value})) for name in names}


def loaded(**options):
    with tempfile.TemporaryDirectory() as folder:
        sparsetune.save(sparsetune.apply_dsee(bert(), CONFIG), folder)
        return sparsetune.load(folder, bert(), **options)


def drawn(**options):
    return TicketSearch(bert()).ticket(**options)


TICKET = sparsetune.random_ticket(bert()).model_dump()
ARGUMENTS = {
    "apply_dsee": of(lambda config: sparsetune.apply_dsee(bert(), config), "config"),
    "random_ticket": of(
        lambda **given: sparsetune.random_ticket(bert(), **given), "heads", "neurons", "seed"
    ),
    "shrink": of(lambda ticket: sparsetune.shrink(bert(), ticket), "ticket"),
    "prune": of(
        lambda **given: sparsetune.prune(bert(), **{"sparsity": 0.5, **given}),
        "sparsity", "score", "pools", "pattern", "seed",
    ),
    "save": of(lambda folder: sparsetune.save(bert(), folder), "folder"),
    "load": of(sparsetune.load, "folder"),
    "load, an update": {
        name: (lambda value, name=name: loaded(**{name: value}))
        for name in ("name", "check_frozen")
    },
    "apply_dsee, more": of(
        lambda **given: sparsetune.apply_dsee(bert(), CONFIG, **given), "name", "progress"
    ),
    "use": of(
        lambda name: sparsetune.use(sparsetune.apply_dsee(bert(), CONFIG, name="own"), name), "name"
    ),
    "merge": of(
        lambda policy: sparsetune.merge(sparsetune.apply_dsee(bert(), CONFIG), policy), "policy"
    ),
    "summary": of(lambda tokens: sparsetune.summary(bert(), tokens), "tokens"),
    "export_onnx": of(lambda path: sparsetune.export_onnx(bert(), path), "path"),
    "search_ticket": of(
        lambda **given: sparsetune.search_ticket(
            bert(), **{"batches": [BATCH], "stop": 1, **given}
        ),
        "batches", "heads", "neurons", "stop", "learning_rate", "penalty", "every", "seed",
    )
    | of(lambda batch: sparsetune.search_ticket(bert(), [batch], stop=1), "batch")
    | of(lambda ids: sparsetune.search_ticket(bert(), [{**BATCH, "input_ids": ids}]), "ids"),
    "TicketSearch": of(
        lambda **given: TicketSearch(bert(), **given),
        "penalties", "draw", "every", "last", "window", "epsilon",
    )
    | of(lambda number: TicketSearch(bert()).step(number), "number")
    | of(lambda state: TicketSearch(bert()).load_state(state), "state")
    | {
        f"ticket.{name}": (lambda value, name=name: drawn(**{name: value}))
        for name in ("draw", "heads", "neurons", "label", "end")
    },
    "Ticket": of(lambda **given: Ticket(**TICKET | given), *TICKET)
    | of(lambda save: Ticket(**TICKET).save(save), "save")
    | of(lambda load: Ticket.load(load), "load"),
    "DseeConfig": of(DseeConfig, *(one.name for one in dataclasses.fields(CONFIG) if one.init)),
}  # fmt: skip
VALUES = (
    None, "", "a\0b", 5, -1, 0.5, float("nan"), float("inf"), True, [], {}, (1,), [None], {1: 2},
    b"x", object(), lambda: 0, torch.ones(3), torch.tensor(0.5), nn.Linear(2, 2), 10**18,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "argument"), [(name, one) for name, given in ARGUMENTS.items() for one in given]
)
def test_what_is_no_value_of_an_argument_is_refused_in_one_line(
    name, argument, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    told = [told_of(ARGUMENTS[name][argument], value) for value in VALUES]
    assert any(told)
    assert not any("\n" in one for one in told)

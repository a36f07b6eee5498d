"""EarlyBERT at the API: our loop, and those of others, on anyone's batches."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from unit.tiny import HEADS, KINDS, LAYERS, WIDTH, output_of, tiny_batch, tiny_config, tiny_model

import sparsetune
from sparsetune import DseeConfig, Ticket, TicketSearch
from sparsetune.architectures.anatomy import Anatomy
from sparsetune.errors import ConfigError, ModelError, TrainingError

DSEE = DseeConfig(rank=3, n_sparse=11, support="random")
RATE = 1e-3


def batches(count, *, labels=3):
    made = [tiny_batch(seed=number) for number in range(count)]
    drawn = torch.Generator().manual_seed(5)
    return [{**one, "labels": torch.randint(labels, (3,), generator=drawn)} for one in made]


def still(kind="bert"):
    """A model without dropout: other loops draw their masks elsewhere."""
    model = tiny_model(kind)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("kind", KINDS)
def test_our_loop_gives_a_ticket_and_leaves_the_model_and_the_generators(kind):
    model = tiny_model(kind).eval()
    model.requires_grad_(False)
    before, drawn = state_of(model), torch.get_rng_state()
    ticket = sparsetune.search_ticket(model, batches(4), heads=0.5, learning_rate=RATE, stop=4)
    assert same(before, state_of(model))
    assert torch.equal(drawn, torch.get_rng_state())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    # By hand: 2 of 4 heads in each layer; 80 neurons less floor(0.4 * 80 + 0.5).
    assert [len(row) for row in ticket.kept_heads] == [2] * LAYERS
    assert sum(len(row) for row in ticket.kept_neurons) == 48
    assert (ticket.heads, ticket.neurons, ticket.origin) == (HEADS, WIDTH, "search")
    assert (ticket.search.steps, ticket.search.rule, ticket.search.fixed_step) == (4, "fixed", 4)


def test_the_same_seed_and_batches_give_the_same_ticket_and_another_seed_other_dropout():
    model = tiny_model("bert")

    def found(seed):
        loader = DataLoader(batches(6), batch_size=None, shuffle=True)
        return sparsetune.search_ticket(model, loader, learning_rate=RATE, stop=6, seed=seed)

    first = found(1)
    torch.manual_seed(77)
    assert found(1) == first
    assert found(2).kept_neurons != first.kept_neurons


def test_a_search_ends_when_the_masks_have_settled_or_with_the_batches(caplog):
    model = still()
    options = {"learning_rate": RATE, "heads": 0.5, "neurons": 0.1, "every": 2}
    settled = sparsetune.search_ticket(model, iter(batches(80)), **options).search
    assert settled.rule == "settled"
    assert settled.settled_step == settled.steps < 80
    assert not caplog.records
    short = sparsetune.search_ticket(model, batches(3), **options).search
    assert (short.steps, short.settled_step) == (3, None)
    assert "have not settled in 3 batches" in caplog.text


def own_loop(model, given):
    search = TicketSearch(model, every=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    model.train()
    for batch in given:
        (model(**batch).loss + search.penalty()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        search.step()
    search.detach()
    return search.ticket(heads=0.5)


def with_accelerate(model, given):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    search = TicketSearch(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    loader = DataLoader(given, batch_size=None)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    for batch in loader:
        accelerator.backward(model(**batch).loss + search.penalty())
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        search.step()
    search.detach()
    return search.ticket(heads=0.5)


def with_trainer(model, given, folder):
    from transformers import Trainer, TrainingArguments

    search = TicketSearch(model)

    class Searching(Trainer):
        def compute_loss(self, *inputs, **options):
            return super().compute_loss(*inputs, **options) + search.penalty()

        def get_train_dataloader(self):
            return DataLoader(given, batch_size=None)

    arguments = TrainingArguments(
        folder, learning_rate=RATE, lr_scheduler_type="constant", max_steps=len(given),
        optim="adamw_torch", save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Searching(model, arguments, train_dataset=given).train()
    search.detach()
    return search.ticket(heads=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_loop_finds_the_same_ticket_in_the_same_batches(kind, tmp_path):
    given, model = batches(8), still(kind)
    ours = sparsetune.search_ticket(model, given, heads=0.5, learning_rate=RATE, stop=8)
    kept = (ours.kept_heads, ours.kept_neurons)
    for loop, options in ((own_loop, ()), (with_accelerate, ()), (with_trainer, (tmp_path,))):
        found = loop(copy.deepcopy(model), given, *options)
        assert (found.kept_heads, found.kept_neurons) == kept, loop.__name__


@pytest.mark.parametrize("kind", KINDS)
def test_a_detached_search_leaves_no_trace(kind):
    model = tiny_model(kind)
    next(model.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    names, before = list(model.state_dict()), output_of(model, tiny_batch())
    own = {path: set(vars(module)) for path, module in model.named_modules()}
    search = TicketSearch(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    search.detach()
    search.detach()
    assert {path: set(vars(module)) for path, module in model.named_modules()} == own
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert list(model.state_dict()) == names
    assert torch.equal(output_of(model, tiny_batch()), before)
    assert len(search.ticket(heads=0.25, neurons=0.0).kept_heads[0]) == 3
    TicketSearch(model)  # a new one may come


def test_nothing_that_would_break_a_search_is_done_while_it_is_attached(tmp_path):
    model = tiny_model("bert")
    ticket = sparsetune.random_ticket(model)
    search = TicketSearch(model)
    for attempt, message in (
        (lambda: TicketSearch(model), "TicketSearch: a ticket search is attached to this Bert"),
        (lambda: sparsetune.search_ticket(model, batches(1)), "search_ticket: a ticket search is"),
        (lambda: sparsetune.apply_dsee(model, DSEE), "apply_dsee: a ticket search is attached"),
        (lambda: sparsetune.shrink(model, ticket), "shrink: a ticket search is attached"),
        (lambda: sparsetune.save(model, tmp_path), r"save: .*; needed: its detach\(\) first"),
        (lambda: model.save_pretrained(tmp_path), r"save_pretrained: .*save_strategy='no'"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    search.detach()
    model.save_pretrained(tmp_path)


def test_a_search_beside_updates_is_refused():
    lora = get_peft_model(tiny_model("bert"), LoraConfig(target_modules=["query"]))
    for model in (sparsetune.apply_dsee(tiny_model("bert"), DSEE), lora):
        with pytest.raises(ModelError, match=r"query is wrapped already"):
            TicketSearch(model)
        assert not hasattr(model, "early_gates")


UNLABELLED = [{name: one[name] for name in ("input_ids", "attention_mask")} for one in batches(1)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stop": 0}, ConfigError, "stop: received 0; allowed: 'settled', or a whole number"),
        ({"stop": "soon"}, ConfigError, "stop: received 'soon'; allowed: 'settled'"),
        ({"stop": 9}, ConfigError, "stop: received 9; allowed: up to the 2 batches"),
        ({"heads": 1.0}, ConfigError, r"search_ticket: heads: received 1.0, allowed: .0, 1"),
        ({"neurons": "a"}, ConfigError, r"search_ticket: neurons: received 'a', allowed: .0, 1"),
        ({"seed": 1.5}, ConfigError, "seed: received 1.5; allowed: a whole number, 0 or more"),
        ({"learning_rate": "a"}, ConfigError, "learning_rate: received 'a'; allowed: a number ab"),
        ({"batches": 5}, ConfigError, "batches: received 5; allowed: an iterable"),
        (
            {"learning_rate": 0.0},
            ConfigError,
            "learning_rate: received 0.0; allowed: a number above 0",
        ),
        ({"penalty": -1.0}, ConfigError, "penalty: received -1.0; allowed: a number, 0 or more"),
        ({"every": 0}, ConfigError, "every: received 0; allowed: a whole number, 1 or more"),
        ({"seed": -1}, ConfigError, "seed: received -1; allowed: a whole number, 0 or more"),
        ({"batches": iter(batches(2)), "stop": 3}, ModelError, "batches: received 2; needed: 3"),
        ({"batches": []}, ModelError, "batches: received 0; needed: 1"),
        ({"batches": [[1]]}, ModelError, "batches: received a list; needed: tensors by name"),
        ({"batches": [{"input_ids": [1]}]}, ModelError, r"input_ids: received \[1\]; needed: a te"),
        ({"batches": UNLABELLED}, ModelError, "gives no loss; needed: labels in every batch"),
    ],
)
def test_what_a_search_cannot_use_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message) as caught:
        sparsetune.search_ticket(tiny_model("bert"), **{"batches": batches(2), **options})
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_ends_the_search():
    model = tiny_model("bert")
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(TrainingError, match="search_ticket: batch 0: the loss is nan"):
        sparsetune.search_ticket(model, batches(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_ticket_goes_through_a_file_and_shrinks_the_model(kind, tmp_path):
    model = tiny_model(kind)
    ticket = sparsetune.random_ticket(model, heads=0.5, neurons=0.4, seed=3)
    assert sparsetune.random_ticket(model, heads=0.5, neurons=0.4, seed=3) == ticket
    assert sparsetune.random_ticket(model, heads=0.5, neurons=0.4, seed=4) != ticket
    ticket.save(str(tmp_path / "ticket.json"))
    assert Ticket.load(str(tmp_path / "ticket.json")) == ticket
    assert sparsetune.shrink(model, ticket) is model
    anatomy = Anatomy.of(model)
    assert [anatomy.heads(n) for n in range(LAYERS)] == [2, 2]
    sparsetune.save(model, tmp_path / "small")
    again = sparsetune.load(tmp_path / "small")
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))


def test_a_ticket_needs_no_labels_and_tells_its_sizes():
    kept = {"kept_heads": ((0,), (1, 2)), "kept_neurons": ((0,), (1,))}
    ticket = Ticket(heads=HEADS, neurons=WIDTH, origin="random", **kept)
    assert repr(ticket) == "Ticket(heads [1, 2] of 4, neurons [1, 1] of 40, origin random)"
    sparsetune.shrink(tiny_model("gpt2"), ticket)
    fewer = ticket.model_copy(update={"kept_layers": (1,)})
    assert repr(fewer).startswith("Ticket(layers 1 of 2, heads")
    small = sparsetune.shrink(tiny_model("bert"), fewer)
    assert Anatomy.of(small).layers == 1


MADE = {
    "heads": 4, "neurons": 3, "kept_heads": [range(2)], "kept_neurons": [[1]], "origin": "random",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heads": "4"}, ConfigError, "ticket: heads: received '4'; allowed: an integer"),
        ({"heads": 0}, ConfigError, "ticket: heads: received 0; allowed: a number >= 1"),
        ({"neurons": None}, ConfigError, "ticket: neurons: received None; allowed: an integer"),
        ({"origin": "serch"}, ConfigError, "allowed: search, random, layers; did you mean 'search"),
        ({"kept_heads": "ab"}, ConfigError, "kept_heads: received 'ab'; allowed: a list"),
        (
            {"kept_heads": [[True]]},
            ConfigError,
            r"kept_heads\.0\.0: received True; allowed: an int",
        ),
        ({"kept_heads": [[2, 1]]}, ModelError, "layer 0: kept heads are not strictly increasing"),
        ({"kept_heads": []}, ModelError, "ticket has heads for 0 layers but neurons for 1"),
        ({"kept_heads": [], "kept_neurons": []}, ModelError, "ticket is for 0 layers; needed: at"),
        ({"kept_layers": 3}, ConfigError, "kept_layers: received 3; allowed: a list"),
        ({"kept_layers": [9]}, ModelError, r"kept layers 9\.\.9; the model has 0\.\.0"),
        ({"search": {}}, ConfigError, "ticket: search: missing key 'steps'"),
        ({"hads": 3}, ConfigError, "unknown key 'hads'; allowed: backbone, .*did you mean 'heads'"),
    ],
)
def test_a_ticket_made_by_hand_is_checked_in_one_line(change, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        Ticket(**MADE | change)
    assert "\n" not in str(caught.value)
    made = Ticket(**MADE)
    assert made.kept_heads == ((0, 1),)
    made.save(tmp_path / "ticket.json")
    assert Ticket.load(tmp_path / "ticket.json") == copy.deepcopy(made) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: EOF while parsing"),
        ('{"heads": 4', "not JSON: EOF"),
        ("[1]", r"received \[1\]; allowed: a mapping"),
        ("{}", "missing key 'heads'"),
        ('{"heads": 2}', "missing key 'neurons'"),
        ("\x00", "not JSON"),
    ],
)
def test_a_file_that_is_no_ticket_is_told_in_one_line(text, message, tmp_path):
    path = tmp_path / "ticket.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=f"ticket.json: ticket: .*{message}") as caught:
        Ticket.load(path)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_not_shrunk():
    model = tiny_model("bert")
    kept = {"kept_heads": ((0,),), "kept_neurons": ((0,),)}
    other = Ticket(heads=HEADS, neurons=WIDTH, origin="random", **kept)
    before = state_of(model)
    with pytest.raises(ModelError, match=r"^ticket is for 1 layers of 4 heads"):
        sparsetune.shrink(model, other)
    with pytest.raises(
        ConfigError, match=r"ticket: received a dict; allowed: a sparsetune\.Ticket"
    ):
        sparsetune.shrink(model, {})
    with pytest.raises(ConfigError, match="seed: received -1; allowed: a whole number, 0 or more"):
        sparsetune.random_ticket(model, seed=-1)
    assert same(before, state_of(model))
    config = tiny_config("gpt2")
    config.scale_attn_by_inverse_layer_idx = True
    scaled = type(tiny_model("gpt2"))(config)
    ticket = sparsetune.random_ticket(scaled).model_copy(update={"kept_layers": (0,)})
    before = state_of(scaled)
    with pytest.raises(ModelError, match="no layer can be removed"):
        sparsetune.shrink(scaled, ticket)
    assert same(before, state_of(scaled))
    sparsetune.shrink(model, sparsetune.random_ticket(model))
    neurons = {"kept_heads": ((0,), (1, 2)), "kept_neurons": ((0,), (1, 2))}
    uneven = sparsetune.shrink(
        tiny_model("bert"), Ticket(heads=HEADS, neurons=WIDTH, origin="random", **neurons)
    )
    with pytest.raises(ModelError, match=r"random_ticket: heads: received \[1, 2\]; needed: one"):
        sparsetune.random_ticket(uneven)


def test_what_is_wrong_is_told_in_one_line_wherever_it_is_given(tmp_path):
    model, search = tiny_model("bert"), TicketSearch(tiny_model("bert"))
    ticket = sparsetune.random_ticket(model)
    for attempt, error, message in (
        (lambda: TicketSearch(model, every=0), ConfigError, "every: received 0; allowed: a whole"),
        (lambda: TicketSearch(model, penalties=(1, -1)), ConfigError, "penalties: received -1; al"),
        (lambda: search.ticket(heads=2), ConfigError, "TicketSearch.ticket: heads: received 2, al"),
        (search.history, ModelError, r"no check of the coefficients yet; needed: its step\(\)"),
        (lambda: sparsetune.random_ticket(model, heads="a"), ConfigError, "heads: received 'a', a"),
        (lambda: ticket.save(tmp_path), ModelError, r"a folder; needed: .*ticket\.json"),
        (lambda: Ticket.load(tmp_path), ModelError, "cannot read the ticket"),
        (lambda: sparsetune.save(model, __file__), ModelError, "a file; needed: a folder"),
        (
            lambda: sparsetune.search_ticket("bert", []),
            ModelError,
            "received a str; needed: a model",
        ),
    ):
        with pytest.raises(error, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)

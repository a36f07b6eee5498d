"""Rules between the keys of one catalogue file that its schema cannot say.

Each function yields pairs (holds, what to tell otherwise); ``catalog`` adds the file's name and
raises the first that does not hold. Imports no torch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sparsetune.config.metric import scale_of

Rule = tuple[bool, str]
GENERATED_PREFIX = "mini-"
TEXT_SOURCES = ("world", "text", "hub-text")
# Masks that are drawn in a prune phase, and the updates under which they can be.
_UPDATES_UNDER = {"unstructured": ("dsee", "full"), "n-of-m": ("dsee", "full"), "heads": ("dsee",)}
# Layouts whose files hold one kind of example; those not named hold classes.
_KINDS_OF_LAYOUTS = {
    "stsb": "regression",
    "squad": "span",
    **dict.fromkeys(("e2e", "webnlg", "dart"), "generation"),
}
# Of a layout ``table``: columns that each kind needs, and those that it may have besides.
_COLUMNS_OF_KINDS = {
    "classification": ({"texts", "label"}, set()),
    "regression": ({"texts", "label"}, set()),
    "span": ({"question", "context", "answers"}, {"id"}),
    "generation": ({"source", "references"}, set()),
}
_GREBSMO_KEYS = {"rounds", "inner_rounds", "rank_growth", "threshold"}


def backbone_rules(raw: Mapping[str, Any]) -> Iterator[Rule]:
    """Rules of a backbone: pre-trained here, or fetched, never both."""
    recipe = raw.get("pretraining")
    yield (
        (raw["source"]["kind"] in TEXT_SOURCES) == (recipe is not None),
        f"pretraining: needed by source.kind {', '.join(TEXT_SOURCES)}, and only there",
    )
    if recipe is None:
        return
    causal = raw["architecture"] == "gpt2"
    yield (
        (recipe["objective"] == "causal") == causal,
        "pretraining.objective: gpt2 needs causal, bert and roberta need masked",
    )
    yield (
        ("masked_fraction" in recipe) != causal,
        "pretraining.masked_fraction: needed by objective masked, and only there",
    )
    published = recipe["tokenizer"]["kind"] == "published"
    for key, wanted in (("backbone", published), ("vocabulary_size", not published)):
        yield (
            (key in recipe["tokenizer"]) == wanted,
            f"pretraining.tokenizer.{key}: {'needed by' if key == 'backbone' else 'not for'} kind "
            "published" + (", and only there" if key == "backbone" else ", needed by all others"),
        )
    yield from _phase_rules(recipe["phases"], recipe["shape"]["maximum_positions"])
    if "early" in recipe:
        yield from _early_rules(recipe)


def lender_rules(raw: Mapping[str, Any], architecture: str) -> Iterator[Rule]:
    """Rules of a backbone whose tokenizer another one takes."""
    kind = raw["source"]["kind"]
    yield (
        kind in ("hub", "mirror") and raw["architecture"] == architecture,
        f"its tokenizer cannot be lent to {architecture}: source.kind {kind}, architecture "
        f"{raw['architecture']}; allowed: hub or mirror, {architecture}",
    )


def _phase_rules(phases: Sequence[Mapping[str, Any]], positions: int) -> Iterator[Rule]:
    names = [phase["name"] for phase in phases]
    yield (
        len(names) == len(set(names)),
        f"pretraining.phases: names must differ, got {', '.join(names)}",
    )
    for index, phase in enumerate(phases):
        where = f"pretraining.phases.{index}"
        yield ("steps" in phase) != ("epochs" in phase), f"{where}: needs steps or epochs, not both"
        yield (
            phase["block_tokens"] <= positions,
            f"{where}.block_tokens: got {phase['block_tokens']}, allowed: up to "
            f"shape.maximum_positions, {positions}",
        )


def _early_rules(recipe: Mapping[str, Any]) -> Iterator[Rule]:
    early, first = recipe["early"], recipe["phases"][0]
    yield (
        early["stop_steps"] <= first.get("steps", early["stop_steps"]),
        f"pretraining.early.stop_steps: got {early['stop_steps']}, the first phase has "
        f"{first.get('steps')} steps",
    )
    heads = recipe["shape"]["heads"]
    yield (
        # The count that is removed is rounded half up.
        math.floor(early["head_sparsity"] * heads + 0.5) < heads,
        f"pretraining.early.head_sparsity: got {early['head_sparsity']}, which leaves none of "
        f"{heads} heads",
    )


def task_rules(raw: Mapping[str, Any], task_id: str) -> Iterator[Rule]:
    """Rules of a task: what its kind needs, and the name of a generated one."""
    for key, kind in (
        ("labels", "classification"),
        ("generation", "generation"),
        ("window_stride_tokens", "span"),
    ):
        yield (raw["kind"] == kind) == (key in raw), f"{key}: needed by kind {kind}, and only there"
    yield (
        raw.get("window_stride_tokens", 0) < raw["maximum_tokens"],
        "window_stride_tokens: must be smaller than maximum_tokens",
    )
    yield (
        (raw["source"]["kind"] == "world") == task_id.startswith(GENERATED_PREFIX),
        f"the id of a generated task, and no other, begins with {GENERATED_PREFIX!r}",
    )
    headline = scale_of(raw["metrics"][0])
    # Tables, claims and figures set points of it beside each other, and up is better.
    yield (
        headline.factor == 100 and not headline.lower_is_better,
        f"metrics: the first is the headline: got {raw['metrics'][0]}, need one that is better "
        "when higher and printed in percent",
    )
    yield from _layout_rules(raw)


def _layout_rules(raw: Mapping[str, Any]) -> Iterator[Rule]:
    """Rules between a task's layout and what else it says."""
    layout, kind = raw["layout"], raw["kind"]
    for key in ("columns", "splits"):
        yield (layout == "table") == (key in raw), f"{key}: needed by layout table, and only there"
    yield (
        layout == "webnlg" or "evaluation_part" not in raw,
        f"evaluation_part: not for layout {layout}; allowed with webnlg",
    )
    if layout != "table":
        held = _KINDS_OF_LAYOUTS.get(layout, "classification")
        yield kind == held, f"kind: got {kind}; layout {layout} holds kind {held}"
        return
    needed, spare = _COLUMNS_OF_KINDS[kind]
    given = raw["columns"].keys()
    yield (
        needed <= given <= needed | spare,
        f"columns: got {', '.join(sorted(given)) or 'none'}; kind {kind} needs "
        f"{', '.join(sorted(needed))}"
        + (f" and may have {', '.join(sorted(spare))}" if spare else ""),
    )
    yield (
        raw["evaluation_split"] in raw["splits"],
        f"evaluation_split: got {raw['evaluation_split']}; splits has {', '.join(raw['splits'])}",
    )
    yield raw["source"]["kind"] != "world", "source.kind: layout table cannot be generated"


def method_rules(raw: Mapping[str, Any]) -> Iterator[Rule]:
    """Rules of a method: its update, mask and phases must fit together."""
    names = [phase["name"] for phase in raw["phases"]]
    yield len(names) == len(set(names)), f"phases: names must differ, got {', '.join(names)}"
    yield (
        raw["start"] == "pretrained" or raw["update"]["kind"] == "full",
        "start random needs update.kind full",
    )
    yield (
        any(phase["kind"] == "train" for phase in raw["phases"]),
        "phases: at least one must train",
    )
    yield from _update_rules(raw["update"], raw["phases"])
    yield from _mask_rules(raw["mask"], raw["update"]["kind"])
    prunes = [phase for phase in raw["phases"] if phase["kind"] == "prune"]
    yield from _prune_rules(prunes, raw["mask"]["kind"])


def method_task_rules(raw: Sequence[Mapping[str, Any]], kind: str) -> Iterator[Rule]:
    """Rules between a method's phases and the kind of a task."""
    for phase in raw:
        yield (
            not phase.get("label_smoothing") or kind in ("classification", "generation"),
            f"phases: {phase['name']}: label_smoothing: got {phase.get('label_smoothing')} for a "
            f"task of kind {kind}, which has no classes; allowed there: 0",
        )


def _mask_rules(mask: Mapping[str, Any], update: str) -> Iterator[Rule]:
    kind, allowed = mask["kind"], _UPDATES_UNDER.get(mask["kind"])
    yield (
        allowed is None or update in allowed,
        f"mask.kind {kind}: got update.kind {update}, needs {' or '.join(allowed or ())}",
    )
    yield (
        update != "full" or mask.get("score", "weight") == "weight",
        f"mask.score: got {mask.get('score')}; update.kind full has no update beside the weights, "
        "allowed: weight",
    )
    yield (
        mask.get("pools") != "one" or mask["adapted_sparsity"] == mask["rest_sparsity"],
        "mask.pools one has one ratio: adapted_sparsity and rest_sparsity must be equal, got "
        f"{mask.get('adapted_sparsity')} and {mask.get('rest_sparsity')}",
    )
    yield (
        kind != "n-of-m" or mask["n"] <= mask["m"],
        f"mask.n: got {mask.get('n')}, need at most mask.m, {mask.get('m')}",
    )


def _prune_rules(prunes: Sequence[Mapping[str, Any]], mask: str) -> Iterator[Rule]:
    shares = [phase.get("share") for phase in prunes]
    told = ", ".join("none" if share is None else f"{share:g}" for share in shares)
    yield (
        (mask in _UPDATES_UNDER) == bool(prunes),
        "phases: mask.kind unstructured, n-of-m and heads need at least one prune phase, "
        f"others none; got {len(prunes)} with mask.kind {mask}",
    )
    yield (
        mask != "heads" or len(prunes) == 1,
        f"phases: mask.kind heads needs exactly one prune phase, got {len(prunes)}",
    )
    yield (
        mask != "heads" or not any(phase.get("rewind") for phase in prunes),
        "phases: rewind does not go with mask.kind heads: removed heads have no start values",
    )
    yield (
        len(prunes) < 2 or None not in shares,
        f"phases: each of several prune phases needs a share, got {told}",
    )
    given = [share for share in shares if share is not None]
    yield (
        all(earlier < later for earlier, later in pairwise(given)),
        f"phases: shares must increase from prune phase to prune phase, got {told}",
    )
    yield (
        not given or given[-1] == 1,
        f"phases: the share of the last prune phase must be 1, got {told}",
    )


def _update_rules(update: Mapping[str, Any], phases: Sequence[Mapping[str, Any]]) -> Iterator[Rule]:
    """Rules of PEFT's updates."""
    targets = update.get("targets", ())
    beside = sorted(set(update.get("feedforward", ())) - set(targets))
    yield not beside, f"update.feedforward: {', '.join(beside)} must be in update.targets too"
    yield len(set(targets)) == len(targets), "update.targets: each only once"
    if update.get("type") != "adalora":
        return
    trains = sum(phase["kind"] == "train" for phase in phases)
    yield (
        update["initial_rank"] > update["rank"],
        f"update.initial_rank: got {update['initial_rank']}, need more than rank, "
        f"{update['rank']}: there must be ranks to give up",
    )
    yield (
        update["initial_fraction"] + update["final_fraction"] < 1,
        "update.initial_fraction and final_fraction: their sum must be below 1, got "
        f"{update['initial_fraction']} and {update['final_fraction']}",
    )
    yield (
        trains == 1,
        f"update.type adalora needs exactly one train phase, got {trains}: its ranks fall over "
        "the whole training",
    )


def support_rules(raw: Mapping[str, Any]) -> Iterator[Rule]:
    """Rules of a support: GreBsmo needs its settings."""
    missing = sorted(_GREBSMO_KEYS - raw.keys())
    yield raw["recipe"] != "grebsmo" or not missing, f"recipe grebsmo needs {', '.join(missing)}"


def ticket_rules(raw: Mapping[str, Any]) -> Iterator[Rule]:
    """Rules of a ticket: what its origin, its stop rule and its objective need, and no more."""
    origin, search = raw["origin"], raw.get("search", {})
    yield (
        (origin == "search") == ("search" in raw),
        "search: needed by origin search, and only there",
    )
    for key in ("head_sparsity", "neuron_sparsity", "neuron_scope"):
        told = f"{key}: needed by origin search and random, and only there"
        yield (origin != "layers") == (key in raw), told
    for key in ("head_scope", "neuron_multiple"):
        yield origin != "layers" or key not in raw, f"{key}: not allowed with origin layers"
    yield (
        (origin == "layers") == ("layer_sparsity" in raw),
        "layer_sparsity: needed by origin layers, and only there",
    )
    yield (
        not search or ("stop_epochs" in search) != ("stop_steps" in search),
        "search: needs either stop_epochs or stop_steps",
    )
    yield (
        (search.get("stop") == "settled") == ("cap_epochs" in search),
        "search.cap_epochs: needed by stop settled, and only there",
    )
    yield (
        (search.get("objective") == "mlm") == ("masked_fraction" in search),
        "search.masked_fraction: needed by objective mlm, and only there",
    )


def ticket_backbone_rules(raw: Mapping[str, Any], architecture: str) -> Iterator[Rule]:
    """Rules between a ticket and the backbone that it is searched on."""
    yield (
        raw.get("search", {}).get("objective") != "mlm" or architecture != "gpt2",
        "search.objective: got mlm for a gpt2 backbone, which has no masked language model; "
        "allowed there: task",
    )

"""What a tuned model costs, as tables of counts: the same on every machine.

``costs`` has a run's parameters and multiply-adds, ``costs-by-module`` where these are.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.cost.macs import MODULES, OPERATORS
from sparsetune.reporting.collect import Key, RunGroup, RunRow, group_runs, links_of
from sparsetune.reporting.footnotes import NO_REFUSALS, common_notes, mean_of
from sparsetune.reporting.layout import Column, name_columns, number_column, percent, write_table

_NOT_TRAINING = ("search", "inference", "total")
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNIT_NOTE = (
    "One multiply-add is 1 MAC; FLOPs are twice as many. Dense is the model as published, without "
    "an update; executed counts zeros inside matrices, effective does not; both count the "
    "update's branches beside the weights."
)
_LENGTH_NOTE = (
    "Per example: the mean over the evaluation split's sequences at their own lengths (windows for "
    "spans), padding not counted; for generation one of the method's own texts: its prompt and "
    "every step of every hypothesis, which the dense model is priced for too. Padding is what "
    "batches of 64, longest first, add to the executed MACs."
)


def write_costs(
    rows: Sequence[RunRow],
    directory: Path,
    *,
    order: Sequence[Key],
    refusals: Mapping[Key, str] = NO_REFUSALS,
) -> list[Path]:
    """Write both tables of costs; a value that a record of an earlier version lacks is a dash.

    Args:
        rows: from :func:`sparsetune.reporting.collect.collect`.
        directory: where ``costs.*`` and ``costs-by-module.*`` go.
        order: (backbone, task, method) of the whole suite, in the order to print.
        refusals: (backbone, task, method) that the suite asks for and that cannot run -> why.

    Returns:
        The eight files.

    Raises:
        DataError: a run outside ``order``.
    """
    groups = group_runs(rows, order)
    links, notes = links_of(groups), common_notes(groups, order, refusals)
    costs = write_table(
        directory / "costs",
        "Costs",
        [*_names(groups), *_cost_columns(groups)],
        [_UNIT_NOTE, _LENGTH_NOTE, *_whole_life_note(groups), *notes],
        runs=links,
    )
    modules = write_table(
        directory / "costs-by-module",
        "Multiply-adds by operator and by module",
        [*_names(groups), *_module_columns(groups)],
        [
            f"{_UNIT_NOTE} Effective MACs of one sequence of the run's mean length, in % of the "
            "dense model's: by operator, then by module; either adds up to the effective MACs.",
            *notes,
        ],
        runs=links,
    )
    return [*costs, *modules]


def macs_text(value: float) -> str:
    """A number of MACs with three digits and a unit.

    Example:
        >>> macs_text(11_174_000_000), macs_text(512)
        ('11.2 G', '512')
    """
    rounded = float(f"{value:.3g}")
    for size, letter in _UNITS:
        if rounded >= size:
            return f"{rounded / size:.3g} {letter}"
    return f"{rounded:.3g}"


def _names(groups: Sequence[RunGroup]) -> list[Column]:
    return [
        *name_columns([group.key for group in groups]),
        number_column("seeds", "seeds_count", [len(group.rows) for group in groups]),
    ]


def _means(groups: Sequence[RunGroup], read: Callable[[Mapping[str, Any]], Any]) -> list[Any]:
    """Mean over seeds of what ``read`` takes from a cost record; None where it is not there."""

    def one(row: RunRow) -> Any:
        try:
            return read(row.records["cost"]["measured"])
        except KeyError:
            return None

    return [mean_of([one(row) for row in group.rows]) for group in groups]


def _cost_columns(groups: Sequence[RunGroup]) -> list[Column]:
    def column(
        heading: str, field: str, read: Callable[[Mapping[str, Any]], Any],
        show: Callable[[Any], str],
    ) -> Column:  # fmt: skip
        return number_column(heading, field, _means(groups, read), show)

    def share(kind: str, of: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Callable:
        return lambda cost: of(cost)[kind] / of(cost)["dense"]

    def count(value: float) -> str:
        return f"{value:,.0f}"

    def at_128(cost: Mapping[str, Any]) -> Mapping[str, Any]:
        return cost["macs_at_128_tokens"]

    return [
        column("trained", "parameters_trained", lambda c: c["parameters_trained"], count),
        column("with head", "parameters_trained_with_head",
               lambda c: c["parameters_trained_with_head"], count),
        column("stored bytes", "stored_bytes", lambda c: c["stored_bytes"], count),
        column("dense MACs", "macs_dense_per_example",
               lambda c: macs_per_example(c)["dense"], macs_text),
        column("executed %", "macs_executed_share", share("executed", macs_per_example), percent),
        column("effective %", "macs_effective_share",
               share("effective", macs_per_example), percent),
        column("padding %", "macs_executed_padding_share", _padding, percent),
        column("dense at 128", "macs_dense_at_128_tokens", lambda c: at_128(c)["dense"], macs_text),
        column("executed % at 128", "macs_executed_share_at_128_tokens",
               share("executed", at_128), percent),
        column("effective % at 128", "macs_effective_share_at_128_tokens",
               share("effective", at_128), percent),
        column("search MACs", "macs_search", lambda c: _life(c).get("search", 0), macs_text),
        column("training MACs", "macs_training", _training, macs_text),
        column("whole life MACs", "macs_whole_life", lambda c: c["macs_whole_life"], macs_text),
    ]  # fmt: skip


def macs_per_example(cost: Mapping[str, Any]) -> dict[str, int]:
    """Dense, executed and effective MACs of one example of the evaluation split.

    Args:
        cost: the ``measured`` part of a cost record.

    Returns:
        Over the lengths of the split, or of one whole generated text.

    Raises:
        KeyError: the record is of an earlier version.
    """
    if "macs_per_text" in cost:
        prefill, decode = cost["macs_per_text"]
        return {kind: prefill[kind] + decode[kind] for kind in ("dense", "executed", "effective")}
    return _over_lengths(cost, "none")


def _over_lengths(cost: Mapping[str, Any], padding: str) -> Mapping[str, Any]:
    found = {(one["split"], one["padding"]): one for one in cost["macs_over_lengths"]}
    return found["evaluation", padding]


def _padding(cost: Mapping[str, Any]) -> float | None:
    if "macs_per_text" in cost:
        return None
    return _over_lengths(cost, "batches")["executed"] / _over_lengths(cost, "none")["executed"] - 1


def _life(cost: Mapping[str, Any]) -> Mapping[str, int]:
    return cost["breakdown"]["whole_life"]


def _training(cost: Mapping[str, Any]) -> int:
    return sum(macs for name, macs in _life(cost).items() if name not in _NOT_TRAINING)


def _whole_life_note(groups: Sequence[RunGroup]) -> list[str]:
    examples = [n for n in _means(groups, lambda c: c["whole_life_inference_examples"]) if n]
    if not examples:
        return []
    return [
        f"A whole life is search, training and {max(examples):,.0f} effective forward passes, at "
        "mean lengths; training runs dense kernels, padding not counted."
    ]


def _module_columns(groups: Sequence[RunGroup]) -> list[Column]:
    costs = [row.records["cost"]["measured"] for group in groups for row in group.rows]
    there = {
        name for cost in costs for name, n in cost["breakdown"].get("effective", {}).items() if n
    }

    def operator(name: str) -> Callable[[Mapping[str, Any]], float]:
        def share(cost: Mapping[str, Any]) -> float:
            found = {one["operator"]: one["effective"] for one in cost["macs_by_operator"]}
            return found[name] / cost["macs_dense_per_example"]

        return share

    def module(name: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda cost: cost["breakdown"]["effective"][name] / cost["macs_dense_per_example"]

    chosen = [(name, operator(name)) for name in OPERATORS]
    chosen += [(name, module(name)) for name in MODULES if name in there]
    return [
        number_column(f"{name.replace('_', ' ')} %", f"{name}_share", _means(groups, read), percent)
        for name, read in chosen
    ]

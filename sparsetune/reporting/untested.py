"""What would test a claim that a suite does not: methods, backbones, other suites.

Plans are compared here, no results: the workflow asks before anything has run, so nothing heavy
is imported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparsetune.config.claim import Claim
from sparsetune.config.suite import RunSpec, Suite
from sparsetune.reporting.contents import REFERENCE_METHOD

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Missing:
    """What a suite lacks for a claim.

    Attributes:
        methods: that the claim compares and the suite does not run.
        backbones: on which the claim could be tested, where the suite runs its methods on none.
        suites: ids of other suites that have what it takes.
    """

    methods: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()


def missing_of(claim: Claim, suite: Suite, others: Iterable[Suite]) -> Missing:
    """Compare what a claim needs with what suites plan.

    Args:
        claim: whatever its verdict.
        suite: that is reported.
        others: every suite that may be named; the suite itself is not.
    """
    planned = {run.method.id for run in suite.runs}
    methods = tuple(method for method in claim.methods if method not in planned)
    backbones: tuple[str, ...] = ()
    if not methods and not _runs_of_left(claim, suite):
        pairs = claim.twins.items() if claim.twins else [(one,) for one in claim.backbones]
        backbones = tuple(dict.fromkeys(one for pair in pairs for one in pair))
    able = (one.id for one in others if one.id != suite.id and can_test(claim, one))
    return Missing(methods, backbones, tuple(dict.fromkeys(able)))


def can_test(claim: Claim, suite: Suite) -> bool:
    """Whether a suite plans all runs that a verdict needs, at one place at least.

    Whether they finish, and what they then tell, is not known.
    """
    own = _runs_of_left(claim, suite)
    if claim.measure.group == "tickets":
        places = {run.key[:2] for run in own if run.ticket}
        return len({backbone for backbone, _ in places}) < len(places)
    if claim.quantity == "pretraining-macs-saved":
        made = {run.backbone.id for run in suite.runs if run.backbone.pretraining}
        twins = claim.twins or {}
        return any({run.backbone.id, twins[run.backbone.id]} <= made for run in own)
    runs = {run.key: run for run in suite.runs}
    return any(_all_there(claim, run.key, runs) for run in own)


def _runs_of_left(claim: Claim, suite: Suite) -> Sequence[RunSpec]:
    """The runs that a verdict may begin with."""
    return [
        run
        for run in suite.runs
        if run.method.id == claim.left
        and (not claim.architectures or run.backbone.architecture in claim.architectures)
        and (not claim.twins or run.backbone.id in claim.twins)
        and not (claim.only_there and run.backbone.id not in claim.backbones)
        and not (claim.only_there and run.task.id not in claim.tasks)
    ]


def _all_there(claim: Claim, key: Key, runs: Mapping[Key, RunSpec]) -> bool:
    """Whether the runs to compare with are planned too, and all of them as they must be."""
    backbone, task, _ = key
    sides = [key]
    if claim.number is None:
        sides.append(((claim.twins or {}).get(backbone, backbone), task, str(claim.right)))
    needed = set(sides)
    if claim.measure.to_reference:
        needed |= {(*side[:2], REFERENCE_METHOD) for side in sides}
    return needed <= runs.keys() and all(
        need.met_by(runs[side].settings())
        for need in claim.requires
        for side in sides
        if side[2] == need.method
    )

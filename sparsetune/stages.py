"""The stages and their version numbers; nothing heavy is imported here.

Raise a number whenever what the stage writes could change, and say why in CHANGELOG.md:
the number is a parameter of the stage's rule, so exactly that stage and its dependents rerun.
"""

STAGES: dict[str, int] = {
    "dataset": 1,
    "backbone": 1,
    "support": 2,
    "ticket": 2,
    "tune": 3,
    "evaluate": 3,
    "cost": 4,
    "tables": 6,
    "claims": 2,
    "figures": 3,
    "track": 2,
}
"""Stage name -> version, in the order in which data flows."""

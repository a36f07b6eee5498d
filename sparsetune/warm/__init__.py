"""Warm starts: the jobs of a workflow on this machine are forked from one process.

That process has imported the libraries that a job would import first. ``launch`` starts it, for the
workflow; ``client`` is a job's side; ``server`` is the process. Linux only. Nothing is in here, so
that a job that hands itself over imports next to nothing.
"""

WARM_STAGES = ("backbone", "support", "ticket", "tune", "evaluate")
"""The stages that gain: they import torch. The others start in less time than a fork saves."""

"""A name that moves to ``task``, until every room imports it from there."""

from sparsetune.config.task import GENERATED_PREFIX

__all__ = ["GENERATED_PREFIX"]

"""From a method's settings to a prepared model: kinds of update, masks, and what a run keeps.

A new kind of update is one file in ``kinds`` and a method's YAML that names it.
"""

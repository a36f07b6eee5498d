"""One module for each family of updates; whatever stands here is found by the registry.

None of them imports torch before it attaches, so that settings are checked without it.
"""

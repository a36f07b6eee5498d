"""Where a model family keeps its projections, heads, neurons and task head."""

"""One module a stage: inputs, computation, record."""

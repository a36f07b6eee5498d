"""A method = update + mask + phases: how a run's model is built, saved and loaded again."""

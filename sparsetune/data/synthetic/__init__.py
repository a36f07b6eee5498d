"""The generated language and its tasks."""

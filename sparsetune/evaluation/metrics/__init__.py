"""Metrics, one module a family."""

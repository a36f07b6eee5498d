"""Zeros that stay zeros, heads, neurons and layers that go, and how such models are saved."""

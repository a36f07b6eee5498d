"""Data sets: fetching, published layouts, encoding."""

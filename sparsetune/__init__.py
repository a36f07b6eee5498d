"""Fine-tuning with winning tickets (EarlyBERT) and low-rank plus sparse updates (DSEE)."""

__version__ = "0.1.0"

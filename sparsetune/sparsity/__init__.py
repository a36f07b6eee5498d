"""What is trained and what is kept: DSEE updates, supports, masks, gates and tickets.

Knows models only through ``sparsetune.models.anatomy``; no training loop, no files but tickets.
"""

"""DSEE: low-rank plus sparse updates of frozen, possibly sparse weights."""

"""EarlyBERT: gates, ticket search, convergence, tickets."""

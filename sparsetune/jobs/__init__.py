"""One file for one stage: read the inputs, call the rooms that compute, write the record."""

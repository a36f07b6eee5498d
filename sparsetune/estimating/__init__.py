"""What a suite will cost before it runs: work counted, speed fitted on records, jobs scheduled.

Arithmetic on the catalogue and on records: nothing here imports torch or transformers.
"""

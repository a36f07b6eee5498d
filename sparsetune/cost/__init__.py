"""What a method costs: parameters, multiply-adds, bytes and seconds.

Pure arithmetic on a description of the model: nothing here imports torch or transformers.
"""

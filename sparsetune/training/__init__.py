"""The training loop, phases in order, searches and pre-training; everything killed resumes."""

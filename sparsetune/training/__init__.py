"""The Trainer with its hooks; phases run in order; everything killed resumes."""

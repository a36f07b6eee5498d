"""From what a model put out to predictions, and from predictions to official metrics."""

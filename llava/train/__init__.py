"""Training: arguments, stages, the trainer, and what a run leaves behind."""

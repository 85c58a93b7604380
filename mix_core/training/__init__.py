"""Training: the loop, its optimizer and schedule, checkpoints, evaluation, measurements and the report."""

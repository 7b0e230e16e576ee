"""Settings and a cohort to a run folder: the loop, its rate, its checkpoints and its record."""

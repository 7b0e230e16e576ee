"""Trains a model on a cohort into a run folder: loop, schedule, checkpoints and tracking."""
